"""The table, and the bus that tells of its changes."""

import os

from peewee import CharField, IntegerField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model

db = HonkerDatabase(os.environ.get("CACHE_DB", "shop.db"))


class Price(Model):
    name = CharField(primary_key=True)
    cents = IntegerField()

    class Meta:
        database = db


bus = EventBus(db)
prices = bus.bridge(Price)
