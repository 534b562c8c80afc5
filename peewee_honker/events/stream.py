"""A durable stream: events stay in the file until they are deleted, and each consumer remembers how far it has come."""

import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Literal

from peewee_honker.events.event import Event

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase
    from peewee_honker.driver import Engine

__all__ = [
    "ConsumerPlace",
    "Position",
    "StreamSize",
    "check_position",
    "consumer_places",
    "decoded_page",
    "forget_consumer",
    "newest_offset",
    "offset_before_last",
    "offset_of",
    "pruned_offset",
    "read_page",
    "read_stream",
    "seek",
    "streams",
]

Position = Literal["now", "beginning"] | int | datetime.datetime
"""A place in a stream: behind its last event, before its first, behind an offset, or before the first event that was
committed at that time or later."""

PRUNED_TABLE = (
    "CREATE TABLE IF NOT EXISTS _honker_peewee_pruned (stream TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID"
)
_SINCE = "SELECT offset, payload FROM _honker_stream WHERE topic = ? AND offset > ? ORDER BY offset LIMIT ?"
# A page as one JSON text, see `decoded_page`.
_PAGE = (
    f"SELECT '[' || group_concat(payload) || ']' AS events, '[' || group_concat(offset) || ']' AS offsets FROM ({_SINCE})"
)
_NEWEST = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '_honker_stream'), 0) AS newest"
_PRUNED = "SELECT offset FROM _honker_peewee_pruned WHERE stream = ?"
_HAS_PRUNED = "SELECT 1 AS n FROM sqlite_master WHERE name = '_honker_peewee_pruned'"
_AT_TIME = "SELECT offset FROM _honker_stream WHERE topic = ? AND created_at >= ? ORDER BY offset LIMIT 1"
_PLACE = "SELECT offset FROM _honker_stream_consumers WHERE name = ? AND topic = ?"
_SEEK = (
    "INSERT INTO _honker_stream_consumers (name, topic, offset) VALUES (?, ?, ?) "
    "ON CONFLICT (name, topic) DO UPDATE SET offset = excluded.offset"
)
_FORGET = "DELETE FROM _honker_stream_consumers WHERE name = ? AND (? IS NULL OR topic = ?)"
_STREAMS = (
    "SELECT topic AS name, count(*) AS events, min(offset) AS first, max(offset) AS last, sum(length(payload)) AS size, "
    "min(created_at) AS oldest, max(created_at) AS newest FROM _honker_stream GROUP BY topic ORDER BY topic"
)
_PLACES = """
SELECT c.name AS consumer, c.topic AS stream, c.offset,
    (SELECT count(*) FROM _honker_stream AS s WHERE s.topic = c.topic AND s.offset > c.offset) AS lag,
    (SELECT created_at FROM _honker_stream AS s WHERE s.topic = c.topic AND s.offset > c.offset ORDER BY s.offset LIMIT 1)
        AS waiting_since,
    (SELECT owner FROM _honker_locks AS l
        WHERE l.name = 'peewee_honker.consumer.' || c.name AND l.expires_at > unixepoch()) IS NOT NULL AS active
FROM _honker_stream_consumers AS c ORDER BY c.topic, c.name"""
_BEFORE_LAST = "SELECT offset FROM _honker_stream WHERE topic = ? ORDER BY offset DESC LIMIT 1 OFFSET ?"
_TIMEOUT = 5.0
_MOST = 2**63 - 1  # of what is larger, a column makes a floating-point number

INSERT = "INSERT INTO _honker_stream (topic, key, payload) VALUES (?, ?, ?)"


def read_stream(engine: "Engine", name: str, after: int, most: int) -> list[Event]:
    """The next events of a stream behind an offset, `most` at most. Takes no lock."""
    return list(read_page(engine, name, after, most)[1])


def read_page(engine: "Engine", name: str, after: int, most: int) -> tuple[list[int], Iterable[Event]]:
    """As `read_stream`: the offsets, and the events, which are made one by one, so that a replay keeps few at a time."""
    page = engine.read(_PAGE, (name, after, most), _TIMEOUT)[0]
    if page["offsets"] is None:
        return [], ()
    offsets = json.loads(page["offsets"])
    events = decoded_page(name, offsets, page["events"]) if offsets == sorted(offsets) else None
    if events is None:
        rows = engine.read(_SINCE, (name, after, most), _TIMEOUT)
        return [row["offset"] for row in rows], [Event.from_json(row["payload"], name, row["offset"]) for row in rows]
    return offsets, events


