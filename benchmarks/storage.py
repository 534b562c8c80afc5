"""Graphs in the database beside networkx with SQLite by hand.

    python benchmarks/storage.py [--quick] [--json FILE]

100,000 nodes and 300,000 edges (a tenth with `--quick`) of a call graph, without cycles: each node but the first has
edges from up to three that were there before it. networkx is measured where it is installed. The one by hand has two
tables with the same indexes, JSON attributes, and a graph in memory that is loaded from them.

- import: all rows with their checks, and the file by hand without any; the database's time without the checks too.
- one write: adding a node, adding an edge, with all checks, each a transaction of its own.
- queries: a cold one opens the file and asks; by hand that loads the graph. A warm one asks again.
- validation: what checking a node's attributes costs.
- secrets: deriving a key, encrypting and decrypting a value with it; verifying an API key.
"""

import argparse
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peewee_honker import HonkerDatabase
from peewee_honker.storage import (
    Account,
    ApiKeys,
    CallGraph,
    CallNode,
    GraphRepository,
    Keys,
    create_graph_tables,
    create_system_database,
    graph_database,
    install_module,
    system_database,
    validate_node,
)

HAND = """
CREATE TABLE nodes (graph TEXT NOT NULL, key TEXT NOT NULL, attributes TEXT NOT NULL, PRIMARY KEY (graph, key));
CREATE TABLE edges (id INTEGER PRIMARY KEY, graph TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL,
  attributes TEXT NOT NULL, FOREIGN KEY (graph, source) REFERENCES nodes (graph, key),
  FOREIGN KEY (graph, target) REFERENCES nodes (graph, key));
CREATE INDEX edges_source ON edges (graph, source);
CREATE INDEX edges_target ON edges (graph, target);
"""
# In a process of its own, as the other side: each opens its file and asks for the first time.
COLD = {
    "database": """
import sys, time
from peewee_honker import HonkerDatabase
from peewee_honker.storage import GraphRepository
began = time.perf_counter()
graph = GraphRepository(HonkerDatabase(sys.argv[1]), sys.argv[2])
found = graph.{ours}
print(time.perf_counter() - began, len(found))
""",
    "by hand": """
import json, sqlite3, sys, time
import networkx
began = time.perf_counter()
file = sqlite3.connect(sys.argv[1])
graph = networkx.DiGraph()
graph.add_nodes_from((key, json.loads(text)) for key, text in file.execute("SELECT key, attributes FROM nodes"))
graph.add_edges_from(file.execute("SELECT source, target FROM edges"))
found = {theirs}
print(time.perf_counter() - began, len(found))
""",
}


def made(nodes: int, edges: int) -> dict[str, Any]:
    """A random graph without cycles, the same each time."""
    rng = random.Random(7)
    names = ["pending", "running", "completed", "failed"]
    rows = [
        {
            "key": f"n{number}",
            "type": "call",
            "attributes": {
                "request_id": f"n{number}",
                "operation_id": f"service.operation{number % 50}",
                "status": names[number % 4],
                "input": {"path": f"/files/{number}", "size": number},
                "started_at": 1_700_000_000_000 + number,
            },
        }
        for number in range(nodes)
    ]
    pairs: set[tuple[int, int]] = set()
    while len(pairs) < edges:
        target = rng.randrange(1, nodes)
        pairs.add((rng.randrange(max(0, target - 1000), target), target))
    found = [{"source": f"n{source}", "target": f"n{target}", "type": "triggered"} for source, target in sorted(pairs)]
    return {"nodes": rows, "edges": found}


class Figures:
    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, name: str, value: float, unit: str) -> None:
        self.values[name] = value
        print(f"  {name:62}{value:12.3f} {unit}", flush=True)


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(work: Callable[[], Any], times: int) -> float:
    return statistics.median(timed(work) for _ in range(times))


def by_hand(path: str, data: dict[str, Any]) -> None:
    file = sqlite3.connect(path)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute("PRAGMA foreign_keys = ON")
    file.executescript(HAND)
    with file:
        file.executemany(
            "INSERT INTO nodes VALUES ('g', ?, ?)", ((node["key"], json.dumps(node["attributes"])) for node in data["nodes"])
        )
        file.executemany(
            "INSERT INTO edges (graph, source, target, attributes) VALUES ('g', ?, ?, '{}')",
            ((edge["source"], edge["target"]) for edge in data["edges"]),
        )
    file.close()


def cold(side: str, path: str, graph_id: str, **query: str) -> tuple[float, int]:
    code = COLD[side].format(**query)
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code, path, graph_id], capture_output=True, text=True, check=True)
        seconds, found = done.stdout.split()
        runs.append(float(seconds))
    return statistics.median(runs), int(found)


