"""Run the same operations on two databases and say what came out of each, in text that can be compared.

`perform` is the one piece of code that runs an operation and tells its outcome. A `Twin` is another process that
performs on Peewee's own `SqliteDatabase`: sqlite3 may not open a file in the process of an engine, and two processes
share nothing by accident.

Operations are small picklable objects; values that cannot be pickled stand in them as `View`, `Stream` and the like.
"""

import contextlib
import datetime
import enum
import itertools
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import peewee

__all__ = ["Block", "Call", "Colour", "Many", "Odd", "Session", "Sql", "Stream", "Tag", "Twin", "View", "perform"]

PRAGMAS = {"foreign_keys": 1, "journal_mode": "wal"}

SCHEMA = """
CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER CHECK(age >= 0), email TEXT UNIQUE)
CREATE TABLE pet(id INTEGER PRIMARY KEY AUTOINCREMENT, person_id INTEGER REFERENCES person(id), name TEXT, note BLOB)
CREATE UNIQUE INDEX pet_of_person ON pet(person_id, name)
CREATE TABLE word(w TEXT PRIMARY KEY, n INT DEFAULT 5) WITHOUT ROWID
CREATE TABLE exact(id INTEGER PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT
CREATE TABLE made(a INT, b INT GENERATED ALWAYS AS (a * 2) STORED, c TEXT AS (a || 'x') VIRTUAL)
CREATE TABLE later(id INTEGER PRIMARY KEY, person_id INTEGER REFERENCES person(id) DEFERRABLE INITIALLY DEFERRED)
CREATE TABLE own(id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES own(id) ON DELETE CASCADE)
CREATE TABLE pair(a INT, b INT, c INT, PRIMARY KEY(a, b))
CREATE TABLE loose(x, y)
CREATE TABLE guarded(n INTEGER)
CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT)
CREATE VIEW people AS SELECT id, name, age FROM person
CREATE TRIGGER people_in INSTEAD OF INSERT ON people BEGIN INSERT INTO person(name, age) VALUES (new.name, new.age); END
CREATE TRIGGER person_log AFTER INSERT ON person BEGIN INSERT INTO log(what) VALUES ('+' || new.name); END
CREATE TRIGGER guard1 BEFORE INSERT ON guarded WHEN new.n = 1 BEGIN SELECT RAISE(ABORT, 'no ones'); END
CREATE TRIGGER guard2 BEFORE INSERT ON guarded WHEN new.n = 2 BEGIN SELECT RAISE(FAIL, 'it''s a two'); END
CREATE TRIGGER guard3 BEFORE INSERT ON guarded WHEN new.n = 3 BEGIN SELECT RAISE(ROLLBACK, 'all back'); END
CREATE TRIGGER guard4 BEFORE INSERT ON guarded WHEN new.n = 4 BEGIN SELECT RAISE(IGNORE); END
CREATE TRIGGER guard5 BEFORE INSERT ON guarded WHEN new.n = 5 BEGIN SELECT RAISE(ABORT, 'UNIQUE constraint failed'); END
INSERT INTO person VALUES (1, 'ann', 30, 'a@x'), (2, 'bob', NULL, NULL), (3, 'O''Hara', 0, 'o@x')
INSERT INTO pet(person_id, name, note) VALUES (1, 'rex', x'00ff'), (1, 'tom', NULL), (2, 'rex', 'text'), (NULL, 'stray', 1.5)
INSERT INTO word VALUES ('a', 1), ('b', NULL)
INSERT INTO own VALUES (1, NULL), (2, 1), (3, 2)
INSERT INTO loose VALUES (1, 'one'), (2.5, x'02'), ('three', NULL)
"""
TABLES = ("person", "pet", "word", "exact", "made", "later", "own", "pair", "loose", "guarded", "log")


# Values


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


class Tag(str):
    __slots__ = ()


class Big(int):
    pass


class Odd:
    """A class that no adapter is registered for."""


@dataclass(frozen=True)
class View:
    """A memoryview."""

    data: bytes


@dataclass(frozen=True)
class Stream:
    """A generator over `items`."""

    items: tuple[Any, ...]


class Fallback(dict[str, Any]):
    """A dict that has every name."""

    def __missing__(self, name: str) -> str:
        return f"<{name}>"


def real(value: Any) -> Any:
    """The value that a stand-in stands for, also within lists, tuples and dicts."""
    if isinstance(value, View):
        return memoryview(value.data)
    if isinstance(value, Stream):
        return (real(item) for item in value.items)
    if type(value) in (list, tuple):
        return type(value)(real(item) for item in value)
    if type(value) is dict:
        return {key: real(item) for key, item in value.items()}
    return value


def shown(value: Any) -> str:
    """A value as text that tells its type; equal for equal values only."""
    if isinstance(value, peewee.Model):
        parts = ", ".join(f"{name}={shown(part)}" for name, part in value.__data__.items())
        related = ", ".join(f"{name}->{shown(part)}" for name, part in value.__rel__.items())
        extra = {name: part for name, part in vars(value).items() if not name.startswith("_")}
        return f"{type(value).__name__}({parts}; {related}; {shown(extra)}; dirty={sorted(value._dirty)})"
    if type(value) in (list, tuple):
        return f"{type(value).__name__}({', '.join(map(shown, value))})"
    if type(value) is dict:
        return "{" + ", ".join(f"{shown(key)}: {shown(part)}" for key, part in value.items()) + "}"
    if isinstance(value, memoryview):
        return f"memoryview({bytes(value)!r})"
    return f"{type(value).__name__}:{value!r}"


# Operations


@dataclass(frozen=True)
class Sql:
    """One statement."""

    text: Any
    parameters: Any = ()


