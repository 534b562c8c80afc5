"""The one connection of this process beside Peewee's: it listens, reads events and holds the consumers' locks."""

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

import peewee
import psycopg
from psycopg.conninfo import conninfo_to_dict

from peewee_honker.errors import HonkerError
from peewee_honker.servers.postgres.tables import CHANNEL

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Link", "PostgresUnavailableError"]

logger = logging.getLogger("peewee_honker.postgres")

# How the driver is to behave is this module's to say; the rest is where the server is.
_OF_THE_DRIVER = frozenset(
    {"autocommit", "row_factory", "cursor_factory", "context", "connection_factory", "prepare_threshold", "client_encoding"}
)
# So that a server that has gone without a word is missed within seconds.
_PATIENCE = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_LOCK_TIMEOUT = "SET lock_timeout = '2s'"  # of this connection: the dispatcher's thread waits for nobody's lock for long


class PostgresUnavailableError(HonkerError):
    """No server answers, or it does not let us in. Raised at the start; a bus that runs waits and connects again."""


class Link:
    """A connection to PostgreSQL that any thread can use, one at a time; made anew when it was lost.

    While somebody holds it (`hold`, `let_go`) it stays open and listens; else it is opened for each use.

    Arguments:
        database: says where the server is.
        url: where to connect instead: past a pooler, which does not pass notifications on.
    """

    def __init__(self, database: peewee.PostgresqlDatabase, url: str | None = None) -> None:
        self._database: Any = database
        self.url = url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._using = threading.RLock()
        self._holders = 0
        self._process = os.getpid()
        self._news: set[str] = set()
        self.generation = 0
        """Grows with each connection that is made: what the server kept for one is gone with it."""
        self.on_news: Callable[[], None] | None = None
        """Called, in any thread, when the server has notified."""

    def __repr__(self) -> str:
        return f"PostgreSQL at {self.place}"

    @property
    def place(self) -> str:
        """Where the server is, without what is secret."""
        where = self._where()
        parts = conninfo_to_dict(where.pop("conninfo", ""), **where)
        return f"{parts.get('host', 'the default host')}:{parts.get('port', 5432)}, database {parts.get('dbname')!r}"

    def query(self, sql: str, parameters: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement, in a transaction of its own, and give its rows.

        Raises PostgresUnavailableError when there is no connection to be had, or it is lost; else psycopg's errors.
        """
        with self._use():
            connection = self._connected()
            try:
                cursor = connection.execute(sql.encode(), parameters)
                return cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                if not connection.closed:
                    raise
                self._drop()
                raise PostgresUnavailableError(f"the connection to {self!r} was lost: {_on_one_line(error)}") from error
            finally:
                if not self._holders:
                    self._drop()

    def hold(self) -> None:
        """Keep the connection open, and listen. Raises PostgresUnavailableError when there is no server."""
        with self._use():
            self._holders += 1
            try:
                self._connected()
            except BaseException:
                self._holders -= 1
                raise

    def let_go(self) -> None:
        """The end of a `hold`."""
        with self._use():
            self._holders = max(0, self._holders - 1)  # 0 in the child of a fork
            if not self._holders:
                self._drop()

    def fileno(self) -> int | None:
        """What becomes readable when the server has something to say; None while there is no connection."""
        with self._use():
            return None if self._connection is None or self._connection.closed else self._connection.fileno()

    def take_news(self) -> set[str]:
        """What was notified since the last time. Raises PostgresUnavailableError when the connection is lost, or was and
        there is no server."""
        with self._use():
            connection = self._connected()
            try:
                connection.pgconn.consume_input()
                while notify := connection.pgconn.notifies():
                    self._news.add(notify.extra.decode())
            except psycopg.Error as error:
                self._drop()
                raise PostgresUnavailableError(f"the connection to {self!r} was lost: {_on_one_line(error)}") from error
            news, self._news = self._news, set()
            return news

    def _hear(self, notify: psycopg.Notify) -> None:
        """Take a notification that came with the answer to a query."""
        self._news.add(notify.payload)
        if self.on_news is not None:
            self.on_news()

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._drop()
            try:
                self._connection = psycopg.connect(**self._where(), autocommit=True)
                self._connection.add_notify_handler(self._hear)
                self._connection.execute(_LOCK_TIMEOUT)
                if self._holders:
                    self._connection.execute(f"LISTEN {CHANNEL}")
            except psycopg.Error as error:
                self._drop()
                raise PostgresUnavailableError(
                    f"no connection to {self!r}: {_on_one_line(error)}. Is the server running, and is the address right?"
                ) from error
            self.generation += 1
        return self._connection

    def _where(self) -> dict[str, Any]:
        if self._database.deferred:
            raise peewee.InterfaceError("Error, database must be initialized before opening a connection.")
        given = {name: value for name, value in self._database.connect_params.items() if name not in _OF_THE_DRIVER}
        name = self.url or self._database.database
        where = {"conninfo": name} if "://" in name or "=" in name else {"dbname": name}
        return {**_PATIENCE, **({} if self.url else given), **where}

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _use(self) -> threading.RLock:
        """What to hold while using the connection. In the child of a fork it begins anew: the connection is the parent's,
        and another thread may have held the lock."""
        if self._process != os.getpid():
            self._process, self._holders, self._connection, self.on_news = os.getpid(), 0, None, None
            self.generation += 1
            self._using = threading.RLock()
        return self._using


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
