"""Laws that hold for any value: round trips, agreement with the database, with JSON Schema, and of compiled functions."""

import base64
import datetime
import json

import jsonschema
import peewee
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from peewee_honker.schemas import compile_dump, compile_load, create_insert_schema, create_select_schema, row_dumper
from peewee_honker.schemas.contract import json_schema
from tests.support.shop import ALL, Colour, Kinds, db

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
json_values = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner | st.none(), max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
moments = st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2200, 1, 1))
rows = st.fixed_dictionaries(
    {
        "whole": st.integers(1 - 2**53, 2**53 - 1),
        "small": st.integers(-(2**15), 2**15 - 1),
        "big": st.none() | st.integers(-(2**63), 2**63 - 1),
        "real": st.floats(allow_nan=False, allow_infinity=False),
        "yes": st.booleans(),
        "money": st.decimals(-999999, 999999, places=3),
        "short": text.map(lambda value: value[:8]),
        "code": st.none() | text.map(lambda value: value[:3]),
        "text": text,
        "at": moments,
        "day": st.dates(),
        "clock": st.none() | st.times(),
        "stamp": moments.map(lambda value: value.replace(microsecond=0)),
        "uid": st.uuids(),
        "packed": st.none() | st.uuids(),
        "blob": st.binary(max_size=9),
        "ip": st.none() | st.ip_addresses(v=4).map(str),
        "bits": st.integers(0, 2**40),
        "data": json_values,
        "colour": st.sampled_from(Colour),
        "level": st.integers(1, 5),
        "size": st.sampled_from(["s", "m"]),
        "name": st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=2, max_size=4),
    }
)
numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
plain_text = text.filter(lambda value: not value.endswith("\n"))  # Python's $ lets a newline pass, ECMA's does not
near = (
    st.none() | st.booleans() | numbers | plain_text
    | st.sampled_from(["s", "red", "1.5", "ab", "2020-02-03", "10:00", "1.2.3.4"])
    | st.uuids().map(str) | st.integers(0, 6) | st.binary(max_size=4).map(lambda value: base64.b64encode(value).decode())
    | st.just([]) | st.just({"a": 1})
)  # fmt: skip

SELECT, INSERT = create_select_schema(Kinds)(), create_insert_schema(Kinds)()
DUMP, LOAD = compile_dump(SELECT), compile_load(INSERT)
VALIDATOR = jsonschema.Draft202012Validator(json_schema(INSERT, direction="load"))
VALID = {
    "whole": 1, "small": 1, "real": 1.5, "yes": True, "money": "1.5", "short": "a", "text": "b", "at": "2020-01-01T10:00:00",
    "day": "2020-01-01", "blob": "", "data": {}, "colour": "red", "level": 1, "size": "s", "name": "abc",
}  # fmt: skip


@pytest.fixture(autouse=True)
def tables():
    with db:
        db.create_tables(ALL)
        yield
        db.drop_tables(ALL)


@FEW
@given(rows)
def test_a_row_that_was_dumped_loads_as_the_same_row(row):
    stored = Kinds.get_by_id(Kinds.create(**row).id)
    dumped = json.loads(json.dumps(SELECT.dump(stored)))
    again = Kinds(**INSERT.load(dumped))
    assert {name: again.__data__[name] for name in row} == {name: stored.__data__[name] for name in row}
    assert INSERT.load(dumped) == LOAD(dumped)


@FEW
@given(rows)
def test_the_compiled_dump_is_the_schema_s_dump(row):
    stored = Kinds.get_by_id(Kinds.create(**row).id)
    expected = SELECT.dump(stored)
    assert DUMP(stored) == expected
    assert row_dumper(Kinds)(stored) == expected
    assert DUMP(Kinds.select().where(Kinds.id == stored.id).dicts().get()) == expected
    partly = Kinds.select(Kinds.whole, Kinds.data).where(Kinds.id == stored.id).get()
    assert DUMP(partly) == SELECT.dump(partly) == {"whole": expected["whole"], "data": expected["data"]}


@settings(FEW, max_examples=300)
@given(st.sampled_from(sorted(INSERT.load_fields)), near)
def test_what_the_insert_schema_accepts_json_schema_and_the_database_accept_and_the_compiled_load_agrees(key, value):
    given = VALID | {key: value}
    try:
        loaded = INSERT.load(given)
    except ValidationError as refused:
        with pytest.raises(ValidationError) as also_refused:
            LOAD(given)
        assert also_refused.value.messages == refused.messages  # noqa: PT017  (whether it is refused is not known)
        assert key in {"at", "day", "stamp"} or not VALIDATOR.is_valid(given)  # a pattern does not know the calendar
        return
    assert repr(LOAD(given)) == repr(loaded)
    VALIDATOR.validate(given)
    with db.atomic() as transaction:
        Kinds.create(**loaded)
        transaction.rollback()


@FEW
@given(st.dictionaries(st.sampled_from([*VALID, "unknown"]), near, max_size=3), st.sets(st.sampled_from(sorted(VALID))))
def test_the_compiled_load_says_what_the_schema_says(changes, missing):
    given = {key: value for key, value in (VALID | changes).items() if key not in missing}
    try:
        expected = INSERT.load(given)
    except ValidationError as error:
        with pytest.raises(ValidationError) as refused:
            LOAD(given)
        assert refused.value.messages == error.messages  # noqa: PT017  (whether it is refused is not known)
    else:
        assert repr(LOAD(given)) == repr(expected)


_COLUMNS = [
    (lambda null: peewee.IntegerField(null=null), st.integers(-1000, 1000)),
    (lambda null: peewee.CharField(null=null, max_length=12), text),
    (lambda null: peewee.DateField(null=null), st.dates()),
    (lambda null: peewee.DecimalField(null=null), st.decimals(-999, 999, places=2)),
    (lambda null: peewee.BlobField(null=null), st.binary(max_size=5)),
]


@settings(FEW, max_examples=25)
@given(st.data())
def test_any_generated_model_round_trips(data):
    columns = data.draw(st.lists(st.tuples(st.sampled_from(_COLUMNS), st.booleans()), min_size=1, max_size=5))
    made = {f"field{number}": make(null) for number, ((make, _), null) in enumerate(columns)}
    model = type("Made", (peewee.Model,), {**made, "Meta": type("Meta", (), {"database": db})})
    row = {
        f"field{number}": data.draw(st.none() | values if null else values)
        for number, ((_, values), null) in enumerate(columns)
    }
    db.create_tables([model])
    try:
        stored = model.get_by_id(model.create(**row).id)
        dumped = create_select_schema(model)().dump(stored)
        assert create_insert_schema(model)().load(dumped) == stored.__data__
    finally:
        db.drop_tables([model])
