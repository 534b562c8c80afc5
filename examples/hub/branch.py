"""A branch of a shop: sells from its own database, with the hub or without, and tells of its stock. Until Ctrl-C or SIGTERM.

HUB_URL=ws://127.0.0.1:8765 HUB_KEY=phk_... python branch.py harbour harbour.db
"""

import os
import sys
import time
from typing import Any

from peewee import CharField, IntegerField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.hub import Spoke
from peewee_honker.operations import OperationRegistry, operations_for
from peewee_honker.signals import Model

name, file = sys.argv[1:]
db = HonkerDatabase(file)


class Sale(Model):
    what = CharField()
    pieces = IntegerField()

    class Meta:
        database = db


class Arrival(Model):
    """What other branches have told."""

    of = CharField()
    what = CharField()

    class Meta:
        database = db


db.create_tables([Sale, Arrival])
bus = EventBus(db, consumer="branch", start_at="beginning")
sales = bus.bridge(Sale, durable=True)  # the stream `sale`, which goes up
registry = OperationRegistry()
operations_for(Sale).register(registry)
spoke = Spoke(db, os.environ["HUB_URL"], name, key=os.environ["HUB_KEY"], streams=["sale"], registry=registry)


def note(event: Any) -> None:
    """Write down what another branch has sold."""
    Arrival.create(of=event.headers["hub-spoke"], what=event.payload["what"])


if __name__ == "__main__":
    from peewee_honker.events import HonkerEventTarget

    inbox = HonkerEventTarget(db, "durable", stream="hub", consumer="branch-inbox", start_at="beginning")
    inbox.add_listener("sale.*", note)
    if os.environ.get("SELL"):
        for number in range(int(os.environ["SELL"])):
            Sale.create(what=f"tea {number}", pieces=1)
            time.sleep(0.01)
    spoke.run()
    inbox.close()
    db.close_engine()
