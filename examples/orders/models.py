"""The shop's tables, its bus and its queue: shared by all of its processes."""

import os

from peewee import CharField, DecimalField, ForeignKeyField, IntegerField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model, pre_save

db = HonkerDatabase(os.environ.get("SHOP_DB", "shop.db"))


class Product(Model):
    name = CharField(unique=True)
    stock = IntegerField()

    class Meta:
        database = db


class Order(Model):
    customer = CharField()
    email = CharField()
    product = ForeignKeyField(Product)
    total = DecimalField(decimal_places=2)
    state = CharField(default="new")

    class Meta:
        database = db


class SoldOutError(Exception):
    """There is none left."""


@pre_save.connect_via(Order)
def take_from_stock(_sender: type[Order], instance: Order, created: bool) -> None:
    """In the transaction of the order: what is raised here takes it back, with all that belongs to it."""
    if created:
        left = Product.stock > 0
        if not Product.update(stock=Product.stock - 1).where((Product.id == instance.product_id) & left).execute():
            raise SoldOutError(f"{instance.product.name} is sold out")


bus = EventBus(db, consumer="post-office", start_at="beginning", attempts=3, backoff=0.1)
orders = bus.bridge(Order, durable=True)
