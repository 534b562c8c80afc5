"""Run the same operations on two databases and say what came out of each, in text that can be compared.

`perform` is the one piece of code that runs an operation and tells its outcome. A `Twin` is another process that
performs on Peewee's own `SqliteDatabase`: sqlite3 may not open a file in the process of an engine, and two processes
share nothing by accident.

Operations are small picklable objects; values that cannot be pickled stand in them as `View`, `Stream` and the like.
"""

# A schema's statement and a query each stand on one line.

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


@dataclass(frozen=True)
class Ref:
    """An instance of the model `Owner`."""

    key: int


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
        related = ", ".join(f"{name}->{_columns(part)}" for name, part in value.__rel__.items())
        more = {name: part for name, part in vars(value).items() if not name.startswith("_")}
        return f"{_columns(value)} {related} {more if not more else list(more)} dirty={sorted(value._dirty)}"
    if type(value) in (list, tuple):
        return f"{type(value).__name__}({', '.join(map(shown, value))})"
    if type(value) is dict:
        return "{" + ", ".join(f"{shown(key)}: {shown(part)}" for key, part in value.items()) + "}"
    if isinstance(value, memoryview):
        return f"memoryview({bytes(value)!r})"
    return f"{type(value).__name__}:{value!r}"


def _columns(value: Any) -> str:
    return f"{type(value).__name__}({shown(value.__data__)})" if isinstance(value, peewee.Model) else shown(value)


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
    message = re.sub(r" at 0x[0-9a-f]+|\bs[0-9a-f]{32}\b", "", str(error))  # addresses and names of savepoints
    return "error", type(error).__qualname__, original and type(original).__qualname__, message


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
            found.append(
                (
                    table,
                    [shown(row) for row in database.execute_sql(f'SELECT * FROM "{table}"').fetchall()],
                )
            )
        except peewee.PeeweeException as error:
            found.append((table, told(error)))
    return found


class _Failure(Exception):  # noqa: N818  # a test's own, not an error of the code
    pass


class _Left(Exception):  # noqa: N818  # not an error
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


class Models:
    """Model classes on one database, with defaults that count from the last `restart`."""

    def __init__(self, database: Any) -> None:
        self.restart()

        class Base(peewee.Model):
            class Meta:
                pass

        Base._meta.set_database(database)

        class Owner(Base):  # type: ignore[valid-type,misc]
            name = peewee.CharField(unique=True)

        class Thing(Base):  # type: ignore[valid-type,misc]
            char = peewee.CharField(default="c", index=True)
            fixed = peewee.FixedCharField(max_length=3, null=True)
            text = peewee.TextField(null=True)
            integer = peewee.IntegerField(null=True, constraints=[peewee.Check("integer IS NULL OR integer < 3")])
            small = peewee.SmallIntegerField(null=True, column_name="little")
            big = peewee.BigIntegerField(null=True)
            decimal = peewee.DecimalField(null=True, max_digits=7, decimal_places=2, auto_round=True)
            floating = peewee.FloatField(null=True)
            double = peewee.DoubleField(null=True)
            boolean = peewee.BooleanField(null=True)
            moment = peewee.DateTimeField(null=True)
            day = peewee.DateField(null=True)
            hour = peewee.TimeField(null=True)
            stamp = peewee.TimestampField(default=self.seconds)
            blob = peewee.BlobField(null=True)
            uuid = peewee.UUIDField(null=True)
            raw_uuid = peewee.BinaryUUIDField(null=True)
            ip = peewee.IPField(null=True)
            json = peewee.JSONField(null=True)
            flags = peewee.BitField()
            red = flags.flag(1)
            bare = peewee.BareField(null=True)
            owner = peewee.ForeignKeyField(Owner, backref="things", null=True, on_delete="CASCADE")
            counted = peewee.IntegerField(default=self.count)
            chosen = peewee.CharField(default="x")

        class Named(Base):  # type: ignore[valid-type,misc]
            key = peewee.CharField(primary_key=True)
            name = peewee.CharField()

        class Pair(Base):  # type: ignore[valid-type,misc]
            a = peewee.IntegerField()
            b = peewee.IntegerField()
            name = peewee.CharField(null=True)

            class Meta:
                primary_key = peewee.CompositeKey("a", "b")

        self.Owner, self.Thing, self.Named, self.Pair = Owner, Thing, Named, Pair
        self.all = [Owner, Thing, Named, Pair]
        self.database = database

    def restart(self) -> None:
        """Begin the defaults that count anew."""
        self._next = itertools.count(1)

    def count(self) -> int:
        return next(self._next)

    def seconds(self) -> datetime.datetime:
        return datetime.datetime(2020, 1, 1) + datetime.timedelta(seconds=next(self._next))


