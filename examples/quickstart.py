"""One file, two processes: this one sells, the one that it starts hears of what was committed.

python examples/quickstart.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from peewee import CharField, DecimalField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model

folder = tempfile.TemporaryDirectory(prefix="quickstart-")
db = HonkerDatabase(sys.argv[1] if len(sys.argv) > 1 else Path(folder.name, "shop.db"))


class Order(Model):
    customer = CharField()
    total = DecimalField()

    class Meta:
        database = db


bus = EventBus(db)
orders = bus.bridge(Order)


def hear() -> None:
    @orders.saved.connect
    def ship(sender: type[Order], event) -> None:
        print(f"  heard in the other process: ship to {event.payload['customer']}", flush=True)

    with bus:  # calls receivers, here until the first process closes the pipe
        print("ready", flush=True)
        sys.stdin.read()


def sell() -> None:
    db.create_tables([Order])
    command = [sys.executable, __file__, str(db.database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with db.atomic():
            Order.create(customer="Ada", total="9.99")
            print("Ada's order is saved, and heard of when its transaction has committed:")
        print(other.stdout.readline(), end="")
        with db.atomic() as transaction:
            Order.create(customer="Eve", total="0.00")
            transaction.rollback()
            print("Eve's order is rolled back, and never heard of.")
        Order.create(customer="Grace", total="5.00")
        print("Grace's order is a transaction of its own:")
        print(other.stdout.readline(), end="")
        other.stdin.close()
    db.close_engine()


if __name__ == "__main__":
    with folder:
        hear() if len(sys.argv) > 1 else sell()
