"""Events that a receiver could not take, kept with the reason until somebody looks."""

import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peewee_honker.events.event import Event

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["DeadLetter", "bury", "dead_letters", "error_texts", "forget", "make_table"]

_TABLE = """CREATE TABLE IF NOT EXISTS _honker_peewee_dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer TEXT NOT NULL, stream TEXT NOT NULL, offset INTEGER NOT NULL, payload TEXT NOT NULL,
    receiver TEXT NOT NULL, error TEXT NOT NULL, traceback TEXT NOT NULL,
    attempts INTEGER NOT NULL, died_at REAL NOT NULL)"""
_EXISTS = "SELECT 1 AS n FROM sqlite_master WHERE name = '_honker_peewee_dead_letters'"
_INSERT = (
    "INSERT INTO _honker_peewee_dead_letters "
    "(consumer, stream, offset, payload, receiver, error, traceback, attempts, died_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_STORED = "SELECT payload FROM _honker_stream WHERE offset = ?"
_LIST = "SELECT * FROM _honker_peewee_dead_letters WHERE ? IS NULL OR consumer = ? ORDER BY id"
_DELETE = "DELETE FROM _honker_peewee_dead_letters WHERE id = ?"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a receiver of a consumer has failed on as often as it may.

    `receiver` is the receiver's name, `error` the last exception's text, `traceback` its traceback, `died_at` seconds
    since 1970.
    """

    id: int
    consumer: str
    stream: str
    offset: int
    event: Event
    receiver: str
    error: str
    traceback: str
    attempts: int
    died_at: float


def make_table(database: "HonkerDatabase") -> None:
    """Make the table where it is missing."""
    if not database.engine.read(_EXISTS, (), 5.0):
        database.write_beside(_TABLE, ())


def bury(
    database: "HonkerDatabase", consumer: str, stream: str, event: Event, receiver: str, error: Exception, attempts: int
) -> None:
    """Keep an event as a dead letter, in the open transaction."""
    short, told = error_texts(error)
    values = (consumer, stream, event.offset, _text_of(database, event), receiver, short, told, attempts, time.time())
    database.write_beside(_INSERT, values)


def error_texts(error: Exception) -> tuple[str, str]:
    """The error in short, and its traceback. What they say is the receiver's: it may have half a surrogate pair, which no
    column holds, or fail itself; the letter is kept all the same."""
    lines = traceback.format_exception(error)
    try:
        short = repr(error)
    except Exception:
        short = lines[-1].strip()
    whole = "".join(lines)
    return short.encode(errors="backslashreplace").decode(), whole.encode(errors="backslashreplace").decode()


def _text_of(database: "HonkerDatabase", event: Event) -> str:
    """The event as it was stored: what another program wrote may be more than `Event.to_json` would say."""
    rows = database.engine.read(_STORED, (event.offset,), 5.0)
    return str(rows[0]["payload"]) if rows else event.to_json(sys.maxsize)


def dead_letters(database: "HonkerDatabase", consumer: str | None = None) -> list[DeadLetter]:
    """The dead letters of a consumer, or of all, oldest first."""
    if not database.engine.read(_EXISTS, (), 5.0):
        return []
    rows: list[dict[str, Any]] = database.engine.read(_LIST, (consumer, consumer), 5.0)
    return [
        DeadLetter(event=Event.from_json(row.pop("payload"), row["stream"], row["offset"]), **row) for row in map(dict, rows)
    ]


def forget(database: "HonkerDatabase", letter: DeadLetter) -> bool:
    """Delete a dead letter. Whether it was there."""
    with database.atomic():
        database.write_beside(_DELETE, (letter.id,))
        transaction = database.honker_transaction
        return transaction is not None and bool(transaction.query("SELECT changes() AS n")[0]["n"])
