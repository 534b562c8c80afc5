"""What a call of an operation costs: here, and in another process through the database file.

    python benchmarks/calls.py [--quick] [--only PART] [--check] [--json FILE]

What is compared is measured side by side in one run, taking turns. `--check` ends with 1 when a limit is exceeded. Parts:

- execute: what `execute` and `execute_sync` add to the handler and the checks of its schemas.
- remote: a call that another process answers, beside the bus's way to that process: from the dispatch of an event to the
  first line of its receiver there.
- pending: 1,000 calls under way at a time, of one client.
- graph: the call graph's projection, events a second.
"""

import argparse
import asyncio
import importlib.metadata
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from events import Figures, Receiver, cuts

from peewee_honker import Event, HonkerDatabase
from peewee_honker.events import HonkerEventTarget
from peewee_honker.operations import (
    CallClient,
    CallGraphProjection,
    Context,
    OperationRegistry,
    OperationSpec,
    OperationType,
)
from peewee_honker.storage.evolution import cast_attributes
from peewee_honker.storage.validation import problems_of

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ANSWER = {"type": "object", "properties": {"n": {"type": "integer"}}}

HANDLER = """
from peewee_honker import HonkerDatabase
from peewee_honker.events import HonkerEventTarget
from peewee_honker.operations import CallHandler, OperationRegistry, OperationSpec, OperationType
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
db = HonkerDatabase(sys.argv[1])
target = HonkerEventTarget(db)
def hear(event):
    heard[event.payload["number"]] = time.time_ns()
target.add_listener("tick.saved", hear)
registry = OperationRegistry()
def double(data, context):
    return {"n": data["n"] * 2}
async def double_later(data, context):
    return {"n": data["n"] * 2}
for name, handler in (("double", double), ("later", double_later)):
    registry.register(OperationSpec("math", name, OperationType.QUERY, NUMBER, NUMBER), handler)
with CallHandler(registry, target, database=DATABASE, workers=WORKERS):
    ready(); finish()
target.close()
db.close_engine()
"""


def double(data: Any, _context: Any) -> Any:
    return {"n": data["n"] * 2}


async def later(data: Any, _context: Any) -> Any:
    return {"n": data["n"] * 2}


def bare(data: Any, context: Context, calls: int) -> float:
    """Microseconds that the handler and the checks of its schemas take by themselves."""
    began = time.perf_counter()
    for _ in range(calls):
        problems_of(NUMBER, data)
        problems_of(ANSWER, cast_attributes(double(data, context), ANSWER))
    return (time.perf_counter() - began) / calls * 1e6


