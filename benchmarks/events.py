"""The bus beside Honker's own listener, Redis and PostgreSQL.

    python benchmarks/events.py [--quick] [--only PART] [--check] [--json FILE]

Everything that is compared is measured side by side in one run. Redis and PostgreSQL are started from Debian's packages
where they are installed (with the Python packages redis and psycopg), and left out with a word where not. `--check` ends
with 1 when a limit is exceeded. Parts:

- delay: from the call that publishes and commits to the first line of a receiver in another process.
- publish: a save that publishes beside the same save, and beside the same save and a Redis PUBLISH.
- here: from the commit to a receiver in the same process; the composite target's local part.
- topics: the CPU of 2,000 events over 1,000 topics beside one topic.
- replay: reading 100,000 events of a stream.
- writer: what four durable consumers do to a writer's 95th percentile.
- idle: the CPU of a process with 100 listeners to which nothing comes.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peewee import CharField, IntegerField
from servers import postgresql_server, redis_server

from peewee_honker import Event, EventBus, HonkerDatabase
from peewee_honker.events import CompositeEventTarget, Consumer, HonkerEventTarget, LocalEventTarget
from peewee_honker.signals import Model

HEAD = """
import json, sys, threading, time
heard = {}
def ready():
    print("ready", flush=True)
def finish():
    sys.stdin.readline()
    print(json.dumps(heard), flush=True)
"""
BUS = """
from peewee_honker import HonkerDatabase
from peewee_honker.events import HonkerEventTarget
target = HonkerEventTarget(HonkerDatabase(sys.argv[1]))
def hear(event):
    heard[event.payload["number"]] = time.time_ns()
target.add_listener("tick.saved", hear)
ready(); finish(); target.close()
"""
NO_INOTIFY = "import peewee_honker.events.wake as wake; wake._open_inotify = lambda: None\n" + BUS
HONKER = """
import asyncio, honker
db = honker.open(sys.argv[1])
def listen():
    async def run():
        listener = db.listen("tick.saved")
        ready()
        async for notification in listener:
            heard[notification.payload["payload"]["number"]] = time.time_ns()
    asyncio.run(run())
threading.Thread(target=listen, daemon=True).start()
finish()
"""
REDIS = """
import redis
pubsub = redis.Redis.from_url(sys.argv[1]).pubsub(ignore_subscribe_messages=True)
pubsub.subscribe("tick"); pubsub.get_message(timeout=5)
def listen():
    for message in pubsub.listen():
        heard[int(message["data"])] = time.time_ns()
threading.Thread(target=listen, daemon=True).start()
ready(); finish()
"""
POSTGRESQL = """
import psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
connection.execute("LISTEN tick")
def listen():
    for message in connection.notifies():
        heard[int(message.payload)] = time.time_ns()
threading.Thread(target=listen, daemon=True).start()
ready(); finish()
"""


class Tick(Model):
    number = IntegerField()
    name = CharField(default="a name")


class Plain(Model):
    number = IntegerField()
    name = CharField(default="a name")


class Figures:
    """What was measured, printed as it comes, and the limits that it exceeds."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.exceeded: list[str] = []

    def add(self, name: str, value: float, unit: str = "", limit: float | None = None) -> None:
        self.values[name] = value
        told = "" if limit is None else f"   limit {limit:g}"
        if limit is not None and value > limit:
            self.exceeded.append(name)
            told += ": exceeded"
        print(f"  {name:58}{value:10.{2 if unit == '' else 1}f} {unit}{told}", flush=True)


