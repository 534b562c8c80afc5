"""From a Peewee field to a marshmallow field: every type, every option."""

import datetime
import decimal
import enum
import uuid

import marshmallow
import peewee
import pytest
from marshmallow import ValidationError, fields
from peewee import SQL, Check, Default
from playhouse.fields import CompressedField, EnumField, IntEnumField, PickleField
from playhouse.sqlite_ext import ISODateTimeField, JSONBField, RowIDField
from playhouse.sqlite_ext import JSONField as SqliteJSONField

from peewee_honker.errors import SchemaError
from peewee_honker.schemas import converts, field_for, fields_for_model


def bound(field: peewee.Field, **constraints) -> peewee.Field:
    """Give the field as that of a model called Thing, where it is called `it`."""
    return type("Thing", (peewee.Model,), {"it": field})._meta.fields["it"]


def accepts(field: peewee.Field, value) -> bool:
    try:
        field_for(bound(field) if not hasattr(field, "model") else field).deserialize(value)
    except ValidationError:
        return False
    return True


def load(field: peewee.Field, value):
    return field_for(bound(field)).deserialize(value)


def dump(field: peewee.Field, value):
    return field_for(bound(field)).serialize("it", {"it": value})


# Numbers


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        (peewee.IntegerField, -(2**53) + 1, 2**53 - 1),
        (peewee.BigIntegerField, -(2**63), 2**63 - 1),
        (peewee.SmallIntegerField, -(2**15), 2**15 - 1),
        (peewee.BitField, 0, 2**63 - 1),
    ],
)
def test_an_integer_is_a_whole_number_within_the_bounds_of_its_type(field, low, high):
    assert load(field(), low) == low
    assert load(field(), high) == high
    assert not accepts(field(), low - 1)
    assert not accepts(field(), high + 1)


@pytest.mark.parametrize("value", [True, 1.5, "1", b"1", [1], float("nan")])
def test_an_integer_is_neither_text_nor_boolean_nor_a_fraction(value):
    assert not accepts(peewee.IntegerField(), value)


def test_a_whole_float_is_an_integer_as_it_is_for_json_schema():
    loaded = load(peewee.IntegerField(), 2.0)
    assert (loaded, type(loaded)) == (2, int)
    assert not accepts(peewee.IntegerField(), 1e300)


@pytest.mark.parametrize("value", ["yes", "true", 1, 0, 1.0, "1"])
def test_a_boolean_is_true_or_false_and_nothing_like_it(value):
    assert not accepts(peewee.BooleanField(), value)
    assert load(peewee.BooleanField(), True) is True


def test_a_float_is_finite():
    assert load(peewee.FloatField(), 1.5) == 1.5
    assert isinstance(load(peewee.DoubleField(), 2), float)
    for value in (float("nan"), float("inf"), 10**400, "1.5", True):
        assert not accepts(peewee.FloatField(), value)


def test_a_decimal_is_text_with_the_digits_and_places_of_its_column():
    field = peewee.DecimalField(max_digits=5, decimal_places=2)
    assert load(field, "123.45") == decimal.Decimal("123.45")
    for value in ("1234.5", "1.234", "1e2", " 1", "1_0", "NaN", 1.5, 1, True, "", "\u0661"):
        assert not accepts(peewee.DecimalField(max_digits=5, decimal_places=2), value), value


def test_a_decimal_is_written_with_all_the_places_of_its_column():
    assert dump(peewee.DecimalField(decimal_places=2), decimal.Decimal("12.5")) == "12.50"
    assert dump(peewee.DecimalField(decimal_places=2), decimal.Decimal("1E+2")) == "100.00"
    assert dump(peewee.DecimalField(decimal_places=2), decimal.Decimal("0.125")) == "0.125"  # nothing is lost


def test_trailing_zeros_are_no_decimal_places():
    assert accepts(peewee.DecimalField(max_digits=5, decimal_places=2), "1.2000")


def test_a_decimal_that_the_database_rounds_has_any_number_of_places():
    assert accepts(peewee.DecimalField(decimal_places=2, auto_round=True), "1.23456")


# Text


def test_a_text_has_at_most_the_length_of_its_column():
    assert accepts(peewee.CharField(max_length=3), "abc")
    assert not accepts(peewee.CharField(max_length=3), "abcd")
    assert not accepts(peewee.FixedCharField(max_length=3), "abcd")
    assert accepts(peewee.TextField(), "a" * 100_000)


@pytest.mark.parametrize("value", [b"abc", 1, "half \ud800 of a pair"])
def test_a_text_is_text_that_has_a_form_in_utf_8(value):
    assert not accepts(peewee.TextField(), value)


