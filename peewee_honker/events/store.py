"""What consumers, targets, retention and the bus ask of the database that keeps the events.

`HonkerStore` is the one of a HonkerDatabase; `peewee_honker.servers` has those of PostgreSQL and Redis.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from peewee_honker.driver import Engine
from peewee_honker.errors import ForwardConflictError
from peewee_honker.events.dead_letter import DeadLetter, bury, dead_letters, forget, make_table
from peewee_honker.events.dispatcher import Dispatcher, dispatcher_for
from peewee_honker.events.event import Event
from peewee_honker.events.retention import BATCH, Retention, prune_notifications, prune_stream
from peewee_honker.events.run import EventDispatcher
from peewee_honker.events.stream import INSERT as INTO_STREAM
from peewee_honker.events.stream import Position, offset_of, pruned_offset, read_page
from peewee_honker.events.target import Forwarded

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["HonkerStore", "Store", "store_of"]

_NOTIFY = "INSERT INTO _honker_notifications (channel, payload) VALUES (?, ?)"
_HOLDER = "SELECT owner FROM _honker_locks WHERE name = ? AND expires_at > unixepoch()"
_OFFSET = "SELECT offset FROM _honker_stream_consumers WHERE name = ? AND topic = ?"
_BEGIN_AT = "INSERT OR IGNORE INTO _honker_stream_consumers (name, topic, offset) VALUES (?, ?, ?)"
_SAVE = "UPDATE _honker_stream_consumers SET offset = ? WHERE name = ? AND topic = ? AND offset = ?"
_LAG = "SELECT count(*) AS n FROM _honker_stream WHERE topic = ? AND offset > ?"
_FORWARDED_TABLE = (
    "CREATE TABLE IF NOT EXISTS _honker_peewee_forwarded "
    "(relay TEXT PRIMARY KEY, offset INTEGER NOT NULL, event_id TEXT NOT NULL) WITHOUT ROWID"
)
_HAS_FORWARDED = "SELECT 1 AS n FROM sqlite_master WHERE name = '_honker_peewee_forwarded'"
_FORWARDED = "SELECT offset, event_id FROM _honker_peewee_forwarded WHERE relay = ?"
_NOTE_FORWARDED = (
    "INSERT INTO _honker_peewee_forwarded (relay, offset, event_id) VALUES (?, ?, ?) ON CONFLICT (relay) DO UPDATE "
    "SET offset = excluded.offset, event_id = excluded.event_id WHERE ? AND (offset, event_id) = (?, ?)"
)
_ALL_INTO_STREAM = (
    "INSERT INTO _honker_stream (topic, key, payload) "
    "SELECT ?, json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?) ORDER BY key"
)
_TIMEOUT = 5.0


class Store(Protocol):
    """A database that keeps events. What is said of a transaction is of the one that the calling thread has open."""

    @property
    def database(self) -> Any:
        """The Peewee database."""

    @property
    def dispatcher(self) -> EventDispatcher:
        """The one dispatcher of the database in this process."""

    # Events

    def notify(self, channel: str, text: str) -> None:
        """Publish an ephemeral event, in the open transaction or alone."""

    def append(self, stream: str, key: str, text: str) -> None:
        """Append an event to a stream, in the open transaction or alone."""

    def read_page(self, stream: str, after: int, most: int) -> tuple[list[int], Iterable[Event]]:
        """The next events of a stream behind an offset, and their offsets. Takes no lock."""

    def offset_of(self, stream: str, position: Position) -> int:
        """The offset behind which a position's events are. Raises ValueError for what is no position."""

    def pruned_offset(self, stream: str) -> int:
        """The offset up to which a stream's events were deleted by its retention, or 0."""

    def prune_notifications(self, older_than: float) -> bool:
        """Delete a batch of the ephemeral events that are older than so many seconds; whether there may be more."""

    def prune_stream(self, stream: str, retention: Retention) -> bool:
        """Delete a batch of what a stream need not keep; whether there may be more."""

    # What relays have brought

    def forwarded(self, relay: str) -> Forwarded | None:
        """The last event that was appended of a relay."""

    def append_forwarded(
        self, stream: str, relay: str, rows: Sequence[tuple[str, str]], after: Forwarded | None, last: Forwarded
    ) -> None:
        """Append events of a relay, as their keys and texts, and remember the last, in one transaction. Raises
        ForwardConflictError when the last before is not `after`."""

    # The places of consumers

    def place(self, consumer: str, stream: str) -> int | None:
        """The offset that a consumer has saved."""

    def make_place(self, consumer: str, stream: str, start_at: Position) -> None:
        """Give a consumer that has none a place in a stream."""

    def save_place(self, consumer: str, stream: str, before: int, offset: int) -> bool:
        """Save a consumer's offset, in the open transaction; False when it is no longer where it was before."""

    def lag(self, stream: str, offset: int) -> int:
        """How many events of a stream are behind an offset."""

    # Who is active

    def lead(self, consumer: str, owner: str, seconds: int) -> bool:
        """Become the owner for which a consumer is active; False while there is another."""

    def keep_leading(self, consumer: str, owner: str, seconds: int) -> bool:
        """Stay the owner; False when one is no longer."""

    def stop_leading(self, consumer: str, owner: str) -> None:
        """Let another follow at once."""

    def is_leader(self, consumer: str, owner: str) -> bool:
        """In a transaction: whether one is the owner, and stays so until its end."""

    # Dead letters

    def bury(self, consumer: str, stream: str, event: Event, receiver: str, error: Exception, attempts: int) -> None:
        """Keep an event as a dead letter, in the open transaction."""

    def dead_letters(self, consumer: str | None = None) -> list[DeadLetter]:
        """The dead letters of a consumer, or of all, oldest first."""

    def forget(self, letter: DeadLetter) -> bool:
        """Delete a dead letter. Whether it was there."""

    # Transactions and connections

    def atomic(self) -> AbstractContextManager[Any]:
        """A transaction, or a savepoint in the open one."""

    def has_lost_connection(self) -> bool:
        """After a failure in this thread: whether it came from the loss of the connection, which is closed then."""

    def close_thread(self) -> None:
        """Close the calling thread's connection, if it has one."""

    def moved(self, engine: Engine) -> None:
        """Go on with another file; of a HonkerDatabase alone."""


