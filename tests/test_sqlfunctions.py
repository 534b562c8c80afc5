"""Dates and JSON containment in plain SQL give what Peewee's Python functions give on the same rows."""

import datetime
import json
from collections.abc import Iterator
from typing import Any

import peewee
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from peewee import CharField, DateField, DateTimeField, JSONField, Model, SqliteDatabase, TimeField, TimestampField, fn

from peewee_honker.sqlfunctions import HonkerJSONMethods, extract_date, truncate_date
from tests.support.laws import examples

PARTS = ["year", "month", "day", "hour", "minute", "second"]


class PlainDatabase(SqliteDatabase):
    """Says in SQL what Peewee does by Python functions; those stay registered, to compare with."""

    json_methods = HonkerJSONMethods

    def extract_date(self, date_part: str, date_field: Any) -> Any:
        return extract_date(date_part, date_field)

    def truncate_date(self, date_part: str, date_field: Any) -> Any:
        return truncate_date(date_part, date_field)


class Visit(Model):
    place = CharField(default="")
    at = DateTimeField(null=True)
    day = DateField(null=True)
    time = TimeField(null=True)
    stamp = TimestampField(null=True, utc=True, default=None)


class Article(Model):
    title = CharField(default="")
    value = JSONField(null=True)


@pytest.fixture(autouse=True)
def db() -> Iterator[PlainDatabase]:
    database = PlainDatabase(":memory:")
    with database.bind_ctx([Visit, Article]), database:
        database.create_tables([Visit, Article])
        yield database


# Dates

zones = st.none() | st.timedeltas(datetime.timedelta(hours=-23, minutes=-59), datetime.timedelta(hours=23, minutes=59)).map(
    datetime.timezone
)
# Peewee leaves the padding of years before 1000 to the platform's strftime.
moments = st.datetimes(min_value=datetime.datetime(1000, 1, 1), timezones=zones)
times = st.times(timezones=zones)
stored = st.one_of(
    st.none(),
    st.just(""),
    moments.map(str),
    moments.map(lambda moment: str(moment.replace(microsecond=0))),
    moments.map(lambda moment: str(moment.date())),
    moments.map(lambda moment: moment.isoformat()),
    moments.map(lambda moment: moment.replace(tzinfo=None).isoformat(" ", "minutes")),
    times.map(str),
    times.map(lambda time: str(time.replace(microsecond=0))),
    times.map(lambda time: time.replace(tzinfo=None).isoformat("minutes")),
)
with_db = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@given(text=stored)
@example(text="2024-02-29 23:59:59.999999+14:00")
@example(text="00:00")
@with_db
def test_every_part_is_what_peewees_function_gives(db: PlainDatabase, text: str | None) -> None:
    for part in PARTS:
        ours, peewees = peewee.Select(columns=[extract_date(part, text), fn.date_part(part, text)]).tuples().execute(db)[0]
        assert ours == peewees, part
        ours, peewees = peewee.Select(columns=[truncate_date(part, text), fn.date_trunc(part, text)]).tuples().execute(db)[0]
        assert ours == peewees, part


@given(at=moments, stamp=st.integers(0, 2**33))
@with_db
def test_a_models_fields_have_the_parts_that_were_stored(at: datetime.datetime, stamp: int) -> None:
    Visit.delete().execute()
    Visit.create(at=at, day=at.date(), time=at.timetz(), stamp=stamp)
    of_stamp = datetime.datetime.fromtimestamp(stamp, datetime.UTC)
    for part in PARTS:
        assert Visit.select(getattr(Visit.at, part)).scalar() == getattr(at, part)
        assert Visit.select(getattr(Visit.stamp, part)).scalar() == getattr(of_stamp, part)
        owner = Visit.day if part in ("year", "month", "day") else Visit.time
        assert Visit.select(getattr(owner, part)).scalar() == getattr(at, part)


