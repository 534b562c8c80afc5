"""The contract of a schema, as JSON Schema and OpenAPI: valid by their validators, and of one mind with marshmallow."""

import json

import marshmallow
import peewee
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from marshmallow import fields
from openapi_spec_validator import OpenAPIV31SpecValidator
from peewee import Check

from peewee_honker.schemas import (
    ModelSchema,
    Nested,
    Related,
    create_insert_schema,
    create_select_schema,
    create_update_schema,
)
from peewee_honker.schemas.contract import json_schema, openapi_components
from tests.support.columns import FIELDS, LAW, columns, model_of, sent


class Customer(peewee.Model):
    email = peewee.CharField(max_length=80)


class Order(peewee.Model):
    customer = peewee.ForeignKeyField(Customer, backref="orders")
    total = peewee.DecimalField(help_text="In euros", verbose_name="Total")
    state = peewee.CharField(choices=[("new", "New"), ("paid", "Paid")], null=True)
    amount = peewee.IntegerField(default=1, constraints=[Check("amount > 0 AND amount <= 0.5")])
    data = peewee.JSONField()
    at = peewee.DateTimeField(null=True)
    doubled = peewee.IntegerField(constraints=[peewee.SQL("GENERATED ALWAYS AS (amount * 2)")])


def properties(schema, direction="load"):
    return json_schema(schema, direction)["properties"]


def test_a_contract_says_what_the_fields_say():
    found = json_schema(create_insert_schema(Order))
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert found["title"] == "OrderInsert"
    assert found["required"] == ["customer", "data", "total"]
    assert found["additionalProperties"] is False
    assert found["properties"]["total"] == {
        "type": "string", "title": "Total", "description": "In euros", "pattern": r"^(?:-?\d+(\.\d+)?)$",
    }  # fmt: skip
    assert found["properties"]["state"] == {"type": ["string", "null"], "enum": ["new", "paid", None], "maxLength": 255}
    assert found["properties"]["customer"] == {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1}
    assert found["properties"]["data"] == {"type": ["object", "array", "string", "number", "boolean"]}
    assert found["properties"]["at"]["type"] == ["string", "null"]


def test_a_bound_is_included_or_not_and_never_rounded():
    found = properties(create_insert_schema(Order))["amount"]
    assert found == {"type": "integer", "exclusiveMinimum": 0, "maximum": 0.5}


def test_what_may_be_absent_is_that_of_each_kind_of_schema():
    assert "required" not in json_schema(create_update_schema(Order))
    assert set(json_schema(create_select_schema(Order))["required"]) == set(create_select_schema(Order)().fields)


def test_loading_and_dumping_have_contracts_of_their_own():
    class OrderSchema(ModelSchema[Order]):
        class Meta:
            load_only = ("data",)

    assert "doubled" not in properties(OrderSchema)
    assert "doubled" in properties(OrderSchema, "dump")
    assert "data" not in properties(OrderSchema, "dump")
    assert "amount" in json_schema(OrderSchema, "dump")["required"]
    marked = openapi_components(OrderSchema)["schemas"]["Order"]["properties"]
    assert marked["doubled"]["readOnly"] is True
    assert marked["data"]["writeOnly"] is True


def test_nested_schemas_are_definitions():
    class CustomerSchema(ModelSchema[Customer]):
        class Meta:
            include_relations = ("orders",)

    found = json_schema(CustomerSchema)
    assert found["properties"]["orders"] == {"type": "array", "items": {"$ref": "#/$defs/OrderNested"}}
    Draft202012Validator.check_schema(found)
    good = {"email": "x", "orders": [{"total": "1", "data": 1}]}
    assert Draft202012Validator(found).is_valid(good)
    assert not Draft202012Validator(found).is_valid({"email": "x", "orders": [{"total": 1, "data": 1}]})