class HonkerStore:
    """The store of a HonkerDatabase: Honker's own tables."""

    def __init__(self, database: "HonkerDatabase") -> None:
        self.database = database
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine whose file is read."""
        if self._engine is None or self._engine.retired:
            self._engine = self.database.engine
        return self._engine

    @property
    def dispatcher(self) -> Dispatcher:
        return dispatcher_for(self.engine)

    def notify(self, channel: str, text: str) -> None:
        self.database.write_beside(_NOTIFY, (channel, text))

    def append(self, stream: str, key: str, text: str) -> None:
        self.database.write_beside(INTO_STREAM, (stream, key, text))

    def read_page(self, stream: str, after: int, most: int) -> tuple[list[int], Iterable[Event]]:
        return read_page(self.engine, stream, after, most)

    def offset_of(self, stream: str, position: Position) -> int:
        return offset_of(self.engine, stream, position)

    def pruned_offset(self, stream: str) -> int:
        return pruned_offset(self.engine, stream)

    def prune_notifications(self, older_than: float) -> bool:
        return prune_notifications(self.engine, older_than) >= BATCH

    def prune_stream(self, stream: str, retention: Retention) -> bool:
        return prune_stream(self.engine, stream, retention) >= BATCH

    def forwarded(self, relay: str) -> Forwarded | None:
        if not self.engine.read(_HAS_FORWARDED, (), _TIMEOUT):
            return None
        rows = self.engine.read(_FORWARDED, (relay,), _TIMEOUT)
        return Forwarded(rows[0]["offset"], rows[0]["event_id"]) if rows else None

    def append_forwarded(
        self, stream: str, relay: str, rows: Sequence[tuple[str, str]], after: Forwarded | None, last: Forwarded
    ) -> None:
        with self.database.atomic():
            transaction = self.database.honker_transaction
            assert transaction is not None  # noqa: S101 # within atomic()
            self.database.write_beside(_FORWARDED_TABLE, ())
            self.database.write_beside(_NOTE_FORWARDED, (relay, *last, after is not None, *(after or (0, ""))))
            if not transaction.query("SELECT changes() AS n")[0]["n"]:
                raise ForwardConflictError(f"the relay {relay} has brought other events to the stream {stream!r} meanwhile")
            self.database.write_beside(_ALL_INTO_STREAM, (stream, json.dumps(rows, ensure_ascii=False)))

    def place(self, consumer: str, stream: str) -> int | None:
        rows = self.engine.read(_OFFSET, (consumer, stream), _TIMEOUT)
        return int(rows[0]["offset"]) if rows else None

    def make_place(self, consumer: str, stream: str, start_at: Position) -> None:
        make_table(self.database)
        if self.place(consumer, stream) is None:
            self.database.write_beside(_BEGIN_AT, (consumer, stream, self.offset_of(stream, start_at)))

    def save_place(self, consumer: str, stream: str, before: int, offset: int) -> bool:
        self.database.write_beside(_SAVE, (offset, consumer, stream, before))
        transaction = self.database.honker_transaction
        return transaction is not None and bool(transaction.query("SELECT changes() AS n")[0]["n"])

    def lag(self, stream: str, offset: int) -> int:
        return int(self.engine.read(_LAG, (stream, offset), _TIMEOUT)[0]["n"])

    def lead(self, consumer: str, owner: str, seconds: int) -> bool:
        # A look first: who waits for a lease does not write.
        return not self.engine.read(_HOLDER, (_lock(consumer),), _TIMEOUT) and self._ask("acquire", consumer, owner, seconds)

    def keep_leading(self, consumer: str, owner: str, seconds: int) -> bool:
        return self._ask("renew", consumer, owner, seconds)

    def stop_leading(self, consumer: str, owner: str) -> None:
        with self.engine.face.transaction() as transaction:
            transaction.query("SELECT honker_lock_release(?, ?)", (_lock(consumer), owner))

    def is_leader(self, consumer: str, owner: str) -> bool:
        transaction = self.database.honker_transaction
        holders = transaction.query(_HOLDER, (_lock(consumer),)) if transaction is not None else []
        return [holder["owner"] for holder in holders] == [owner]

    def _ask(self, what: str, consumer: str, owner: str, seconds: int) -> bool:
        with self.engine.face.transaction() as transaction:
            rows = transaction.query(f"SELECT honker_lock_{what}(?, ?, ?) AS yes", (_lock(consumer), owner, seconds))
        return bool(rows[0]["yes"])

    def bury(self, consumer: str, stream: str, event: Event, receiver: str, error: Exception, attempts: int) -> None:
        bury(self.database, consumer, stream, event, receiver, error, attempts)

    def dead_letters(self, consumer: str | None = None) -> list[DeadLetter]:
        return dead_letters(self.database, consumer)

    def forget(self, letter: DeadLetter) -> bool:
        return forget(self.database, letter)

    def atomic(self) -> AbstractContextManager[Any]:
        made: AbstractContextManager[Any] = self.database.atomic()
        return made

    def has_lost_connection(self) -> bool:
        return False

    def close_thread(self) -> None:
        if not self.database.is_closed():
            self.database.close()

    def moved(self, engine: Engine) -> None:
        self.close_thread()  # the dispatcher's thread's connection to the file that was
        self._engine = engine


def store_of(database: "HonkerDatabase | Store") -> Store:
    """The store of a HonkerDatabase; a store is its own."""
    if isinstance(database, HonkerStore) or hasattr(database, "read_page"):
        return database  # type: ignore[return-value]  # which it is
    return HonkerStore(database)


def _lock(consumer: str) -> str:
    return f"peewee_honker.consumer.{consumer}"