def test_a_truncated_date_is_a_datetime() -> None:
    Visit.create(at=datetime.datetime(2024, 5, 17, 13, 45, 59, 123456))
    starts = [Visit.select(Visit.at.truncate(part).alias("start")).get().start for part in PARTS]
    assert starts == [
        datetime.datetime(2024, 1, 1),
        datetime.datetime(2024, 5, 1),
        datetime.datetime(2024, 5, 17),
        datetime.datetime(2024, 5, 17, 13),
        datetime.datetime(2024, 5, 17, 13, 45),
        datetime.datetime(2024, 5, 17, 13, 45, 59),
    ]


def test_the_first_millennium_is_truncated_too() -> None:
    Visit.create(at=datetime.datetime(33, 4, 3, 15))
    assert Visit.select(Visit.at.truncate("month").alias("start")).get().start == datetime.datetime(33, 4, 1)


@pytest.fixture
def visits() -> None:
    for place, at in [("A", (2023, 12, 31)), ("B", (2024, 1, 1)), ("A", (2024, 3, 1)), ("B", (2024, 3, 2))]:
        Visit.create(place=place, at=datetime.datetime(*at))
    Visit.create(place="never")


@pytest.mark.usefixtures("visits")
def test_a_part_filters_groups_and_orders() -> None:
    assert [v.place for v in Visit.select().where(Visit.at.year == 2024).order_by(Visit.id)] == ["B", "A", "B"]
    per_month = (
        Visit.select(Visit.at.month.alias("month"), fn.COUNT(Visit.id).alias("n"))
        .where(Visit.at.is_null(False))
        .group_by(Visit.at.month)
        .having(Visit.at.month > 0)
        .order_by(Visit.at.month.desc())
    )
    assert list(per_month.tuples()) == [(12, 1), (3, 2), (1, 1)]


@pytest.mark.usefixtures("visits")
def test_a_part_works_in_and_around_aggregates() -> None:
    assert Visit.select(fn.MAX(Visit.at.year)).scalar() == 2024
    query = Visit.select(Visit.place, extract_date("month", fn.MAX(Visit.at))).group_by(Visit.place).order_by(Visit.place)
    assert list(query.tuples()) == [("A", 3), ("B", 3), ("never", None)]


@pytest.mark.usefixtures("visits")
def test_parameters_and_subqueries_in_the_expression_are_each_compiled_where_they_stand() -> None:
    known = fn.COALESCE(Visit.at, "1970-01-02", python_value=str)
    query = Visit.select().where((Visit.place != "x") & (extract_date("year", known) == 1970) & (Visit.place != "y"))
    assert [v.place for v in query] == ["never"]
    Other = Visit.alias()
    last = Other.select(fn.MAX(Other.at)).where(Other.place == Visit.place)
    query = Visit.select(Visit.id).where((extract_date("day", last) == 2) & (Visit.place == "B"))
    assert query.count() == 2
    assert [v.place for v in Other.select().where(Other.at.day == 31)] == ["A"]


@pytest.mark.usefixtures("visits")
def test_a_part_changes_and_deletes_the_right_rows() -> None:
    assert Visit.update(place="old").where(Visit.at.year < 2024).execute() == 1
    assert Visit.delete().where(Visit.at.truncate("month") == "2024-03-01 00:00:00").execute() == 2


@pytest.mark.usefixtures("visits")
def test_a_part_without_alias_is_named_after_its_field() -> None:
    rows = list(Visit.select(Visit.at.year).order_by(Visit.id))
    assert [row.at for row in rows] == [2023, 2024, 2024, 2024, None]
    assert Visit.select(Visit.at.truncate("year")).order_by(Visit.id).dicts().get() == {"at": datetime.datetime(2023, 1, 1)}


@pytest.mark.parametrize("text", ["soon", "now", "2024", "12", "2024-13-01", "25:00:00", "2024-01-01 10:20+02:00"])
def test_text_that_is_no_date_has_no_parts(db: PlainDatabase, text: str) -> None:
    assert peewee.Select(columns=[extract_date("year", text)]).tuples().execute(db)[0] == (None,)


@pytest.mark.parametrize("function", [extract_date, truncate_date])
def test_an_unknown_part_is_refused(function: Any) -> None:
    with pytest.raises(ValueError, match="'week' is no part of a date: it must be one of year, month"):
        function("week", Visit.at)


