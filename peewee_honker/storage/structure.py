"""Whether the edges of a stored graph keep to the config of its type, as a whole."""

from collections.abc import Mapping
from typing import Any

from peewee_honker.storage.errors import CycleError, Problem
from peewee_honker.storage.traversal import topological_order

__all__ = ["doubled", "structure_problems"]

# An undirected edge is the same in both directions, and another than a directed one.
_SAME = (
    "CASE WHEN undirected THEN min(source_node_key, target_node_key) ELSE source_node_key END, "
    "CASE WHEN undirected THEN max(source_node_key, target_node_key) ELSE target_node_key END, undirected"
)
_DOUBLED = (
    f"SELECT source_node_key, target_node_key FROM edges WHERE graph_id = ? GROUP BY {_SAME} HAVING count(*) > 1 LIMIT 1"
)
_LOOP = "SELECT source_node_key, target_node_key FROM edges WHERE graph_id = ? AND source_node_key = target_node_key LIMIT 1"
_DIRECTION = "SELECT source_node_key, target_node_key FROM edges WHERE graph_id = ? AND undirected = ? LIMIT 1"
_SECOND = (
    "SELECT 1 FROM edges WHERE graph_id = ? AND source_node_key = ? AND target_node_key = ? AND undirected = ? "
    "UNION ALL "
    "SELECT 1 FROM edges WHERE graph_id = ? AND source_node_key = ? AND target_node_key = ? AND undirected AND ? LIMIT 1"
)


def structure_problems(database: Any, graph_id: str, config: Mapping[str, Any]) -> list[Problem]:
    """What in a graph's edges the config does not allow: an example of each kind, as `{path, message}`."""
    problems: list[Problem] = []

    def look(sql: str, message: str, *values: Any) -> None:
        found = database.execute_sql(sql, (graph_id, *values)).fetchone()
        if found is not None:
            problems.append({"path": "/edges", "message": f"{message}: {found[0]!r} to {found[1]!r}"})

    if not config["multi"]:
        look(_DOUBLED, "two edges between the same nodes")
    if not config["allowSelfLoops"]:
        look(_LOOP, "an edge from a node to itself")
    if config["type"] != "mixed":
        look(_DIRECTION, f"an edge that is not {config['type']}", config["type"] == "directed")
    if config.get("acyclic"):
        try:
            topological_order(database, graph_id)
        except CycleError as error:
            problems.append({"path": "/edges", "message": str(error)})
    return problems


def doubled(database: Any, graph_id: str, source: str, target: str, undirected: bool) -> bool:
    """Whether there is an edge between two nodes already, of the same direction or of none."""
    values = (graph_id, source, target, undirected, graph_id, target, source, undirected)
    return database.execute_sql(_SECOND, values).fetchone() is not None