def secrets(figures: Figures, path: str) -> None:
    count = 1000
    keys = Keys("a password")
    figures.add("deriving a key", timed(lambda: keys.encrypt("x")) * 1e3, "ms")
    text = "x" * 100
    figures.add("encrypt, 100 characters", timed(lambda: [keys.encrypt(text) for _ in range(count - 1)]) / count * 1e6, "us")
    value = keys.encrypt(text)
    keys.decrypt(value)
    figures.add("decrypt, 100 characters", timed(lambda: [keys.decrypt(value) for _ in range(count)]) / count * 1e6, "us")
    database = create_system_database(path)
    with system_database.use(database):
        api_keys = ApiKeys(database)
        account = Account.create(email="ada@example.org", name="Ada")
        made = [api_keys.create(account, "a key", actor=account).text for _ in range(100)]
        spent = timed(lambda: [api_keys.verify(text) for text in made])
        figures.add("verify an API key, first use", spent / len(made) * 1e6, "us")
        spent = timed(lambda: [api_keys.verify(text) for text in made * 10])
        figures.add("verify an API key, again", spent / len(made) / 10 * 1e6, "us")
        spent = timed(lambda: [api_keys.verify(f"phk_{number:032}") for number in range(count)])
        figures.add("verify a key that there is not", spent / count * 1e6, "us")
    database.close_engine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows: a rough look")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    nodes, edges = (10_000, 30_000) if arguments.quick else (100_000, 300_000)
    data = made(nodes, edges)
    figures = Figures()
    try:
        import networkx
    except ImportError:
        networkx = None
        print("networkx is not installed: its side is left out")
    print(f"{nodes} nodes, {edges} edges")
    with tempfile.TemporaryDirectory() as folder:
        path, hand = f"{folder}/graphs.db", f"{folder}/hand.db"
        database = HonkerDatabase(path)
        create_graph_tables(database)
        install_module(database, CallGraph)
        free = GraphRepository.create(database, "unchecked")
        figures.add("import without a type, no checks", timed(lambda: free.import_json(data)), "s")
        free.remove()
        graph = GraphRepository.create(database, "checked", "CallGraph")
        figures.add("import of a CallGraph, all checks, native columns", timed(lambda: graph.import_json(data)), "s")
        figures.add("import by hand into SQLite, no checks", timed(lambda: by_hand(hand, data)), "s")
        figures.add("export", timed(graph.export_json), "s")

        attributes = data["nodes"][17]["attributes"]
        count = 2000
        spent = timed(lambda: [validate_node(CallGraph, "call", attributes) for _ in range(count)])
        figures.add("validate_node", spent / count * 1e6, "us")
        numbers = iter(range(1000))
        spent = timed(lambda: [graph.add_node(f"x{next(numbers)}", "call", attributes) for _ in range(300)])
        figures.add("add_node, each its own transaction", spent / 300 * 1e3, "ms")
        spent = timed(lambda: [graph.add_edge(f"n{nodes - 1 - n}", f"x{n}", "triggered") for n in range(300)])
        figures.add("add_edge to a new node, with the look for a cycle", spent / 300 * 1e3, "ms")

        for number in range(300):
            graph.remove_node(f"x{number}")
        early, middle, late = "n100", f"n{nodes // 2}", f"n{nodes - 100}"
        figures.add("neighbours, warm", median(lambda: graph.neighbours(middle), 201) * 1e3, "ms")
        figures.add("descendants, depth 3, warm", median(lambda: graph.descendants(middle, depth=3), 51) * 1e3, "ms")
        figures.add("keys of a short lineage, warm", median(lambda: graph.distances("n500", reverse=True), 21) * 1e3, "ms")
        figures.add("keys of the whole lineage, warm", median(lambda: graph.distances(late, reverse=True), 5) * 1e3, "ms")
        figures.add("topological order", median(graph.topological_order, 3), "s")
        with graph_database.use(database):
            status = CallNode.nodes().where(
                (CallNode.graph_id == graph.graph_id) & (CallNode.operation_id == "service.operation7")
            )
            figures.add("nodes by a native column, 2 %", median(lambda: list(status.clone()), 5) * 1e3, "ms")
        database.close_engine()
        secrets(figures, f"{folder}/system.db")
        queries = {
            "neighbours": (f"neighbours({middle!r})", f"list(networkx.all_neighbors(graph, {middle!r}))"),
            "a short lineage": ("distances('n500', reverse=True)", "networkx.ancestors(graph, 'n500')"),
            "the whole lineage": (f"distances({late!r}, reverse=True)", f"networkx.ancestors(graph, {late!r})"),
            "all descendants": (f"distances({early!r})", f"networkx.descendants(graph, {early!r})"),
        }
        for name, (ours, theirs) in queries.items():
            seconds, found = cold("database", path, graph.graph_id, ours=ours)
            figures.add(f"{name}, cold ({found} nodes)", seconds * 1e3, "ms")
            if networkx is not None:
                seconds, found = cold("by hand", hand, "g", theirs=theirs)
                figures.add(f"{name}, cold, by hand ({found} nodes)", seconds * 1e3, "ms")
        if networkx is not None:
            loaded = networkx.DiGraph((edge["source"], edge["target"]) for edge in data["edges"])
            figures.add(
                "keys of the whole lineage, networkx in memory",
                median(lambda: networkx.ancestors(loaded, late), 5) * 1e3,
                "ms",
            )
            order = median(lambda: list(networkx.topological_sort(loaded)), 3)
            figures.add("topological order, networkx in memory", order, "s")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures.values, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
