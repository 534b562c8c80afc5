"""What is watched, and the trail."""

import os

from peewee import CharField, IntegerField, TextField, TimestampField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model
from peewee_honker.storage import JSONField

db = HonkerDatabase(os.environ.get("AUDIT_DB", "bank.db"))


class Account(Model):
    owner = CharField()
    cents = IntegerField()

    class Meta:
        database = db


class Audit(db.Model):
    event_id = CharField(unique=True)  # a second row of one change would be an error
    time = TimestampField(resolution=1000, utc=True)
    table = CharField()
    operation = CharField()
    key = CharField()
    changes = JSONField(null=True)
    origin = TextField()


bus = EventBus(db, consumer="audit", start_at="beginning")
accounts = bus.bridge(Account, durable=True, changes=True)
