"""A durable stream: events stay in the file until they are deleted, and each consumer remembers how far it has come."""

from typing import TYPE_CHECKING

from peewee_honker.events.event import Event

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase
    from peewee_honker.driver import Engine

__all__ = ["Stream", "newest_offset", "read_stream"]

_INSERT = "INSERT INTO _honker_stream (topic, key, payload) VALUES (?, ?, ?)"
_SINCE = "SELECT offset, payload FROM _honker_stream WHERE topic = ? AND offset > ? ORDER BY offset LIMIT ?"
_NEWEST = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '_honker_stream'), 0) AS newest"
_TIMEOUT = 5.0


class Stream:
    """A durable Honker stream of one database.

    Guarantee: an event is a row of Honker's stream table, written in the same transaction as what it tells of; every named
    consumer gets it after commit, in commit order, at least once.
    """

    __slots__ = ("database", "name")

    def __init__(self, database: "HonkerDatabase", name: str) -> None:
        self.database = database
        self.name = name

    def publish(self, event: Event) -> None:
        """Write the event, in this thread's open transaction or alone. Raises as `Event.to_json` does, before writing."""
        self.database.write_beside(_INSERT, (self.name, event.id, event.to_json()))


def read_stream(engine: "Engine", name: str, after: int, most: int) -> list[tuple[int, Event]]:
    """The next events behind an offset, with theirs. Takes no lock."""
    rows = engine.read(_SINCE, (name, after, most), _TIMEOUT)
    return [(row["offset"], Event.from_json(row["payload"], name, row["offset"])) for row in rows]


def newest_offset(engine: "Engine") -> int:
    """The offset of the last event of any stream, or 0."""
    newest: int = engine.read(_NEWEST, (), _TIMEOUT)[0]["newest"]
    return newest
