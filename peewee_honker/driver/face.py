"""Honker's Database on the engine's writer: what `db.honker` is.

Honker's queues, streams, locks and schedulers call `transaction()` and `query()` of their database. Here both go
through the engine, so that they wait for the writer no longer than they should, join the transaction that the calling
thread has open, and commit or roll back with it.
"""

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import honker

from peewee_honker.driver.rows import Row, Run

if TYPE_CHECKING:
    from peewee_honker.driver.engine import Engine

__all__ = ["EngineTransaction", "HonkerFace"]

_TIMEOUT = 5.0  # seconds that Honker's own writes wait for the writer; SQLite's usual busy timeout


class HonkerFace(honker.Database):
    """A `honker.Database` whose transactions are the engine's.

    Everything of Honker's works on it; `transaction()` called in a thread that has one open joins it instead of waiting
    for itself, and what `queue(...).enqueue(...)` and `stream(...).publish(...)` write then belongs to it.
    """

    def __init__(self, native: Any, engine: "Engine") -> None:
        super().__init__(native)  # makes Honker's tables
        self._engine = engine
        self._native = native
        # Honker's writer, taken for good: BEGIN and COMMIT are the engine's from here on.
        self._writer = native.transaction()
        self._writer.__enter__()
        self._writer.execute("COMMIT")
        # The two calls that every statement comes down to; rows are dicts.
        self.read: Run = native.query
        self.write: Run = self._writer.query

    @property
    def writer(self) -> Any:
        """Honker's own Transaction object, outside a transaction in autocommit; for the engine alone."""
        return self._writer

    @property
    def _tx_depth(self) -> int:
        """Honker refuses to make a queue inside a transaction, where it would wait for itself; here it joins."""
        return 0

    def transaction(self) -> "EngineTransaction":
        """A context manager: a write transaction, or the one that this thread has open already."""
        return EngineTransaction(self._engine)

    def query(self, sql: str, params: Sequence[Any] | None = None) -> list[Row]:
        """Rows as dicts; inside this thread's transaction with what it has written."""
        if self._engine.holder_thread == threading.get_ident():
            return self.write(sql, params or ())
        return self._engine.read(sql, params or (), _TIMEOUT)

    def close(self) -> None:
        """Close the engine that this belongs to."""
        self._engine.close()

    def release(self) -> None:
        """Give Honker its writer back and close the handle; for the engine alone."""
        try:
            self.writer.execute("ROLLBACK")
        except RuntimeError:
            pass  # no transaction was open
        self.writer.execute("BEGIN")
        self.writer.__exit__(None, None, None)
        self._native.close()


class EngineTransaction:
    """What `transaction()` of Honker gives, on the engine's writer; also `HonkerDatabase.honker_transaction`.

    It can be passed as `tx=` to Honker's methods. Used after its end it raises `RuntimeError`, as Honker's does.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._joined = False
        self._open = False
        self._number = engine.transactions

    @classmethod
    def joined(cls, engine: "Engine") -> "EngineTransaction":
        """The transaction that is open on the engine's writer, which this object will not end."""
        transaction = cls(engine)
        transaction._joined = transaction._open = True
        return transaction

    def __enter__(self) -> "EngineTransaction":
        if self._engine.holder_thread == threading.get_ident():
            self._joined = True
        else:
            self._engine.take_writer(self, _TIMEOUT)
            try:
                self._engine.write("BEGIN IMMEDIATE", (), time.monotonic() + _TIMEOUT)
            except BaseException:
                self._engine.abandon(self)
                raise
            self._engine.holder_thread = threading.get_ident()
        self._open = True
        self._number = self._engine.transactions
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._open = False
        if self._joined:
            return
        writer = self._engine.face.writer
        committed = False
        try:
            if kind is None:
                try:
                    writer.execute("COMMIT")
                    committed = True
                except RuntimeError:
                    writer.execute("ROLLBACK")
                    raise
            else:
                writer.execute("ROLLBACK")
        finally:
            self._engine.abandon(self)
        if committed:
            self._engine.committed()

    def _writer(self) -> Any:
        if not self._open or self._number != self._engine.transactions:
            raise RuntimeError("the transaction has ended")
        return self._engine.face.writer

    def query(self, sql: str, params: Sequence[Any] | None = None) -> list[Row]:
        """Run one statement and give its rows as dicts."""
        rows: list[Row] = self._writer().query(sql, params)
        return rows

    def execute(self, sql: str, params: Sequence[Any] | None = None) -> None:
        """Run one statement."""
        self._writer().execute(sql, params)

    def notify(self, channel: str, payload: Any) -> Any:
        """Publish on an ephemeral channel when the transaction commits."""
        return self._writer().notify(channel, payload)

    def bootstrap_honker_schema(self) -> None:
        """Make Honker's tables where they are missing."""
        self._writer().bootstrap_honker_schema()
