"""Schemas from models: what is required, what is refused and by which key, and instances that are loaded."""

import datetime
import enum
from decimal import Decimal

import marshmallow
import peewee
import pytest
from marshmallow import ValidationError, fields
from peewee import (
    BlobField,
    BooleanField,
    CharField,
    Check,
    CompositeKey,
    DateField,
    DecimalField,
    DoubleField,
    Field,
    ForeignKeyField,
    IntegerField,
    SqliteDatabase,
    TextField,
    UUIDField,
    fn,
)

from peewee_honker.schemas import (
    ModelSchema,
    UnknownFieldError,
    converts,
    create_insert_schema,
    create_select_schema,
    create_update_schema,
    integrity_errors,
)


class Customer(peewee.Model):
    email = CharField(max_length=20, unique=True)
    key = UUIDField(null=True)


class Order(peewee.Model):
    customer = ForeignKeyField(Customer, backref="orders")
    total = DecimalField(max_digits=6, decimal_places=2)
    pieces = IntegerField(default=1, constraints=[Check("pieces BETWEEN 1 AND 99")])
    size = CharField(choices=[("s", "small"), ("m", "medium")], default="s")
    paid = BooleanField(default=False)
    day = DateField(null=True)
    photo = BlobField(null=True)
    weight = DoubleField(null=True)
    note = TextField(null=True, help_text="For the driver.")


@pytest.fixture
def database():
    database = SqliteDatabase(":memory:")
    with database.bind_ctx([Customer, Order]):
        database.create_tables([Customer, Order])
        yield database
    database.close()


VALID = {"customer": 1, "total": "9.25"}


def test_which_keys_may_be_absent():
    assert {key for key, field in create_select_schema(Order)().fields.items() if not field.required} == set()
    assert {key for key, field in create_insert_schema(Order)().fields.items() if field.required} == {"customer", "total"}
    assert {key for key, field in create_update_schema(Order)().fields.items() if field.required} == set()
    assert list(create_select_schema(Order)().fields) == list(Order._meta.fields)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("total", "10000.00"),
        ("total", "1.005"),
        ("total", None),
        ("pieces", 0),
        ("pieces", 100),
        ("pieces", "1"),
        ("pieces", 2**63),
        ("size", "l"),
        ("paid", "yes"),
        ("day", "30.1.2026"),
        ("photo", "not base64!"),
        ("weight", float("nan")),
        ("weight", float("inf")),
        ("customer", "one"),
        ("unknown", 1),
    ],
)
def test_what_is_wrong_is_told_by_its_key(key, wrong):
    with pytest.raises(ValidationError) as refused:
        create_insert_schema(Order)().load(VALID | {key: wrong})
    assert list(refused.value.messages) == [key]


def test_rows_come_and_go(database):
    customer = Customer.create(email="ada@example.org")
    given = VALID | {"customer": customer.id, "day": "2026-11-24", "photo": "AAE=", "weight": 1.5, "size": "m"}
    order = Order.create(**create_insert_schema(Order)().load(given))
    assert (order.day, order.photo, order.total) == (datetime.date(2026, 11, 24), b"\x00\x01", Decimal("9.25"))
    dumped = create_select_schema(Order)().dump(Order.get())
    assert dumped == {"id": 1, "pieces": 1, "paid": False, "note": None} | given
    assert create_select_schema(Order)(many=True).dump(Order.select().dicts()) == [dumped]


def test_a_field_is_refined_or_replaced():
    schema = create_insert_schema(
        Order, refine={"pieces": lambda field: field, Order.note: fields.Email(required=True)}, exclude=["photo"], name="New"
    )
    assert schema.__name__ == "New"
    assert "photo" not in schema().fields
    with pytest.raises(ValidationError, match="email"):
        schema().load(VALID | {"note": "no address"})
    for wrong in ({"refine": {"nothing": fields.String()}}, {"exclude": ["nothing"]}, {"include": ["nothing"]}):
        with pytest.raises(ValueError, match="nothing"):
            create_insert_schema(Order, **wrong)
    assert create_insert_schema(Order) is create_insert_schema(Order)


def test_a_query_has_a_select_schema(database):
    customer = Customer.create(email="ada@example.org")
    for total in ("1.00", "2.50"):
        Order.create(customer=customer, total=total)
    query = (
        Customer.select(Customer.email, fn.COUNT(Order.id).alias("orders"), fn.SUM(Order.total).alias("sum"))
        .join(Order)
        .group_by(Customer.id)
    )
    schema = create_select_schema(query, refine={"sum": fields.Float()})()
    assert schema.dump(query.dicts().get()) == {"email": "ada@example.org", "orders": 2, "sum": 3.5}


def test_a_model_schema_loads_new_given_and_found_instances(database):
    class CustomerSchema(ModelSchema[Customer]):
        pass

    made = CustomerSchema().load({"email": "ada@example.org"})
    assert isinstance(made, Customer)
    assert made.id is None
    made.save()
    changed = CustomerSchema().load({"email": "bo@example.org"}, instance=made)
    assert changed is made
    found = CustomerSchema().load({"id": made.id, "email": "cy@example.org"})
    assert (found.id, found.email) == (made.id, "cy@example.org")
    assert [customer.email for customer in Customer.select()] == ["ada@example.org"]
    with pytest.raises(ValidationError):
        CustomerSchema().load({})


def test_relations_are_keys_or_nested(database):
    class Keys(ModelSchema):
        class Meta:
            model = Customer
            include_relations = True

    class Deep(ModelSchema):
        class Meta:
            model = Order
            depth = 1
            fields = ("id", "customer")

    customer = Customer.create(email="ada@example.org")
    order = Order.create(customer=customer, total="1.00")
    assert Keys().dump(customer)["orders"] == [order.id]
    assert Deep().dump(order)["customer"]["email"] == "ada@example.org"


def test_choices_of_an_enum_and_composite_keys():
    class Size(enum.Enum):
        SMALL = "s"
        LARGE = "l"

    class Stock(peewee.Model):
        shop = CharField(max_length=5)
        item = CharField(max_length=5)
        size = CharField(choices=[(size.value, size.name) for size in Size])

        class Meta:
            primary_key = CompositeKey("shop", "item")

    schema = create_insert_schema(Stock)()
    assert schema.load({"shop": "a", "item": "b", "size": "s"}) == {"shop": "a", "item": "b", "size": "s"}
    with pytest.raises(ValidationError):
        schema.load({"shop": "a", "item": "b", "size": "x"})


def test_fields_of_ones_own():
    class Colour(Field):
        field_type = "TEXT"

    class Dark(Colour):
        pass

    class Wall(peewee.Model):
        colour = Dark()

    with pytest.raises(UnknownFieldError, match=r"Wall\.colour|colour"):
        create_insert_schema(Wall)

    @converts(Colour)
    def colour(field):
        return marshmallow.fields.String(validate=marshmallow.validate.Regexp(r"#[0-9a-f]{6}\Z"))

    assert create_insert_schema(Wall)().load({"colour": "#00ff00"}) == {"colour": "#00ff00"}
    with pytest.raises(ValidationError):
        create_insert_schema(Wall)().load({"colour": "green"})


def test_what_the_database_refuses_is_told_by_key(database):
    Customer.create(email="ada@example.org")
    with pytest.raises(peewee.IntegrityError) as refused:
        Customer.create(email="ada@example.org")
    assert integrity_errors(refused.value, Customer).messages == {"email": ["Already taken."]}
