"""Seeing in a test what was published: committed and rolled back apart. PYTEST_DONT_REWRITE

    pytest_plugins = ["peewee_honker.testing"]    # in conftest.py

gives the fixtures `honker_db` and `recorded_events`. Without pytest, or with a database of your own:

    with record(db) as recorded:
        place_order()
        assert recorded.wait_for("order.saved", id=7).payload["customer"] == "Ada"

The plugin has to be named, as no entry point loads it: it would be imported by every test run on the machine that has this
package installed, before coverage measures, and give its fixtures to projects that do not know of them.
"""

import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from peewee_honker.database import HonkerDatabase
from peewee_honker.errors import EngineClosedError
from peewee_honker.events import GAP, Event, EventTarget, HonkerEventTarget
from peewee_honker.events.dispatcher import dispatcher_for
from peewee_honker.events.event import gap_event
from peewee_honker.events.listener import running_loop
from peewee_honker.events.stream import newest_offset
from peewee_honker.events.target import dispatched
from peewee_honker.events.topic import Topics

if TYPE_CHECKING:
    from pathlib import Path

    from peewee_honker.driver import Engine

__all__ = ["RecordedEvents", "record"]

_NEXT = "SELECT offset, topic, payload FROM _honker_stream WHERE offset > ? ORDER BY offset LIMIT 500"
_TOLD = 20  # events of each kind that a failure lists
_LOOK = 0.1  # seconds between two looks whether the recording goes on


def record(database: HonkerDatabase) -> "RecordedEvents":
    """Record, within a `with` block, what is published on the database's file; see `RecordedEvents`."""
    return RecordedEvents(database)


