"""Event targets on servers beside the bare clients of the same servers.

    python benchmarks/scale.py [--quick] [--only ENGINE] [--check] [--json FILE]

ENGINE: redis, nats, postgresql. Each server is started for the benchmark and gone after it; one that is not installed is
left out with a word. What is compared takes turns in one run, on one server. For each engine:

- publish: one event after the other, each answered by the server: ephemeral, durable.
- delivery: from the call that publishes to the first line of a receiver in another process: ephemeral, durable.
- backlog: reading what waits in a stream, to a receiver that does nothing.
- relay: `Relay` of 100,000 events out of a file, beside writing them with the client's own pipelining: the texts ready,
  500 at a time.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from events import Figures, Receiver, cuts
from servers import nats_server, postgresql_server, redis_server

from peewee_honker import Event, HonkerDatabase, Relay, connect
from peewee_honker.events import EventTarget, HonkerEventTarget

PAYLOAD = {"customer": "Ada", "total": "9.50", "paid": False, "items": [1, 2, 3]}

OURS = """
from peewee_honker import connect
target = connect(sys.argv[1], MODE)
def hear(event):
    heard[event.payload["number"]] = time.time_ns()
target.add_listener("tick", hear)
ready(); finish(); target.close()
"""


def payload(number: int) -> dict[str, Any]:
    return {"number": number, **PAYLOAD}


class Bare(ABC):
    """A server's own client, used as its documentation says."""

    receiver: ClassVar[dict[str, str]]
    """By mode: the code of a process that notes when it hears of each number."""

    @abstractmethod
    def publish(self, number: int) -> None:
        """An ephemeral message."""

    @abstractmethod
    def append(self, number: int) -> None:
        """A durable one."""

    @abstractmethod
    def append_all(self, texts: Sequence[str]) -> None:
        """Many durable ones, pipelined."""

    @abstractmethod
    def read_all(self, count: int) -> None:
        """Read so many that wait, acknowledge them, and decode each."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect."""


class BareRedis(Bare):
    receiver: ClassVar = {
        "ephemeral": """
import redis
pubsub = redis.Redis.from_url(sys.argv[1]).pubsub(ignore_subscribe_messages=True)
pubsub.subscribe("bare"); pubsub.get_message(timeout=5)
def listen():
    for message in pubsub.listen():
        heard[json.loads(message["data"])["number"]] = time.time_ns()
threading.Thread(target=listen, daemon=True).start()
ready(); finish()
""",
        "durable": """
import redis
client = redis.Redis.from_url(sys.argv[1])
client.xgroup_create("bare", "group", "$", mkstream=True)
def listen():
    while True:
        for _, entries in client.xreadgroup("group", "me", {"bare": ">"}, count=300, block=5000):
            for id_, fields in entries:
                heard[json.loads(fields[b"event"])["number"]] = time.time_ns()
            client.xack("bare", "group", *[id_ for id_, _ in entries])
threading.Thread(target=listen, daemon=True).start()
ready(); finish()
""",
    }

    def __init__(self, url: str) -> None:
        import redis

        self._client = redis.Redis.from_url(url)

    def publish(self, number: int) -> None:
        self._client.publish("bare", json.dumps(payload(number)))

    def append(self, number: int) -> None:
        self._client.xadd("bare", {"event": json.dumps(payload(number))})

    def append_all(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), 500):
            pipeline = self._client.pipeline(transaction=False)
            for text in texts[start : start + 500]:
                pipeline.xadd("all", {"event": text})
            pipeline.execute()

    def read_all(self, count: int) -> None:
        group = f"group{random.random()}"
        self._client.xgroup_create("all", group, "0")
        while count > 0:
            [[_, entries]] = self._client.xreadgroup(group, "me", {"all": ">"}, count=300)
            for _, fields in entries:
                json.loads(fields[b"event"])
            self._client.xack("all", group, *[id_ for id_, _ in entries])
            count -= len(entries)

    def close(self) -> None:
        self._client.close()


