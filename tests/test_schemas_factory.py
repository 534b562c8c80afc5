"""Schemas for select, insert and update: which keys there are, which may be absent, which may be null, what refines them."""

import gc
import weakref

import marshmallow
import peewee
import pytest
from marshmallow import ValidationError, fields, validate
from peewee import SQL, fn

from peewee_honker.errors import SchemaError
from peewee_honker.schemas import converts, create_insert_schema, create_select_schema, create_update_schema


class Shop(peewee.Model):
    code = peewee.CharField(primary_key=True)


class Order(peewee.Model):
    number = peewee.IntegerField()
    note = peewee.TextField(null=True)
    paid = peewee.BooleanField(default=False)
    rank = peewee.IntegerField(null=True, default=1)
    doubled = peewee.IntegerField(constraints=[SQL("GENERATED ALWAYS AS (number * 2)")])
    shop = peewee.ForeignKeyField(Shop, backref="orders")


COLUMNS = ["id", "number", "note", "paid", "rank", "doubled", "shop"]


def errors(schema, data) -> set[str]:
    return set(schema().validate(data))


# The contract


def test_the_keys_come_in_the_order_of_the_columns():
    assert list(create_select_schema(Order)().fields) == COLUMNS


def test_generated_columns_are_selected_and_neither_inserted_nor_updated():
    written = [key for key in COLUMNS if key != "doubled"]
    assert list(create_insert_schema(Order)().fields) == written
    assert list(create_update_schema(Order)().fields) == written


def test_no_key_of_a_select_may_be_absent():
    assert errors(create_select_schema(Order), {}) == set(COLUMNS)


def test_a_key_of_an_insert_may_be_absent_when_null_is_allowed_or_there_is_a_default():
    assert errors(create_insert_schema(Order), {}) == {"number", "shop"}
    assert errors(create_insert_schema(Shop), {}) == {"code"}  # a text key has no default


def test_every_key_of_an_update_may_be_absent():
    assert create_update_schema(Order)().load({}) == {}


@pytest.mark.parametrize("create", [create_select_schema, create_insert_schema, create_update_schema])
def test_null_is_allowed_where_the_column_may_be_null(create):
    schema = create(Order)
    found = schema().validate(dict.fromkeys(schema().fields))
    assert {key for key, messages in found.items() if messages == ["Field may not be null."]} == set(found)
    assert set(schema().fields) - set(found) == {"note", "rank"}


def test_defaults_are_not_put_in():
    assert create_insert_schema(Order)().load({"number": 1, "shop": "a"}) == {"number": 1, "shop": "a"}


def test_an_unknown_key_is_refused():
    assert errors(create_update_schema(Order), {"nmber": 1}) == {"nmber"}


def test_values_are_checked_and_not_coerced():
    assert errors(create_update_schema(Order), {"number": "1", "paid": 1, "note": 3}) == {"number", "paid", "note"}


# Refinements


def positive(field):
    field.validators.append(validate.Range(min=1))
    return field


@pytest.mark.parametrize("key", ["number", Order.number])
def test_a_function_refines_the_field_that_the_column_gave(key):
    schema = create_insert_schema(Order, refine={key: positive})
    assert errors(schema, {"number": 0, "shop": "a"}) == {"number"}
    assert errors(schema, {"number": 2**60, "shop": "a"}) == {"number"}  # the column's own bounds still hold


def test_the_rules_are_applied_after_a_function():
    schema = create_insert_schema(Order, refine={"note": lambda _: fields.Email(), "number": lambda _: fields.Integer()})
    assert schema().load({"number": 1, "shop": "a", "note": None})["note"] is None
    assert errors(schema, {"note": "no address", "shop": "a"}) == {"note", "number"}


def test_a_function_may_give_the_field_a_value_of_its_own_for_an_absent_key():
    schema = create_insert_schema(Order, refine={"number": lambda _: fields.Integer(load_default=7)})
    assert schema().load({"shop": "a"}) == {"number": 7, "shop": "a"}


@pytest.mark.parametrize("field", [fields.Raw(), fields.Raw])
def test_a_field_given_outright_replaces_all(field):
    schema = create_insert_schema(Order, refine={"number": field})
    assert schema().load({"shop": "a"}) == {"shop": "a"}
    assert schema().load({"shop": "a", "number": "x"}) == {"shop": "a", "number": "x"}


