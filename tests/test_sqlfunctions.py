"""Dates and JSON containment in SQL give what Peewee's Python functions give."""

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peewee import (
    CharField,
    DateField,
    DateTimeField,
    JSONField,
    Model,
    NotSupportedError,
    SqliteDatabase,
    TimeField,
    fn,
)

from peewee_honker import sqlfunctions

PARTS = ["year", "month", "day", "hour", "minute", "second"]


class SqlDatabase(SqliteDatabase):
    """Peewee's own class, but for the functions under test."""

    json_methods = sqlfunctions.HonkerJSONMethods

    def extract_date(self, date_part: str, date_field: Any) -> Any:
        return sqlfunctions.extract_date(date_part, date_field)

    def truncate_date(self, date_part: str, date_field: Any) -> Any:
        return sqlfunctions.truncate_date(date_part, date_field)


stock = SqliteDatabase(":memory:")
ours = SqlDatabase(":memory:")


class Moment(Model):
    at = DateTimeField(null=True)
    day = DateField(null=True)
    time = TimeField(null=True)
    name = CharField(default="")


class Document(Model):
    data = JSONField(null=True)


@pytest.fixture(autouse=True)
def _tables():
    for database in (stock, ours):
        with database.bind_ctx([Moment, Document]):
            database.create_tables([Moment, Document])
    yield
    for database in (stock, ours):
        with database.bind_ctx([Moment, Document]):
            database.drop_tables([Moment, Document])
        database.close()


offsets = st.none() | st.builds(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes)), st.integers(-12 * 60, 12 * 60)
)
stored = (
    st.datetimes(min_value=datetime.datetime(1000, 1, 1), timezones=offsets).map(str)
    | st.dates(min_value=datetime.date(1000, 1, 1)).map(str)
    | st.times(timezones=offsets).map(str)
    | st.just("12:34")
    | st.none()
    | st.just("")
)


def value_of(database: SqliteDatabase, expression: Any) -> Any:
    sql, parameters = database.get_sql_context().sql(expression).query()
    return database.execute_sql(f"SELECT {sql}", parameters).fetchone()[0]


@given(stored, st.sampled_from(PARTS))
def test_every_part_of_every_stored_form_is_what_peewee_says(value, part):
    assert value_of(ours, ours.extract_date(part, value)) == value_of(stock, stock.extract_date(part, value))


@given(stored, st.sampled_from(PARTS))
def test_every_truncation_is_what_peewee_says(value, part):
    assert value_of(ours, ours.truncate_date(part, value)) == value_of(stock, stock.truncate_date(part, value))


def test_an_unknown_part_is_refused_by_name():
    with pytest.raises(ValueError, match="no part 'week'"):
        sqlfunctions.extract_date("week", "2020-01-01")


def test_text_that_is_no_date_gives_null():
    assert value_of(ours, ours.extract_date("year", "yesterday")) is None


def moments(database: SqliteDatabase) -> list[Any]:
    with database.bind_ctx([Moment]):
        for year, month in [(2019, 12), (2020, 1), (2020, 1), (2021, 6)]:
            at = datetime.datetime(year, month, 3, 4, 5, 6, 789)
            Moment.create(at=at, day=at.date(), time=at.time())
        month = fn.COUNT(Moment.id).alias("n")
        return [
            [row.id for row in Moment.select().where(Moment.at.year == 2020)],
            list(Moment.select(Moment.at.year, month).group_by(Moment.at.year).order_by(Moment.at.year).tuples()),
            list(Moment.select(fn.MAX(Moment.at.month), fn.MIN(Moment.time.minute)).tuples()),
            list(Moment.select(Moment.at.truncate("month").alias("m")).order_by(Moment.id).tuples()),
            list(Moment.select(Moment.day.truncate("year"), Moment.time.hour).order_by(Moment.id).tuples()),
            list(Moment.select(Moment.at.day + 1).where(Moment.at.hour < 5).tuples()),
        ]


def test_queries_by_parts_of_dates_give_the_same_rows():
    assert moments(ours) == moments(stock)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, 1.5, -2.5])
    | st.sampled_from(["", "a", "b", "true", "1", 'q"\\', "\u00e9\u2028", "a.b"])
)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "a.b", 'k"', ""]), inner, max_size=3)
    ),
    max_leaves=6,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max((depth_of(item) for item in value), default=0) if isinstance(value, list) else 1


def answers(database: SqliteDatabase, stored: Any, value: Any) -> tuple[Any, Any]:
    with database.bind_ctx([Document]):
        Document.delete().execute()
        Document.insert(data=stored).execute()
        contains = Document.select(Document.data.contains(value)).tuples().get()[0]
        contained = Document.select(Document.data.contained_by(value)).tuples().get()[0]
        return contains, contained


shallow = documents.filter(lambda document: depth_of(document) <= sqlfunctions._Containment.DEEPEST)


@given(shallow, shallow)
def test_containment_is_what_peewee_says(stored, value):
    assert answers(ours, stored, value) == answers(stock, stored, value)


@given(shallow.filter(lambda document: document is not None))  # None is stored as SQL's NULL
def test_a_document_contains_itself(document):
    assert answers(ours, document, document) == (1, 1)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth - 1):
        value = [value] if level % 2 else {"k": value}
    return value


def test_the_deepest_value_that_is_said_to_work_does():
    deepest = sqlfunctions._Containment.DEEPEST
    assert answers(ours, nested(deepest), nested(deepest)) == (1, 1)
    with pytest.raises(NotSupportedError, match="nested more than"):
        answers(ours, 1, nested(deepest + 1))


def test_containment_below_a_path():
    for database in (stock, ours):
        with database.bind_ctx([Document]):
            Document.create(data={"tags": ["a", "b"], "size": {"w": 1}})
            Document.create(data={"tags": ["b"]})
            found = Document.select().where(Document.data["tags"].contains(["a"]))
            assert [json.dumps(row.data["tags"]) for row in found] == ['["a", "b"]']
            assert Document.select().where(Document.data["size"].contained_by({"w": 1, "h": 2})).count() == 1
            assert Document.select().where(Document.data["none"].contains(1)).count() == 0


def test_a_value_that_is_no_json_gives_null():
    with ours.bind_ctx([Document]):
        ours.execute_sql("INSERT INTO document (data) VALUES ('not json'), (NULL)")
        assert [row[0] for row in Document.select(Document.data.contains(1)).tuples()] == [None, None]