class BareNats(Bare):
    receiver: ClassVar = {
        "ephemeral": """
import asyncio, nats
async def listen():
    client = await nats.connect(sys.argv[1])
    async def hear(message):
        heard[json.loads(message.data)["number"]] = time.time_ns()
    await client.subscribe("bare", cb=hear)
    await client.flush()
    ready()
    await asyncio.Event().wait()
threading.Thread(target=lambda: asyncio.run(listen()), daemon=True).start()
finish()
""",
        "durable": """
import asyncio, nats
async def listen():
    client = await nats.connect(sys.argv[1])
    async def hear(message):
        heard[json.loads(message.data)["number"]] = time.time_ns()
        await message.ack()
    await client.jetstream().subscribe("stream.bare", durable="receiver", cb=hear, manual_ack=True)
    await client.flush()
    ready()
    await asyncio.Event().wait()
threading.Thread(target=lambda: asyncio.run(listen()), daemon=True).start()
finish()
""",
    }

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._run(self._connect(url))

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    async def _connect(self, url: str) -> None:
        import nats

        self._client = await nats.connect(url)
        self._jetstream = self._client.jetstream(publish_async_max_pending=1000)
        await self._jetstream.add_stream(name="bare", subjects=["stream.*"])

    def publish(self, number: int) -> None:
        async def publish() -> None:
            await self._client.publish("bare", json.dumps(payload(number)).encode())
            await self._client.flush()

        self._run(publish())

    def append(self, number: int) -> None:
        self._run(self._jetstream.publish("stream.bare", json.dumps(payload(number)).encode()))

    def append_all(self, texts: Sequence[str]) -> None:
        async def append() -> None:
            for start in range(0, len(texts), 500):
                acks = [
                    await self._jetstream.publish_async("stream.all", text.encode()) for text in texts[start : start + 500]
                ]
                await asyncio.gather(*acks)

        self._run(append())

    def read_all(self, count: int) -> None:
        async def read(count: int) -> None:
            subscription = await self._jetstream.pull_subscribe("stream.all", durable=f"reader{random.getrandbits(32)}")
            while count:
                for message in await subscription.fetch(min(300, count), timeout=5):
                    json.loads(message.data)
                    await message.ack()
                    count -= 1

        self._run(read(count))

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()


class BarePostgres(Bare):
    _SINCE = "SELECT id, event FROM bare WHERE id > %s ORDER BY id LIMIT 300"
    receiver: ClassVar = {
        mode: f"""
import psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
connection.execute("LISTEN {channel}")
since = "SELECT id, event FROM bare WHERE id > %s ORDER BY id LIMIT 300"
last = connection.execute("SELECT coalesce(max(id), 0) FROM bare").fetchone()[0]
def listen():
    global last
    while True:
        for message in connection.notifies(timeout=5, stop_after=1):
            pass
        for last, text in connection.execute(since, (last,)).fetchall():
            heard[json.loads(text)["number"]] = time.time_ns()
        {"connection.execute('UPDATE place SET id = %s', (last,))" if mode == "durable" else ""}
threading.Thread(target=listen, daemon=True).start()
ready(); finish()
"""
        for mode, channel in (("ephemeral", "bare"), ("durable", "durable"))
    }

    def __init__(self, url: str) -> None:
        import psycopg

        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE TABLE bare (id bigserial PRIMARY KEY, event text NOT NULL)")
        self._connection.execute("CREATE TABLE place (id bigint NOT NULL)")
        self._connection.execute("INSERT INTO place VALUES (0)")

    def publish(self, number: int) -> None:
        # A row and a notification, as the target: NOTIFY alone loses what nobody hears, and takes 8,000 bytes at most.
        with self._connection.transaction():
            self._connection.execute("INSERT INTO bare (event) VALUES (%s)", (json.dumps(payload(number)),))
            self._connection.execute("SELECT pg_notify('bare', '')")

    def append(self, number: int) -> None:
        with self._connection.transaction():
            self._connection.execute("INSERT INTO bare (event) VALUES (%s)", (json.dumps(payload(number)),))
            self._connection.execute("SELECT pg_notify('durable', '')")

    def append_all(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), 500):
            with self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.executemany("INSERT INTO bare (event) VALUES (%s)", [(text,) for text in texts[start : start + 500]])
                cursor.execute("SELECT pg_notify('durable', '')")

    def read_all(self, count: int) -> None:
        last = 0
        while count:
            rows = self._connection.execute(self._SINCE, (last,)).fetchall()
            for _, text in rows:
                json.loads(text)
            last = rows[-1][0]
            self._connection.execute("UPDATE place SET id = %s", (last,))
            count -= min(count, len(rows))

    def close(self) -> None:
        self._connection.close()


ENGINES: dict[str, tuple[Any, str, type[Bare]]] = {
    "redis": (redis_server, "redis", BareRedis),
    "nats": (nats_server, "nats", BareNats),
    "postgresql": (postgresql_server, "psycopg", BarePostgres),
}


@contextmanager
def listening(url: str, bare: Bare, mode: str) -> Iterator[dict[str, Receiver]]:
    more = ', "durable", consumer="bench"' if mode == "durable" else ', "ephemeral"'
    yield {
        "ours": Receiver(OURS.replace(", MODE", more), url),
        "bare": Receiver(bare.receiver[mode], url),
    }


