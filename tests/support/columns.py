"""Columns of every type, values for them, and what a sender may send: for tests of schemas by generated models."""

import base64
import datetime
import decimal
import enum
import uuid

import peewee
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from peewee import SQL, Check
from playhouse.fields import EnumField, IntEnumField

from tests.support.laws import examples

LAW = settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


text = st.text(st.characters(codec="utf-8"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
moments = st.datetimes(timezones=st.none() | st.just(datetime.UTC))

# By name: how to make the field, and the values that a program puts into it.
FIELDS = {
    "integer": (peewee.IntegerField, st.integers(-(2**53) + 1, 2**53 - 1)),
    "big": (peewee.BigIntegerField, st.integers(-(2**63), 2**63 - 1)),
    "small": (peewee.SmallIntegerField, st.integers(-(2**15), 2**15 - 1)),
    "float": (peewee.FloatField, st.floats(allow_nan=False, allow_infinity=False)),
    "boolean": (peewee.BooleanField, st.booleans()),
    "text": (peewee.TextField, text),
    "char": (lambda **o: peewee.CharField(max_length=5, **o), st.text(st.characters(codec="utf-8"), max_size=5)),
    "fixed": (lambda **o: peewee.FixedCharField(max_length=5, **o), st.text(st.characters(codec="utf-8"), max_size=5)),
    "chosen": (lambda **o: peewee.CharField(choices=[("a", "A"), ("b", "B")], **o), st.sampled_from("ab")),
    "decimal": (
        lambda **o: peewee.DecimalField(max_digits=12, decimal_places=3, **o),
        st.decimals(-999_999_999, 999_999_999, places=3, allow_nan=False),
    ),
    "uuid": (peewee.UUIDField, st.uuids()),
    "binary_uuid": (peewee.BinaryUUIDField, st.uuids()),
    "datetime": (peewee.DateTimeField, moments),
    "date": (peewee.DateField, st.dates()),
    "time": (peewee.TimeField, st.times()),
    "timestamp": (
        lambda **o: peewee.TimestampField(utc=True, resolution=1000, **o),
        st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2200, 1, 1)),
    ),
    "blob": (peewee.BlobField, st.binary()),
    "bits": (peewee.BitField, st.integers(0, 2**63 - 1)),
    "ip": (peewee.IPField, st.ip_addresses(v=4).map(str)),
    "json": (peewee.JSONField, json_values.filter(lambda value: value is not None)),  # null is the column's
    "color": (lambda **o: EnumField(Color, **o), st.sampled_from(Color)),
    "level": (lambda **o: IntEnumField(Level, **o), st.sampled_from(Level)),
    "checked": (lambda **o: checked(peewee.IntegerField, "checked > 3 AND checked <= 9", o), st.integers(4, 9)),
    "listed": (lambda **o: checked(peewee.CharField, "listed IN ('x', 'it''s')", o), st.sampled_from(["x", "it's"])),
    "parent": (lambda **o: peewee.ForeignKeyField("self", **o), st.just(1)),
    "measured": (lambda **o: checked(peewee.TextField, "length(measured) >= 2", o), st.text("abc\u00e4", min_size=2)),
}


def checked(kind, condition, options) -> peewee.Field:
    return kind(constraints=[Check(condition)], **options)


@st.composite
def columns(draw):
    """Give some of the fields above by name, each with whether it may be null and whether it has a default."""
    names = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=8, unique=True))
    return {name: (draw(st.booleans()), draw(st.booleans())) for name in names}


def model_of(chosen) -> type[peewee.Model]:
    made = {}
    for name, (null, default) in chosen.items():
        options = {"default": DEFAULTS[name]} if default else {}
        made[name] = FIELDS[name][0](null=null, **options)
    made["generated"] = peewee.IntegerField(constraints=[SQL("GENERATED ALWAYS AS (id + 1)")])
    return type("Thing", (peewee.Model,), made)


DEFAULTS = {
    **dict.fromkeys(("integer", "big", "small", "bits"), 1),
    **dict.fromkeys(("text", "char", "fixed", "chosen"), "a"),
    **dict.fromkeys(("uuid", "binary_uuid"), uuid.uuid4),
    **dict.fromkeys(("datetime", "timestamp"), datetime.datetime(2026, 1, 1)),
    "float": 0.5,
    "boolean": True,
    "decimal": decimal.Decimal("1.5"),
    "date": datetime.date(2026, 1, 1),
    "time": datetime.time(1, 2),
    "blob": b"b",
    "ip": "10.0.0.1",
    "json": list,
    "color": Color.RED,
    "level": Level.LOW,
    "checked": 5,
    "parent": 1,
    "listed": "x",
    "measured": "ab",
}


# What a sender may send: values that fit and values that almost do.
sent = (
    json_values
    | st.sampled_from(
        ["a", "b", "red", "x", "it's", "ab", "10.0.0.1", "2026-11-24", "2026-11-24T10:00:00Z", "10:00", "1.50"]
    )
    | st.uuids().map(str)
    | st.dates().map(str)
    | st.datetimes().map(lambda moment: moment.isoformat())
    | st.decimals(allow_nan=True).map(str)
    | st.integers(0, 10)
    | st.booleans()
    | st.binary().map(lambda data: base64.b64encode(data).decode())
    | st.sampled_from([2**53, 2**63, -(2**63) - 1, 2**70, 1e308, float("nan"), float("inf"), "\x00", "a\x00b", "\ud800"])
)