def models_on(database: Any) -> Models:
    """The models on a database, whose tables are not made here."""
    return Models(database)


def resolved(models: Models, row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: models.Owner(id=value.key, name="of a row") if isinstance(value, Ref) else value for name, value in row.items()
    }


def insert_query(models: Models, rows: Any, shape: str, value: str, clause: str) -> Any:
    """An insert into `Thing`, its rows given in one of the ways that Peewee takes."""
    Thing = models.Thing
    rows = [resolved(models, row) for row in rows]
    if rows and value != "plain" and rows[0]:
        name = next(iter(rows[0]))
        rows[-1][name] = {
            "value": peewee.Value(rows[0][name]),
            "sql": peewee.SQL("1 + ?", (1,)),
            "function": peewee.fn.upper("a"),
            "query": models.Owner.select(peewee.fn.max(models.Owner.id)),
            "field": Thing.text,
        }[value]
    if clause == "from":
        query = Thing.insert_from(models.Owner.select(models.Owner.name, models.Owner.id), [Thing.char, Thing.integer])
    elif shape == "one":
        query = Thing.insert(rows[0] if rows else {})
    elif shape in ("tuples", "lists"):
        names = list(rows[0]) if rows else ["char"]
        kind = tuple if shape == "tuples" else list
        query = Thing.insert_many([kind(row.values()) for row in rows], fields=[getattr(Thing, name) for name in names])
    elif shape == "fields":
        query = Thing.insert_many([{getattr(Thing, name): part for name, part in row.items()} for row in rows])
    elif shape == "columns":
        query = Thing.insert_many([{getattr(Thing, name).column_name: part for name, part in row.items()} for row in rows])
    elif shape == "generator":
        query = Thing.insert_many(row for row in rows)
    else:
        query = Thing.insert_many(rows)
    return {
        "returning": lambda: query.returning(Thing.id, Thing.char),
        "ignore": query.on_conflict_ignore,
        "replace": query.on_conflict_replace,
        "nothing": lambda: query.on_conflict(action="IGNORE"),
        "update": lambda: query.on_conflict(conflict_target=[Thing.id], preserve=[Thing.char], update={Thing.text: "u"}),
        "rowcount": query.as_rowcount,
    }.get(clause, lambda: query)()


def each(*functions: Callable[[], Any]) -> list[Any]:
    """What each function gives or raises, where an error does not spare the others."""
    found = []
    for function in functions:
        try:
            found.append(function())
        except Exception as error:
            found.append(told(error))
    return found


@call
def insert(session: Session, **arguments: Any) -> Any:
    result = insert_query(session.models, **arguments).execute()
    return list(result) if hasattr(result, "__iter__") else result


@call
def everything(session: Session) -> Any:
    return [list(model.select().tuples()) for model in session.models.all]


@call
def create(session: Session, row: dict[str, Any]) -> Any:
    return session.models.Thing.create(**resolved(session.models, row))


@call
def save(session: Session, row: dict[str, Any], only: bool) -> Any:
    Thing = session.models.Thing
    thing = Thing(**resolved(session.models, row))
    fields = [Thing.char, Thing.integer] if only else None
    return each(lambda: thing.save(only=fields), lambda: thing, thing.save, lambda: thing.save(force_insert=True))