# JSON

keys = st.sampled_from(["a", "b", "a.b", 'q"', "it's", "", "é", "$", "0", "\\", "value", "[0]"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([2**63 - 1, -(2**63), 2**53, 2**53 + 1, float(2**53), 1e300, float("inf")]),
    st.sampled_from([0.0, -0.0, 1.0, 2.5, "", "a", "1", "true", "null", "é", "\U0001f600", "[1]", '{"a": 1}', "\n", '"']),
    st.floats(allow_nan=False),
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)


def parts_of(document: Any) -> st.SearchStrategy[Any]:
    """Values that the document is likely to contain, or nearly."""
    if isinstance(document, dict) and document:
        some = st.sets(st.sampled_from(sorted(document))).map(sorted)
        return some.flatmap(lambda names: st.fixed_dictionaries({name: parts_of(document[name]) for name in names}))
    if isinstance(document, list) and document:
        return st.lists(st.sampled_from(document).flatmap(parts_of), max_size=4) | st.sampled_from(document)
    return st.just(document) | scalars


pairs = st.tuples(documents, documents) | documents.flatmap(lambda whole: st.tuples(st.just(whole), parts_of(whole)))


def verdicts(method: str, stored: str | None, value: Any) -> tuple[Any, Any]:
    """What the field's method says of a stored text and a value, and what Peewee's function says."""
    Article.delete().execute()
    Article.insert(value=peewee.Value(stored, converter=False)).execute()
    text = peewee.Value(json.dumps(value), converter=False)
    arguments = (Article.value, text) if method == "contains" else (text, Article.value)
    ours = getattr(Article.value, method)(value)
    (row,) = Article.select(ours.alias("ours"), fn._pw_json_contains(*arguments).alias("peewees")).tuples()
    return row


def as_stored(document: Any) -> str:
    # What JSON has no word for, as SQLite's JSON writes it.
    return json.dumps(document).replace("-Infinity", "-9e999").replace("Infinity", "9e999")


@given(pair=pairs)
@example(pair=([1, [2, 3]], 2))
@example(pair=([{"a": 1, "b": [1, 2]}], [{"b": [2]}]))
@example(pair=([[1, 2]], [[2]]))
@example(pair=({}, {}))
@example(pair=([], {}))
@example(pair=([1], [True]))
@example(pair=([None], None))
@settings(max_examples=examples(600), parent=with_db)
def test_contains_says_what_peewees_function_says(pair: tuple[Any, Any]) -> None:
    whole, part = pair
    ours, peewees = verdicts("contains", as_stored(whole), part)
    assert ours == peewees


@given(pair=pairs)
@example(pair=([1, 2], 2))
@example(pair=([], 5))
@example(pair=({"a": [1, 2, {"b": None}]}, {"a": [{}, 2]}))
@example(pair=([], []))
@settings(max_examples=examples(600), parent=with_db)
def test_contained_by_says_what_peewees_function_says(pair: tuple[Any, Any]) -> None:
    whole, part = pair
    ours, peewees = verdicts("contained_by", as_stored(part), whole)
    assert ours == peewees


@given(text=st.text('[]{}",:1e.-0tru \\ax\n', max_size=8) | st.sampled_from(["", "nul", "[1,]", "{", "'a'", "[1]x", " 1 "]))
@with_db
def test_malformed_documents_and_null_are_neither_in_nor_out(text: str) -> None:
    for value in (1, [1], {"a": 1}):
        for method in ("contains", "contained_by"):
            ours, peewees = verdicts(method, text, value)
            assert ours == peewees
            assert verdicts(method, None, value) == (None, None)


@pytest.fixture
def articles() -> None:
    Article.create(title="sale", value={"tags": ["red", "new"], "size": {"w": 2, "h": 3}, "parts": [{"id": 1, "n": 2}]})
    Article.create(title="plain", value={"tags": [], "size": {"w": 2}})
    Article.create(title="list", value=["red", 1, True])
    Article.create(title="none")


def titles(condition: Any) -> list[str]:
    return [article.title for article in Article.select().where(condition).order_by(Article.id)]


@pytest.mark.usefixtures("articles")
def test_articles_are_found_by_what_they_contain() -> None:
    assert titles(Article.value.contains({"tags": ["red"]})) == ["sale"]
    assert titles(Article.value.contains({"size": {"w": 2}})) == ["sale", "plain"]
    assert titles(Article.value.contains({"parts": [{"n": 2}]})) == ["sale"]
    assert titles(Article.value["tags"].contains("new")) == ["sale"]
    assert titles(Article.value.path("size", "w").contains(2)) == ["sale", "plain"]
    assert titles(Article.value.contains("red")) == ["list"]
    assert titles(Article.value.contains((1, "red"))) == ["list"]
    assert titles(~Article.value.contains("red")) == ["sale", "plain"]
    assert titles(Article.value.contains({"tags": []}) & ~Article.value["size"].has_key("h")) == ["plain"]


@pytest.mark.usefixtures("articles")
def test_articles_are_found_by_what_contains_them() -> None:
    assert titles(Article.value["size"].contained_by({"w": 2, "h": 3, "d": 4})) == ["sale", "plain"]
    assert titles(Article.value["tags"].contained_by(["red"])) == ["plain"]
    assert titles(Article.value.contained_by([True, 1, "red", "blue"])) == ["list"]


@pytest.mark.usefixtures("articles")
def test_containment_chooses_the_rows_of_an_update_and_a_delete() -> None:
    assert Article.update(title="found").where(Article.value.contains({"size": {"h": 3}})).execute() == 1
    assert Article.delete().where(Article.value.contained_by(["red", 1, True])).execute() == 1
    Other = Article.alias()
    assert [a.title for a in Other.select().where(Other.value.contains({"tags": ["red"]}))] == ["found"]


def test_hundreds_of_given_values_are_compared() -> None:
    Article.create(title="many", value=list(range(3000)))
    assert titles(Article.value.contains(list(range(0, 3000, 2)))) == ["many"]
    assert titles(Article.value.contains([*range(1500), 3000])) == []
    assert titles(Article.value.contained_by([{}, *range(3001)])) == ["many"]


def test_deep_values_are_compared_or_refused_with_a_way_out() -> None:
    chain: Any = 1
    for _ in range(40):
        chain = {"a": [chain]}
    Article.create(title="deep", value=chain)
    assert titles(Article.value.contains(chain)) == ["deep"]
    with pytest.raises(peewee.NotSupportedError, match="compare in Python"):
        Article.value.contained_by(chain)


def deep(levels: int) -> Any:
    return {"a": deep(levels - 1), "b": [1, "x"]} if levels else 1


def test_what_is_not_refused_as_too_deep_can_be_parsed() -> None:
    for levels in range(1, 8):
        Article.create(title="deep", value=deep(levels))
        for method in ("contains", "contained_by"):
            try:
                condition = getattr(Article.value, method)(deep(levels))
            except peewee.NotSupportedError:
                assert levels > 3
                continue
            assert Article.select().where((Article.id > 0) & (Article.title == "deep") & condition).count() > 0


@pytest.mark.parametrize("value", [2**63, [-(2**63) - 1], {"a": "nul\0"}])
def test_values_that_sqlite_would_compare_inexactly_are_refused(value: Any) -> None:
    for method in ("contains", "contained_by"):
        with pytest.raises(peewee.NotSupportedError, match="in Python, over the rows"):
            getattr(Article.value, method)(value)


def test_two_columns_are_refused_with_a_way_out() -> None:
    for condition in (Article.value.contains, Article.value["a"].contained_by):
        with pytest.raises(peewee.NotSupportedError, match="compare two columns in Python"):
            condition(Article.title)


def test_the_fields_own_dumps_has_its_say() -> None:
    class Event(Model):
        data = JSONField(dumps=lambda value: json.dumps(value, default=str))

    database = PlainDatabase(":memory:")
    with database.bind_ctx([Event]), database:
        database.create_tables([Event])
        Event.create(data={"on": datetime.date(2024, 5, 17)})
        assert Event.select().where(Event.data.contains({"on": datetime.date(2024, 5, 17)})).count() == 1