# Choices


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@pytest.mark.parametrize(
    "choices", [[("s", "Small"), ("l", "Large")], ["s", "l"], Size, [(Size.SMALL, "Small"), (Size.LARGE, "")]]
)
def test_choices_are_pairs_or_plain_values_or_an_enum(choices):
    assert load(peewee.CharField(choices=choices), "s") == "s"
    assert not accepts(peewee.CharField(choices=choices), "m")


def test_an_enum_field_loads_the_member_and_dumps_its_value():
    assert load(EnumField(Size), "s") is Size.SMALL
    assert dump(EnumField(Size), Size.LARGE) == "l"
    assert load(IntEnumField(Level), 2) is Level.HIGH
    assert not accepts(IntEnumField(Level), 3)
    assert not accepts(EnumField(Size), "SMALL")


# Dates


def test_dates_and_times_are_iso_text():
    assert load(peewee.DateField(), "2026-11-24") == datetime.date(2026, 11, 24)
    assert load(peewee.TimeField(), "14:30:01.5") == datetime.time(14, 30, 1, 500000)
    assert load(peewee.DateTimeField(), "2026-11-24T14:30:00") == datetime.datetime(2026, 11, 24, 14, 30)
    aware = datetime.datetime(2026, 11, 24, 14, 30, tzinfo=datetime.UTC)
    assert load(peewee.DateTimeField(), "2026-11-24 14:30:00Z") == aware
    assert dump(peewee.DateTimeField(), aware) == "2026-11-24T14:30:00+00:00"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (peewee.DateField, "20261124"),
        (peewee.DateField, "2026-W48-2"),
        (peewee.DateField, "2026-02-30"),
        (peewee.DateField, datetime.datetime(2026, 1, 1)),
        (peewee.DateTimeField, "2026-11-24"),
        (peewee.DateTimeField, 0),
        (peewee.TimeField, "25:00"),
        (peewee.TimeField, "1430"),
    ],
)
def test_other_forms_of_dates_are_refused(field, value):
    assert not accepts(field(), value)


def test_a_date_is_read_in_the_formats_that_its_field_names_too():
    field = peewee.DateField(formats=["%d.%m.%Y"])
    assert load(field, "24.11.2026") == datetime.date(2026, 11, 24)
    assert load(peewee.TimeField(formats=["%H h %M"]), "14 h 30") == datetime.time(14, 30)
    assert load(peewee.DateTimeField(formats=["%d.%m.%Y %H:%M"]), "24.11.2026 14:30") == datetime.datetime(
        2026, 11, 24, 14, 30
    )
    assert not accepts(peewee.DateField(), "24.11.2026")


def test_a_schemas_format_takes_the_place_of_iso():
    class Schema(marshmallow.Schema):
        class Meta:
            datetimeformat = "%d.%m.%Y %H:%M"

        it = field_for(bound(peewee.DateTimeField()))

    moment = datetime.datetime(2026, 11, 24, 14, 30)
    assert Schema().dump({"it": moment}) == {"it": "24.11.2026 14:30"}
    assert Schema().load({"it": "24.11.2026 14:30"}) == {"it": moment}
    with pytest.raises(ValidationError):
        Schema().load({"it": "2026-11-24T14:30:00"})


def test_a_timestamp_is_written_with_its_offset_and_read_as_peewee_gives_it():
    moment = datetime.datetime(2026, 7, 1, 12, 0)
    assert dump(peewee.TimestampField(utc=True), moment) == "2026-07-01T12:00:00+00:00"
    assert load(peewee.TimestampField(utc=True), "2026-07-01T14:00:00+02:00") == moment
    for field in (peewee.TimestampField, lambda: peewee.TimestampField(utc=True, resolution=1000)):
        assert load(field(), dump(field(), moment)) == moment
    assert not accepts(peewee.TimestampField(utc=True), "0001-01-01T00:00:00+14:00")


# Bytes, keys and JSON


def test_uuids_are_text_whatever_the_column_holds():
    key = uuid.uuid4()
    for field in (peewee.UUIDField, peewee.BinaryUUIDField):
        assert dump(field(), key) == str(key)
        assert load(field(), str(key)) == key
        assert not accepts(field(), "{" + str(key) + "}")
        assert not accepts(field(), key.hex)
        assert not accepts(field(), key.bytes)


def test_a_blob_is_base64():
    assert dump(peewee.BlobField(), b"\x00\xff") == "AP8="
    assert dump(peewee.BlobField(), memoryview(b"\x00\xff")) == "AP8="
    assert load(peewee.BlobField(), "AP8=") == b"\x00\xff"
    for value in ("AP8", "A P8=", "ä", 1):
        assert not accepts(peewee.BlobField(), value)


def test_a_field_of_many_bits_is_base64_too():
    field = bound(peewee.BigBitField())
    thing = field.model()
    thing.it.set_bit(9)
    assert field_for(field).serialize("it", thing) == "AAI="


