"""`Spoke`: a database that works on its own, and is joined to a hub when that can be reached."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from peewee_honker.errors import ForwardConflictError
from peewee_honker.events import Event, Retention
from peewee_honker.events.store import Store, store_of
from peewee_honker.events.target import Forwarded
from peewee_honker.hub import message as protocol
from peewee_honker.hub.client import WebSocketClientTarget
from peewee_honker.hub.executing import Executing
from peewee_honker.hub.running import run
from peewee_honker.operations.calls import CallClient
from peewee_honker.operations.pending import PendingSubscription
from peewee_honker.relay import Relay

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase
    from peewee_honker.operations.registry import OperationRegistry

__all__ = ["Spoke"]

logger = logging.getLogger("peewee_honker.hub")

_PAUSE = 0.5  # seconds before what has come is written again, after an error
_PRUNE_EVERY = 60.0  # seconds
_FAR = 1000  # offsets without an event of this spoke's, after which its place is saved all the same


class Spoke:
    """Joins a database to a hub: its events go up, the hub's come down, and operations are called both ways.

        spoke = Spoke(db, "wss://hub.example:8765", "shop", key="phk_...", streams=["orders"], registry=registry)
        with spoke:                                       # or spoke.run()
            spoke.call("stock/goods/find", {"id": 1})

    Arguments:
        database: a HonkerDatabase, which works with or without the hub.
        url: the hub's.
        name: under which others call its operations; unlike that of other spokes of the tenant.
        streams: durable streams of the database whose events go up to the hub's stream.
        inbox: the durable stream into which the hub's events come.
        topics: which events come down.
        start_at: of a name that is new to the database: whether the hub's events before its first connection come too.
        registry: operations that others may call, as `name/service/operation`.
        workers: how many of these calls are executed at a time.
        retention: how long the events of `inbox` are kept.
        options: of WebSocketClientTarget: key, tenant, ssl, ...

    Guarantee: an event of `streams` is in the hub's stream once, in order, however often either side is killed or the
    connection is lost: it waits in the database meanwhile. An event of the hub's stream is in `inbox` once, in order; where
    the hub has deleted events before they came, there is a gap event in their place. What was published by a spoke does not
    come back to it. Calls raise OperationError (UNAVAILABLE) at once while the hub is away.

    Events in `inbox` are heard as those of every durable stream: by a consumer of `HonkerEventTarget(db, "durable",
    stream="hub", consumer=...)`, in the spoke's process or another.
    """

    def __init__(
        self,
        database: "HonkerDatabase",
        url: str,
        name: str,
        *,
        streams: Iterable[str] = ("events",),
        inbox: str = "hub",
        topics: Iterable[str] = ("*",),
        start_at: Literal["now", "beginning"] = "now",
        registry: "OperationRegistry | None" = None,
        workers: int = 16,
        retention: Retention | None = None,
        **options: Any,
    ) -> None:
        streams = list(streams)
        if inbox in streams:
            raise ValueError(f"the stream {inbox} holds what has come from the hub: it cannot go up again")
        if start_at not in ("now", "beginning"):
            raise ValueError(f"a spoke starts 'now' or at the 'beginning', not {start_at!r}")
        self.database = database
        self.name = name
        self.inbox = inbox
        self.registry = registry
        self._store = store_of(database)
        self._start_at = start_at
        self._topics = list(topics)
        self.hub = _Incoming(self._store, name, inbox, retention or Retention(), url, echo=False, **options)
        """The connection: an event target, whose `dispatch` publishes at the hub at once or not at all."""
        self._relays = [Relay(database, stream, self.hub, name=f"spoke:{name}:{stream}") for stream in streams]
        self._handler = None if registry is None else Executing(registry, self.hub.calls, database, workers)
        self._client = CallClient(self.hub.calls)
        self.hub.greet(self._greeting)
        for relay in self._relays:
            self.hub.on_connected(relay.retry)

    def __repr__(self) -> str:
        return f"<Spoke {self.name!r} of {self.hub!r}>"

    # Life

    @property
    def is_connected(self) -> bool:
        """Whether the hub is there."""
        return self.hub.is_connected

    @property
    def error(self) -> Exception | None:
        """Why it is not connected, or None."""
        return self.hub.error

    @property
    def waiting(self) -> int:
        """How many events wait to go up."""
        return sum(relay.lag for relay in self._relays)

    def start(self) -> None:
        """Begin to connect, in threads. The hub need not be there."""
        self.hub.begin(self._topics, self._start_at)
        if self._handler is not None:
            self._handler.start()
        self.hub.start()
        for relay in self._relays:
            relay.start()

    def stop(self) -> None:
        """Leave the hub, when the calls that are executed here have ended. What waits stays in the database."""
        if self._handler is not None:
            self._handler.stop()
        self.hub.stop()
        for relay in self._relays:
            relay.close()

    def run(self) -> None:
        """Work until Ctrl-C or SIGTERM."""
        run(self)

    def __enter__(self) -> "Spoke":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def wait_connected(self, timeout: float) -> None:
        """As WebSocketClientTarget.wait_connected."""
        self.hub.wait_connected(timeout)

    def catch_up(self, timeout: float) -> bool:
        """Wait until all that is in the streams now has gone up; False when that takes longer than so many seconds."""
        return all(relay.catch_up(timeout) for relay in self._relays)

    # Operations

    def call(self, operation_id: str, data: Any, **more: Any) -> Any:
        """The data that `spoke/service/operation` gives. Arguments and errors are those of CallClient.call; the identity is
        that of this spoke's key."""
        return self._client.call(operation_id, data, **more)

    def subscribe(self, operation_id: str, data: Any, **more: Any) -> PendingSubscription:
        """As CallClient.subscribe."""
        return self._client.subscribe(operation_id, data, **more)

    @property
    def calls(self) -> CallClient:
        """The client by which it calls."""
        return self._client

    def discover(self, spoke: str | None = None, service: str | None = None) -> list[dict[str, Any]]:
        """As WebSocketClientTarget.discover."""
        return self.hub.discover(spoke, service)

    def _greeting(self) -> Event:
        registry = self.registry
        specs = [] if registry is None else [spec for spec in registry.specs if registry.has_handler(spec.id)]
        return Event(protocol.REGISTER, "", {"spoke": self.name, "operations": [spec.to_json() for spec in specs]})