def test_a_field_given_outright_makes_a_type_without_a_converter_usable():
    class Odd(peewee.Field):
        pass

    class Thing(peewee.Model):
        odd = Odd()

    with pytest.raises(SchemaError):
        create_select_schema(Thing)
    assert create_select_schema(Thing, refine={"odd": fields.String()})().dump({"odd": "x"}) == {"odd": "x"}


@pytest.mark.parametrize("option", [{"refine": {"nmber": positive}}, {"include": ["nmber"]}, {"exclude": ["nmber"]}])
def test_a_key_that_is_not_there_is_an_error(option):
    with pytest.raises(SchemaError, match=r"'nmber'.*number"):
        create_select_schema(Order, **option)


def test_a_refinement_that_would_do_nothing_is_an_error():
    with pytest.raises(SchemaError, match="doubled"):
        create_insert_schema(Order, refine={"doubled": positive})
    with pytest.raises(SchemaError, match="number"):
        create_insert_schema(Order, refine={"number": positive}, exclude=["number"])


def test_another_models_field_is_no_key():
    with pytest.raises(SchemaError, match=r"Shop\.code is no field of Order"):
        create_select_schema(Order, refine={Shop.code: positive})


def test_a_refinement_that_gives_no_field_is_an_error():
    with pytest.raises(SchemaError, match="refinement of 'number'"):
        create_select_schema(Order, refine={"number": lambda _: None})
    with pytest.raises(SchemaError, match="not 3"):
        create_select_schema(Order, refine={"number": 3})


# Choice of keys, names, classes


def test_include_and_exclude_choose_keys_by_name_or_by_field():
    assert list(create_select_schema(Order, include=["shop", Order.id])().fields) == ["id", "shop"]
    assert "note" not in create_select_schema(Order, exclude=[Order.note])().fields


def test_the_same_arguments_give_the_same_class():
    assert create_select_schema(Order) is create_select_schema(Order)
    assert create_select_schema(Order, refine={"number": positive}) is create_select_schema(
        Order, refine={Order.number: positive}
    )
    assert create_select_schema(Order) is not create_select_schema(Order, exclude=["note"])
    assert create_select_schema(Order) is not create_insert_schema(Order)


def test_a_class_is_called_after_its_model():
    assert create_select_schema(Order).__name__ == "OrderSelect"
    assert create_update_schema(Order, name="Change").__name__ == "Change"


def test_a_converter_registered_later_is_used():
    class Name(peewee.CharField):
        pass

    class Thing(peewee.Model):
        name = Name()

    first = create_select_schema(Thing)

    @converts(Name)
    def convert(field, **options):
        return fields.Email(**options)

    assert create_select_schema(Thing) is not first


def test_a_subclass_of_a_model_has_schemas_of_its_own():
    class Special(Order):
        extra = peewee.IntegerField()

    assert "extra" not in create_select_schema(Order)().fields
    assert "extra" in create_select_schema(Special)().fields


def test_schemas_go_with_their_model():
    class Thing(peewee.Model):
        name = peewee.CharField()

    schema = weakref.ref(create_select_schema(Thing))
    del Thing
    gc.collect()
    assert schema() is None


def test_what_is_no_model_is_refused():
    with pytest.raises(SchemaError, match="no model"):
        create_select_schema(dict)
    with pytest.raises(SchemaError, match="no model"):
        create_insert_schema(Order.select())


# Queries


@pytest.fixture
def shop():
    database = peewee.SqliteDatabase(":memory:")
    with database.bind_ctx([Shop, Order]):
        database.create_tables([Shop, Order])
        Shop.create(code="a")
        Shop.create(code="b")
        Order.insert(number=3, shop="a").execute()
        Order.insert(number=5, shop="a", note="x").execute()
        yield
    database.close()


def test_a_query_gives_a_schema_of_its_columns(shop):
    query = (
        Shop.select(Shop.code, fn.COUNT(Order.id).alias("orders"), fn.SUM(Order.number).alias("total"), Order.note)
        .join(Order, peewee.JOIN.LEFT_OUTER)
        .group_by(Shop.code)
        .order_by(Shop.code)
    )
    schema = create_select_schema(query)()
    assert list(schema.fields) == ["code", "orders", "total", "note"]
    dumped = schema.dump(query.dicts(), many=True)
    assert dumped == [
        {"code": "a", "orders": 2, "total": 8, "note": dumped[0]["note"]},
        {"code": "b", "orders": 0, "total": None, "note": None},
    ]
    assert schema.load(dumped, many=True) == list(query.dicts())


