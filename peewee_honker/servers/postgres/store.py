"""The store of Peewee's PostgresqlDatabase, see `peewee_honker.events.store`.

What belongs to the caller's transaction goes through Peewee's connection of the calling thread; the rest through the
link.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import peewee
import psycopg
from peewee import __exception_wrapper__  # type: ignore[attr-defined]  # in no stub, as in Peewee's own extensions

from peewee_honker.database import Savepoint
from peewee_honker.driver import Engine
from peewee_honker.errors import ForwardConflictError, PayloadError
from peewee_honker.events.dead_letter import DeadLetter, error_texts
from peewee_honker.events.event import Event
from peewee_honker.events.retention import BATCH, Retention
from peewee_honker.events.stream import Position, check_position, decoded_page
from peewee_honker.events.target import Forwarded
from peewee_honker.servers.postgres.dispatcher import PostgresDispatcher
from peewee_honker.servers.postgres.link import Link, PostgresUnavailableError
from peewee_honker.servers.postgres.tables import CHANNEL, EXISTS, LOCK_SETUP, LOCKS, SCHEMA, SETUP, UNLOCK_SETUP

__all__ = ["PostgresStore", "store_for"]

_OUT = f"INSERT INTO {SCHEMA}.outbox (stream, name, payload) VALUES (%s, %s, %s)"
_NEWEST_NOTIFICATION = f"SELECT coalesce(max(id), 0) FROM {SCHEMA}.notifications"
_NOTIFICATIONS = f"SELECT id, channel, payload FROM {SCHEMA}.notifications WHERE id > %s ORDER BY id LIMIT %s"
_ROWS = f'SELECT "offset", payload FROM {SCHEMA}.stream WHERE topic = %s AND "offset" > %s ORDER BY "offset" LIMIT %s'
# As one JSON text, see `decoded_page`.
_PAGE = (
    f"""SELECT array_agg("offset" ORDER BY "offset"), '[' || string_agg(payload, ',' ORDER BY "offset") || ']' """
    f"FROM ({_ROWS}) AS page"
)
# What is pruned was committed too: an empty table does not begin anew.
_NEWEST = (
    f'SELECT greatest((SELECT max("offset") FROM {SCHEMA}.stream), '
    f"(SELECT max(\"offset\") FROM {SCHEMA}.pruned WHERE stream <> ''), 0)"
)
_AT_TIME = (
    f'SELECT "offset" FROM {SCHEMA}.stream WHERE topic = %s AND created_at >= to_timestamp(%s) ORDER BY "offset" LIMIT 1'
)
_PRUNED = f'SELECT "offset" FROM {SCHEMA}.pruned WHERE stream = %s'
_NOTE_PRUNED = (
    f'INSERT INTO {SCHEMA}.pruned AS p (stream, "offset") SELECT %s, max(n) FROM gone HAVING count(*) > 0 '
    'ON CONFLICT (stream) DO UPDATE SET "offset" = greatest(p."offset", excluded."offset") '
    "RETURNING (SELECT count(*) FROM gone)"
)
# Of the oldest only: numbers and times grow together, and a look at all would cost.
_PRUNE_NOTIFICATIONS = f"""WITH gone AS (
    DELETE FROM {SCHEMA}.notifications WHERE id IN (
        SELECT id FROM (SELECT id, created_at FROM {SCHEMA}.notifications ORDER BY id LIMIT {BATCH}) AS oldest
        WHERE created_at < clock_timestamp() - make_interval(secs => %s)) RETURNING id AS n)
{_NOTE_PRUNED}"""
_OLD = f"""SELECT coalesce(
    (SELECT "offset" - 1 FROM {SCHEMA}.stream
        WHERE topic = %s AND created_at >= clock_timestamp() - make_interval(secs => %s) ORDER BY "offset" LIMIT 1),
    (SELECT max("offset") FROM {SCHEMA}.stream WHERE topic = %s), 0)"""
_TOO_MANY = f'SELECT "offset" FROM {SCHEMA}.stream WHERE topic = %s ORDER BY "offset" DESC LIMIT 1 OFFSET %s'
_PASSED = f'SELECT min("offset") FROM {SCHEMA}.consumers WHERE topic = %s'
# The consumers are asked again in the statement: one may have come in the meantime.
_PRUNE_STREAM = f"""WITH gone AS (
    DELETE FROM {SCHEMA}.stream WHERE "offset" IN (
        SELECT "offset" FROM {SCHEMA}.stream WHERE topic = %s AND "offset" <= %s
            AND (NOT %s OR "offset" <= coalesce((SELECT min("offset") FROM {SCHEMA}.consumers WHERE topic = %s), %s))
        ORDER BY "offset" LIMIT {BATCH}) RETURNING "offset" AS n)
{_NOTE_PRUNED}"""
_PLACE = f'SELECT "offset" FROM {SCHEMA}.consumers WHERE name = %s AND topic = %s'
_BEGIN_AT = f'INSERT INTO {SCHEMA}.consumers (name, topic, "offset") VALUES (%s, %s, %s) ON CONFLICT DO NOTHING'
_SEEK = (
    f'INSERT INTO {SCHEMA}.consumers (name, topic, "offset") VALUES (%s, %s, %s) '
    'ON CONFLICT (name, topic) DO UPDATE SET "offset" = excluded."offset"'
)
_FORGET = f"DELETE FROM {SCHEMA}.consumers WHERE name = %s AND (%s::text IS NULL OR topic = %s)"
_SAVE = f'UPDATE {SCHEMA}.consumers SET "offset" = %s WHERE name = %s AND topic = %s AND "offset" = %s'
_LAG = f'SELECT count(*) FROM {SCHEMA}.stream WHERE topic = %s AND "offset" > %s'
_NAME = "hashtextextended('peewee_honker.consumer.' || %s, 0)"
_TAKE = f"SELECT pg_try_advisory_lock({_NAME})"
_GIVE_BACK = f"SELECT pg_advisory_unlock({_NAME})"
_LEAD = (
    f"INSERT INTO {SCHEMA}.leaders (consumer, owner) VALUES (%s, %s) "
    "ON CONFLICT (consumer) DO UPDATE SET owner = excluded.owner"
)
_LEADER = f"SELECT owner FROM {SCHEMA}.leaders WHERE consumer = %s FOR SHARE"
_FORWARDED = f'SELECT "offset", event_id FROM {SCHEMA}.forwarded WHERE relay = %s'
_NOTE_FORWARDED = (
    f'INSERT INTO {SCHEMA}.forwarded AS f (relay, "offset", event_id) VALUES (%s, %s, %s) ON CONFLICT (relay) DO UPDATE '
    'SET "offset" = excluded."offset", event_id = excluded.event_id WHERE %s AND (f."offset", f.event_id) = (%s, %s)'
)
# At the end of their transaction: what the outbox's trigger does for each event, for all at once.
_PLACE_ALL = f"""WITH commits AS MATERIALIZED (SELECT pg_advisory_xact_lock({LOCKS}, 0)),
placed AS (
    INSERT INTO {SCHEMA}.stream (topic, key, payload) SELECT %s, row->>0, row->>1
    FROM json_array_elements(%s::json) WITH ORDINALITY AS u (row, place), commits ORDER BY place)
