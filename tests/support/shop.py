"""Models with every common kind of field, on Peewee's own SqliteDatabase: the schemas know nothing of Honker."""

import datetime
import enum
import uuid

import peewee
from playhouse.fields import EnumField

db = peewee.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Base(peewee.Model):
    class Meta:
        database = db


class Customer(Base):
    email = peewee.CharField(unique=True, max_length=40, help_text="where the bill goes", verbose_name="E-mail")


class Order(Base):
    customer = peewee.ForeignKeyField(Customer, backref="orders")
    total = peewee.DecimalField(max_digits=8, decimal_places=2, constraints=[peewee.Check("total >= 0")])
    status = peewee.CharField(choices=[("draft", "Draft"), ("paid", "Paid")], default="draft")
    placed = peewee.DateTimeField(default=datetime.datetime.now)
    note = peewee.TextField(null=True, column_name="remark")


class Kinds(Base):
    """One field of each kind, each with a range that the database keeps."""

    whole = peewee.IntegerField()
    small = peewee.SmallIntegerField()
    big = peewee.BigIntegerField(null=True)
    real = peewee.FloatField()
    yes = peewee.BooleanField()
    money = peewee.DecimalField(max_digits=9, decimal_places=3)
    short = peewee.CharField(max_length=8)
    code = peewee.FixedCharField(max_length=3, null=True)
    text = peewee.TextField()
    at = peewee.DateTimeField()
    day = peewee.DateField()
    clock = peewee.TimeField(null=True)
    stamp = peewee.TimestampField(resolution=6, utc=True)
    uid = peewee.UUIDField(default=uuid.uuid4)
    packed = peewee.BinaryUUIDField(null=True)
    blob = peewee.BlobField()
    ip = peewee.IPField(null=True)
    bits = peewee.BitField()
    data = peewee.JSONField()
    colour = EnumField(Colour)
    level = peewee.IntegerField(constraints=[peewee.Check("level BETWEEN 1 AND 5")])
    size = peewee.CharField(constraints=[peewee.Check("size IN ('s', 'm')")])
    name = peewee.CharField(constraints=[peewee.Check("length(name) >= 2 AND length(name) < 5")])


ALL = [Customer, Order, Kinds]
