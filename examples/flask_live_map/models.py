"""The airports, and the bus that tells of them. Shared by the importer and the web application."""

import os

from peewee import CharField, FloatField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model

db = HonkerDatabase(os.environ.get("AIRPORTS_DB", "airports.db"))


class Airport(Model):
    ident = CharField(primary_key=True)
    name = CharField()
    city = CharField()
    country = CharField(index=True)  # ISO 3166, two letters
    latitude = FloatField()
    longitude = FloatField()

    class Meta:
        database = db


bus = EventBus(db)
bus.bridge(Airport, durable=True)  # each save and delete goes into the stream "airport", with its row