def test_a_related_row_is_the_key_that_says_which():
    class ByEmail(ModelSchema[Order]):
        customer = Related("email", allow_none=True)

    class ByBoth(ModelSchema[Order]):
        customer = Related("email", "id")

    class ByKey(ModelSchema[Order]):
        customer = Related()

    assert properties(ByEmail)["customer"] == {"type": ["string", "null"], "maxLength": 80}
    assert properties(ByKey)["customer"]["type"] == "integer"
    assert set(properties(ByBoth)["customer"]["properties"]) == {"email", "id"}


class Person(peewee.Model):
    parent = peewee.ForeignKeyField("self", null=True, backref="children")


class PersonSchema(ModelSchema[Person]):
    children = Nested(lambda: PersonSchema())  # noqa: PLW0108 # it is not there yet


def test_a_schema_may_nest_itself_and_be_a_list():
    found = json_schema(PersonSchema)
    Draft202012Validator.check_schema(found)
    assert Draft202012Validator(found).is_valid({"children": [{"children": [{"id": 1}]}]})
    assert not Draft202012Validator(found).is_valid({"children": [{"children": [{"id": "1"}]}]})
    many = json_schema(create_insert_schema(Customer)(many=True))
    assert Draft202012Validator(many).is_valid([{"email": "x"}])
    assert not Draft202012Validator(many).is_valid({"email": "x"})


def test_components_are_valid_openapi():
    class Other(marshmallow.Schema):
        customers = fields.List(fields.Nested(create_select_schema(Customer)))

    components = openapi_components(
        create_select_schema(Order),
        create_insert_schema(Order),
        create_insert_schema(Order, exclude=["at"]),
        Other,
        PersonSchema,
    )
    assert set(components["schemas"]) == {
        "OrderSelect", "OrderInsert", "OrderInsert2", "Other", "CustomerSelect", "Person",
    }  # fmt: skip
    document = {"openapi": "3.1.0", "info": {"title": "Shop", "version": "1"}, "paths": {}, "components": components}
    OpenAPIV31SpecValidator(json.loads(json.dumps(document))).validate()


def test_a_schema_that_lets_other_keys_pass_says_so():
    class Open(ModelSchema[Customer]):
        class Meta:
            unknown = marshmallow.EXCLUDE

    assert json_schema(Open)["additionalProperties"] is True


@LAW
@given(data=st.data(), chosen=columns())
def test_what_a_schema_loads_and_dumps_its_contract_accepts(data, chosen):
    model = model_of(chosen)
    row = {name: data.draw(FIELDS[name][1]) for name in chosen} | {"id": 1, "generated": 2}
    schema = create_select_schema(model)()
    dumped = json.loads(json.dumps(schema.dump(row)))
    Draft202012Validator(json_schema(schema, "dump")).validate(dumped)
    Draft202012Validator(json_schema(schema, "load")).validate(dumped)


EXACT = set(FIELDS) - {"decimal", "date", "datetime", "time", "timestamp"}  # a pattern knows no calendar


@LAW
@given(name=st.sampled_from(sorted(EXACT)), null=st.booleans(), value=sent)
def test_the_contract_and_marshmallow_agree(name, null, value):
    try:
        json.dumps(value, allow_nan=False).encode()
        value = json.loads(json.dumps(value, ensure_ascii=False).encode())
    except ValueError:
        return  # no JSON at all
    if name == "measured" and isinstance(value, str) and "\0" in value:
        return  # SQLite's length() stops at a NUL, which JSON Schema has no word for
    schema = create_update_schema(model_of({name: (null, False)}))()
    validator = Draft202012Validator(json_schema(schema), format_checker=Draft202012Validator.FORMAT_CHECKER)
    assert validator.is_valid({name: value}) == (schema.validate({name: value}) == {})


@pytest.mark.parametrize("name", ["decimal", "date", "datetime", "time", "timestamp"])
@LAW
@given(value=sent)
def test_the_contract_takes_every_date_and_decimal_that_marshmallow_takes(name, value):
    schema = create_update_schema(model_of({name: (False, False)}))()
    if schema.validate({name: value}) == {}:
        Draft202012Validator(json_schema(schema)).validate({name: value})
