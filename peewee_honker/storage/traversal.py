"""Ways through a graph. What is followed from node to node is one query (a recursive CTE), whatever the graph's size.

Directed edges are followed from source to target (or back, where it says so), undirected ones both ways.
"""

import graphlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from peewee_honker.storage.errors import CycleError

__all__ = ["closes_cycle", "reached", "topological_order"]

_TYPE = " AND json_extract(e.metadata, '$.type') = ?"


def _steps(columns: str, reverse: bool, more: str, extra: str = "") -> list[str]:
    """The SELECTs that go from `reach` over one edge; each takes the graph's id, then what `more` takes."""
    ahead = ("source_node_key", "target_node_key")
    begin, end = reversed(ahead) if reverse else ahead
    with_direction = f"e.graph_id = ? AND e.{begin} = reach.key"
    without = f"e.graph_id = ? AND e.{end} = reach.key AND e.undirected"
    return [
        f"SELECT {columns.format(end=end)} FROM reach JOIN edges e ON {with_direction}{more}{extra}",
        f"SELECT {columns.format(end=begin)} FROM reach JOIN edges e ON {without}{more}{extra}",
    ]


def reached(
    database: Any, graph_id: str, key: str, *, reverse: bool = False, depth: int | None = None, edge_type: str | None = None
) -> dict[str, int]:
    """The keys of the nodes that can be reached from one, and over how few edges each; nearest first, then by key.

    Arguments:
        reverse: go against the edges.
        depth: how many edges to go at most.
        edge_type: follow edges of this type alone.
    """
    more = _TYPE if edge_type is not None else ""
    taken: list[Any] = [graph_id] if edge_type is None else [graph_id, edge_type]
    if depth is None:
        grown = " UNION ".join(_steps("e.{end}", reverse, more))
        head = f"WITH RECURSIVE reach(key) AS (SELECT ? UNION {grown})"
    else:
        grown = " UNION ".join(_steps("e.{end}, reach.depth + 1", reverse, more, f" AND reach.depth < {int(depth)}"))
        head = f"WITH RECURSIVE walk(key, depth) AS (SELECT ?, 0 UNION {grown.replace('reach', 'walk')}), "
        head += "reach(key) AS (SELECT DISTINCT key FROM walk)"
    pairs = " UNION ALL ".join(_steps("reach.key, e.{end}", reverse, more))
    cursor = database.execute_sql(f"{head} {pairs}", (key, *taken * 4))
    onward: dict[str, list[str]] = {}
    for begin, end in cursor.fetchall():
        onward.setdefault(begin, []).append(end)
    distances = {key: 0}
    waiting = deque([key])
    while waiting:
        begin = waiting.popleft()
        if depth is not None and distances[begin] >= depth:
            continue
        for end in onward.get(begin, ()):
            if end not in distances:
                distances[end] = distances[begin] + 1
                waiting.append(end)
    del distances[key]
    return dict(sorted(distances.items(), key=lambda found: (found[1], found[0])))


_CYCLE = (
    f"WITH RECURSIVE reach(key) AS (SELECT ? UNION {' UNION '.join(_steps('e.{end}', False, ''))}) "
    "SELECT 1 FROM reach WHERE key = ? LIMIT 1"
)


def closes_cycle(database: Any, graph_id: str, source: str, target: str) -> bool:
    """Whether an edge from source to target would close a cycle: whether the one can be reached from the other now."""
    return source == target or database.execute_sql(_CYCLE, (target, graph_id, graph_id, source)).fetchone() is not None


def topological_order(database: Any, graph_id: str) -> list[str]:
    """All keys, each after those from which edges lead to it. One query for the nodes and one for the edges.

    Raises CycleError, also for a graph with undirected edges.
    """
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for (key,) in database.execute_sql("SELECT key FROM nodes WHERE graph_id = ? ORDER BY key", (graph_id,)).fetchall():
        sorter.add(key)
    for source, target in _edges(database, graph_id):
        sorter.add(target, source)
    try:
        return list(sorter.static_order())
    except graphlib.CycleError as error:
        cycle = error.args[1]
        raise CycleError(f"the graph has a cycle: {' -> '.join(cycle[:10])}", cycle) from None


def _edges(database: Any, graph_id: str) -> Iterator[tuple[str, str]]:
    cursor = database.execute_sql(
        "SELECT source_node_key, target_node_key, undirected FROM edges WHERE graph_id = ? ORDER BY 2, 1",
        (graph_id,),
    )
    for source, target, undirected in cursor.fetchall():
        yield source, target
        if undirected:
            yield target, source
