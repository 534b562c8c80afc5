"""Publishers and receivers that are killed at random: nothing that committed is lost, nothing else is heard.

pytest -m slow          # 200 kills
pytest -m soak          # for minutes; SOAK_SECONDS=600 for longer
"""

import os
import random
import signal
import time

import pytest
from peewee import IntegerField, TextField

from peewee_honker.events import HonkerEventTarget
from tests.support import outside

HEAD = """
    import os, random, sys
    from peewee import *
    from peewee_honker import Event, HonkerDatabase
    from peewee_honker.events import HonkerEventTarget
    from peewee_honker.signals import in_transaction
    db = HonkerDatabase(sys.argv[1], timeout=60)
    class Order(db.Model):
        name = TextField()
    class Work(db.Model):
        consumer = TextField()
        number = IntegerField()
"""
PUBLISHER = (
    HEAD
    + """
    target = HonkerEventTarget(db, "durable")
    heard = HonkerEventTarget(db)
    while True:
        try:
            with db.atomic():
                for _ in range(random.randint(1, 5)):
                    order = Order.create(name=sys.argv[2])
                    target.dispatch(Event("order", str(order.id)))
                    heard.dispatch(Event("order", str(order.id)))
                if random.random() < 0.2:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        print("transaction")
"""
)
RECEIVER = (
    HEAD
    + """
    target = HonkerEventTarget(db, "durable", consumer=sys.argv[2], start_at="beginning")
    @in_transaction
    def work(event):
        Work.create(consumer=sys.argv[2], number=int(event.id))
    target.add_listener("order", work)
    print("ready"); sys.stdin.readline()
"""
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_processes_that_are_killed_200_times_lose_nothing(db, path):
    kill_in_turn(db, path, lambda kills: kills < 200)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_processes_that_are_killed_for_minutes_lose_nothing(db, path):
    end = time.monotonic() + float(os.environ.get("SOAK_SECONDS", "180"))
    kill_in_turn(db, path, lambda _kills: time.monotonic() < end)


def kill_in_turn(db, path, goes_on):
    class Order(db.Model):
        name = TextField()

    class Work(db.Model):
        consumer = TextField()
        number = IntegerField()

    db.create_tables([Order, Work])
    heard = []
    listener = HonkerEventTarget(db)
    listener.add_listener("order", lambda event: heard.append(int(event.id)))
    kills, receivers_until = 0, 0.0
    names = ["one", "two"]
    running = {("publisher", name): outside.Script(PUBLISHER, path, name) for name in names}
    running |= {("receiver", name): outside.Script(RECEIVER, path, name) for name in names}
    try:
        while goes_on(kills):
            for _ in range(random.randint(1, 20)):
                running["publisher", random.choice(names)].line()
            # A receiver that was killed is followed after six seconds: it has to have some more to do its work.
            kind = "receiver" if time.monotonic() > receivers_until else "publisher"
            if kind == "receiver":
                receivers_until = time.monotonic() + random.uniform(6.0, 12.0)
            name = random.choice(names)
            with running[kind, name] as script:
                script.process.send_signal(signal.SIGKILL)
            kills += 1
            running[kind, name] = outside.Script(PUBLISHER if kind == "publisher" else RECEIVER, path, name)
        for name in names:
            with running.pop(("publisher", name)) as script:
                script.process.send_signal(signal.SIGKILL)
        orders = [order.id for order in Order.select().order_by(Order.id)]
        for name in names:
            work = Work.select().where(Work.consumer == name)
            done = work.count()
            while done < len(orders):
                done = (
                    outside.until(lambda done=done, work=work: max(work.count() - done, 0), f"more than {done} of {name}")
                    + done
                )
    finally:
        for script in running.values():
            script.__exit__()
    outside.until(lambda: len(heard) >= len(orders), "the events")
    listener.close()
    assert heard == orders
    for name in names:
        assert [work.number for work in Work.select().where(Work.consumer == name).order_by(Work.id)] == orders
    assert kills