class RecordedEvents:
    """What was published on a database's file since the `with` block began, by whichever process; made by `record`.

    `committed` is read from the file, as a listener reads it: events of all channels and all streams, also those of
    triggers, of `db.notify` and of other processes. `rolled_back` and `pending` know of what this process dispatches by the
    bus and by HonkerEventTargets. Events that never reach the file, of a LocalEventTarget alone, are not seen.

    The lists can be read after the block too.
    """

    def __init__(self, database: HonkerDatabase) -> None:
        self._engine = database.engine
        self._target = HonkerEventTarget(database)
        self._streams: _Streams | None = None
        self._came = threading.Condition()
        self._committed: list[Event] = []
        self._gaps: list[Event] = []
        self._in_transactions: list[tuple[Event, weakref.ref[_Promise]]] = []
        self._kept: set[str] = set()  # ids of events that are committed

    def __repr__(self) -> str:
        return f"<RecordedEvents of {self._engine.path}: {len(self._committed)} committed>"

    # What was recorded

    @property
    def committed(self) -> list[Event]:
        """The committed events; those of the channels and those of the streams each in commit order.

        Complete: what any process has committed before is there, so that a test can say at once that something has not
        happened. Only in a receiver, and in the thread of an event loop, it is what has come so far.

        Raises EngineClosedError when the database's engine was closed during the recording.
        """
        self._flush()
        with self._came:
            return list(self._committed)

    @property
    def rolled_back(self) -> list[Event]:
        """The events that this process published in a transaction or savepoint that was rolled back, as published."""
        self._flush()
        return [event for event, promise in self._not_kept() if promise() is None]

    @property
    def pending(self) -> list[Event]:
        """The events that this process published in transactions that are open."""
        return [event for event, promise in self._not_kept() if promise() is not None]

    @property
    def gaps(self) -> list[Event]:
        """Gap events: something was deleted before it was recorded, or the file was replaced."""
        self._flush()
        with self._came:
            return list(self._gaps)

    def wait_for(
        self, type: str, *, id: object = None, where: Callable[[Event], bool] | None = None, timeout: float = 5.0
    ) -> Event:
        """The first committed event that is asked for, as soon as there is one; it may have come before the call.

        Arguments:
            type: the event's type, or a topic or pattern such as `order.*`.
            id: what it happened to: a key, compared as text. None for any.
            where: only an event for which this is true.
            timeout: the most seconds to wait.

        Raises AssertionError, which lists what has come instead; RuntimeError in the thread of an event loop, where waiting
        would stop the receivers: `await asyncio.to_thread(recorded.wait_for, "order.saved")`.
        """
        if running_loop() is not None:
            raise RuntimeError(
                "wait_for would stop the event loop, and the receivers with it: "
                "await asyncio.to_thread(recorded.wait_for, ...)"
            )
        topics: Topics[None] = Topics()
        topics.add(type, None)
        deadline = time.monotonic() + timeout
        recorded, looked_at = self._committed, 0
        while True:
            with self._came:
                if recorded is not self._committed:  # cleared meanwhile, by another thread
                    recorded, looked_at = self._committed, 0
                events = recorded[looked_at:]
            for event in events:
                meant = topics.match(event.type, event.id) and (id is None or event.id == str(id))
                if meant and (where is None or where(event)):
                    return event
            looked_at += len(events)
            left = deadline - time.monotonic()
            if left <= 0:
                wanted = (type if id is None else f"{type}:{id}") + ("" if where is None else ", as asked,")
                raise AssertionError(f"{wanted} has not come within {timeout} s; {self._told()}")
            self._check()
            with self._came:
                if recorded is self._committed and len(recorded) <= looked_at:
                    self._came.wait(min(left, _LOOK))

    def clear(self) -> None:
        """Forget what was recorded so far. What is pending is still recorded when it commits or rolls back."""
        self._flush()
        with self._came:
            self._in_transactions = [each for each in self._in_transactions if each[1]() is not None]
            self._committed, self._gaps = [], []

    # Recording

    def __enter__(self) -> "RecordedEvents":
        if self._streams is not None:
            raise RuntimeError("these events are recorded already: record(db) once more for another recording")
        self._streams = _Streams(self._engine, self._take, self._take_gap)
        self._target.add_listener("*", self._take)
        self._target.add_listener(GAP, self._take_gap)
        dispatcher_for(self._engine).add_source(self._streams)
        dispatched.connect(self._on_dispatch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        streams = self._streams
        if streams is None:
            return
        dispatched.disconnect(self._on_dispatch)
        if not streams.was_cut_off:
            self._flush()
            streams.is_wanted = False
        dispatcher_for(self._engine).remove_source(streams)
        self._target.close()

    def _on_dispatch(self, target: EventTarget, event: Event) -> None:
        # Others dispatch to one of these, or within this process alone.
        if not isinstance(target, HonkerEventTarget) or target.database.engine is not self._engine:
            return
        if target.database.honker_transaction is None:
            return  # committed by itself
        promise = _Promise(self._kept, event.event_id)
        target.database.at_commit(promise)
        with self._came:
            self._in_transactions.append((event, weakref.ref(promise)))

    def _take(self, event: Event) -> None:
        with self._came:
            self._committed.append(event)
            self._kept.add(event.event_id)
            self._came.notify_all()

    def _take_gap(self, event: Event) -> None:
        with self._came:
            self._gaps.append(event)

    def _not_kept(self) -> "list[tuple[Event, weakref.ref[_Promise]]]":
        with self._came:
            return [each for each in self._in_transactions if each[0].event_id not in self._kept]

    def _flush(self) -> None:
        self._check()
        if self._streams is not None and self._streams.is_wanted:
            dispatcher_for(self._engine).flush()
            self._check()

    def _check(self) -> None:
        if self._streams is not None and self._streams.was_cut_off:
            raise EngineClosedError(f"the engine of {self._engine.path} was closed while its events were recorded")

    def _told(self) -> str:
        kinds = {"committed": self.committed, "rolled back": self.rolled_back, "pending": self.pending, "gaps": self.gaps}
        lines = []
        for kind, events in kinds.items():
            if not events and kind != "committed":
                continue
            lines.append(f"{kind}:" if events else f"nothing was {kind}")
            if len(events) > _TOLD:
                lines.append(f"    ... {len(events) - _TOLD} before")
            lines += [f"    {event.topic} {event.operation} {event.payload!r:.200}" for event in events[-_TOLD:]]
        return "\n".join(lines)


class _Promise:
    """Waits in an open transaction for its commit, which calls it. It is dropped by what rolls it back."""

    __slots__ = ("__weakref__", "_event_id", "_kept")

    def __init__(self, kept: set[str], event_id: str) -> None:
        self._kept = kept
        self._event_id = event_id

    def __call__(self) -> None:
        self._kept.add(self._event_id)


class _Streams:
    """Reads all streams of a file, those that come to be as well; a source of the dispatcher."""

    def __init__(self, engine: "Engine", take: Callable[[Event], None], take_gap: Callable[[Event], None]) -> None:
        self._engine = engine
        self._take = take
        self._take_gap = take_gap
        self._last = newest_offset(engine)
        self.is_wanted = True
        self.was_cut_off = False

    def poll(self) -> bool:
        """Take what there is."""
        found = False
        while rows := self._engine.read(_NEXT, (self._last,), 5.0):
            found = True
            for row in rows:
                last, self._last = self._last, row["offset"]
                if self._last != last + 1:
                    self._take_gap(gap_event(row["topic"], last, self._last, "they were deleted before they were read"))
                self._take(Event.from_json(row["payload"], row["topic"], row["offset"]))
        return found

    def moved(self, engine: "Engine") -> None:
        """Go on with another file, from now; the target hears of the gap."""
        self._engine = engine
        self._last = newest_offset(engine)

    def stop(self) -> None:
        """Note it when the end was not asked for."""
        self.was_cut_off = self.is_wanted


if "pytest" in sys.modules:  # as a plugin; who uses `record` with another runner need not have pytest
    import pytest

    __all__ += ["honker_db", "recorded_events"]

    @pytest.fixture
    def honker_db(tmp_path: "Path") -> Iterator[HonkerDatabase]:
        """An empty HonkerDatabase on a file of the test's own, closed at its end.

        Give a fixture of this name in your conftest.py to have `recorded_events` record another database.
        """
        database = HonkerDatabase(tmp_path / "honker.db")
        yield database
        database.close_engine()

    @pytest.fixture
    def recorded_events(honker_db: HonkerDatabase) -> Iterator[RecordedEvents]:
        """The events that are published on `honker_db` during the test, see `RecordedEvents`."""
        with record(honker_db) as recorded:
            yield recorded
