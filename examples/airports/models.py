"""The tables of the demo, and the bus that tells of them. Every process of the demo imports this."""

from peewee import CharField, FloatField, ForeignKeyField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model

db = HonkerDatabase(None)  # each process says db.init(path), once it knows the path


class Country(Model):
    code = CharField(primary_key=True, max_length=2)

    class Meta:
        database = db


class Airport(Model):
    icao = CharField(primary_key=True, max_length=8)
    name = CharField()
    city = CharField()
    country = ForeignKeyField(Country)
    latitude = FloatField()
    longitude = FloatField()

    class Meta:
        database = db


# From here on every Airport that is saved tells of itself, in the transaction of its save.
bus = EventBus(db)
airports = bus.bridge(Airport)
