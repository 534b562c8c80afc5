"""Whatever is written, by whom and how, replaying the captured events onto an empty copy gives the same table."""

import base64
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peewee import (
    BlobField,
    BooleanField,
    CharField,
    CompositeKey,
    DateTimeField,
    DecimalField,
    FloatField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    TextField,
    UUIDField,
)

from peewee_honker import HonkerDatabase
from peewee_honker.capture import Capture
from peewee_honker.capture.forms import literal, quoted
from tests.support.laws import examples
from tests.support.writers import Elsewhere, Here, Shell

SCHEMA = [
    """CREATE TABLE thing (
        id INTEGER PRIMARY KEY, "the ""code" TEXT COLLATE NOCASE UNIQUE, "left" INTEGER NOT NULL DEFAULT 0, "right" INTEGER,
        amount DECIMAL(10, 5), "real" REAL, data BLOB, doc JSON, flag BOOL, at DATETIME, uid TEXT, "group" TEXT,
        UNIQUE ("left", "right") ON CONFLICT REPLACE)""",
    """CREATE TABLE pair (
        one TEXT COLLATE NOCASE, two INTEGER, note TEXT, twice INTEGER AS (two * 2) VIRTUAL, thing INTEGER UNIQUE
        REFERENCES thing (id) ON DELETE CASCADE ON UPDATE CASCADE, PRIMARY KEY (one, two)) WITHOUT ROWID""",
    'CREATE TABLE loose ("order" TEXT, n INTEGER, deleted INTEGER DEFAULT 0, PRIMARY KEY ("order"))',
    "CREATE UNIQUE INDEX loose_live ON loose (n) WHERE deleted = 0 /* not ) those */ AND n <> 3",
    'CREATE UNIQUE INDEX loose_word ON loose (substr(lower("order"), 1, 1), /* , */ n DESC)',
]


class Thing(Model):
    code = CharField(column_name='the "code')
    left = IntegerField()
    right = IntegerField()
    amount = DecimalField()
    real = FloatField()
    data = BlobField()
    doc = JSONField()
    flag = BooleanField()
    at = DateTimeField()
    uid = UUIDField()
    kind = TextField(column_name="group")


class Pair(Model):
    one = CharField()
    two = IntegerField()
    note = TextField()
    twice = IntegerField()
    thing = ForeignKeyField(Thing, column_name="thing")

    class Meta:
        primary_key = CompositeKey("one", "two")


class Loose(Model):
    order = TextField(primary_key=True)
    n = IntegerField()
    deleted = BooleanField()


MODELS = (Thing, Pair, Loose)

small = st.integers(-1, 4).map(str)
integers = small | st.sampled_from([str(2**63 - 1), f"(-{2**63 - 1} - 1)", str(2**53 + 1)])
reals = st.floats(allow_nan=False).map(lambda x: repr(x) if abs(x) != float("inf") else ("9e999" if x > 0 else "-9e999"))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(literal)
words = st.sampled_from(["a", "A", "b", "ab", "Ab", "it's", 'q"', "%s", ""]).map(literal)
null = st.just("NULL")
VALUES: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "thing": {
        "id": small | null,
        'the "code': words | null,
        "left": small,
        "right": small | null,
        "amount": st.decimals(-(10**6), 10**6, places=5).map(lambda x: literal(str(x))) | integers | null,
        "real": reals | null,
        "data": st.binary(max_size=7).map(lambda x: f"x'{x.hex()}'") | null,
        "doc": st.sampled_from(['{"a":[1,null,true,"x"]}', "5", '"s"', "1.5", "[]"]).map(literal) | null,
        "flag": st.sampled_from(["0", "1", "NULL"]),
        "at": st.datetimes().map(lambda x: literal(str(x))) | null,
        "uid": st.uuids().map(lambda x: literal(x.hex)) | null,
        "group": texts | reals | null,
    },
    "pair": {"one": words, "two": small, "note": texts | integers, "thing": small | null},
    "loose": {"order": words, "n": small, "deleted": st.sampled_from(["0", "1"])},
}


