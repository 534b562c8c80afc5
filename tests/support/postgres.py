"""A PostgreSQL server of the test session's own, on a socket in a directory of its own; ended with the session."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from glob import glob
from typing import Any

import peewee
import pytest

from tests.support import outside

__all__ = ["Server", "open_postgres", "pg", "postgres_server", "postgres_url"]


def _programs() -> str | None:
    """Where the server's programs are."""
    found = sorted(glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    if found:
        return os.path.dirname(found[-1])
    on_path = shutil.which("initdb")
    return None if on_path is None else os.path.dirname(os.path.realpath(on_path))


def _user() -> str | None:
    """Who runs it: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise OSError("no user but root")


class Server:
    """A server that can be stopped, killed and started."""

    def __init__(self) -> None:
        programs = _programs()
        if programs is None:
            raise OSError("no PostgreSQL server is installed")
        self._programs = programs
        self._user = _user()
        self.directory = tempfile.mkdtemp(prefix="pwh-pg-")
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if self._user:
            shutil.chown(self.directory, self._user)
        self._data = f"{self.directory}/data"
        self._run("initdb", "-D", self._data, "-U", "test", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")

    def _as(self) -> dict[str, Any]:
        return {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "extra_groups": []} if self._user else {}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [f"{self._programs}/{program}", *arguments], capture_output=True, text=True, cwd="/", timeout=60, **self._as()
        )
        if done.returncode:
            raise OSError(f"{program} failed: {done.stderr}")

    def url(self, name: str = "postgres") -> str:
        """The URL of a database."""
        return f"postgresql://test@/{name}?host={self.directory}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for _ in range(40):  # after a kill, until the processes that it has left have ended
            with open(f"{self.directory}/log", "ab") as log:
                options = ("listen_addresses=", "fsync=off", "max_connections=60")
                self._process = subprocess.Popen(
                    [f"{self._programs}/postgres", "-D", self._data, "-k", self.directory]
                    + [part for option in options for part in ("-c", option)],
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    **self._as(),
                )
            outside.until(lambda: self._process.poll() is not None or self.answers(), "PostgreSQL")
            if self._process.poll() is None:
                return
            time.sleep(0.25)
        with open(f"{self.directory}/log") as log:
            raise OSError(f"PostgreSQL does not start: {log.read()[-2000:]}")

    def answers(self) -> bool:
        """Whether it takes connections."""
        asked = [f"{self._programs}/pg_isready", "-h", self.directory, "-U", "test", "-d", "postgres", "-q"]
        return subprocess.run(asked, check=False).returncode == 0

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT without waiting for clients, SIGKILL as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=30)
            self._process = None

    def close(self) -> None:
        """End it and delete all it had."""
        self.end(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def sql(self, text: str, name: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement in a database, from a connection of its own."""
        import psycopg

        with psycopg.connect(self.url(name), autocommit=True) as connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """The name of a new, empty database."""
        self._databases += 1
        name = f"test{self._databases}"
        self.sql(f"CREATE DATABASE {name}")
        return name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """The session's server."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: the extra `postgres`")
    try:
        server = Server()
    except OSError as error:
        pytest.skip(f"no PostgreSQL server can be had: {error}")
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """The URL of a database of the test's own."""
    name = postgres_server.new_database()
    yield postgres_server.url(name)
    if not postgres_server.answers():
        postgres_server.start()
    postgres_server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def open_postgres(postgres_url: str) -> Iterator[Callable[..., peewee.PostgresqlDatabase]]:
    """`open_postgres()` gives a PostgresqlDatabase on the test's database; the test's thread's connections are closed at
    the end."""
    made: list[peewee.PostgresqlDatabase] = []

    def make(url: str = postgres_url, **options: Any) -> peewee.PostgresqlDatabase:
        made.append(peewee.PostgresqlDatabase(url, prefer_psycopg3=True, **options))
        return made[-1]

    yield make
    for database in made:
        if not database.is_closed():
            database.close()


@pytest.fixture
def pg(open_postgres: Callable[..., peewee.PostgresqlDatabase]) -> peewee.PostgresqlDatabase:
    """A PostgresqlDatabase of the test's own."""
    return open_postgres()
