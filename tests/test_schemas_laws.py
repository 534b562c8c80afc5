"""The two laws of schemas and database, for generated models and rows.

What is selected and dumped can be loaded by the insert schema and is the same row again; what the insert schema accepts, the
database accepts.
"""

import json

import peewee
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from peewee_honker.schemas import create_insert_schema, create_select_schema
from tests.support.columns import FIELDS, LAW, columns, model_of, sent


@pytest.fixture(params=["sqlite", "honker"])
def database(request, open_database):
    made = peewee.SqliteDatabase(":memory:") if request.param == "sqlite" else open_database()
    yield made
    if not made.is_closed():
        made.close()


@LAW
@given(data=st.data(), chosen=columns())
def test_select_dump_then_insert_load_gives_the_row_back(database, data, chosen):
    model = model_of(chosen)
    with database.bind_ctx([model]):
        database.create_tables([model])
        try:
            values = {
                name: data.draw(st.none() | FIELDS[name][1] if null else FIELDS[name][1], label=name)
                for name, (null, _) in chosen.items()
            }
            model.insert(**values).execute()
            row = model.select().dicts().get()
            out = json.loads(json.dumps(create_select_schema(model)().dump(row)))
            assert out == json.loads(json.dumps(create_select_schema(model)().dump(model.get())))
            assert create_select_schema(model)().load(out) == row
            del out["generated"], row["generated"]
            loaded = create_insert_schema(model)().load(out)
            assert loaded == row
            model.delete().execute()
            model.insert(**loaded).execute()
            again = model.select().dicts().get()
            assert {name: again[name] for name in row} == row
        finally:
            database.drop_tables([model])


@LAW
@given(data=st.data(), chosen=columns())
def test_what_the_insert_schema_accepts_the_database_accepts(database, data, chosen):
    chosen.pop("parent", None)  # whether a row is there, only the database knows
    model = model_of(chosen)
    schema = create_insert_schema(model)()
    body = {}
    for name in chosen:
        # One key at a time, so that a wrong value of one key does not hide what another one took.
        value = data.draw(sent, label=name)
        if name not in schema.validate({name: value}):
            body[name] = value
    try:
        loaded = schema.load(body)
    except ValidationError:
        loaded = schema.load(body | fill(schema, body, data))
    with database.bind_ctx([model]):
        database.create_tables([model])
        try:
            model.insert(**loaded).execute()
            assert model.select().count() == 1
            model.get()
        finally:
            database.drop_tables([model])


def fill(schema, body, data):
    """Give values for the required keys that the body lacks."""
    row = {name: data.draw(FIELDS[name][1]) for name in schema.fields if schema.fields[name].required and name not in body}
    return schema.dump(row)
