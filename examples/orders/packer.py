"""A worker: takes jobs from the queue, one at a time, however many workers there are."""

import signal
import threading

from models import Order, db

stopped = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stopped.set())

queue = db.queue("packing")
while not stopped.is_set():
    job = queue.claim_one("packer")
    if job is None:
        stopped.wait(0.05)
        continue
    with db.atomic():
        order = Order.get_by_id(job.payload["order"])
        order.state = "packed"
        order.save()  # tells everybody who hears of orders
    job.ack()
db.close_engine()
