"""HonkerDatabase: Peewee's SqliteDatabase on Honker.

The Peewee face of the driver: which connection a thread gets, what Peewee does with Python functions said in SQL,
introspection without Honker's own tables, and Honker's notify, streams, queues and locks in the open transaction.
"""

import logging
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import peewee
from honker import Listener, Outbox, Queue, Stream
from peewee import SqliteDatabase, __exception_wrapper__  # type: ignore[attr-defined]  # not in Peewee's stubs

from peewee_honker import sqlfunctions
from peewee_honker.driver import Connection, Engine, Location, engine_for, sqlite_version
from peewee_honker.driver.face import EngineTransaction, HonkerFace
from peewee_honker.inserts import InsertCompiler

__all__ = ["HonkerDatabase"]

logger = logging.getLogger("peewee_honker.database")
_peewee_logger = logging.getLogger("peewee")

_MISSING = re.compile(r"no such (function|collation sequence|window function): (\S+)", re.IGNORECASE)
_HONKERS_OWN = re.compile(r"_honker_")
# What sqlite3.connect takes and nothing is lost by leaving out.
_IGNORED = frozenset({"check_same_thread", "cached_statements"})


class HonkerDatabase(SqliteDatabase):
    """A drop-in for `peewee.SqliteDatabase` that sends all SQL through Honker.

    Arguments are those of `SqliteDatabase`, and:

    - `max_readers`: size of Honker's reader pool.
    - `watcher_poll_interval_ms`: how often Honker's watcher looks for commits of other processes (Honker's default: 1).
    - `sqlite3_guard`: refuse `sqlite3.connect` on the same file in this process (`SharedFileError`), since two SQLite
      libraries on one file lose data.

    Two objects on one file in one process share one engine, whose options are those of the first to open it.

    Differs from `SqliteDatabase`: foreign keys are enforced and the journal is WAL; `BEGIN` takes the write lock at
    once unless `lock_type="DEFERRED"`; connection pragmas hold for all threads; Python functions, aggregates,
    collations and extensions raise `NotSupportedError` when SQL uses them; one `:memory:` object is one database for
    all threads. See docs/database.md.
    """

    json_methods = sqlfunctions.HonkerJSONMethods

    # Peewee's own, which its type stubs leave out:
    _aggregates: dict[str, Any]
    _attached: dict[str, str]
    _collations: dict[str, Any]
    _functions: dict[str, Any]
    _pragmas: Any
    _set_pragmas: Callable[[Connection], None]
    _state: Any
    _timeout: float
    _window_functions: dict[str, Any]

    def __init__(self, database: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> None:
        self._engine: Engine | None = None
        self._end_lease: Callable[[], object] | None = None
        self._engine_options: dict[str, Any] = {}
        self._inserts = InsertCompiler(self)
        self.server_version = sqlite_version()
        super().__init__(database, *args, **kwargs)  # type: ignore[arg-type]  # a path object serves as well

    def init(self, database: str | os.PathLike[str] | None, *args: Any, **kwargs: Any) -> None:
        """Point the object at a database; arguments as for the class."""
        for name in ("max_readers", "watcher_poll_interval_ms", "sqlite3_guard"):
            if name in kwargs:
                self._engine_options[name] = kwargs.pop(name)
        super().init(database, *args, **kwargs)  # type: ignore[arg-type]  # a path object serves as well
        self._let_go()

    def _let_go(self) -> None:
        self._engine, end, self._end_lease = None, self._end_lease, None
        if end is not None:
            end()

    # Connections

    def _connect(self) -> Connection:
        for name, value in self.connect_params.items():
            if name != "uri" and name not in _IGNORED and not (name == "detect_types" and value == 0):
                raise peewee.NotSupportedError(
                    f"the connection parameter {name}={value!r} is for sqlite3's own connections: leave it out"
                )
        connection = Connection(self.engine, timeout=self._timeout, read_only=self._location().read_only)
        try:
            self._add_conn_hooks(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _location(self) -> Location:
        return Location.of(self.database, uri=bool(self.connect_params.get("uri")))

    @property
    def engine(self) -> Engine:
        """The driver's engine for the file; for the other modules of this package."""
        if self.deferred:
            raise peewee.InterfaceError("Error, database must be initialized before opening a connection.")
        engine = self._engine
        if engine is None or engine.refused or engine.retired or engine.was_replaced():
            self._let_go()
            engine = self._engine = engine_for(self._location(), **self._engine_options)
            self._end_lease = engine.lease(self)
        return engine

    def _add_conn_hooks(self, conn: Connection) -> None:
        conn.is_starting = True
        if self._attached:
            self._attach_databases(conn)
        if self._pragmas:
            self._set_pragmas(conn)
        conn.is_starting = False

    def _attach_databases(self, conn: Connection) -> None:
        for name, path in self._attached.items():
            if name.lower() not in conn.engine.attached:
                conn.execute("ATTACH DATABASE ? AS ?", (path, name))

    def is_connection_usable(self) -> bool:
        return not self.is_closed()

    def close_engine(self) -> None:
        """Close this thread's connection and Honker's handle on the file.

        `close()` keeps the handle for the next `connect()`. After this the file may be moved, replaced or opened with
        sqlite3. The next use opens it again.
        """
        if not self.is_closed():
            self.close()
        if self._engine is not None:
            self._engine.close()

    # Statements

    def execute(self, query: Any, **context_options: Any) -> Any:
        if type(query) is peewee.ModelInsert and not context_options:
            compiled = self._inserts.compile(query)
            if compiled is not None:
                return self.execute_sql(*compiled)
        return super().execute(query, **context_options)  # type: ignore[no-untyped-call]  # untyped in Peewee's stubs

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run one statement and give its cursor. Raises Peewee's exceptions."""
        try:
            if self.query_hooks or self._state.closed or _peewee_logger.isEnabledFor(logging.DEBUG):
                return super().execute_sql(sql, params)  # type: ignore[no-untyped-call]  # untyped in Peewee's stubs
            with __exception_wrapper__:  # the same with nobody to tell
                cursor = self._state.conn.cursor()
                cursor.connection.run(cursor, sql, params or ())
            return cursor
        except peewee.OperationalError as error:
            self._name_the_way_out(error)
            raise

    def _name_the_way_out(self, error: peewee.OperationalError) -> None:
        """Raise `NotSupportedError` when SQL asked for what was registered in Python."""
        missing = _MISSING.match(str(error))
        if missing is None:
            return
        name = missing[2].lower()
        registered = (*self._functions, *self._aggregates, *self._window_functions, *self._collations)
        if any(name == known.lower() for known in registered):
            raise peewee.NotSupportedError(
                f'"{missing[2]}" is registered in Python, and Honker\'s SQLite cannot call into Python. Compute it in '
                "Python over the rows, say it in SQL, or use peewee.SqliteDatabase for this database."
            ) from error

    def _load_functions(self, conn: Connection) -> None:
        """Nothing: what is registered in Python is refused when SQL uses it."""

    _load_aggregates = _load_collations = _load_window_functions = _load_functions

    def load_extension(self, extension: str) -> None:
        """Raises `NotSupportedError`: Honker's SQLite loads no extensions."""
        raise peewee.NotSupportedError(
            f"cannot load {extension}: Honker's SQLite loads no extensions (FTS5, JSON and R-Tree are built in). "
            "Use peewee.SqliteDatabase for a database that needs one."
        )

    def extract_date(self, date_part: str, date_field: Any) -> Any:
        return sqlfunctions.extract_date(date_part, date_field)

    def truncate_date(self, date_part: str, date_field: Any) -> Any:
        return sqlfunctions.truncate_date(date_part, date_field)

    # Transactions

    def savepoint(self) -> "Savepoint":
        return Savepoint(self)

    def _run_commit_callbacks(self) -> None:
        """Run the `after_commit` callbacks: all of them, whatever one raises, since the commit has happened."""
        callbacks = self._state.commit_callbacks
        waiting, callbacks[:] = list(callbacks), []
        for callback in waiting:
            try:
                callback()
            except Exception:
                logger.exception("after_commit callback %r failed; the transaction is committed", callback)

    # Introspection

    def get_tables(self, schema: str | None = None, include_honker: bool = False) -> list[str]:
        """The names of the tables; Honker's own (`_honker_...`) only when asked for."""
        names: list[str] = super().get_tables(schema)
        if include_honker:
            return names
        users = [name for name in names if not _HONKERS_OWN.match(name)]
        if "sqlite_sequence" in users and not self._has_autoincrement(schema):
            users.remove("sqlite_sequence")  # there for Honker's tables alone
        return users

    def _has_autoincrement(self, schema: str | None) -> bool:
        name = (schema or "main").replace('"', '""')
        cursor: Any = self.execute_sql(
            f"SELECT 1 FROM \"{name}\".sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_honker\\_%' ESCAPE '\\' "
            "AND sql LIKE '%AUTOINCREMENT%' LIMIT 1"
        )
        return cursor.fetchone() is not None

    def get_views(self, schema: str | None = None, include_honker: bool = False) -> list[Any]:
        """The views; Honker's own only when asked for."""
        views = super().get_views(schema)
        return [view for view in views if include_honker or not _HONKERS_OWN.match(view.name)]

    # Honker

    @property
    def honker(self) -> HonkerFace:
        """Honker's database on this file: queues, streams, locks, listeners.

        What it writes in a thread with an open transaction belongs to that transaction.
        """
        return self.engine.face

    @property
    def honker_transaction(self) -> EngineTransaction | None:
        """The open transaction as Honker's methods take it (`tx=`); None outside one."""
        return None if self.is_closed() else self._state.conn.transaction

    def notify(self, channel: str, payload: Any = None) -> int:
        """Publish `payload` (JSON) on an ephemeral channel, in the open transaction or in one of its own.

        Gives the notification's id.
        """
        transaction = self.honker_transaction
        if transaction is not None:
            return int(transaction.notify(channel, payload))
        with self.honker.transaction() as own:
            return int(own.notify(channel, payload))

    def write_beside(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """Run a statement of this package's own in the open transaction, or alone: unseen by query logs and hooks, and
        without touching what `last_insert_id` and `rows_affected` tell of the user's statements. Gives the rows of one that
        returns some."""
        state = self._state
        if state.closed:
            self.cursor()  # type: ignore[no-untyped-call]  # connects, or says that the connection is not open
        with __exception_wrapper__:
            rows: list[dict[str, Any]] = state.conn.write_beside(sql, values)
        return rows

    def at_commit(self, function: Callable[[], object], then: Callable[[], object] | None = None) -> None:
        """Call a function within the commit of this thread's open transaction, before any other transaction can commit: so
        functions are called in commit order. Not after a rollback, also of the savepoint that is open now. It must be
        quick, not raise, and not use the database; the rest is for `then`, which is called after the commit.

        That holds for transactions that SQL begins and ends, and for those of `manual_commit`, as well.
        """
        session = self._state.conn
        session.at_commit.append(function)
        if then is None:
            return
        known = self._state.transactions
        if not known or isinstance(known[-1], peewee._manual):
            session.after_commit.append(then)  # Peewee does not see the end of the transaction
        else:
            self.after_commit(then)

    def listen(self, channel: str, **options: Any) -> Listener:
        """Honker's listener on a channel: an async iterator of notifications committed from now on."""
        return self.honker.listen(channel, **options)

    def stream(self, name: str) -> Stream:
        """Honker's durable stream; `publish` joins the open transaction."""
        return self.honker.stream(name)

    def queue(self, name: str, **options: Any) -> Queue:
        """Honker's queue; `enqueue` joins the open transaction."""
        return self.honker.queue(name, **options)

    def outbox(self, name: str, delivery: Callable[..., Any], **options: Any) -> Outbox:
        """Honker's outbox; `enqueue` joins the open transaction."""
        return self.honker.outbox(name, delivery, **options)

    def lock(self, name: str, **options: Any) -> Any:
        """Honker's named lock across processes, a context manager that raises `honker.LockHeld`."""
        return self.honker.lock(name, **options)

    def try_rate_limit(self, name: str, limit: int, per: int) -> bool:
        """Whether one more use of `name` is within `limit` uses in `per` seconds; counts it if so."""
        return bool(self.honker.try_rate_limit(name, limit, per))

    def prune_notifications(self, **limits: Any) -> int:
        """Delete old notifications: `older_than_s` seconds, or all but `max_keep`. Gives how many."""
        return int(self.honker.prune_notifications(**limits))


class Savepoint(peewee._savepoint):
    """Peewee's savepoint, which on rollback also drops the `after_commit` callbacks added since it began."""

    def __enter__(self) -> Any:
        self._callbacks_before = len(self.db._state.commit_callbacks)
        return super().__enter__()

    def commit(self, begin: bool = True) -> None:
        super().commit(begin)
        self._callbacks_before = len(self.db._state.commit_callbacks)

    def rollback(self, begin: bool = True) -> None:
        super().rollback(begin)
        del self.db._state.commit_callbacks[self._callbacks_before :]