@call
def change(session: Session, key: int, row: dict[str, Any], only: bool) -> Any:
    thing = session.models.Thing.get_by_id(key)
    for name, value in resolved(session.models, row).items():
        setattr(thing, name, value)
    return thing.save(only=thing.dirty_fields if only else None), thing, session.models.Thing.get_by_id(key)


@call
def bulk_create(session: Session, rows: list[dict[str, Any]], size: int | None) -> Any:
    things = [session.models.Thing(**resolved(session.models, row)) for row in rows]
    return session.models.Thing.bulk_create(things, batch_size=size), things


@call
def bulk_update(session: Session, name: str, values: list[str]) -> Any:
    things = list(session.models.Thing.select().order_by(session.models.Thing.id).limit(len(values)))
    for thing, value in zip(things, values, strict=False):
        setattr(thing, name, value)
    return session.models.Thing.bulk_update(things, fields=[name], batch_size=2)


@call
def update(session: Session, key: int, row: dict[str, Any]) -> Any:
    Thing = session.models.Thing
    changes = {getattr(Thing, name): value for name, value in resolved(session.models, row).items()}
    first = Thing.update({**changes, Thing.counted: Thing.counted + 1}).where(Thing.id == key).execute()
    found = list(Thing.update(char=Thing.char.concat("!")).where(Thing.id <= key).returning(Thing.id, Thing.char).tuples())
    return first, found


@call
def delete(session: Session, key: int, kind: str) -> Any:
    models = session.models
    if kind == "query":
        return models.Thing.delete().where(models.Thing.id == key).execute()
    if kind == "instance":
        return models.Thing.get_by_id(key).delete_instance()
    if kind == "by_id":
        return models.Thing.delete_by_id(key)
    if kind == "owner":
        return models.Owner.delete().where(models.Owner.id == key).execute()
    return models.Owner.get_by_id(key).delete_instance(recursive=True)


@call
def replace(session: Session, key: int, row: dict[str, Any]) -> Any:
    Thing = session.models.Thing
    values = resolved(session.models, row)
    return Thing.replace(id=key, **values).execute(), Thing.replace_many([{"id": key, "char": "m"}]).execute()


@call
def get_or_create(session: Session, name: str) -> Any:
    Owner = session.models.Owner
    found = Owner.get_or_create(name=name)
    return each(lambda: found, lambda: Owner.get_or_none(Owner.name == name), lambda: Owner.get(Owner.name == name + "!"))


@call
def pair(session: Session, a: int, b: int, name: str) -> Any:
    Pair = session.models.Pair
    first = Pair.insert(a=a, b=b, name=name).on_conflict(
        conflict_target=[Pair.a, Pair.b], update={Pair.name: Pair.name.concat(name)}
    )
    return each(first.execute, lambda: Pair.get_by_id((a, b)), lambda: Pair.create(a=b, b=a, name=name))


@call
def named(session: Session, key: str, name: str) -> Any:
    Named = session.models.Named
    done = Named.insert_many([(key, name), (key + "2", name)], fields=[Named.key, Named.name]).on_conflict_replace()
    return each(
        done.execute,
        lambda: Named.get_by_id(key),
        lambda: Named(key=key, name="saved").save(),
        lambda: Named.create(key=key, name=name),
        lambda: Named.create(key=key + "3", name=name),
    )


@call
def owner(session: Session, name: str) -> Any:
    Owner = session.models.Owner
    return each(
        lambda: Owner.create(name=name),
        lambda: Owner.insert(name=name + "+").execute(),
        lambda: Owner.insert(name=name).execute(),
    )


@call
def get(session: Session, key: int) -> Any:
    Thing = session.models.Thing
    return each(
        lambda: Thing.get_or_none(Thing.id == key),
        lambda: Thing.select().where(Thing.owner == key).first(),
        lambda: Thing[key],
    )


@call
def read(session: Session, shape: str, name: str) -> Any:
    models = session.models
    query = models.Thing.select(models.Thing.id, getattr(models.Thing, name), models.Owner.id, models.Owner.name)
    query = query.join(models.Owner, peewee.JOIN.LEFT_OUTER).order_by(models.Thing.id)
    return list(query if shape == "models" else getattr(query, shape)())


