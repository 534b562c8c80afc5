"""Honker's errors, given the classes, names and texts that sqlite3 has for them.

Honker raises `RuntimeError` with SQLite's message and no code. SQLite's messages are stable, so the class is found by
the message; what no rule knows is an `OperationalError`, as sqlite3 has for the general SQLITE_ERROR.
"""

import re
import sqlite3
from typing import TypeVar

__all__ = ["is_busy", "is_closed", "is_known", "operational", "translate"]

_E = TypeVar("_E", bound=sqlite3.Error)

_BUSY = ("database is locked", "database table is locked", "database schema is locked")

# (how the message begins, DB-API class, SQLite's name for the code)
_BY_PREFIX: tuple[tuple[str, type[sqlite3.Error], str], ...] = (
    ("UNIQUE constraint failed", sqlite3.IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),
    ("NOT NULL constraint failed", sqlite3.IntegrityError, "SQLITE_CONSTRAINT_NOTNULL"),
    ("CHECK constraint failed", sqlite3.IntegrityError, "SQLITE_CONSTRAINT_CHECK"),
    ("FOREIGN KEY constraint failed", sqlite3.IntegrityError, "SQLITE_CONSTRAINT_FOREIGNKEY"),
    ("constraint failed", sqlite3.IntegrityError, "SQLITE_CONSTRAINT"),
    ("cannot store ", sqlite3.IntegrityError, "SQLITE_CONSTRAINT_DATATYPE"),
    ("datatype mismatch", sqlite3.IntegrityError, "SQLITE_MISMATCH"),
    ("string or blob too big", sqlite3.DataError, "SQLITE_TOOBIG"),
    ("database disk image is malformed", sqlite3.DatabaseError, "SQLITE_CORRUPT"),
    ("file is not a database", sqlite3.DatabaseError, "SQLITE_NOTADB"),
    ("malformed database schema", sqlite3.DatabaseError, "SQLITE_CORRUPT"),
    ("database is locked", sqlite3.OperationalError, "SQLITE_BUSY"),
    ("database table is locked", sqlite3.OperationalError, "SQLITE_LOCKED"),
    ("database schema is locked", sqlite3.OperationalError, "SQLITE_LOCKED"),
    ("attempt to write a readonly database", sqlite3.OperationalError, "SQLITE_READONLY"),
    ("database or disk is full", sqlite3.OperationalError, "SQLITE_FULL"),
    ("disk I/O error", sqlite3.OperationalError, "SQLITE_IOERR"),
    ("unable to open database", sqlite3.OperationalError, "SQLITE_CANTOPEN"),
    ("interrupted", sqlite3.OperationalError, "SQLITE_INTERRUPT"),
    ("authorization denied", sqlite3.DatabaseError, "SQLITE_AUTH"),
    ("bad parameter or other API misuse", sqlite3.InterfaceError, "SQLITE_MISUSE"),
    ("column index out of range", sqlite3.InterfaceError, "SQLITE_RANGE"),
)

_WRONG_COUNT = re.compile(r"Wrong number of parameters passed to query\. Got (\d+), needed (\d+)")

# Honker wraps some failures of opening a file: "... Error code 14: unable to open database file".
_OPEN_DETAIL = re.compile(r"^.*?(unable to open database file|file is not a database|database is locked)", re.DOTALL)


def is_busy(error: BaseException) -> bool:
    """Whether SQLite refused because another connection holds a lock, so that trying again can help."""
    return isinstance(error, RuntimeError) and str(error).startswith(_BUSY)


def is_closed(error: BaseException) -> bool:
    """Whether Honker refused because its handle was closed under the caller."""
    return isinstance(error, RuntimeError) and "closed" in str(error).lower()


def operational(message: str, name: str = "SQLITE_ERROR") -> sqlite3.OperationalError:
    """An `OperationalError` of the driver's own, with SQLite's name for the code."""
    return _named(sqlite3.OperationalError(message), name)


def translate(error: Exception, *, raised_by_trigger: bool = False, supplied: int | None = None) -> Exception:
    """The exception that sqlite3 would raise for what Honker raised.

    `raised_by_trigger` says that the text is that of a `RAISE(ABORT, ...)`, which only the schema can tell. `supplied` is
    the number of values given, which Honker stops counting at the first too many.
    Errors that are not Honker's come back as they are.
    """
    if not isinstance(error, RuntimeError):
        return error
    message = str(error)
    if raised_by_trigger:
        return _named(sqlite3.IntegrityError(message), "SQLITE_CONSTRAINT_TRIGGER")
    for prefix, kind, name in _BY_PREFIX:
        if message.startswith(prefix):
            if name == "SQLITE_CONSTRAINT_UNIQUE" and "PRIMARY KEY" in message:
                name = "SQLITE_CONSTRAINT_PRIMARYKEY"
            return _named(kind(message), name)
    if message == "Multiple statements provided":
        return sqlite3.ProgrammingError("You can only execute one statement at a time.")
    if wrong := _WRONG_COUNT.match(message):
        return sqlite3.ProgrammingError(
            "Incorrect number of bindings supplied. "
            f"The current statement uses {wrong[2]}, and there are {supplied or wrong[1]} supplied."
        )
    if detail := _OPEN_DETAIL.match(message):
        return translate(RuntimeError(detail[1]))
    return operational(message)


def is_known(message: str) -> bool:
    """Whether the message is one that SQLite writes for a code other than the general one."""
    return message.startswith(tuple(prefix for prefix, _, _ in _BY_PREFIX))


def _named(error: _E, name: str) -> _E:
    error.sqlite_errorname = name
    error.sqlite_errorcode = getattr(sqlite3, name, sqlite3.SQLITE_ERROR)
    return error
