"""Ships: a durable consumer whose work commits with its place. `python ship.py 10` ends after so many."""

import sys

from shop import Shipment, bus, orders

from peewee_honker.signals import in_transaction

left = int(sys.argv[1])


@orders.saved.connect
@in_transaction
def ship(sender, event):
    global left
    if left:
        Shipment.create(order=int(event.id))
        print("shipped", event.id, flush=True)
        left -= 1
    if not left:
        bus.stop()  # after this one


bus.run()
