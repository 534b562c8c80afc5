"""A constraint that the database found broken, as a validation error by key."""

import peewee
import pytest
from marshmallow import ValidationError
from peewee import Check

from peewee_honker.schemas import create_insert_schema, reported, validation_error


class Order(peewee.Model):
    number = peewee.IntegerField(unique=True, column_name="no")
    shop = peewee.CharField(default="a")
    place = peewee.IntegerField(null=True)
    total = peewee.IntegerField(default=1, constraints=[Check("total <> 0")])

    class Meta:
        indexes = ((("shop", "place"), True),)


Order.add_index(peewee.SQL('CREATE UNIQUE INDEX "half" ON "order" ((total / 2))'))


@pytest.fixture(params=["sqlite", "honker", pytest.param("postgres", marks=pytest.mark.services)], autouse=True)
def database(request, open_database):
    if request.param == "postgres":
        made = request.getfixturevalue("pg")
    else:
        made = peewee.SqliteDatabase(":memory:") if request.param == "sqlite" else open_database()
    with made.bind_ctx([Order]):
        made.create_tables([Order])
        Order.create(number=1, place=1, total=10)
        yield made
    made.close()


def messages(**row):
    with pytest.raises(ValidationError) as caught, reported(Order):
        Order.insert(**({"number": 2, "place": 2, "total": 20} | row)).execute()
    return caught.value.messages


def test_a_value_that_is_taken_is_reported_at_its_key():
    assert messages(number=1) == {"number": ["Is taken."]}


def test_values_that_are_taken_together_are_reported_at_each_key():
    message = "Is taken: shop, place together are there already."
    assert messages(place=1) == {"shop": [message], "place": [message]}


def test_an_index_of_an_expression_is_the_schemas():
    assert messages(total=11) == {"_schema": ["Is taken."]}


def test_a_null_that_the_database_refuses_is_reported_at_its_key():
    assert messages(number=None) == {"number": ["Field may not be null."]}


def test_what_names_no_columns_goes_on_as_it_is():
    with pytest.raises(peewee.IntegrityError), reported(Order):
        Order.create(number=2, total=0)


def test_another_tables_constraint_is_not_this_models():
    class Other(peewee.Model):
        number = peewee.IntegerField()

    with pytest.raises(peewee.IntegrityError) as caught:
        Order.create(number=1)
    assert validation_error(caught.value, Other) is None


def test_the_error_of_a_schema_and_of_the_database_look_the_same():
    schema = create_insert_schema(Order)()
    with pytest.raises(ValidationError) as before:
        schema.load({"number": "1"})
    with pytest.raises(ValidationError) as after, reported(Order):
        Order.create(**schema.load({"number": 1, "place": 3, "total": 30}))
    assert before.value.messages.keys() == after.value.messages.keys() == {"number"}
    assert isinstance(after.value.__cause__, peewee.IntegrityError)
