"""Graphs as JSON, in and out: graphology's form, and each node's and edge's `type`.

    {"attributes": {"name": ..., "graph_type": ...}, "options": {"type": ..., "multi": ..., "allowSelfLoops": ...},
     "nodes": [{"key", "type", "attributes"}], "edges": [{"key", "source", "target", "type", "undirected", "attributes"}]}

`type`, `attributes`, `key` of an edge and `undirected` may be left out, and `metadata` of a row may be there.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from peewee_honker.events.event import new_event_id
from peewee_honker.storage.columns import json_text
from peewee_honker.storage.errors import Problem, ValidationFailed
from peewee_honker.storage.metagraph import Graph
from peewee_honker.storage.structure import structure_problems
from peewee_honker.storage.validation import Rules, validate_edge, validate_node

__all__ = ["export_rows", "import_rows"]

_MOST_PROBLEMS = 100
# One parameter for a batch: the statement's text is always the same.
_NODES = (
    "INSERT INTO nodes (id, metadata, graph_id, key, attributes) "
    "SELECT value ->> 0, value ->> 1, ?, value ->> 2, value ->> 3 FROM json_each(?)"
)
_EDGES = (
    "INSERT INTO edges (id, metadata, graph_id, key, source_node_key, target_node_key, attributes, undirected) "
    "SELECT value ->> 0, value ->> 1, ?, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 FROM json_each(?)"
)
_KINDS = "SELECT key, json_extract(metadata, '$.type'), attributes FROM nodes WHERE graph_id = ?"
# Without models: a large graph is read while nobody else can write.
_ALL_NODES = "SELECT key, attributes, metadata FROM nodes WHERE graph_id = ? ORDER BY key"
_ALL_EDGES = (
    "SELECT key, source_node_key, target_node_key, undirected, attributes, metadata FROM edges "
    "WHERE graph_id = ? ORDER BY id"
)
Ends = dict[str, tuple[str | None, Any]]


def export_rows(database: Any, graph: Any, rules: Rules | None) -> dict[str, Any]:
    """A stored graph as JSON values; nodes by key, edges as they were added."""
    config: Mapping[str, Any] = rules.config if rules else {"type": "mixed", "multi": True, "allowSelfLoops": True}
    return {
        "attributes": {
            "name": graph.name,
            "description": graph.description,
            "status": graph.status.value,
            "graph_type": rules.name if rules else None,
            "metadata": graph.metadata,
        },
        "options": dict(config),
        "nodes": [
            _with_kind({"key": key, "attributes": json.loads(attributes)}, json.loads(metadata))
            for key, attributes, metadata in database.execute_sql(_ALL_NODES, (graph.id,)).fetchall()
        ],
        "edges": [
            _with_kind(
                {
                    **({} if key is None else {"key": key}),
                    "source": source,
                    "target": target,
                    "undirected": bool(undirected),
                    "attributes": json.loads(attributes),
                },
                json.loads(metadata),
            )
            for key, source, target, undirected, attributes, metadata in database.execute_sql(
                _ALL_EDGES, (graph.id,)
            ).fetchall()
        ],
    }


def import_rows(database: Any, graph: Graph, rules: Rules | None, data: Mapping[str, Any], batch: int) -> tuple[int, int]:
    """Add the nodes and edges of `data` to a graph, in the open transaction. Gives how many.

    Raises ValidationFailed with the first 100 problems (paths into `data`), and IntegrityError for keys that are there.
    """
    problems: list[Problem] = []
    ends: Ends = {}
    if rules:
        for key, kind, attributes in database.execute_sql(_KINDS, (graph.id,)).fetchall():
            ends[key] = (kind, attributes)  # text, which no rule reads but of a node that was imported
    nodes = _put(database, _NODES, graph, _node_rows(data.get("nodes") or (), rules, ends, problems), batch)
    edges = _put(database, _EDGES, graph, _edge_rows(data.get("edges") or (), rules, ends, problems), batch)
    if rules and not problems:
        problems += structure_problems(database, graph.id, rules.config)
    if problems:
        raise ValidationFailed("the graph to import", problems)
    return nodes, edges


def _put(database: Any, sql: str, graph: Any, rows: Iterator[list[Any]], batch: int) -> int:
    count = 0
    while part := list(islice(rows, batch)):
        database.execute_sql(sql, (graph.id, json_text(part)))
        count += len(part)
    return count


def _node_rows(nodes: Iterable[Any], rules: Rules | None, ends: Ends, problems: list[Problem]) -> Iterator[list[Any]]:
    for number, node in enumerate(nodes):
        place = f"/nodes/{number}"
        if not _texts(node, ("key",), place, problems):
            continue
        kind, attributes = node.get("type"), node.get("attributes", {})
        if rules:
            _note(problems, validate_node(rules, kind, attributes), place)
            ends[node["key"]] = (kind, attributes)
        if not problems:
            yield [new_event_id(), _metadata(node), node["key"], json_text(attributes)]


def _edge_rows(edges: Iterable[Any], rules: Rules | None, ends: Ends, problems: list[Problem]) -> Iterator[list[Any]]:
    for number, edge in enumerate(edges):
        place = f"/edges/{number}"
        if not _texts(edge, ("source", "target"), place, problems):
            continue
        source, target, undirected = edge["source"], edge["target"], bool(edge.get("undirected"))
        attributes = edge.get("attributes", {})
        if rules:
            missing = [end for end in ("source", "target") if edge[end] not in ends]
            if missing:
                _note(problems, [{"path": "", "message": "is not a node's key"}], f"{place}/{missing[0]}", inner="")
                continue
            found = validate_edge(
                rules,
                edge.get("type"),
                attributes,
                source_type=ends[source][0],
                target_type=ends[target][0],
                source_attributes=_attributes(ends, source),
                undirected=undirected,
                self_loop=source == target,
            )
            _note(problems, found, place)
        if not problems:
            yield [new_event_id(), _metadata(edge), edge.get("key"), source, target, json_text(attributes), int(undirected)]


def _attributes(ends: Ends, key: str) -> Any:
    kind, attributes = ends[key]
    if isinstance(attributes, str):  # as it is stored
        attributes = json.loads(attributes)
        ends[key] = (kind, attributes)
    return attributes


def _texts(row: Any, names: tuple[str, ...], place: str, problems: list[Problem]) -> bool:
    """Whether a row is an object whose keys are text that SQLite holds."""
    for name in names:
        value = row.get(name) if isinstance(row, Mapping) else None
        if not isinstance(value, str) or "\0" in value:
            _note(problems, [{"path": "", "message": "must be text, without NUL"}], f"{place}/{name}", inner="")
            return False
    return True


def _note(problems: list[Problem], found: list[Problem], place: str, inner: str = "/attributes") -> None:
    for problem in found[: _MOST_PROBLEMS - len(problems)]:
        path = place + (inner + problem["path"] if problem["path"] else "")
        problems.append({"path": path, "message": problem["message"]})


def _metadata(row: Mapping[str, Any]) -> str:
    kind, own = row.get("type"), row.get("metadata") or {}
    return json_text({**own, "type": kind} if kind is not None else own)


def _with_kind(row: dict[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in metadata.items() if name != "type"}
    if "type" in metadata:
        row["type"] = metadata["type"]
    if own:
        row["metadata"] = own
    return row