class _Incoming(WebSocketClientTarget):
    """The connection of a spoke, whose events go into a stream."""

    def __init__(self, store: Store, name: str, inbox: str, retention: Retention, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._retention = retention
        self._next_pruning = 0.0
        self._store = store
        self._relay = f"hub:{name}"
        self._inbox_stream = inbox
        self._ending = threading.Event()
        self._at: Forwarded | None = None
        self._floor = 0  # what is at this offset or before it has been written

    def greet(self, greeting: Callable[[], Event]) -> None:
        """Begin each connection with a request."""
        self._link.greetings.append(greeting)

    def on_connected(self, function: Callable[[], None]) -> None:
        """Call a function when there is a connection again."""
        self._link.on_connected.append(function)

    def begin(self, topics: Sequence[str], start_at: str) -> None:
        """Go on where the stream ends."""
        self._ending.clear()
        self._at = self._store.forwarded(self._relay)
        if self._at is not None:
            self._floor = self._at.offset
            self._given = (self._at.offset, self._at.event_id or None)
        elif start_at == "beginning":
            self._given = (0, None)
        self._link.wanted.update(dict.fromkeys(topics))

    def stop(self) -> None:
        self._ending.set()
        super().stop()

    def _receive(self, events: Sequence[Event]) -> None:
        super()._receive(events)  # to listeners, if there are any
        rows: list[tuple[int, str, str]] = []
        last = self._at
        for event in events:
            if event.type == protocol.POSITION:
                offset = event.offset or 0
                if last is None or offset > last.offset + _FAR:
                    last = Forwarded(offset, "")
                continue
            if event.is_gap and event.payload.get("before") is None:
                self._floor = 0  # of another stream: offsets begin anew
            if not event.is_gap and (event.offset or 0) <= self._floor:
                continue  # another process on this file has written it
            rows.append((event.offset or 0, event.id, event.to_json(2**62)))
            if not event.is_gap:
                last = Forwarded(event.offset or 0, event.event_id)
            elif event.payload.get("before") is not None:
                last = Forwarded(event.payload["before"] - 1, "")
        if last is not None and (rows or last != self._at):
            self._write(rows, last)

    def _write(self, rows: Sequence[tuple[int, str, str]], last: Forwarded) -> None:
        while not self._ending.is_set():
            try:
                written = [(key, text) for _, key, text in rows]
                self._store.append_forwarded(self._inbox_stream, self._relay, written, self._at, last)
                self._at, self._floor = last, last.offset
                if time.monotonic() > self._next_pruning:
                    self._next_pruning = time.monotonic() + _PRUNE_EVERY
                    self._store.prune_stream(self._inbox_stream, self._retention)
                return
            except ForwardConflictError:
                logger.error("another process on this file is the same spoke: going on behind what it has written")
                self._at = at = self._store.forwarded(self._relay)
                if at is not None:
                    self._floor = at.offset
                    rows = [row for row in rows if row[0] > at.offset]
                    if last.offset <= at.offset:
                        return
            except Exception:
                logger.exception("what has come from the hub could not be written; trying again")
                self._ending.wait(_PAUSE)
            finally:
                self._store.close_thread()