def test_an_ip_address_has_four_numbers():
    assert load(peewee.IPField(), "10.0.0.1") == "10.0.0.1"
    for value in ("10.1", "10.0.0.256", "::1", 1):
        assert not accepts(peewee.IPField(), value)


@pytest.mark.parametrize("field", [peewee.JSONField, SqliteJSONField, JSONBField])
def test_json_is_any_json_value(field):
    value = {"a": [1, 2.5, None, True, "ä", {}]}
    assert load(field(), value) == value
    assert dump(field(), value) == value
    for wrong in (
        {1: 2},
        (1,),
        {1},
        float("nan"),
        [float("inf")],
        {"a": b""},
        ["\ud800"],
        {"\ud800": 1},
        datetime.date(2026, 1, 1),
    ):
        assert not accepts(field(), wrong), wrong


def test_json_nested_deeper_than_sqlite_reads_is_refused():
    value = []
    for _ in range(1001):
        value = [value]
    assert not accepts(peewee.JSONField(), value)


def test_null_is_taken_where_the_column_takes_it():
    assert load(peewee.JSONField(null=True), None) is None
    assert not accepts(peewee.JSONField(), None)


# What is no field of its own


def test_playhouses_fields_are_found_by_their_base_class():
    assert isinstance(field_for(bound(ISODateTimeField())), fields.DateTime)
    assert isinstance(field_for(type("T", (peewee.Model,), {"rowid": RowIDField()}).rowid), fields.Integer)


def test_postgres_fields_are_converted_where_its_driver_is_there():
    postgres = pytest.importorskip("playhouse.postgres_ext")
    assert load(postgres.ArrayField(peewee.CharField, {"max_length": 2}), ["a", "bc"]) == ["a", "bc"]
    assert not accepts(postgres.ArrayField(peewee.CharField, {"max_length": 2}), ["abc"])
    assert load(postgres.ArrayField(dimensions=2), [[1], [2, 3]]) == [[1], [2, 3]]
    assert not accepts(postgres.ArrayField(dimensions=2), [1])
    assert load(postgres.HStoreField(), {"a": "b", "c": None}) == {"a": "b", "c": None}
    assert load(postgres.BinaryJSONField(), {"a": 1}) == {"a": 1}
    assert load(postgres.IntervalField(), 90) == datetime.timedelta(seconds=90)


@pytest.mark.parametrize("field", [PickleField, CompressedField])
def test_pickled_and_compressed_fields_are_refused_by_name(field):
    with pytest.raises(SchemaError, match=rf"Thing\.it is a {field.__name__}"):
        field_for(bound(field()))


def test_a_type_that_nobody_converts_is_an_error_that_names_the_field():
    class Odd(peewee.Field):
        pass

    with pytest.raises(SchemaError, match=r"Thing\.it is a Odd.*@converts\(Odd\)"):
        field_for(bound(Odd()))
    with pytest.raises(SchemaError, match=r"Thing\.it is a BareField"):
        field_for(bound(peewee.BareField()))


def test_a_converter_of_ones_own_holds_for_subclasses_too():
    class Email(peewee.CharField):
        pass

    class WorkEmail(Email):
        pass

    @converts(Email)
    def email(field, **options):
        return fields.Email(**options)

    assert isinstance(field_for(bound(WorkEmail(null=True))), fields.Email)
    assert field_for(bound(WorkEmail(null=True))).allow_none


def test_a_converter_that_gives_no_field_is_an_error():
    class Bad(peewee.CharField):
        pass

    @converts(Bad)
    def bad(field, **options):
        return None

    with pytest.raises(SchemaError, match=r"Bad.*Thing\.it"):
        field_for(bound(Bad()))


# What a field says beside its type


def test_a_key_is_required_unless_null_or_a_default_makes_it_optional():
    def required(field):
        return field_for(bound(field)).required

    assert required(peewee.IntegerField())
    assert not required(peewee.IntegerField(null=True))
    assert not required(peewee.IntegerField(default=0))
    assert not required(peewee.UUIDField(default=uuid.uuid4))
    assert not required(peewee.IntegerField(constraints=[SQL("DEFAULT 7")]))
    assert not required(peewee.IntegerField(constraints=[Default(7)]))
    assert not required(peewee.AutoField())
    assert required(peewee.CharField(primary_key=True))


def test_a_generated_column_is_only_dumped():
    made = field_for(bound(peewee.IntegerField(constraints=[SQL("GENERATED ALWAYS AS (1 + 1)")])))
    assert made.dump_only
    assert not made.required


def test_the_description_of_a_field_goes_into_the_metadata():
    made = field_for(bound(peewee.IntegerField(verbose_name="Total", help_text="In cents")), metadata={"example": 1})
    assert made.metadata == {"title": "Total", "description": "In cents", "example": 1}


