"""For the tests of applications: a database for each test, and a recording of the events that were published.

    # conftest.py
    pytest_plugins = ["peewee_honker.testing"]

    # test_orders.py
    def test_an_order_is_told_of(honker_db, recorded_events):
        with honker_db.bind_ctx([Order]):
            honker_db.create_tables([Order])
            Order.create(customer="Ada")
        assert recorded_events.wait_for("order.saved").payload["customer"] == "Ada"

The plugin is not found by itself: pytest would import Peewee and Honker for every test suite of an environment that has
them installed. `record(db)` is the recording without pytest.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peewee_honker.database import HonkerDatabase
from peewee_honker.driver import Engine
from peewee_honker.events import Event, HonkerEventTarget
from peewee_honker.events.dispatcher import dispatcher_for
from peewee_honker.events.stream import newest_offset

__all__ = ["Recording", "honker_db", "record", "recorded_events"]

_SINCE = "SELECT offset, topic, payload FROM _honker_stream WHERE offset > ? ORDER BY offset LIMIT 500"


class Recording:
    """The events of a database since the recording began: ephemeral ones and those of all streams.

    - `committed`: what has committed, whoever published it, also other processes and triggers, in the order in which it
      was read; events of channels and of streams each in commit order.
    """

    def __init__(self, database: HonkerDatabase) -> None:
        self.committed: list[Event] = []
        self._database = database
        self._engine = database.engine
        self._published: list[tuple[Event, int]] = []  # and how many transactions had ended then
        self._came = threading.Condition()
        self._offset = 0
        self._target = HonkerEventTarget(database)

    @property
    def rolled_back(self) -> list[Event]:
        """What this process has published by event targets in transactions, or savepoints, that were rolled back."""
        self._catch_up()
        there = {event.event_id for event in self.committed}
        ended = self._engine.transactions
        return [event for event, at in self._published if at < ended and event.event_id not in there]

    def wait_for(
        self,
        type_: str,
        id_: str | None = None,
        *,
        where: Callable[[Event], bool] | None = None,
        timeout: float = 5.0,
    ) -> Event:
        """The first committed event of a type, waited for at most `timeout` seconds.

        Arguments:
            id_: of this id only.
            where: for which this is true.

        Raises AssertionError that lists what has come instead.
        """

        def matching() -> Event | None:
            for event in self.committed:
                if event.type == type_ and (id_ is None or event.id == id_) and (where is None or where(event)):
                    return event
            return None

        deadline = time.monotonic() + timeout
        with self._came:
            while (found := matching()) is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._came.wait(left)
            came = list(self.committed)
        if found is not None:
            return found
        wanted = type_ if id_ is None else f"{type_}:{id_}"
        told = "".join(f"\n  {event.topic} {event.operation} {event.payload!r}" for event in came) or " nothing"
        undone = "".join(f"\n  {event.topic} {event.payload!r}" for event in self.rolled_back)
        raise AssertionError(
            f"no event {wanted} has committed within {timeout} s{' for which the condition holds' if where else ''}. "
            f"Committed:{told}" + (f"\nRolled back:{undone}" if undone else "")
        )

    def clear(self) -> None:
        """Forget what came so far."""
        self._catch_up()
        with self._came:
            self.committed.clear()
            self._published.clear()

    def start(self) -> None:
        """Begin: with what commits after this returns."""
        self._offset = newest_offset(self._engine)
        HonkerEventTarget.observers.append(self._note)
        self._target.add_listener("*", self._take)
        dispatcher_for(self._engine).add_source(self)

    def end(self) -> None:
        """End; what has come stays."""
        self._catch_up()
        if self._note in HonkerEventTarget.observers:
            HonkerEventTarget.observers.remove(self._note)
        dispatcher_for(self._engine).remove_source(self)
        self._target.close()

    def _catch_up(self) -> None:
        dispatcher_for(self._engine).flush()

    def _note(self, database: HonkerDatabase, event: Event) -> None:
        if database.engine is self._engine:
            self._published.append((event, self._engine.transactions - (not database.in_transaction())))

    def _take(self, event: Event) -> None:
        with self._came:
            self.committed.append(event)
            self._came.notify_all()

    # A source of the dispatcher

    def poll(self) -> bool:
        """Take what the streams have got."""
        rows: list[dict[str, Any]] = self._engine.read(_SINCE, (self._offset,), 5.0)
        for row in rows:
            self._offset = row["offset"]
            self._take(Event.from_json(row["payload"], row["topic"], row["offset"]))
        return bool(rows)

    def moved(self, engine: Engine) -> None:
        """Go on with another file."""
        self._engine = engine
        self._offset = newest_offset(engine)

    def stop(self) -> None:
        """Nothing to undo; called by the dispatcher."""


@contextmanager
def record(database: HonkerDatabase) -> Iterator[Recording]:
    """Record the events of a database while this is entered."""
    recording = Recording(database)
    recording.start()
    try:
        yield recording
    finally:
        recording.end()


@pytest.fixture
def honker_db(tmp_path: Path) -> Iterator[HonkerDatabase]:
    """A HonkerDatabase on a file of the test's own, closed at its end."""
    database = HonkerDatabase(tmp_path / "test.db")
    yield database
    database.close_engine()


@pytest.fixture
def recorded_events(honker_db: HonkerDatabase) -> Iterator[Recording]:
    """A Recording of `honker_db`, for the whole test."""
    with record(honker_db) as recording:
        yield recording