def _queries(models: Models) -> dict[str, Callable[[], Any]]:
    Owner, Thing = models.Owner, models.Thing
    total = peewee.fn.COUNT(Thing.id)
    cte = Owner.select(Owner.id, Owner.name).cte("chosen", columns=["id", "name"])
    return {
        "join": lambda: list(Thing.select(Thing, Owner).join(Owner).order_by(Thing.id)),
        "left": lambda: list(
            Owner.select(Owner, Thing.id).join(Thing, peewee.JOIN.LEFT_OUTER).order_by(Owner.id, Thing.id).dicts()
        ),
        "aggregate": lambda: list(Owner.select(Owner.name, total.alias("n")).join(Thing).group_by(Owner).having(total > 0)),
        "prefetch": lambda: [(one, list(one.things)) for one in peewee.prefetch(Owner.select().order_by(Owner.id), Thing)],
        "backref": lambda: [list(one.things.order_by(Thing.id)) for one in Owner.select().order_by(Owner.id)],
        "cte": lambda: list(cte.select_from(cte.c.id, cte.c.name).tuples()),
        "union": lambda: list((Owner.select(Owner.name) | Thing.select(Thing.char)).order_by(peewee.SQL("1")).tuples()),
        "window": lambda: list(Thing.select(Thing.id, peewee.fn.SUM(Thing.id).over(order_by=[Thing.id])).tuples()),
        "subquery": lambda: list(Thing.select(Thing.id).where(Thing.owner.in_(Owner.select(Owner.id))).tuples()),
        "exists": lambda: (Thing.select().exists(), Thing.select().where(Thing.id == 0).exists()),
        "count": lambda: (Thing.select().count(), Thing.select().limit(1).count()),
        "values": lambda: list(
            peewee.ValuesList([(1, "a"), (2, "b")], ("x", "y")).select(peewee.SQL("*")).bind(models.database).tuples()
        ),
        "scalar": lambda: (
            Thing.select(peewee.fn.MAX(Thing.id)).scalar(),
            Thing.select(Thing.id, Thing.char).scalar(as_tuple=True),
        ),
        "iterator": lambda: list(Thing.select().order_by(Thing.id).iterator()),
        "json": lambda: list(Thing.select(Thing.json["a"], Thing.json["a"][0]).tuples()),
        # Of a NULL Peewee on sqlite3 makes an int and fails.
        "date": lambda: list(Thing.select(Thing.moment.year, Thing.day.month).where(Thing.moment & Thing.day).tuples()),
        "truncated": lambda: list(Thing.select(Thing.moment.truncate("month")).tuples()),
        "flag": lambda: list(Thing.select(Thing.id, Thing.red).where(Thing.flags.bin_and(1) != 0).tuples()),
        "random": lambda: list(
            Thing.select(Thing.id).order_by(Thing.char.desc(nulls="last"), Thing.id).limit(2).offset(1).dicts()
        ),
        "raw": lambda: list(Owner.raw("SELECT id, name, id AS extra FROM owner WHERE id > ?", 0)),
        "columns": lambda: (
            models.database.get_columns("thing"),
            models.database.get_indexes("thing"),
            models.database.get_foreign_keys("thing"),
        ),
        "twice": lambda: list(Owner.select(Owner.id, Owner.id, Owner.name.alias("id")).tuples()),
    }


@call
def query(session: Session, kind: str) -> Any:
    return _queries(session.models)[kind]()


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
        outcomes: list[Outcome] = pickle.load(self._process.stdout)  # noqa: S301  # of our own process
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
                setup, program = pickle.load(source)  # noqa: S301  # of our own process
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
            database.create_tables(session.models.all)
            session.models.Owner.insert_many([{"name": "ann"}, {"name": "bob"}]).execute()
            session.models.Thing.insert_many([{"char": "one", "owner": 1}, {"char": "two", "owner": 2}]).execute()
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