def test_overrides_add_validators_and_replace_the_rest():
    made = field_for(bound(peewee.CharField(max_length=3)), validate=marshmallow.validate.Length(min=2), allow_none=True)
    assert made.deserialize(None) is None
    for value in ("a", "abcd"):
        with pytest.raises(ValidationError):
            made.deserialize(value)


@pytest.mark.parametrize(
    ("condition", "taken", "refused"),
    [
        ("it >= 0", 0, -1),
        ("it > 0 AND it < 10", 9, 10),
        ('"it" BETWEEN 1 AND 5', 5, 6),
        ("it IN (1, 2)", 2, 3),
        ("(it >= 1) and (it <= 2)", 1, 3),
        ("0 < it", 1, 0),
        ("it = 4", 4, 5),
        ("it BETWEEN -2.5 AND 2.5", -2, 3),
        ("[it] < 3", 2, 3),
    ],
)
def test_a_simple_check_of_a_number_is_read(condition, taken, refused):
    field = bound(peewee.IntegerField(constraints=[Check(condition)]))
    assert accepts(field, taken)
    assert not accepts(field, refused)


def test_a_simple_check_of_a_text_is_read():
    listed = bound(peewee.CharField(constraints=[Check("it IN ('a', 'it''s')", "named")]))
    assert accepts(listed, "it's")
    assert not accepts(listed, "b")
    measured = bound(peewee.CharField(constraints=[Check("length(it) > 2")]))
    assert accepts(measured, "abc")
    assert not accepts(measured, "ab")


@pytest.mark.parametrize(
    "condition", ["it > other", "it > 0 OR it < -5", "it % 2 = 0", "NOT it > 3", "it > 0 AND other > 9", "it <> 0"]
)
def test_a_check_that_is_not_simple_is_left_to_the_database(condition):
    assert accepts(bound(peewee.IntegerField(constraints=[Check(condition)])), -10)


def test_a_check_of_the_table_is_read_for_its_column():
    class Thing(peewee.Model):
        it = peewee.IntegerField(column_name="that")
        other = peewee.IntegerField()

        class Meta:
            constraints = [Check("that > 0")]  # noqa: RUF012

    assert not accepts(Thing.it, 0)
    assert accepts(Thing.other, 0)


# Foreign keys


class Country(peewee.Model):
    code = peewee.CharField(max_length=2, primary_key=True)


class Person(peewee.Model):
    country = peewee.ForeignKeyField(Country, null=True)
    parent = peewee.ForeignKeyField("self", null=True)
    badge = peewee.UUIDField(unique=True)


class Visit(peewee.Model):
    by = peewee.ForeignKeyField(Person, field="badge", object_id_name="who")
    profile = peewee.ForeignKeyField(Person, primary_key=True)


class Note(peewee.Model):
    visit = peewee.ForeignKeyField(Visit)


def test_a_foreign_key_has_the_type_of_the_key_it_holds():
    assert isinstance(field_for(Person.country), fields.String)
    assert not accepts(Person.country, "long")
    assert accepts(Person.country, None)
    assert isinstance(field_for(Person.parent), fields.Integer)
    assert isinstance(field_for(Visit.by), fields.UUID)
    assert isinstance(field_for(Note.visit), fields.Integer)  # a key that is a foreign key itself


def test_a_foreign_key_is_read_from_rows_of_every_kind_without_a_query():
    badge = uuid.uuid4()
    by = field_for(Visit.by)
    for row in (Visit(by=badge), Visit(by=Person(badge=badge)), {"by": badge}, {"who": badge}, {"by": Person(badge=badge)}):
        assert by.serialize("by", row) == str(badge)
    note = Note(visit=Visit(profile=Person(id=7)))
    assert field_for(Note.visit).serialize("visit", note) == 7


def test_a_deferred_foreign_key_is_converted_once_its_model_is_there():
    class Employee(peewee.Model):
        boss = peewee.DeferredForeignKey("BossOfLater")

    with pytest.raises(SchemaError, match=r"boss.*bossoflater"):
        fields_for_model(Employee)

    class BossOfLater(peewee.Model):
        name = peewee.CharField(primary_key=True)

    assert isinstance(fields_for_model(Employee)["boss"], fields.String)


def test_the_fields_of_a_model_come_in_the_order_of_its_columns():
    assert list(fields_for_model(Person)) == ["id", "country", "parent", "badge"]
    assert list(fields_for_model(Person, only=["badge", "id"])) == ["id", "badge"]
    assert list(fields_for_model(Person, exclude=["id"])) == ["country", "parent", "badge"]
    with pytest.raises(SchemaError, match=r"Person has no field 'nme'"):
        fields_for_model(Person, only=["nme"])
