"""The app: what it is about does not change when it moves; only SHOP_DATABASE does."""

import os

from peewee import AutoField, CharField, DecimalField, ForeignKeyField, PostgresqlDatabase

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model


def open_database(where: str) -> HonkerDatabase | PostgresqlDatabase:
    """The database of a URL of PostgreSQL, or of a file's path."""
    if where.startswith("postgresql://"):
        return PostgresqlDatabase(where, prefer_psycopg3=True)
    return HonkerDatabase(where)


db = open_database(os.environ.get("SHOP_DATABASE", "shop.db"))


class Customer(Model):
    id = AutoField()
    name = CharField(unique=True)

    class Meta:
        database = db


class Order(Model):
    id = AutoField()
    customer = ForeignKeyField(Customer, backref="orders")
    total = DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        database = db


class Shipment(Model):
    id = AutoField()
    order = ForeignKeyField(Order, unique=True)

    class Meta:
        database = db


MODELS = [Customer, Order, Shipment]

bus = EventBus(db, consumer="shipping", start_at="beginning")
orders = bus.bridge(Order, durable=True)
