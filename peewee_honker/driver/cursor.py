"""A DB-API cursor: the rows of one statement and what sqlite3 tells beside them."""

import sqlite3
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from peewee_honker.driver.parameters import Parameters
from peewee_honker.driver.rows import Tuple

if TYPE_CHECKING:
    from peewee_honker.driver.connection import Connection

__all__ = ["Cursor"]

Description = tuple[tuple[str, None, None, None, None, None, None], ...]


@lru_cache(maxsize=1000)
def _description(columns: tuple[str, ...]) -> Description:
    return tuple((name, None, None, None, None, None, None) for name in columns)


class Cursor:
    """The result of a statement, with the attributes of `sqlite3.Cursor`.

    - `description`: a 7-tuple a column, the name first; None when the statement has no result columns.
    - `lastrowid`: the connection's last inserted rowid at that time (0 before the first insert; None before a statement
      and after `executemany`).
    - `rowcount`: rows changed by INSERT, UPDATE, DELETE or REPLACE; -1 for every other statement.
    - `columns`: the names alone, None when there are none.
    - `fetchone()`: the next row as a tuple, or None.

    All rows are in memory when `execute` returns: another statement on the connection does not disturb them.
    """

    # Kept on the class until a statement gives them another value: a cursor is made for every statement.
    arraysize = 1
    lastrowid: int | None = None
    rowcount = -1
    _closed = False
    columns: tuple[str, ...] | None = None
    _rows: Iterator[Tuple] = iter(())

    def __init__(self, connection: "Connection") -> None:
        self.connection = connection

    def reset(self) -> None:
        """As before the first statement."""
        self.lastrowid = None
        self.rowcount = -1
        self.set_rows(iter(()), None)

    def set_rows(self, rows: Iterator[Tuple], columns: tuple[str, ...] | None) -> None:
        """Take a result; called by the connection."""
        self._rows = rows
        self.columns = columns
        # One call into C for each row, where a method would be two and one of them Python's.
        self.fetchone = partial(next, rows, None)  # type: ignore[method-assign]  # of the same signature

    def fetchone(self) -> Tuple | None:
        """The next row, or None."""
        return next(self._rows, None)

    @property
    def description(self) -> Description | None:
        return None if self.columns is None else _description(self.columns)

    def execute(self, sql: str, parameters: Parameters = ()) -> "Cursor":
        """Run one statement. Raises sqlite3's exceptions."""
        if self._closed:
            raise sqlite3.ProgrammingError("Cannot operate on a closed cursor.")
        self.connection.run(self, sql, parameters)
        return self

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> "Cursor":
        """Run an INSERT, UPDATE, DELETE or REPLACE once for each of `rows`; `rowcount` is their sum.

        Outside a transaction each row is committed on its own, as with sqlite3 in autocommit.
        """
        if self._closed:
            raise sqlite3.ProgrammingError("Cannot operate on a closed cursor.")
        self.connection.run_many(self, sql, rows)
        return self

    def executescript(self, script: str) -> "Cursor":
        """Commit an open transaction, then run the statements of `script` one after another."""
        if self._closed:
            raise sqlite3.ProgrammingError("Cannot operate on a closed cursor.")
        self.connection.run_script(self, script)
        return self

    def fetchmany(self, size: int | None = None) -> list[Tuple]:
        """The next `size` rows (`arraysize` when left out)."""
        wanted = self.arraysize if size is None else size
        found: list[Tuple] = []
        while len(found) < wanted and (row := self.fetchone()) is not None:
            found.append(row)
        return found

    def fetchall(self) -> list[Tuple]:
        """The rows that are left."""
        return list(self._rows)

    def close(self) -> None:
        """Let go of the rows."""
        self._closed = True
        self.set_rows(iter(()), None)

    def __iter__(self) -> Iterator[Tuple]:
        return self._rows

    def __next__(self) -> Tuple:
        return next(self._rows)

    def setinputsizes(self, sizes: Any) -> None:
        """Nothing, as in sqlite3."""

    def setoutputsize(self, size: Any, column: Any = None) -> None:
        """Nothing, as in sqlite3."""