@dataclass(frozen=True)
class Many:
    """`executemany`."""

    text: str
    rows: Any


@dataclass(frozen=True)
class Block:
    """`with database.<kind>():` around operations.

    `fails` names an exception raised at the end of the block; `strict` lets the first failing operation leave it.
    """

    kind: str
    body: tuple[Any, ...] = ()
    fails: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Call:
    """An operation on models: a function that is marked with `call`, and its arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dump:
    """The rows of all tables, after a rollback of what is open if `after_rollback`."""

    after_rollback: bool = False


class Session:
    """A database with what operations need beside it."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.blocks: list[Any] = []
        self.models: Any = None
        database.connect()

    def create_schema(self) -> None:
        for statement in SCHEMA.strip().splitlines():
            self.database.execute_sql(statement)

    def close(self) -> None:
        self.database.close()


Outcome = Any


def perform(session: Session, operation: Any) -> Outcome:
    """Run an operation; tell its result, or its error, and whether a transaction is open afterwards."""
    try:
        result = _perform(session, operation)
    except Exception as error:
        result = told(error)
    return result, session.database.connection().in_transaction


def told(error: BaseException) -> tuple[Any, ...]:
    """An exception as text: its class, the class under it, its message."""
    original = getattr(error, "orig", None)
    message = re.sub(r" at 0x[0-9a-f]+", "", str(error))
    name = getattr(original, "sqlite_errorname", None)
    return "error", type(error).__qualname__, original and type(original).__qualname__, message, name


def _perform(session: Session, operation: Any) -> Any:
    database = session.database
    if isinstance(operation, Sql):
        parameters = real(operation.parameters)
        return _result(database.execute_sql(operation.text, parameters))
    if isinstance(operation, Many):
        with peewee.__exception_wrapper__:
            return _result(database.connection().executemany(operation.text, real(operation.rows)))
    if isinstance(operation, Block):
        return _block(session, operation)
    if isinstance(operation, Dump):
        return _dump(session, operation)
    return shown(_CALLS[operation.name](session, **real(operation.arguments)))


def _result(cursor: Any) -> tuple[Any, ...]:
    with peewee.__exception_wrapper__:
        rows = [shown(row) for row in cursor.fetchall()]
    names = None if cursor.description is None else [column[0] for column in cursor.description]
    return "rows", names, rows, cursor.rowcount, cursor.lastrowid


def _dump(session: Session, operation: Dump) -> Any:
    database = session.database
    if operation.after_rollback and database.connection().in_transaction:
        database.connection().rollback()
    found = []
    for table in TABLES:
        try:
            found.append((table, [shown(row) for row in database.execute_sql(f'SELECT * FROM "{table}"').fetchall()]))
        except peewee.PeeweeException as error:
            found.append((table, told(error)))
    return found


class _Failure(Exception):
    pass


class _Left(Exception):
    """Carries what a block's operations told out of the block that an error leaves."""


def _block(session: Session, operation: Block) -> Any:
    database = session.database
    inner: list[Outcome] = []
    try:
        if operation.kind in ("commit", "rollback"):
            if session.blocks and session.blocks[-1] is not None:
                getattr(session.blocks[-1], operation.kind)()
            return operation.kind
        if operation.kind == "begin":
            database.begin()
            return operation.kind
        with getattr(database, operation.kind)() as block:
            session.blocks.append(block)
            try:
                for step in operation.body:
                    outcome = perform(session, step)
                    inner.append(outcome)
                    if operation.strict and outcome[0][0] == "error":
                        raise _Left
                if operation.fails:
                    raise _Failure("on purpose")
            finally:
                session.blocks.pop()
    except Exception as error:
        return "left", told(error), inner, database.in_transaction(), database.transaction_depth()
    return "done", inner, database.in_transaction(), database.transaction_depth()


# Model operations, by name

_CALLS: dict[str, Callable[..., Any]] = {}


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of a session one of the operations that `Call` names."""
    _CALLS[function.__name__] = function
    return function


# The process beside


class Twin:
    """A process that performs programs on `SqliteDatabase`. A context manager: leaving it ends the process."""

    def __enter__(self) -> "Twin":
        root = str(Path(__file__).resolve().parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.twin import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
        )
        return self

    def ask(self, setup: str, program: Any) -> None:
        """Send the name of what the database holds at first ("", "schema", "models") and a list of operations."""
        assert self._process.stdin is not None
        pickle.dump((setup, program), self._process.stdin)
        self._process.stdin.flush()

    def answer(self) -> list[Outcome]:
        """The outcomes of the program asked last."""
        assert self._process.stdout is not None
        outcomes: list[Outcome] = pickle.load(self._process.stdout)
        return outcomes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(30)


def serve() -> None:
    """Answer programs from stdin until it closes."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with tempfile.TemporaryDirectory() as directory:
        for number in itertools.count():
            try:
                setup, program = pickle.load(source)
            except EOFError:
                return
            path = os.path.join(directory, f"{number}.db")
            database = peewee.SqliteDatabase(path, pragmas=PRAGMAS)
            pickle.dump(run(database, setup, program), sink)
            sink.flush()
            remove(path)


def run(database: Any, setup: str, program: Any) -> list[Outcome]:
    """Perform a program on a new database and close it."""
    session = Session(database)
    try:
        if setup == "models":
            session.models = models_on(database)
        elif setup == "schema":
            session.create_schema()
        return [perform(session, operation) for operation in program]
    finally:
        session.close()


def remove(path: str) -> None:
    """Delete a database's files."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + suffix)


def models_on(database: Any) -> Any:
    return None
