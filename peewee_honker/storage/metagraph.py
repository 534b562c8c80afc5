"""The metagraph's tables: graph types with their node and edge types, and graphs with their nodes and edges.

The constraints are SQLite's own, so they hold for every program that writes to the file with foreign keys enforced (as
Honker does). What a type allows is checked by `peewee_honker.storage.repository`, in the transaction of the write.
"""

from enum import StrEnum
from typing import Any

import peewee
from peewee import SQL, Check, Default, fn

from peewee_honker.storage.binding import graph_database
from peewee_honker.storage.columns import EnumField, Flag, JSONField, StorageModel

__all__ = ["GRAPH_MODELS", "Edge", "EdgeType", "Graph", "GraphStatus", "GraphType", "Node", "NodeType", "Scope", "type_of"]

_EMPTY = Default("''")


class Scope(StrEnum):
    """Whose a graph type is."""

    SYSTEM = "system"
    TENANT = "tenant"
    USER = "user"


class GraphStatus(StrEnum):
    """Where a graph is in its life."""

    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


class _GraphModel(StorageModel):
    class Meta:
        database = graph_database


class GraphType(_GraphModel):
    """A kind of graph: `config` says which edges it allows, its node and edge types what they hold.

    Back-references: `node_types`, `edge_types`, `graphs`.
    """

    name = peewee.TextField(unique=True)
    description = peewee.TextField(default="", constraints=[_EMPTY])
    config = JSONField()
    version = peewee.IntegerField(default=1, constraints=[Default("1")])
    scope = EnumField(Scope, default=Scope.SYSTEM, constraints=[Default("'system'")])

    class Meta:
        table_name = "graph_types"


class NodeType(_GraphModel):
    """A type of nodes: `schema` is the JSON Schema of their attributes."""

    graph_type = peewee.ForeignKeyField(GraphType, backref="node_types", on_delete="CASCADE", index=False)
    name = peewee.TextField()
    description = peewee.TextField(default="", constraints=[_EMPTY])
    schema = JSONField()

    class Meta:
        table_name = "node_types"
        indexes = ((("graph_type", "name"), True),)


class EdgeType(_GraphModel):
    """A type of edges: as a node type, and between which types of nodes; an empty list allows all."""

    graph_type = peewee.ForeignKeyField(GraphType, backref="edge_types", on_delete="CASCADE", index=False)
    name = peewee.TextField()
    description = peewee.TextField(default="", constraints=[_EMPTY])
    schema = JSONField()
    allowed_source_types = JSONField(default=list, constraints=[Default("'[]'")])
    allowed_target_types = JSONField(default=list, constraints=[Default("'[]'")])

    class Meta:
        table_name = "edge_types"
        indexes = ((("graph_type", "name"), True),)
        constraints = (
            Check("json_type(\"allowed_source_types\") = 'array'"),
            Check("json_type(\"allowed_target_types\") = 'array'"),
        )


class Graph(_GraphModel):
    """A graph. Its type may be gone: then anything is allowed. Back-references: `nodes`, `edges`."""

    graph_type = peewee.ForeignKeyField(GraphType, null=True, backref="graphs", on_delete="SET NULL")
    name = peewee.TextField()
    description = peewee.TextField(default="", constraints=[_EMPTY])
    status = EnumField(GraphStatus, default=GraphStatus.DRAFT, constraints=[Default("'draft'")])
    owner_id = peewee.TextField(null=True, index=True)
    project_id = peewee.TextField(null=True, index=True)

    class Meta:
        table_name = "graphs"
        indexes = ((("owner_id", "project_id"), False),)


class Node(_GraphModel):
    """A node, named by its key within the graph; its type's name is `metadata["type"]`."""

    graph = peewee.ForeignKeyField(Graph, backref="nodes", on_delete="CASCADE", index=False)
    key = peewee.TextField()
    attributes = JSONField(default=dict, constraints=[Default("'{}'")])

    class Meta:
        table_name = "nodes"
        indexes = ((("graph", "key"), True),)

    @property
    def type(self) -> str | None:
        """The name of the node's type, None when it has none."""
        found: str | None = self.metadata.get("type")
        return found

    @property
    def out_edges(self) -> Any:
        """A query of the edges that begin here."""
        return Edge.select().where((Edge.graph == self.graph_id) & (Edge.source_node_key == self.key))

    @property
    def in_edges(self) -> Any:
        """A query of the edges that end here."""
        return Edge.select().where((Edge.graph == self.graph_id) & (Edge.target_node_key == self.key))

    graph_id: str


class Edge(_GraphModel):
    """An edge between two nodes of one graph, anonymous without a key; its type's name is `metadata["type"]`."""

    graph = peewee.ForeignKeyField(Graph, backref="edges", on_delete="CASCADE", index=False)
    key = peewee.TextField(null=True)
    source_node_key = peewee.TextField()
    target_node_key = peewee.TextField()
    attributes = JSONField(default=dict, constraints=[Default("'{}'")])
    undirected = Flag(default=False, constraints=[Default("0")])

    class Meta:
        table_name = "edges"
        indexes = (
            (("graph", "key"), True),
            (("graph", "source_node_key"), False),
            (("graph", "target_node_key"), False),
        )
        # Peewee has no form for a foreign key of two columns.
        constraints = tuple(
            SQL(
                f'FOREIGN KEY ("graph_id", "{column}") REFERENCES "nodes" ("graph_id", "key") '
                "ON DELETE CASCADE ON UPDATE CASCADE"
            )
            for column in ("source_node_key", "target_node_key")
        )

    graph_id: str

    @property
    def type(self) -> str | None:
        """The name of the edge's type, None when it has none."""
        found: str | None = self.metadata.get("type")
        return found

    @property
    def source(self) -> Node:
        """The node where the edge begins."""
        found: Node = Node.get((Node.graph == self.graph_id) & (Node.key == self.source_node_key))
        return found

    @property
    def target(self) -> Node:
        """The node where the edge ends."""
        found: Node = Node.get((Node.graph == self.graph_id) & (Node.key == self.target_node_key))
        return found


def type_of(model: Any) -> Any:
    """The type's name of nodes or edges as an expression, in the form that the index has."""
    return fn.json_extract(model.metadata, SQL("'$.type'"))


Node.add_index(
    SQL('CREATE INDEX IF NOT EXISTS "nodes_by_type" ON "nodes" ("graph_id", json_extract("metadata", \'$.type\'))')
)

# Few edges have no direction, and every query that follows edges asks for them, against the direction.
for _column in ("source_node_key", "target_node_key"):
    _name = f"edges_undirected_{_column}"
    Edge.add_index(SQL(f'CREATE INDEX IF NOT EXISTS "{_name}" ON "edges" ("graph_id", "{_column}") WHERE "undirected"'))

GRAPH_MODELS: tuple[type[StorageModel], ...] = (GraphType, NodeType, EdgeType, Graph, Node, Edge)
"""All models of the metagraph, each after those it refers to."""