def by_sync(registry: OperationRegistry, data: Any, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        registry.execute_sync("math.double", data)
    return (time.perf_counter() - began) / calls * 1e6


async def by_loop(registry: OperationRegistry, name: str, data: Any, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        await registry.execute(name, data)
    return (time.perf_counter() - began) / calls * 1e6


def execute(figures: Figures, rounds: int) -> None:
    """The same handler and the same checks, alone and by a registry with thirty more operations."""
    registry = OperationRegistry()
    for name, handler in (("double", double), ("later", later)):
        registry.register(OperationSpec("math", name, OperationType.QUERY, NUMBER, ANSWER), handler)
    for number in range(30):
        registry.register(OperationSpec("other", f"o{number}", OperationType.QUERY, NUMBER, ANSWER), double)
    data, context, calls = {"n": 21}, Context(), 20  # a sample is shorter than a slice of the scheduler
    ways = {
        "execute_sync of a function": lambda: by_sync(registry, data, calls),
        "execute of a function": lambda: asyncio.run(by_loop(registry, "math.double", data, calls)),
        "execute of a coroutine function": lambda: asyncio.run(by_loop(registry, "math.later", data, calls)),
    }
    added: dict[str, list[float]] = {name: [] for name in ways}
    alone = []
    for _ in range(rounds):
        for name, way in ways.items():
            alone.append(bare(data, context, calls))
            added[name].append(way() - alone[-1])
    figures.add("the handler and its schemas alone", statistics.median(alone), "us")
    for name, times in added.items():
        figures.add(f"added by {name}", statistics.median(times), "us", limit=30)


def handler(path: str, database: str, workers: int) -> Receiver:
    return Receiver(HANDLER.replace("WORKERS", str(workers)).replace("DATABASE", database), path)


def remote(path: str, figures: Figures, calls: int, repeats: int) -> None:
    """Events and calls take turns, to one process that hears both; kinds of handlers take turns, too."""
    kinds = {"one handler": "None", "one of several": "db"}
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in kinds}
    for turn in range(repeats):
        for name, database in kinds.items():
            found[name].append(calls_and_events(f"{path}{turn}{database}", database, calls))
    figures.add("the bus, one way, p50", statistics.median(each[0] for some in found.values() for each in some), "us")
    for name, some in found.items():
        _, p50, p99, ratio, quiet = (statistics.median(column) for column in zip(*some, strict=True))
        figures.add(f"a call, {name}, p50", p50, "us")
        figures.add(f"a call, {name}, p99", p99, "us")
        figures.add(f"a call, {name}, p50 to the bus's", ratio, limit=3)
        figures.add(f"a call, {name}, p10 to the bus's (of a busy machine)", quiet)


def calls_and_events(path: str, claims: str, calls: int) -> tuple[float, ...]:
    """The bus's median, a call's, its 99th percentile, the medians' ratio, and that of the 10th percentiles."""
    database = HonkerDatabase(path)
    target = HonkerEventTarget(database)
    client = CallClient(target)
    other = handler(path, claims, 4)
    sent: dict[int, int] = {}
    taken = []
    for _ in range(50):
        client.call("math.double", {"n": 1})
    for number in range(calls):
        sent[number] = time.time_ns()
        target.dispatch(Event("tick.saved", str(number), {"number": number}))
        time.sleep(random.uniform(0.001, 0.005))
        began = time.perf_counter()
        client.call("math.double", {"n": number})
        taken.append((time.perf_counter() - began) * 1e6)
        time.sleep(random.uniform(0.001, 0.005))
    time.sleep(0.2)  # the last event is on its way
    heard = other.finish()
    ways = [(heard[number] - at) / 1e3 for number, at in sent.items()]
    client.close()
    database.close_engine()
    (way, _, _), (call, _, p99) = cuts(ways), cuts(taken)
    return way, call, p99, call / way, statistics.quantiles(taken, n=10)[0] / statistics.quantiles(ways, n=10)[0]


def pending(path: str, figures: Figures, calls: int) -> None:
    database = HonkerDatabase(path)
    client = CallClient(HonkerEventTarget(database))
    other = handler(path, "db", 16)
    took, most = [], []
    for name in ("math.double", "math.later") * 3:
        began = time.perf_counter()
        with database.atomic():  # so that all wait at a time
            started = [client.start(name, {"n": number}) for number in range(calls)]
        most.append(client.pending)
        answers = [call.result() for call in started]
        took.append(time.perf_counter() - began)
        assert answers == [{"n": number * 2} for number in range(calls)]
    other.finish()
    client.close()
    figures.add("calls under way at a time", min(most))
    figures.add("of them not answered", client.pending, limit=0)
    figures.add("their time, by call", statistics.median(took) / calls * 1e6, "us")
    database.close_engine()


def graph(path: str, figures: Figures, calls: int) -> None:
    database = HonkerDatabase(path)
    stored, memory = CallGraphProjection(database), CallGraphProjection()
    events = []
    for number in range(calls):
        id_ = f"{number:032}"
        below = {"parentRequestId": f"{number - 1:032}"} if number % 4 else {}
        events.append(Event("call.requested", id_, {"operationId": "math.double", "input": {"n": number}, **below}))
        events.append(Event("call.started", id_, {}))
        events.append(Event("call.responded", id_, {"output": {"data": {"n": number * 2}}}))
    for name, projection in (("in tables", stored), ("in memory", memory)):
        began = time.perf_counter()
        for event in events:
            projection.apply(event)
        figures.add(f"the call graph {name}", len(events) / (time.perf_counter() - began), "events/s")
    began = time.perf_counter()
    stored.calls(limit=100)
    figures.add(f"100 of {calls} calls, newest first", (time.perf_counter() - began) * 1e3, "ms")
    database.close_engine()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer calls: a rough look")
    parser.add_argument("--only", action="append", help="a part; may be given several times")
    parser.add_argument("--check", action="store_true", help="end with 1 when a limit is exceeded")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    quick = arguments.quick
    parts = {
        "execute": lambda _path, figures: execute(figures, 100 if quick else 500),
        "remote": lambda path, figures: remote(path, figures, 200 if quick else 1000, 3 if quick else 5),
        "pending": lambda path, figures: pending(path, figures, 1000),
        "graph": lambda path, figures: graph(path, figures, 500 if quick else 3000),
    }
    figures = Figures()
    print(f"honker {importlib.metadata.version('honker')}, medians of one run")
    for name, part in parts.items():
        if arguments.only and name not in arguments.only:
            continue
        print(name)
        with tempfile.TemporaryDirectory() as folder:
            part(os.path.join(folder, "calls.db"), figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures.values, indent=2))
    if figures.exceeded:
        print("exceeded: " + "; ".join(figures.exceeded))
    return 1 if figures.exceeded and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
