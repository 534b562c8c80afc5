"""A DB-API connection: one for each thread, as Peewee makes them, over the engine's shared writer."""

import sqlite3
from collections.abc import Iterable
from typing import Any, NoReturn

from peewee_honker.driver.cursor import Cursor
from peewee_honker.driver.face import EngineTransaction
from peewee_honker.driver.parameters import Parameters
from peewee_honker.driver.session import Session
from peewee_honker.driver.statement import split_script, statement_of

__all__ = ["Connection"]


class Connection(Session):
    """A connection with the methods of `sqlite3.Connection` that Peewee and its users call, in autocommit mode.

    Statements outside a transaction that read go to the reader pool, all others to the writer.
    """

    isolation_level = None

    def cursor(self) -> Cursor:
        """A new cursor."""
        self._check_open()
        return Cursor(self)

    def execute(self, sql: str, parameters: Parameters = ()) -> Cursor:
        """`cursor().execute(...)`."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Parameters]) -> Cursor:
        """`cursor().executemany(...)`."""
        return self.cursor().executemany(sql, rows)

    def executescript(self, script: str) -> Cursor:
        """`cursor().executescript(...)`."""
        return self.cursor().executescript(script)

    def commit(self) -> None:
        """Commit the open transaction; nothing when there is none."""
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        """Roll the open transaction back; nothing when there is none."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Roll an open transaction back and let go of the engine. Nothing the second time."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.in_transaction:
                self.in_transaction = False
                self.engine.abandon(self.token)
        finally:
            self.engine.connection_closed()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    def __del__(self) -> None:
        # A thread that ends without closing must not keep the writer for ever.
        if not getattr(self, "_closed", True):
            self.close()

    @property
    def transaction(self) -> EngineTransaction | None:
        """Honker's view of the open transaction, to pass as `tx=`; None outside one."""
        return EngineTransaction.joined(self.engine) if self.in_transaction else None

    def run_many(self, cursor: Cursor, sql: str, rows: Iterable[Parameters]) -> None:
        """Run a statement that changes rows for each of `rows`."""
        statement = statement_of(sql)
        if not statement.is_dml:
            raise sqlite3.ProgrammingError("executemany() can only execute DML statements.")
        changed, parameters = 0, None
        for parameters in rows:
            self.run(cursor, sql, parameters)
            changed += cursor.rowcount
        if parameters is None:
            self._prepare(statement)
        cursor.reset()
        cursor.rowcount = changed

    def run_script(self, cursor: Cursor, script: str) -> None:
        """Run the statements of a script, after a commit of what is open."""
        self.commit()
        for sql in split_script(script):
            self.run(cursor, sql, ())
        cursor.reset()

    # What needs a callback into Python, or sqlite3's own handle

    def _unsupported(self, *arguments: Any, **options: Any) -> NoReturn:
        raise sqlite3.NotSupportedError(
            "Honker's SQLite runs no Python functions, aggregates, collations, hooks or extensions. Compute it in "
            "Python, say it in SQL, or use peewee.SqliteDatabase for this database."
        )

    create_function = create_aggregate = create_window_function = create_collation = _unsupported
    set_authorizer = set_progress_handler = set_trace_callback = _unsupported
    enable_load_extension = load_extension = blobopen = serialize = deserialize = _unsupported

    def backup(self, *arguments: Any, **options: Any) -> NoReturn:
        """Not to be had: `VACUUM INTO 'copy.db'` writes a consistent copy."""
        raise sqlite3.NotSupportedError("backup() needs two sqlite3 connections. Run VACUUM INTO 'copy.db' instead.")