def test_the_columns_of_a_left_join_may_be_null(shop):
    query = Shop.select(Shop.code, Order.number).join(Order, peewee.JOIN.LEFT_OUTER)
    assert create_select_schema(query)().load({"code": "b", "number": None}) == {"code": "b", "number": None}
    inner = Shop.select(Shop.code, Order.number).join(Order)
    assert errors(create_select_schema(inner), {"code": "b", "number": None}) == {"number"}


def test_a_query_takes_aliases_of_models_casts_and_windows(shop):
    other = Order.alias()
    query = Order.select(
        other.number.alias("theirs"),
        peewee.Cast(Order.number, "text").alias("text"),
        fn.ROW_NUMBER().over(order_by=[Order.id]).alias("place"),
        fn.COALESCE(Order.note, "").alias("note"),
        Order.shop,
    ).join(other, on=(other.id == Order.id))
    schema = create_select_schema(query)()
    dumped = schema.dump(query.dicts(), many=True)
    assert dumped[0] == {"theirs": 3, "text": "3", "place": 1, "note": "", "shop": "a"}
    assert schema.dump(query.namedtuples(), many=True) == dumped
    assert schema.dump(query.objects(), many=True) == dumped
    assert not schema.fields["note"].allow_none


def test_the_type_of_a_function_is_known_or_taken_from_its_column(shop):
    functions = {
        "length": fn.LENGTH(Order.note),
        "upper": fn.UPPER(Order.note),
        "average": fn.AVG(Order.number),
        "total": fn.TOTAL(Order.number),
        "lowest": fn.MIN(Order.number),
        "either": fn.COALESCE(Order.note, Order.note),
    }
    query = Order.select(*(function.alias(name) for name, function in functions.items()))
    schema = create_select_schema(query)()
    for row in query.dicts():
        assert schema.load(schema.dump(row)) == row
    assert [name for name, field in schema.fields.items() if not field.allow_none] == ["total"]
    for unknown in (fn.RANDOMBLOB(4), fn.SUM(Order.note), fn.SOUNDEX(Order.note)):
        with pytest.raises(SchemaError, match="unknown type"):
            create_select_schema(Order.select(unknown.alias("it")))


def test_the_columns_before_a_full_join_may_be_null_too():
    query = Shop.select(Shop.code, Order.number).join(Order, peewee.JOIN.FULL_OUTER)
    assert create_select_schema(query)().load({"code": None, "number": None}) == {"code": None, "number": None}


def test_an_expression_is_said_by_the_caller(shop):
    query = Order.select((Order.number * 2).alias("twice"))
    with pytest.raises(SchemaError, match=r"'twice'.*refine="):
        create_select_schema(query)
    assert create_select_schema(query, refine={"twice": fields.Integer()})().dump(query.dicts().first()) == {"twice": 6}


def test_two_columns_of_a_query_have_two_keys():
    with pytest.raises(SchemaError, match="two columns 'id'"):
        create_select_schema(Order.select(Order.id, Order.alias().id))
    with pytest.raises(SchemaError, match=r"\.alias"):
        create_select_schema(Order.select(fn.COUNT(Order.id)))


def test_the_schemas_are_marshmallows(shop):
    schema = create_select_schema(Order)
    assert issubclass(schema, marshmallow.Schema)
    with pytest.raises(ValidationError):
        schema().load({})
    assert schema().dump(Order.get(number=3)) == {
        "id": 1, "number": 3, "note": None, "paid": False, "rank": 1, "doubled": 6, "shop": "a",
    }  # fmt: skip


def test_what_a_field_shows_of_its_value_is_what_is_dumped():
    class Shout(peewee.FieldAccessor):
        def __get__(self, instance, instance_type=None):
            return self.field if instance is None else instance.__data__[self.name].upper()

    class ShoutField(peewee.TextField):
        accessor_class = Shout

    class Sign(peewee.Model):
        text = ShoutField()
        plain = peewee.TextField()

    assert create_select_schema(Sign)().dump(Sign(text="stop", plain="stop")) == {"text": "STOP", "plain": "stop"}
