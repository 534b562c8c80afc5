"""Compiled functions give what the schema gives, results and errors."""

import datetime
import types

import marshmallow
import peewee
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError, fields, post_load, validates

from peewee_honker.errors import SchemaError
from peewee_honker.schemas import ModelSchema, create_insert_schema, create_select_schema, create_update_schema
from peewee_honker.schemas.compiled import compile_dump, compile_load
from tests.support.columns import FIELDS, LAW, columns, model_of, sent


def outcome(function, *arguments, **options):
    """Give what a call returns with the types of its values, or the errors that it raises."""
    try:
        found = function(*arguments, **options)
    except ValidationError as error:
        return "invalid", error.messages
    return "valid", repr(found)


@LAW
@given(data=st.data(), chosen=columns())
def test_a_compiled_dump_is_the_schemas(data, chosen):
    model = model_of(chosen)
    schema = create_select_schema(model)()
    dump = compile_dump(schema)
    row = {name: data.draw(st.none() | FIELDS[name][1], label=name) for name in chosen} | {"id": 1, "generated": 2}
    instance = model(**row)
    for obj in (row, instance, model(), types.SimpleNamespace(**row), {}):
        assert repr(dump(obj)) == repr(schema.dump(obj))
    assert dump([row, instance], many=True) == schema.dump([row, instance], many=True)


@LAW
@given(data=st.data(), chosen=columns(), create=st.sampled_from([create_insert_schema, create_update_schema]))
def test_a_compiled_load_is_the_schemas(data, chosen, create):
    model = model_of(chosen)
    schema = create(model)()
    load = compile_load(schema)
    row = {name: data.draw(FIELDS[name][1], label=name) for name in chosen}
    good = schema.dump(row)
    assert outcome(load, good) == outcome(schema.load, good)
    body = {name: data.draw(st.just(good[name]) | sent, label=f"sent {name}") for name in good}
    for name in data.draw(st.sets(st.sampled_from([*good, "unknown"]))):
        if name in body:
            del body[name]
        else:
            body[name] = 1
    assert outcome(load, body) == outcome(schema.load, body)
    assert outcome(load, [good, body], many=True) == outcome(schema.load, [good, body], many=True)


class Shop(peewee.Model):
    name = peewee.CharField(max_length=5)


class Order(peewee.Model):
    shop = peewee.ForeignKeyField(Shop, null=True)
    number = peewee.IntegerField(default=0)


def test_references_are_dumped_whatever_the_row_holds():
    schema = create_select_schema(Order)()
    dump = compile_dump(schema)
    shop = Shop(id=7)
    rows = [
        Order(shop=shop),
        Order(shop=7),
        Order(),
        {"id": 1, "shop": shop, "number": 2},
        {"id": 1, "shop_id": 7, "number": 2},
    ]
    assert [dump(row) for row in rows] == [schema.dump(row) for row in rows]


@pytest.mark.parametrize("data", [None, [], "x", [None], [{}], {"name": "x", 1: 2}, types.MappingProxyType({"name": "x"})])
@pytest.mark.parametrize("many", [None, True, False])
def test_data_of_the_wrong_shape_are_the_schemas_affair(data, many):
    schema = create_insert_schema(Shop)()
    assert outcome(compile_load(schema), data, many=many) == outcome(schema.load, data, many=many)


@pytest.mark.parametrize(
    "options",
    [
        {"unknown": marshmallow.EXCLUDE},
        {"unknown": marshmallow.INCLUDE},
        {"partial": True},
        {"only": ["name"]},
        {"many": True},
    ],
)
def test_the_options_of_a_schema_hold(options):
    schema = create_insert_schema(Shop)(**options)
    for data in ({}, {"name": "x"}, {"name": "x", "other": 1}, {"name": "much too long"}, [{"name": "x"}, {"name": 1}]):
        assert outcome(compile_load(schema), data) == outcome(schema.load, data)


def test_a_schema_written_by_hand_is_compiled_too():
    class Hand(marshmallow.Schema):
        when = fields.DateTime(format="rfc", data_key="When")
        tags = fields.List(fields.String(), load_default=list)
        shop = fields.Nested(create_insert_schema(Shop))

        class Meta:
            unknown = marshmallow.EXCLUDE

    schema = Hand()
    row = {"when": datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC), "tags": ["a"], "shop": {"name": "x"}}
    assert compile_dump(schema)(row) == schema.dump(row)
    for data in (schema.dump(row) | {"odd": 1}, {}, {"shop": {}}, {"tags": [1]}):
        assert outcome(compile_load(schema), data) == outcome(schema.load, data)


def test_a_schema_with_ways_of_its_own_is_refused():
    class Hooked(marshmallow.Schema):
        name = fields.String()

        @post_load
        def done(self, data, **kwargs):
            return data

    class Checked(marshmallow.Schema):
        name = fields.String()

        @validates("name")
        def check(self, value, **kwargs):
            pass

    class Computed(marshmallow.Schema):
        name = fields.Function(len)

    class Dotted(marshmallow.Schema):
        name = fields.String(attribute="shop.name")

    class OrderSchema(ModelSchema[Order]):
        pass

    for schema in (Hooked, Checked, OrderSchema):
        with pytest.raises(SchemaError, match=schema.__name__):
            compile_load(schema)
    for schema in (Computed, Dotted):
        with pytest.raises(SchemaError, match=rf"{schema.__name__}\.name"):
            compile_dump(schema)
    assert compile_dump(OrderSchema)(Order(id=1)) == OrderSchema().dump(Order(id=1))
    with pytest.raises(SchemaError, match="partial"):
        compile_load(create_insert_schema(Shop)(partial=["name"]))


def test_a_column_that_was_not_loaded_is_left_out():
    class Note(peewee.Model):
        title = peewee.CharField()
        body = peewee.TextField(null=True)
        seen = peewee.BooleanField(default=False)

        class Meta:
            database = peewee.SqliteDatabase(":memory:")

    with Note._meta.database.connection_context():
        Note.create_table()
        Note.create(title="a")
        schema = create_select_schema(Note)()
        for query in (Note.select(Note.title), Note.select(Note.title, Note.body)):
            row = query.get()
            assert compile_dump(schema)(row) == schema.dump(row) == dict(row.__data__)