class Receiver:
    """A process that notes when it hears of each tick."""

    def __init__(self, code: str, where: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + code, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def finish(self) -> dict[int, int]:
        output, _ = self.process.communicate("done\n", timeout=60)
        return {int(number): at for number, at in json.loads(output).items()}


def cuts(values: list[float]) -> tuple[float, float, float]:
    """The median, the 95th and the 99th percentile."""
    found = statistics.quantiles(values, n=100)
    return found[49], found[94], found[98]


def delay(path: str, figures: Figures, events: int) -> None:
    """The bus and Honker's listener hear the same commits, so that a slow moment of the machine slows both; Redis and
    PostgreSQL take turns with the bus alone, since each listener more takes its time from a core."""
    p50, p99 = _delays(path, figures, events, {"bus": (BUS, path), "Honker": (HONKER, path)}, {})
    figures.add("p50, the bus to Honker's listener", p50["bus"] / p50["Honker"], limit=0.35)
    figures.add("p99, the bus to Honker's listener", p99["bus"] / p99["Honker"], limit=0.5)

    import_redis, import_psycopg = _module("redis"), _module("psycopg")
    with redis_server() as redis_url, postgresql_server() as postgresql_url:
        receivers = {"bus": (BUS, path)}
        publish: dict[str, Callable[[int], object]] = {}
        connection: Any = None
        if redis_url and import_redis:
            receivers["Redis"] = (REDIS, redis_url)
            client = import_redis.Redis.from_url(redis_url)
            publish["Redis"] = lambda number: client.publish("tick", number)
        else:
            print("  Redis is left out: redis-server or the package redis is not installed")
        if postgresql_url and import_psycopg:
            receivers["PostgreSQL"] = (POSTGRESQL, postgresql_url)
            connection = import_psycopg.connect(postgresql_url, autocommit=True)
            publish["PostgreSQL"] = lambda number: connection.execute("SELECT pg_notify('tick', %s)", (str(number),))
        else:
            print("  PostgreSQL is left out: it, or the package psycopg, is not installed")
        if publish:
            p50, _ = _delays(path, figures, events, receivers, publish)
        if connection is not None:
            connection.close()
    if "Redis" in p50:
        figures.add("p50, the bus to Redis", p50["bus"] / p50["Redis"], limit=1.0)
    if "PostgreSQL" in p50:
        figures.add("p50, the bus to PostgreSQL", p50["bus"] / p50["PostgreSQL"])


def _delays(
    path: str,
    figures: Figures,
    events: int,
    receivers: dict[str, tuple[str, str]],
    publish: dict[str, Callable[[int], object]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Microseconds from the call that publishes to each receiver: the median and the 99th percentile."""
    database = HonkerDatabase(path)
    target = HonkerEventTarget(database)
    running = {name: Receiver(*what) for name, what in receivers.items()}
    called: dict[str, dict[int, int]] = {name: {} for name in ("bus", *publish)}
    for number in range(events):
        called["bus"][number] = time.time_ns()
        target.dispatch(Event("tick.saved", str(number), {"number": number}))
        time.sleep(random.uniform(0.001, 0.005))
        for name, send in publish.items():
            called[name][number] = time.time_ns()
            send(number)
            time.sleep(random.uniform(0.001, 0.003))
    time.sleep(0.5)  # the last ones are on their way
    p50, p99 = {}, {}
    for name, receiver in running.items():
        heard = receiver.finish()
        sent = called.get(name, called["bus"])
        p50[name], _, p99[name] = cuts([(heard[number] - at) / 1e3 for number, at in sent.items() if number in heard])
        figures.add(f"to another process, p50: {name}", p50[name], "us")
        figures.add(f"to another process, p99: {name}", p99[name], "us")
    database.close_engine()
    return p50, p99


def without_inotify(path: str, figures: Figures, events: int) -> None:
    database = HonkerDatabase(path)
    target = HonkerEventTarget(database)
    receivers = {"bus": Receiver(NO_INOTIFY, path), "Honker": Receiver(HONKER, path)}
    committed = {}
    for number in range(events):
        committed[number] = time.time_ns()
        target.dispatch(Event("tick.saved", str(number), {"number": number}))
        time.sleep(random.uniform(0.001, 0.005))
    time.sleep(0.5)
    p50 = {}
    for name, receiver in receivers.items():
        at = receiver.finish()
        p50[name] = cuts([(at[number] - sent) / 1e3 for number, sent in committed.items()])[0]
        figures.add(f"without inotify, p50: {name}", p50[name], "us")
    figures.add("without inotify, the bus to Honker's listener", p50["bus"] / p50["Honker"], limit=1.15)
    database.close_engine()


def publish(path: str, figures: Figures, rounds: int) -> None:  # noqa: C901  (one measurement, told in one place)
    module = _module("redis")
    with redis_server() as url:
        client = module.Redis.from_url(url) if module and url else None
        database = HonkerDatabase(path)
        with database.bind_ctx([Tick, Plain]):
            database.create_tables([Tick, Plain])
            bus = EventBus(database)
            bridge = bus.bridge(Tick)
            kinds: dict[str, tuple[type[Model], bool]] = {"plain": (Plain, False), "published": (Tick, False)}
            if client is not None:
                kinds["plain + Redis PUBLISH"] = (Plain, True)
            with database.atomic():
                rows = {name: [model.create(number=0) for _ in range(100)] for name, (model, _) in kinds.items()}

            def save(name: str) -> None:
                also = kinds[name][1]
                for row in rows[name]:
                    row.number += 1
                    row.save()
                    if also and client is not None:
                        client.publish("tick", json.dumps({"id": row.id, "number": row.number, "name": row.name}))

            def create(name: str) -> None:
                model, also = kinds[name]
                for number in range(100):
                    row = model.create(number=number)
                    if also and client is not None:
                        client.publish("tick", json.dumps({"id": row.id, "number": row.number, "name": row.name}))

            def together(work: Callable[[str], None], name: str) -> None:
                with database.atomic():
                    work(name)

            for what, work, limits in (("save()", save, (1.4, 1.8)), ("create()", create, (None, None))):
                for how, run, limit in (
                    ("100 in a transaction", lambda name, work=work: together(work, name), limits[0]),
                    ("each its own", work, limits[1]),
                ):
                    taken: dict[str, list[float]] = {name: [] for name in kinds}
                    for _ in range(rounds):
                        for name in kinds:
                            began = time.perf_counter()
                            run(name)
                            taken[name].append((time.perf_counter() - began) * 1e4)
                    medians = {name: statistics.median(times) for name, times in taken.items()}
                    for name, median in medians.items():
                        figures.add(f"{what}, {how}: {name}", median, "us")
                    figures.add(f"{what}, {how}, to plain", medians["published"] / medians["plain"], limit=limit)
                    if client is not None:
                        ratio = medians["published"] / medians["plain + Redis PUBLISH"]
                        figures.add(f"{what}, {how}, to Redis PUBLISH", ratio, limit=1.0)
            bridge.unpublish()
        database.close_engine()


def here(path: str, figures: Figures, events: int) -> None:
    """Both hear the same commits, made in this process; then a composite target hears by itself."""
    database = HonkerDatabase(path)
    target = HonkerEventTarget(database)
    heard: dict[str, dict[int, int]] = {"bus": {}, "Honker": {}, "local": {}}
    arrived = threading.Event()

    def hear(event: Event) -> None:
        heard["bus"][event.payload["number"]] = time.perf_counter_ns()
        arrived.set()

    committed: dict[int, int] = {}
    local_committed: dict[int, int] = {}
    target.add_listener("tick.saved", hear)
    listening, done = threading.Event(), threading.Event()

    def listen() -> None:
        async def run() -> None:
            listener = database.listen("tick.saved")
            listening.set()
            async for notification in listener:
                heard["Honker"][notification.payload["payload"]["number"]] = time.perf_counter_ns()
                if done.is_set():
                    return

        asyncio.run(run())

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    listening.wait()
    time.sleep(0.2)
    for number in range(events):
        if number == events - 1:
            done.set()
        arrived.clear()
        target.dispatch(Event("tick.saved", "", {"number": number}))
        committed[number] = time.perf_counter_ns()
        arrived.wait(1)
        time.sleep(random.uniform(0.001, 0.004))
    thread.join(5)
    target.close()

    composite = CompositeEventTarget(LocalEventTarget(database), HonkerEventTarget(database))

    def hear_at_once(event: Event) -> None:
        heard["local"][event.payload["number"]] = time.perf_counter_ns()

    composite.add_listener("tick.saved", hear_at_once)
    for number in range(events):
        with database.atomic():
            composite.dispatch(Event("tick.saved", "", {"number": number}))
            database.at_commit(lambda number=number: local_committed.setdefault(number, time.perf_counter_ns()))
    composite.close()
    medians = {
        name: statistics.median([(at - sent[number]) / 1e3 for number, at in heard[name].items() if number in sent])
        for name, sent in (("bus", committed), ("Honker", committed), ("local", local_committed))
    }
    figures.add("in the same process, p50: the bus", medians["bus"], "us")
    figures.add("in the same process, p50: Honker's listener", medians["Honker"], "us")
    figures.add("in the same process, the bus to Honker's listener", medians["bus"] / medians["Honker"], limit=0.15)
    figures.add("composite's local part, p50", medians["local"], "us", limit=60)
    database.close_engine()


def topics(path: str, figures: Figures, events: int) -> None:
    """CPU of this process while it hears what another one publishes."""
    used = {}
    for count in (1, 1000, 1, 1000, 1, 1000):
        database = HonkerDatabase(f"{path}{count}")
        target = HonkerEventTarget(database)
        heard = 0

        def hear(_event: Event) -> None:
            nonlocal heard
            heard += 1

        for number in range(count):
            target.add_listener(f"tick{number}.saved", hear)
        code = f"""
from peewee_honker import Event, HonkerDatabase
from peewee_honker.events import HonkerEventTarget
target = HonkerEventTarget(HonkerDatabase(sys.argv[1]))
ready(); sys.stdin.readline()
for number in range({events}):
    target.dispatch(Event(f"tick{{number % {count}}}.saved", str(number), {{"number": number}}))
print("{{}}")
"""
        publisher = Receiver(code, f"{path}{count}")
        gc.collect()
        began = time.process_time()
        publisher.finish()
        while heard < events:
            time.sleep(0.01)
        used.setdefault(count, []).append((time.process_time() - began) / events * 1e6)
        target.close()
        database.close_engine()
    one, many = statistics.median(used[1]), statistics.median(used[1000])
    figures.add("CPU an event, 1 topic", one, "us")
    figures.add("CPU an event, 1,000 topics", many, "us")
    figures.add("1,000 topics to 1", many / one, limit=1.5)


def replay(path: str, figures: Figures, events: int) -> None:
    database = HonkerDatabase(path)
    target = HonkerEventTarget(database, "durable", stream="ticks")
    with database.atomic():
        for number in range(events):
            target.dispatch(Event("tick", str(number), {"number": number}))
    heard = 0
    done = threading.Event()

    def hear(_event: Event) -> None:
        nonlocal heard
        heard += 1
        if heard == events:
            done.set()

    taken: dict[str, list[float]] = {"bus": [], "Honker": []}
    for turn in range(3):
        heard = 0
        done.clear()
        consumer = Consumer(database, f"bus{turn}", start_at="beginning")
        reader = HonkerEventTarget(database, "durable", stream="ticks", consumer=consumer)
        began = time.perf_counter()
        reader.add_listener("tick", hear)
        done.wait()
        taken["bus"].append(time.perf_counter() - began)
        reader.close()

        async def read(turn: int = turn) -> None:
            count = 0
            async for event in database.stream("ticks").subscribe(consumer=f"honker{turn}"):
                count += event.payload is not None  # which decodes it
                if count == events:
                    return

        began = time.perf_counter()
        asyncio.run(read())
        taken["Honker"].append(time.perf_counter() - began)
    bus, own = (statistics.median(taken[name]) for name in ("bus", "Honker"))
    figures.add("replay, the bus", events / bus, "events/s")
    figures.add("replay, Honker's Stream.subscribe", events / own, "events/s")
    figures.add("replay, time of the bus to Honker's", bus / own, limit=0.5)
    database.close_engine()


WRITER_CONSUMERS = """
from peewee_honker import HonkerDatabase
from peewee_honker.events import HonkerEventTarget
targets = []
for number in range(4):
    target = HonkerEventTarget(HonkerDatabase(sys.argv[1]), "durable", stream="ticks", consumer=f"c{number}")
    target.add_listener("tick", lambda event: None)
    targets.append(target)
ready(); finish()
for target in targets: target.close()
"""


def writer(path: str, figures: Figures, events: int) -> None:
    database = HonkerDatabase(path)
    target = HonkerEventTarget(database, "durable", stream="ticks")
    p95: dict[str, list[float]] = {"none": [], "four": []}
    for _ in range(3):
        for who in ("none", "four"):
            consumers = Receiver(WRITER_CONSUMERS, path) if who == "four" else None
            if consumers is not None:
                time.sleep(1.5)  # until they have their leases
            taken = []
            for number in range(events):
                began = time.perf_counter()
                target.dispatch(Event("tick", str(number), {"number": number}))
                taken.append((time.perf_counter() - began) * 1e6)
                time.sleep(random.uniform(0.0005, 0.0015))
            p95[who].append(cuts(taken)[1])
            if consumers is not None:
                consumers.finish()
    none, four = (statistics.median(p95[who]) for who in ("none", "four"))
    figures.add("a writer's p95, no consumer", none, "us")
    figures.add("a writer's p95, four durable consumers", four, "us")
    figures.add("four consumers to none", four / none, limit=1.5)
    database.close_engine()


IDLE = """
from peewee_honker import HonkerDatabase
from peewee_honker.events import HonkerEventTarget
target = HonkerEventTarget(HonkerDatabase(sys.argv[1]))
for number in range(100):
    target.add_listener(f"tick{number}", print)
ready(); time.sleep(1)
began = time.process_time(); time.sleep(SECONDS)
print(json.dumps({0: int((time.process_time() - began) / SECONDS * 1e9)}), flush=True)
target.close()
"""


def idle(path: str, figures: Figures, seconds: float) -> None:
    receiver = Receiver(IDLE.replace("SECONDS", str(seconds)), path)
    output, _ = receiver.process.communicate(timeout=120)
    share = int(json.loads(output)["0"]) / 1e9 * 100
    figures.add("a core's share of 100 idle listeners", share, "%", limit=0.5)


def _module(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer events: a rough look")
    parser.add_argument("--only", action="append", help="a part; may be given several times")
    parser.add_argument("--check", action="store_true", help="end with 1 when a limit is exceeded")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    quick = arguments.quick
    parts: dict[str, Callable[[str, Figures], None]] = {
        "delay": lambda path, figures: delay(path, figures, 300 if quick else 2000),
        "no-inotify": lambda path, figures: without_inotify(path, figures, 200 if quick else 1000),
        "publish": lambda path, figures: publish(path, figures, 5 if quick else 31),
        "here": lambda path, figures: here(path, figures, 200 if quick else 1000),
        "topics": lambda path, figures: topics(path, figures, 2000),
        "replay": lambda path, figures: replay(path, figures, 10_000 if quick else 100_000),
        "writer": lambda path, figures: writer(path, figures, 300 if quick else 2000),
        "idle": lambda path, figures: idle(path, figures, 3 if quick else 20),
    }
    figures = Figures()
    print(f"honker {importlib.metadata.version('honker')}, medians of one run")
    for name, part in parts.items():
        if arguments.only and name not in arguments.only:
            continue
        print(name)
        with tempfile.TemporaryDirectory() as folder:
            part(os.path.join(folder, "events.db"), figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures.values, indent=2))
    if figures.exceeded:
        print("exceeded: " + "; ".join(figures.exceeded))
    return 1 if figures.exceeded and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