def publish_and_deliver(name: str, url: str, bare: Bare, figures: Figures, mode: str, events: int) -> None:
    """Both sides publish in turn, and a process of each hears."""
    with listening(url, bare, mode) as receivers:
        target = connect(url, "durable") if mode == "durable" else connect(url)
        sends: dict[str, Callable[[int], object]] = {
            "ours": lambda number: target.dispatch(Event("tick", str(number), payload(number))),
            "bare": bare.append if mode == "durable" else bare.publish,
        }
        called: dict[str, dict[int, int]] = {side: {} for side in sends}
        taken: dict[str, list[float]] = {side: [] for side in sends}
        for number in range(-50, events):  # the first warm up
            for side, send in sends.items():
                began = time.time_ns()
                send(number)
                if number >= 0:
                    taken[side].append((time.time_ns() - began) / 1e3)
                    called[side][number] = began
                time.sleep(random.uniform(0.0005, 0.002))
        time.sleep(0.5)  # the last ones are on their way
        target.close()
        for side, times in taken.items():
            figures.add(f"{name}, {mode} publish: {side}", statistics.median(times), "us")
        figures.add(
            f"{name}, {mode} publish to bare", statistics.median(taken["ours"]) / statistics.median(taken["bare"]), limit=1.5
        )
        p50 = {}
        for side, receiver in receivers.items():
            heard = receiver.finish()
            missing = len(called[side].keys() - heard.keys())
            if missing:
                raise SystemExit(f"{name}, {mode}, {side}: {missing} of {events} events were not heard")
            p50[side] = cuts([(heard[number] - at) / 1e3 for number, at in called[side].items()])[0]
            figures.add(f"{name}, {mode} delivery, p50: {side}", p50[side], "us")
        figures.add(f"{name}, {mode} delivery to bare", p50["ours"] / p50["bare"], limit=1.5)


def relay_and_read(name: str, url: str, bare: Bare, figures: Figures, events: int) -> None:
    """The relay's events, and the same texts by the bare client; then both are read."""
    texts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        database = HonkerDatabase(os.path.join(folder, "relay.db"))
        source = HonkerEventTarget(database, "durable", stream="ticks")
        with database.atomic():
            for number in range(events):
                event = Event("tick", str(number), payload(number))
                texts.append(event.to_json())
                source.dispatch(event)
        taken: dict[str, list[float]] = {"ours": [], "bare": []}
        for turn in range(3):
            target = connect(url, "durable", stream=f"relayed{turn}")
            began = time.perf_counter()
            with Relay(database, "ticks", target, name=f"relay{turn}") as relay:
                if not relay.catch_up(300):
                    raise SystemExit(f"{name}: the relay did not catch up: {relay.error}")
            taken["ours"].append(time.perf_counter() - began)
            target.close()
            began = time.perf_counter()
            bare.append_all(texts)
            taken["bare"].append(time.perf_counter() - began)
        database.close_engine()
    ours, own = (statistics.median(times) for times in taken.values())
    figures.add(f"{name}, relay: ours", events / ours, "events/s")
    figures.add(f"{name}, relay: bare pipelined", events / own, "events/s")
    figures.add(f"{name}, relay, time to bare", ours / own, limit=2.0)

    taken = {"ours": [], "bare": []}
    for turn in range(3):
        taken["ours"].append(
            _read(connect(url, "durable", stream="relayed0", consumer=f"c{turn}", start_at="beginning"), events)
        )
        began = time.perf_counter()
        bare.read_all(events)
        taken["bare"].append(time.perf_counter() - began)
    ours, own = (statistics.median(times) for times in taken.values())
    figures.add(f"{name}, backlog: ours", events / ours, "events/s")
    figures.add(f"{name}, backlog: bare", events / own, "events/s")
    figures.add(f"{name}, backlog, time to bare", ours / own, limit=1.5)


def _read(target: EventTarget, events: int) -> float:
    heard = 0
    done = threading.Event()

    def hear(_event: Event) -> None:
        nonlocal heard
        heard += 1
        if heard == events:
            done.set()

    began = time.perf_counter()
    target.add_listener("tick", hear)
    if not done.wait(300):
        raise SystemExit(f"{type(target).__name__} has read {heard} of {events} events")
    took = time.perf_counter() - began
    target.close()
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer events: a rough look")
    parser.add_argument("--only", action="append", choices=ENGINES, help="an engine; may be given several times")
    parser.add_argument("--check", action="store_true", help="end with 1 when a limit is exceeded")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    figures = Figures()
    for name, (server, package, kind) in ENGINES.items():
        if arguments.only and name not in arguments.only:
            continue
        print(name)
        with server() as url:
            try:
                bare = kind(url) if url else None
            except ImportError:
                bare = None
            if bare is None:
                print(f"  is left out: its server, or the package {package}, is not installed")
                continue
            for mode in ("ephemeral", "durable"):
                publish_and_deliver(name, url, bare, figures, mode, 200 if arguments.quick else 1500)
            relay_and_read(name, url, bare, figures, 10_000 if arguments.quick else 100_000)
            bare.close()
    if arguments.json:
        arguments.json.write_text(json.dumps(figures.values, indent=2))
    if figures.exceeded:
        print("exceeded: " + "; ".join(figures.exceeded))
    return 1 if figures.exceeded and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
