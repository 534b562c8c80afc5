"""A graph and what can be done with it: every change is checked, written and told of in one transaction."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

from peewee import SQL

from peewee_honker.events import Event, EventTarget
from peewee_honker.storage.binding import graph_database
from peewee_honker.storage.columns import json_text
from peewee_honker.storage.errors import CycleError, ModuleError, Problem, ValidationFailed
from peewee_honker.storage.install import stored_module
from peewee_honker.storage.metagraph import Edge, Graph, GraphType, Node, type_of
from peewee_honker.storage.structure import doubled
from peewee_honker.storage.transfer import export_rows, import_rows
from peewee_honker.storage.traversal import closes_cycle, reached, topological_order
from peewee_honker.storage.validation import Rules, narrows, validate_edge, validate_node, without_secrets

__all__ = ["GraphRepository"]

Direction = Literal["in", "out", "both"]
Attributes = Mapping[str, Any]

_VERSION = "SELECT t.id, t.version FROM graphs g JOIN graph_types t ON t.id = g.graph_type_id WHERE g.id = ?"
_ROOTS = (
    "SELECT n.* FROM nodes n WHERE n.graph_id = ? AND NOT EXISTS (SELECT 1 FROM edges e WHERE e.graph_id = n.graph_id "
    "AND e.target_node_key = n.key AND NOT e.undirected) ORDER BY n.key"
)
_NEXT = "SELECT {there} FROM edges e WHERE e.graph_id = ? AND e.{here} = ?{only}"


class GraphRepository:
    """One graph of a database.

    Arguments:
        database: a HonkerDatabase with the tables of `create_graph_tables`.
        graph: the graph, or its id.
        events: an event target on the same database; hears of every change, in the change's transaction: `node.added`,
            `node.updated`, `node.removed`, the same of `edge`, `graph.created`, `graph.imported`, `graph.removed`. The id is
            the graph's id, '/' and the node's key or the edge's id, or the graph's id alone. Attributes whose schema says
            `writeOnly` are left out.

    A graph with a type takes what the type allows, else ValidationFailed is raised and nothing has been written (CycleError
    for an edge that would close a cycle). What is there is read in the write's transaction, which holds the write lock: so
    two writers cannot make together what neither may make alone. A graph without a type takes anything.

    Rows are Peewee models. Queries that a method gives run on this database wherever they are run.
    """

    def __init__(self, database: Any, graph: Graph | str, *, events: EventTarget | None = None) -> None:
        if getattr(events, "database", database) is not database:
            raise ValueError("the event target is on another database: its events would not commit with the graph's rows")
        self.database = database
        self.graph_id: str = graph.id if isinstance(graph, Graph) else graph
        self.events = events
        self._rules: Rules | None = None
        self._rules_of: Any = None

    @classmethod
    def create(
        cls, database: Any, name: str, graph_type: str | None = None, *, events: EventTarget | None = None, **fields: Any
    ) -> "GraphRepository":
        """Make a graph, of an installed type or of none. `fields` are further fields of `Graph`.

        Raises ModuleError when the type is not installed.
        """
        with graph_database.use(database):
            kind = None
            if graph_type is not None:
                kind = GraphType.get_or_none(GraphType.name == graph_type)
                if kind is None:
                    raise ModuleError(f"no module {graph_type!r} is installed: install_module(db, module)")
            with database.atomic():
                made = Graph.create(name=name, graph_type=kind, **fields)
                repository = cls(database, made, events=events)
                repository._tell("graph.created", "", "insert", {"name": name, "graph_type": graph_type})
            return repository

    @property
    def graph(self) -> Graph:
        """The graph's row. Raises `Graph.DoesNotExist`."""
        with graph_database.use(self.database):
            found: Graph = Graph.get_by_id(self.graph_id)
            return found

    @property
    def rules(self) -> Rules | None:
        """What the graph's type allows, as stored now; None for a graph without a type."""
        row = self.database.execute_sql(_VERSION, (self.graph_id,)).fetchone()
        if row is None:
            return None
        if self._rules is None or self._rules_of != row:
            with graph_database.use(self.database):
                module = stored_module(GraphType.get_by_id(row[0]))
            self._rules = Rules(module.name, module.config, module.node_types, module.edge_types)
            self._rules_of = row
        return self._rules

    # Nodes

    def add_node(
        self, key: str, type_: str | None = None, attributes: Attributes | None = None, metadata: Attributes | None = None
    ) -> Node:
        """Add a node. Raises ValidationFailed, and IntegrityError for a key that is there."""
        attributes = dict(attributes or {})
        with self._writing():
            rules = self.rules
            if rules:
                _check(f"the node {key}", validate_node(rules, type_, attributes))
            node: Node = Node.create(
                graph=self.graph_id, key=key, attributes=attributes, metadata=_with_type(metadata, type_)
            )
            self._tell_of("node.added", "insert", node, rules)
            return node

    def get_node(self, key: str) -> Node:
        """The node of a key. Raises `Node.DoesNotExist`."""
        with graph_database.use(self.database):
            found: Node = Node.get((Node.graph == self.graph_id) & (Node.key == key))
            return found

    def update_node(self, key: str, attributes: Attributes, *, merge: bool = False) -> Node:
        """Replace a node's attributes, or merge into them as JSON Merge Patch does (RFC 7396: None removes a key).

        Raises `Node.DoesNotExist`, and ValidationFailed, also when an edge from the node would no longer be allowed.
        """
        with self._writing():
            node = self.get_node(key)
            made = _merged(node.attributes, attributes) if merge else dict(attributes)
            rules = self.rules
            if rules:
                _check(f"the node {key}", validate_node(rules, node.type, made))
                self._check_narrowing(rules, node, made)
            node.attributes = made
            node.save(only=[Node.attributes])
            self._tell_of("node.updated", "update", node, rules)
            return node

    def remove_node(self, key: str) -> None:
        """Remove a node with its edges; each is told of. Raises `Node.DoesNotExist`."""
        with self._writing():
            node = self.get_node(key)
            rules = self.rules
            if self.events is not None:
                either = (Edge.source_node_key == key) | (Edge.target_node_key == key)
                for edge in Edge.select().where((Edge.graph == self.graph_id) & either):
                    self._tell_of("edge.removed", "delete", edge, rules)
            node.delete_instance()
            self._tell_of("node.removed", "delete", node, rules)

    def nodes(self, type_: str | None = None) -> Any:
        """A query of the graph's nodes, of one type or of all: `repository.nodes().where(Node.attributes["n"] > 3)`."""
        with graph_database.use(self.database):
            query = Node.select().where(Node.graph == self.graph_id)
            return query if type_ is None else query.where(type_of(Node) == type_)

    # Edges

    def add_edge(
        self,
        source: str,
        target: str,
        type_: str | None = None,
        attributes: Attributes | None = None,
        *,
        key: str | None = None,
        undirected: bool = False,
        metadata: Attributes | None = None,
    ) -> Edge:
        """Add an edge between two nodes, anonymous without a key.

        Raises `Node.DoesNotExist`, ValidationFailed, CycleError, and IntegrityError for a key that is there.
        """
        attributes = dict(attributes or {})
        with self._writing():
            begin, end = self.get_node(source), self.get_node(target)
            rules = self.rules
            if rules:
                what = f"the edge from {source} to {target}"
                _check(what, _edge_problems(rules, type_, attributes, begin, end, undirected))
                if not rules.config["multi"] and doubled(self.database, self.graph_id, source, target, undirected):
                    _check(what, [{"path": "", "message": f"there is one already, and {rules.name} allows no second"}])
                if rules.config.get("acyclic") and closes_cycle(self.database, self.graph_id, source, target):
                    raise CycleError(f"{what} would close a cycle, which {rules.name} does not allow", [source, target])
            edge: Edge = Edge.create(
                graph=self.graph_id,
                key=key,
                source_node_key=source,
                target_node_key=target,
                attributes=attributes,
                undirected=undirected,
                metadata=_with_type(metadata, type_),
            )
            self._tell_of("edge.added", "insert", edge, rules)
            return edge

    def get_edge(self, key: str) -> Edge:
        """The edge of a key. Raises `Edge.DoesNotExist`."""
        with graph_database.use(self.database):
            found: Edge = Edge.get((Edge.graph == self.graph_id) & (Edge.key == key))
            return found

    def update_edge(self, edge: Edge | str, attributes: Attributes, *, merge: bool = False) -> Edge:
        """Replace or merge the attributes of an edge, given by its key or as it was read; as `update_node`."""
        with self._writing():
            found: Any = self._found(edge)
            made = _merged(found.attributes, attributes) if merge else dict(attributes)
            rules = self.rules
            if rules:
                what = f"the edge from {found.source_node_key} to {found.target_node_key}"
                undirected: Any = found.undirected
                _check(what, _edge_problems(rules, found.type, made, found.source, found.target, undirected))
            found.attributes = made
            found.save(only=[Edge.attributes])
            self._tell_of("edge.updated", "update", found, rules)
            return cast("Edge", found)

    def remove_edge(self, edge: Edge | str) -> None:
        """Remove an edge, given by its key or as it was read. Raises `Edge.DoesNotExist`."""
        with self._writing():
            found = self._found(edge)
            found.delete_instance()
            self._tell_of("edge.removed", "delete", found, self.rules)

    def edges(self, type_: str | None = None) -> Any:
        """A query of the graph's edges, of one type or of all."""
        with graph_database.use(self.database):
            query = Edge.select().where(Edge.graph == self.graph_id)
            return query if type_ is None else query.where(type_of(Edge) == type_)

    def _found(self, edge: Edge | str) -> Any:
        if isinstance(edge, str):
            return self.get_edge(edge)
        return Edge.get((Edge.graph == self.graph_id) & (Edge.id == edge.id))

    # Ways

    def neighbours(self, key: str, direction: Direction = "both", edge_type: str | None = None) -> list[Node]:
        """The nodes that an edge leads to from a node (`out`), from which one leads to it (`in`), or either; by key.

        An undirected edge counts in all directions.
        """
        only = "" if edge_type is None else " AND json_extract(e.metadata, '$.type') = ?"
        parts = []
        for here, there, wanted in (
            ("source_node_key", "target_node_key", "out"),
            ("target_node_key", "source_node_key", "in"),
        ):
            way = "" if direction in (wanted, "both") else " AND e.undirected"
            parts.append(_NEXT.format(here=here, there=there, only=way + only))
        values = [self.graph_id, key] if edge_type is None else [self.graph_id, key, edge_type]
        sql = f"SELECT n.* FROM nodes n WHERE n.graph_id = ? AND n.key IN ({' UNION '.join(parts)}) ORDER BY n.key"
        with graph_database.use(self.database):
            return list(Node.raw(sql, self.graph_id, *values, *values))

    def roots(self) -> list[Node]:
        """The nodes to which no directed edge leads, by key."""
        with graph_database.use(self.database):
            return list(Node.raw(_ROOTS, self.graph_id))

    def descendants(self, key: str, *, depth: int | None = None, edge_type: str | None = None) -> list[Node]:
        """The nodes that can be reached from a node along edges, nearest first, then by key; not the node itself.

        Arguments:
            depth: over how many edges at most.
            edge_type: along edges of this type alone.
        """
        return self._by_keys(self.distances(key, depth=depth, edge_type=edge_type))

    def lineage(self, key: str, *, depth: int | None = None, edge_type: str | None = None) -> list[Node]:
        """The nodes from which a node can be reached, nearest first, then by key; as `descendants`, against the edges."""
        return self._by_keys(self.distances(key, reverse=True, depth=depth, edge_type=edge_type))

    def distances(
        self, key: str, *, reverse: bool = False, depth: int | None = None, edge_type: str | None = None
    ) -> dict[str, int]:
        """The keys of the descendants (`reverse`: of the lineage), in the same order, and over how few edges each."""
        return reached(self.database, self.graph_id, key, reverse=reverse, depth=depth, edge_type=edge_type)

    def topological_order(self) -> list[str]:
        """All keys, each after those from which edges lead to it. Raises CycleError, also with undirected edges."""
        return topological_order(self.database, self.graph_id)

    def _by_keys(self, keys: Mapping[str, int]) -> list[Node]:
        if not keys:
            return []
        with graph_database.use(self.database):
            wanted = SQL("(SELECT value FROM json_each(?))", [json_text(list(keys))])
            found = {node.key: node for node in self.nodes().where(Node.key.in_(wanted))}
        return [found[key] for key in keys if key in found]

    # The whole graph

    def export_json(self) -> dict[str, Any]:
        """The graph as JSON values, see `peewee_honker.storage.transfer`, of one state of the database."""
        with self._writing():
            return export_rows(self.database, Graph.get_by_id(self.graph_id), self.rules)

    def import_json(self, data: Mapping[str, Any], *, batch: int = 1000) -> tuple[int, int]:
        """Add the nodes and edges of what `export_json` gives; all or nothing. Gives how many of each.

        Raises ValidationFailed with the first 100 problems, their paths into `data`, and IntegrityError for keys that are
        there. One event `graph.imported` tells the numbers, instead of one for each row.
        """
        with graph_database.use(self.database), self.database.atomic():
            counts = import_rows(self.database, self.graph, self.rules, data, batch)
            self._tell("graph.imported", "", "insert", {"nodes": counts[0], "edges": counts[1]})
            return counts

    def remove(self) -> None:
        """Remove the graph with all that is in it; told of by one event. Raises `Graph.DoesNotExist`."""
        with self._writing():
            self.graph.delete_instance()
            self._tell("graph.removed", "", "delete", {})

    # Writing

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """This database in use, and a transaction: the open one, else one of its own."""
        with graph_database.use(self.database):
            if self.events is None and self.database.in_transaction():
                yield  # no savepoint: what is refused is refused before it is written; but an event may be too large
            else:
                with self.database.atomic():
                    yield

    def _check_narrowing(self, rules: Rules, node: Any, attributes: Attributes) -> None:
        """Raise when an edge from the node may have no more than the node has, and would."""
        narrowing = [name for name, spec in rules.edge_types.items() if narrows(spec.schema)]
        if not narrowing:
            return
        changed = Node(graph=self.graph_id, key=node.key, attributes=dict(attributes), metadata=node.metadata)
        for edge in node.out_edges.where(type_of(Edge).in_(narrowing)):
            problems = _edge_problems(rules, edge.type, edge.attributes, changed, edge.target, edge.undirected)
            _check(f"the edge from {node.key} to {edge.target_node_key}", problems)

    def _tell_of(self, type_: str, operation: str, row: Any, rules: Rules | None) -> None:
        if self.events is None:
            return
        payload = {"type": row.type}
        if isinstance(row, Edge):
            spec: Any = rules.edge_types.get(row.type or "") if rules else None
            payload |= {"source": row.source_node_key, "target": row.target_node_key, "undirected": row.undirected}
        else:
            spec = rules.node_types.get(row.type or "") if rules else None
        payload |= {"key": row.key, "attributes": without_secrets(spec and spec.schema, row.attributes)}
        self._tell(type_, "/" + (row.id if isinstance(row, Edge) else row.key), operation, payload)

    def _tell(self, type_: str, place: str, operation: str, payload: dict[str, Any]) -> None:
        if self.events is not None:
            payload = {"graph_id": self.graph_id, **payload}
            self.events.dispatch(Event(type_, self.graph_id + place, payload, operation=operation))


def _edge_problems(
    rules: Rules, type_: str | None, attributes: Attributes, source: Any, target: Any, undirected: bool
) -> list[Problem]:
    return validate_edge(
        rules,
        type_,
        attributes,
        source_type=source.type,
        target_type=target.type,
        source_attributes=source.attributes,
        undirected=undirected,
        self_loop=source.key == target.key,
    )


def _check(what: str, problems: list[Problem]) -> None:
    if problems:
        raise ValidationFailed(what, problems)


def _with_type(metadata: Attributes | None, type_: str | None) -> dict[str, Any]:
    return {**(metadata or {}), **({} if type_ is None else {"type": type_})}


def _merged(value: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    made = dict(value) if isinstance(value, Mapping) else {}
    for name, part in patch.items():
        if part is None:
            made.pop(name, None)
        else:
            made[name] = _merged(made.get(name), part)
    return made