@st.composite
def statements(draw: Any) -> str:
    """One random change of one of the tables."""
    table = draw(st.sampled_from(sorted(VALUES)))
    values = VALUES[table]
    columns = draw(st.lists(st.sampled_from(sorted(values)), min_size=1, unique=True))
    if table != "thing":
        columns = sorted({*columns, *sorted(values)[:2], "one" if table == "pair" else "order"})
    names = ", ".join(map(quoted, columns))
    key = draw(st.sampled_from(sorted(values)))
    condition = draw(st.just("1") | values[key].map(lambda value: f"{quoted(key)} IS {value}"))
    policy = draw(st.sampled_from(["", "", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT"]))
    kind = draw(st.sampled_from(["insert", "insert", "upsert", "select", "update", "update", "delete"]))
    assignments = ", ".join(f"{quoted(column)} = {draw(values[column])}" for column in columns)
    if kind == "delete":
        return f"DELETE FROM {table} WHERE {condition}"
    if kind == "update":
        return f"UPDATE {policy} {table} SET {assignments} WHERE {condition}"
    if kind == "select":
        others = ", ".join(draw(values[column]) if draw(st.booleans()) else quoted(column) for column in columns)
        return f"INSERT {policy} INTO {table} ({names}) SELECT {others} FROM {table} WHERE {condition}"
    rows = ", ".join(f"({', '.join(draw(values[column]) for column in columns)})" for _row in range(draw(st.integers(1, 3))))
    if kind == "upsert":
        return f"INSERT INTO {table} ({names}) VALUES {rows} ON CONFLICT DO UPDATE SET {assignments} WHERE {condition}"
    return f"INSERT {policy} INTO {table} ({names}) VALUES {rows}"


@st.composite
def batches(draw: Any) -> list[str]:
    """Statements, alone or in a transaction with a savepoint, any of which may be undone."""
    changes = draw(st.lists(statements(), min_size=1, max_size=4))
    if draw(st.booleans()):
        return changes
    inner = draw(st.lists(statements(), max_size=2))
    undone = draw(st.sampled_from([["RELEASE s"], ["ROLLBACK TO s", "RELEASE s"]]))
    return [
        "BEGIN IMMEDIATE",
        *changes,
        "SAVEPOINT s",
        *inner,
        *undone,
        draw(st.sampled_from(["COMMIT", "COMMIT", "ROLLBACK"])),
    ]


class Replay:
    """An empty copy of the tables, onto which events are replayed."""

    def __init__(self) -> None:
        self.copy = sqlite3.connect(":memory:")
        for sql in SCHEMA:
            self.copy.execute(sql.replace(" ON CONFLICT REPLACE", ""))

    def apply(self, event: dict[str, Any]) -> None:
        model = next(model for model in MODELS if event["type"].startswith(f"{model._meta.table_name}."))
        fields = [field for field in model._meta.sorted_fields if field.name != "twice"]
        table = model._meta.table_name
        row = {field.column_name: stored(field, event["payload"][field.name]) for field in fields}
        if model is Pair:
            assert event["payload"]["twice"] == event["payload"]["two"] * 2, "a generated column is told"
        keys = [field.column_name for field in model._meta.get_primary_keys()]
        assert event["id"] == ",".join(str(row[key]) for key in keys)
        assert event["type"] == f"{table}.{'deleted' if event['operation'] == 'delete' else 'saved'}"
        where = " AND ".join(f"{quoted(key)} = ? COLLATE BINARY" for key in keys)
        values = [row[key] for key in keys]
        if event["operation"] == "insert":
            names, places = ", ".join(map(quoted, row)), ", ".join("?" * len(row))
            self.copy.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", list(row.values()))
            return
        old = self.copy.execute(f"SELECT {', '.join(map(quoted, row))} FROM {table} WHERE {where}", values).fetchone()
        if event["operation"] == "update":
            changed = {
                field.name: [stored(field, value) for value in event["changes"][field.name]]
                for field in fields
                if field.name in event["changes"]
            }
            assert changed
            before = dict(zip((field.name for field in fields), old, strict=True))
            assert {name: before[name] for name in changed} == {name: pair[0] for name, pair in changed.items()}
            places = ", ".join(f"{quoted(column)} = ?" for column in row)
            self.copy.execute(f"UPDATE {table} SET {places} WHERE {where}", [*row.values(), *values])
        else:
            assert old == tuple(row.values()), "a delete carries the old row"
            assert self.copy.execute(f"DELETE FROM {table} WHERE {where}", values).rowcount == 1

    def rows(self, table: str) -> list[Any]:
        return typed(self.copy.execute(f"SELECT {columns_of(table)} FROM {table}").fetchall())


def columns_of(table: str) -> str:
    return ", ".join(f"{quoted(column)}, typeof({quoted(column)})" for column in VALUES[table])


def typed(rows: list[Any]) -> list[Any]:
    return sorted((tuple(row) for row in rows), key=repr)


_column = sqlite3.connect(":memory:")
_column.execute("CREATE TABLE t (a NUMERIC)")


def numeric(text: str) -> Any:
    """What a column for numbers makes of a text."""
    return _column.execute("INSERT INTO t VALUES (?) RETURNING a", (text,)).fetchone()[0]


def stored(field: Any, value: Any) -> Any:
    """What the column holds for a value of a payload."""
    if value is None:
        return None
    if isinstance(field, BlobField):
        return base64.b64decode(value, validate=True)
    if isinstance(field, JSONField):
        return numeric(json.dumps(value, separators=(",", ":")))
    if isinstance(field, DateTimeField):
        return value.replace("T", " ")
    if isinstance(field, UUIDField):
        return value.replace("-", "")
    if isinstance(field, DecimalField):
        return numeric(value)
    return value


@pytest.fixture
def captured(db: HonkerDatabase) -> HonkerDatabase:
    """The tables, captured."""
    for sql in SCHEMA:
        db.execute_sql(sql)
    db.bind(MODELS)
    for model in MODELS:
        Capture(model, old_values=True).install()
    Capture(
        Thing, name="some", channel="some.{operation}", columns=["id", "left", "right"], where=(Thing.left > 0) & Thing.flag
    ).install()
    return db


@pytest.fixture(params=["this process", "another process", "the sqlite3 shell"])
def writer(request: Any, captured: HonkerDatabase, path: str) -> Iterator[Any]:
    made: dict[str, Callable[[], Any]] = {
        "this process": lambda: Here(captured),
        "another process": lambda: Elsewhere(path),
        "the sqlite3 shell": lambda: Shell(path),
    }
    if request.param == "the sqlite3 shell" and shutil.which("sqlite3") is None:
        pytest.skip("the sqlite3 shell is not installed (Debian's package sqlite3)")
    writer = made[request.param]()
    yield writer
    writer.close()


def apply_to_view(view: dict[str, Any], event: dict[str, Any]) -> None:
    """Follow a view of some rows and fields."""
    row = tuple(event["payload"].values())
    if event["operation"] == "insert":
        assert event["id"] not in view
        view[event["id"]] = row
    elif event["operation"] == "update":
        assert view[event["id"]] != row, "an update changes something that the view shows"
        view[event["id"]] = row
    else:
        assert view.pop(event["id"]) == row


HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def check(captured: HonkerDatabase, writer: Any, batches: list[list[str]], recursive: bool) -> None:
    """Write, and replay what was told."""
    for table in (*VALUES, "_honker_notifications"):
        captured.execute_sql(f"DELETE FROM {table}")
    captured.execute_sql("DELETE FROM _honker_notifications")
    pragma = [] if isinstance(writer, Here) else [f"PRAGMA recursive_triggers = {int(recursive)}"]

    for batch in batches:
        writer.run([*pragma, *batch])

    replay = Replay()
    view: dict[str, Any] = {}
    for (text,) in captured.execute_sql("SELECT payload FROM _honker_notifications ORDER BY id").fetchall():
        event = json.loads(text)
        if event["type"].startswith("some."):
            apply_to_view(view, event)
        else:
            replay.apply(event)
    shown = captured.execute_sql('SELECT id, "left", "right" FROM thing WHERE "left" > 0 AND flag').fetchall()
    assert sorted(view.values(), key=repr) == sorted(map(tuple, shown), key=repr)
    for table in VALUES:
        rows = captured.execute_sql(f"SELECT {columns_of(table)} FROM {table}").fetchall()
        assert replay.rows(table) == typed(rows)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=HEALTH)
@given(batches=st.lists(batches(), min_size=1, max_size=4), recursive=st.booleans())
def test_replaying_the_events_onto_an_empty_copy_gives_the_same_table(captured, writer, batches, recursive):
    check(captured, writer, batches, recursive)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=4000, deadline=None, suppress_health_check=HEALTH)
@given(batches=st.lists(batches(), min_size=1, max_size=6), recursive=st.booleans())
def test_replaying_the_events_of_long_histories_gives_the_same_table(captured, writer, batches, recursive):
    check(captured, writer, batches, recursive)