def decoded_page(name: str, offsets: list[int], text: str) -> Iterable[Event] | None:
    """The events of a page whose payloads come as one JSON array: decoded at once, which takes a quarter of the time. None
    when a payload that somebody wrote is not one JSON value."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return map(Event.from_value, values, repeat(name), offsets) if len(values) == len(offsets) else None


def newest_offset(engine: "Engine") -> int:
    """The offset of the last event of any stream, or 0."""
    newest: int = engine.read(_NEWEST, (), _TIMEOUT)[0]["newest"]
    return newest


def offset_before_last(engine: "Engine", stream: str, most: int) -> int:
    """The offset behind which the last `most` events of a stream are; 0 when it has no more than these."""
    rows = engine.read(_BEFORE_LAST, (stream, most), _TIMEOUT)
    return int(rows[0]["offset"]) if rows else 0


def pruned_offset(engine: "Engine", stream: str) -> int:
    """The offset up to which a stream's events were deleted by its retention, or 0."""
    if not engine.read(_HAS_PRUNED, (), _TIMEOUT):
        return 0
    rows = engine.read(_PRUNED, (stream,), _TIMEOUT)
    return int(rows[0]["offset"]) if rows else 0


def check_position(position: Position) -> None:
    """Raise ValueError for what is no position."""
    is_offset = isinstance(position, int) and not isinstance(position, bool) and 0 <= position <= _MOST
    if not is_offset and position not in ("now", "beginning") and not isinstance(position, datetime.datetime):
        raise ValueError(f"a position is 'now', 'beginning', an offset or a datetime, not {position!r}")


def offset_of(engine: "Engine", stream: str, position: Position) -> int:
    """The offset behind which a position's events are. A time without a zone is local time, as datetime takes it."""
    if position == "now":
        return newest_offset(engine)
    if position == "beginning":
        return pruned_offset(engine, stream)
    if isinstance(position, datetime.datetime):
        rows = engine.read(_AT_TIME, (stream, position.timestamp()), _TIMEOUT)
        return int(rows[0]["offset"]) - 1 if rows else newest_offset(engine)
    check_position(position)
    return position


def seek(database: "HonkerDatabase", consumer: str, stream: str, position: Position, *, create: bool = False) -> int:
    """Put a consumer at a position of a stream; a process in which it runs goes on there within seconds. Gives the
    offset.

    What lies behind the position is given to the receivers, also what they have had before. With `create` also a consumer
    that has never read the stream; without it, that raises LookupError, since the name may be mistyped.
    """
    offset = offset_of(database.engine, stream, position)
    if not create and not database.engine.read(_PLACE, (consumer, stream), _TIMEOUT):
        raise LookupError(f"no consumer {consumer} has read the stream {stream} yet: create=True makes a place for it there")
    database.write_beside(_SEEK, (consumer, stream, offset))
    return offset


def forget_consumer(database: "HonkerDatabase", consumer: str, stream: str | None = None) -> None:
    """Forget a consumer's place in a stream, or in all: retention waits for it no longer."""
    database.write_beside(_FORGET, (consumer, stream, stream))


@dataclass(frozen=True, slots=True)
class StreamSize:
    """A stream: how many events, the first and the last offset, the size in characters, and when the oldest and the newest
    was committed, in seconds since 1970."""

    name: str
    events: int
    first: int
    last: int
    size: int
    oldest: int
    newest: int


@dataclass(frozen=True, slots=True)
class ConsumerPlace:
    """Where a consumer is in a stream: the offset that it has passed, its lag in events, since when the first of them
    waits (seconds since 1970, or None), and whether some process is active for it now."""

    consumer: str
    stream: str
    offset: int
    lag: int
    waiting_since: int | None
    active: bool


def streams(engine: "Engine") -> list[StreamSize]:
    """The streams that have events."""
    return [StreamSize(**row) for row in engine.read(_STREAMS, (), _TIMEOUT)]


def consumer_places(engine: "Engine") -> list[ConsumerPlace]:
    """Where every consumer is."""
    return [ConsumerPlace(**{**row, "active": bool(row["active"])}) for row in engine.read(_PLACES, (), _TIMEOUT)]