SELECT pg_notify('{CHANNEL}', 's')"""
_COLUMNS = 'consumer, stream, "offset", payload, receiver, error, traceback, attempts, died_at'
_BURY = f"INSERT INTO {SCHEMA}.dead_letters ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
_STORED = f'SELECT payload FROM {SCHEMA}.stream WHERE "offset" = %s'
_LETTERS = f"SELECT id, {_COLUMNS} FROM {SCHEMA}.dead_letters WHERE %s::text IS NULL OR consumer = %s ORDER BY id"
_FORGET_LETTER = f"DELETE FROM {SCHEMA}.dead_letters WHERE id = %s"


class PostgresStore:
    """Keeps events in a PostgreSQL database, in the schema `peewee_honker`, which it makes where it is missing.

    Arguments:
        database: Peewee's.
        listen: a URL for the link, where the database's own connections go through a pooler that shares them between
            transactions (LISTEN needs a connection of its own).

    There is one for a database object, see `store_for`.
    """

    def __init__(self, database: peewee.PostgresqlDatabase, *, listen: str | None = None) -> None:
        self.database: Any = database
        self.link = Link(database, listen)
        self.dispatcher = PostgresDispatcher(self)
        self._prepared: str | None = None  # for which database
        self._led: dict[str, tuple[str, int]] = {}  # by consumer: its owner, and the link's generation that has the lock
        # Peewee's own savepoint keeps `after_commit` callbacks that it should drop; local events need it right.
        database.__dict__["savepoint"] = lambda: Savepoint(database)

    def prepare(self) -> None:
        """Make the schema where it is missing; nothing the second time. Raises PostgresUnavailableError."""
        if self._prepared == self.database.database:
            return
        try:
            if not self.link.query(EXISTS)[0][0]:
                self._set_up()
        except psycopg.errors.InsufficientPrivilege as error:
            raise PostgresUnavailableError(
                f"this user may not make or see the schema {SCHEMA} at {self.link!r}: {error}. Let its owner start a bus "
                "once, and grant what docs/postgres.md says"
            ) from error
        self._prepared = self.database.database

    def _set_up(self) -> None:
        self.link.hold()  # a lock is a connection's
        try:
            self.link.query(LOCK_SETUP)
            try:
                if not self.link.query(EXISTS)[0][0]:  # another process may have been at it
                    self.link.query(SETUP)
            finally:
                self.link.query(UNLOCK_SETUP)
        finally:
            self.link.let_go()

    def _write(self, sql: str, values: tuple[Any, ...]) -> int:
        """Run a statement in the calling thread's transaction, or alone; gives how many rows it has changed."""
        self.prepare()
        cursor = self.database.cursor()
        with __exception_wrapper__:
            cursor.execute(sql, values)
            return int(cursor.rowcount)

    # Events

    def notify(self, channel: str, text: str) -> None:
        self._write(_OUT, (None, channel, text))

    def append(self, stream: str, key: str, text: str) -> None:
        _check(key)
        self._write(_OUT, (stream, key, text))

    def newest_notification(self) -> int:
        """The id of the last ephemeral event that can be seen, or 0."""
        self.prepare()
        return int(self.link.query(_NEWEST_NOTIFICATION)[0][0])

    def notifications_behind(self, last: int, most: int) -> list[tuple[int, str, str]]:
        """Id, channel and text of ephemeral events."""
        return self.link.query(_NOTIFICATIONS, (last, most))

    def read_page(self, stream: str, after: int, most: int) -> tuple[list[int], Iterable[Event]]:
        [(offsets, text)] = self.link.query(_PAGE, (stream, after, most))
        if offsets is None:
            return [], ()
        events = decoded_page(stream, offsets, text)
        if events is not None:
            return offsets, events
        rows = self.link.query(_ROWS, (stream, after, most))
        return [offset for offset, _ in rows], (Event.from_json(text, stream, offset) for offset, text in rows)

    def offset_of(self, stream: str, position: Position) -> int:
        check_position(position)
        if isinstance(position, int):
            return position
        self.prepare()
        if position == "beginning":
            return self.pruned_offset(stream)
        if not isinstance(position, str) and (rows := self.link.query(_AT_TIME, (stream, position.timestamp()))):
            return int(rows[0][0]) - 1
        return int(self.link.query(_NEWEST)[0][0])

    def pruned_offset(self, stream: str) -> int:
        rows = self.link.query(_PRUNED, (stream,))
        return int(rows[0][0]) if rows else 0

    def prune_notifications(self, older_than: float) -> bool:
        rows = self.link.query(_PRUNE_NOTIFICATIONS, (older_than, ""))
        return bool(rows) and rows[0][0] >= BATCH

    def prune_stream(self, stream: str, retention: Retention) -> bool:
        limits = []
        if retention.age is not None:
            limits += self.link.query(_OLD, (stream, retention.age, stream))
        if retention.count is not None:
            limits += self.link.query(_TOO_MANY, (stream, retention.count))
        if retention.age is None and retention.count is None:
            limits = self.link.query(_PASSED, (stream,))
        upto = max((limit[0] or 0 for limit in limits), default=0)
        if not upto:
            return False
        rows = self.link.query(_PRUNE_STREAM, (stream, upto, retention.consumed, stream, upto, stream))
        return bool(rows) and rows[0][0] >= BATCH

    # What relays have brought

    def forwarded(self, relay: str) -> Forwarded | None:
        self.prepare()
        rows = self.link.query(_FORWARDED, (relay,))
        return Forwarded(*rows[0]) if rows else None

    def append_forwarded(
        self, stream: str, relay: str, rows: Sequence[tuple[str, str]], after: Forwarded | None, last: Forwarded
    ) -> None:
        for key, _ in rows:
            _check(key)
        _check(last.event_id)
        self.prepare()
        with self.database.atomic():
            if self._write(_NOTE_FORWARDED, (relay, *last, after is not None, *(after or (0, "")))) != 1:
                raise ForwardConflictError(f"the relay {relay} has brought other events to the stream {stream!r} meanwhile")
            self._write(_PLACE_ALL, (stream, json.dumps(rows, ensure_ascii=False)))

    # The places of consumers

    def place(self, consumer: str, stream: str) -> int | None:
        rows = self.link.query(_PLACE, (consumer, stream))
        return int(rows[0][0]) if rows else None

    def make_place(self, consumer: str, stream: str, start_at: Position) -> None:
        self.prepare()
        if self.place(consumer, stream) is None:
            self.link.query(_BEGIN_AT, (consumer, stream, self.offset_of(stream, start_at)))

    def seek(self, consumer: str, stream: str, position: Position, *, create: bool = False) -> int:
        """As `peewee_honker.events.seek`: put a consumer at a position of a stream, in the open transaction."""
        self.prepare()
        offset = self.offset_of(stream, position)
        if not create and self.place(consumer, stream) is None:
            raise LookupError(f"no consumer {consumer} has read the stream {stream} yet: create=True makes a place for it")
        self._write(_SEEK, (consumer, stream, offset))
        return offset

    def forget_consumer(self, consumer: str, stream: str | None = None) -> None:
        """Forget a consumer's place in a stream, or in all: retention waits for it no longer."""
        self._write(_FORGET, (consumer, stream, stream))

    def save_place(self, consumer: str, stream: str, before: int, offset: int) -> bool:
        return self._write(_SAVE, (offset, consumer, stream, before)) == 1

    def lag(self, stream: str, offset: int) -> int:
        return int(self.link.query(_LAG, (stream, offset))[0][0])

    # Who is active: who holds an advisory lock, which ends with its holder's connection. The name in `leaders` is what
    # transactions look at: who has lost the lock unawares commits nothing after another has taken it.

    def lead(self, consumer: str, owner: str, seconds: int) -> bool:
        known = self._led.get(consumer)
        if known is not None and known[1] == self.link.generation and known[0] != owner:
            return False  # another consumer of this process: the server gives its lock to the same connection again
        if not self.link.query(_TAKE, (consumer,))[0][0]:
            return False
        try:
            self.link.query(_LEAD, (consumer, owner))
        except psycopg.errors.LockNotAvailable:  # a transaction of the one before has not ended
            self.link.query(_GIVE_BACK, (consumer,))
            return False
        self._led[consumer] = (owner, self.link.generation)
        return True

    def keep_leading(self, consumer: str, owner: str, seconds: int) -> bool:
        return self._led.get(consumer) == (owner, self.link.generation)

    def stop_leading(self, consumer: str, owner: str) -> None:
        if self.keep_leading(consumer, owner, 0):
            self.link.query(_GIVE_BACK, (consumer,))
        self._led.pop(consumer, None)

    def is_leader(self, consumer: str, owner: str) -> bool:
        cursor = self.database.cursor()
        with __exception_wrapper__:
            cursor.execute(_LEADER, (consumer,))
            return bool(cursor.fetchone() == (owner,))

    # Dead letters

    def bury(self, consumer: str, stream: str, event: Event, receiver: str, error: Exception, attempts: int) -> None:
        short, told = (text.replace("\0", "") for text in error_texts(error))  # which PostgreSQL's text cannot hold
        stored = self.link.query(_STORED, (event.offset,))
        text = stored[0][0] if stored else event.to_json(sys.maxsize)
        named = (consumer, stream, event.offset, text, receiver, short, told, attempts, time.time())
        self._write(_BURY, named)

    def dead_letters(self, consumer: str | None = None) -> list[DeadLetter]:
        self.prepare()
        return [
            DeadLetter(id_, name, stream, offset, Event.from_json(text, stream, offset), *rest)
            for id_, name, stream, offset, text, *rest in self.link.query(_LETTERS, (consumer, consumer))
        ]

    def forget(self, letter: DeadLetter) -> bool:
        return self._write(_FORGET_LETTER, (letter.id,)) == 1

    # Transactions and connections

    def atomic(self) -> AbstractContextManager[Any]:
        made: AbstractContextManager[Any] = self.database.atomic()
        return made

    def has_lost_connection(self) -> bool:
        if not self.database.is_closed() and self.database.connection().closed:  # as both psycopgs call it
            self.close_thread()
            return True
        try:
            self.link.query("SELECT 1")
        except PostgresUnavailableError:
            return True
        return False

    def close_thread(self) -> None:
        if not self.database.is_closed():
            self.database.close()

    def moved(self, engine: Engine) -> None:
        raise NotImplementedError("a server's database is not replaced as a file is")


def _check(id_: str) -> None:
    if "\0" in id_:
        raise PayloadError(f"PostgreSQL's text cannot hold the NUL character that is in the id {id_!r}")


def store_for(database: peewee.PostgresqlDatabase, *, listen: str | None = None) -> PostgresStore:
    """The one store of a database object; `listen` is for the first time, see `PostgresStore`."""
    found: PostgresStore | None = database.__dict__.get("_peewee_honker_store")
    if found is None:
        found = PostgresStore(database, listen=listen)
        database.__dict__["_peewee_honker_store"] = found
    elif listen is not None and listen != found.link.url:
        raise ValueError("the database has a store already, which listens elsewhere: call store_for with `listen` first")
    return found
