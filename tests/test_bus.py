"""Saves and deletes on the bus: heard after commit, in every process, and never after a rollback."""

import asyncio
import datetime
import decimal
import os
import signal
import threading
import uuid

import pytest
from peewee import (
    BlobField,
    CharField,
    CompositeKey,
    DateTimeField,
    DecimalField,
    FloatField,
    IntegerField,
    OperationalError,
    UUIDField,
)
from peewee import Model as PlainModel

from peewee_honker import Event, EventBus
from peewee_honker.signals import Model, post_save
from tests.support import outside

SHOP = """
    import sys
    from peewee import *
    from peewee_honker import EventBus, HonkerDatabase
    from peewee_honker.signals import Model
    db = HonkerDatabase(sys.argv[1])
    class Order(Model):
        customer = CharField()
        total = DecimalField(default=0)
        class Meta:
            database = db
    bus = EventBus(db)
    orders = bus.bridge(Order)
"""

RECEIVER = (
    SHOP
    + """
    @orders.saved.connect
    def saved(sender, event):
        assert sender is Order
        print(event.operation, event.id, event.payload["customer"])
    @orders.deleted.connect
    def deleted(sender, event):
        print(event.operation, event.id)
    wait = bus._stopped.wait
    def tell(seconds):  # that run() waits, and so that its handler of SIGTERM is there
        bus._stopped.wait = wait
        sys.stdout.write("ready\\n")
        return wait(seconds)
    bus._stopped.wait = tell
    bus.run()
    print("ended")
"""
)


class Order(Model):
    customer = CharField()
    total = DecimalField(default=0)


@pytest.fixture
def bus(db):
    with db.bind_ctx([Order]):
        db.create_tables([Order])
        bus = EventBus(db)
        yield bus
        bus.stop()
        for bridge in bus._bridges.values():
            bridge.unpublish()


@pytest.fixture
def heard(bus):
    """What the bridge's receivers have been told in this process, once the bus runs."""
    orders = bus.bridge(Order)
    events: list[Event] = []

    def hear(sender, event):
        events.append(event)

    orders.saved.connect(hear)
    orders.deleted.connect(hear)
    yield events
    del hear  # which blinker holds weakly


def names(events):
    return [event.payload["customer"] for event in events]


def test_receivers_in_another_process_hear_what_commits_in_order(db, bus, path):
    bus.bridge(Order)
    with outside.Script(RECEIVER, path) as receiver:
        assert receiver.line() == "ready"
        ada = Order.create(customer="Ada")
        with db.atomic():
            Order.create(customer="Bo")
            Order.create(customer="Cy")
        ada.customer = "Ada L."
        ada.save()
        ada.delete_instance()
        said = [receiver.line() for _ in range(5)]
        receiver.process.send_signal(signal.SIGINT)
        assert receiver.finish().split() == ["ended"]
    assert said == ["insert 1 Ada", "insert 2 Bo", "insert 3 Cy", "update 1 Ada L.", "delete 1"]


def test_nothing_that_was_rolled_back_is_heard_anywhere(db, bus, heard, path):
    with outside.Script(RECEIVER, path) as receiver, bus:
        assert receiver.line() == "ready"
        with pytest.raises(ZeroDivisionError), db.atomic():
            Order.create(customer="rolled back")
            _ = 1 / 0
        with db.atomic():
            Order.create(customer="kept")
            with pytest.raises(ZeroDivisionError), db.atomic():
                Order.create(customer="savepoint rolled back")
                _ = 1 / 0
            with db.savepoint() as point:
                Order.create(customer="undone by hand")
                point.rollback()
        Order.create(customer="last")
        said = [receiver.line() for _ in range(2)]
        outside.until(lambda: len(heard) >= 2)
        receiver.process.send_signal(signal.SIGTERM)
        assert receiver.finish().split() == ["ended"]
    assert [line.split()[-1] for line in said] == ["kept", "last"]
    assert names(heard) == ["kept", "last"]


def test_nothing_is_heard_before_the_commit(db, bus, heard):
    with bus:
        with db.atomic():
            Order.create(customer="Ada")
            # The dispatcher is shown to be awake by a commit of another connection's, and still must not tell of Ada.
            assert heard == []
        outside.until(lambda: heard)
    assert names(heard) == ["Ada"]


def test_what_commits_once_start_has_returned_is_heard(db, bus, heard):
    for number in range(30):
        with bus:
            Order.create(customer=str(number))
            outside.until(lambda number=number: len(heard) == number + 1)
    assert names(heard) == [str(number) for number in range(30)]


def test_a_row_whose_event_cannot_be_sent_is_not_written(db, bus):
    class Reading(Model):
        value = FloatField()

        class Meta:
            database = db

    db.create_tables([Reading])
    bus.bridge(Reading)
    with pytest.raises(ValueError, match=r"Reading\.value"):
        Reading.create(value=float("inf"))
    assert Reading.select().count() == 0
    with db.atomic():
        Reading.create(value=1.0)
        with pytest.raises(ValueError, match=r"Reading\.value"):
            Reading.create(value=float("inf"))
    assert [reading.value for reading in Reading.select()] == [1.0]


def test_a_receiver_that_raises_is_logged_and_the_others_hear(db, bus, caplog):
    orders = bus.bridge(Order)
    seen = []

    def broken(sender, event):
        raise RuntimeError("cannot ship")

    def fine(sender, event):
        seen.append(event.id)

    orders.saved.connect(broken)
    orders.saved.connect(fine)
    with bus:
        Order.create(customer="Ada")
        Order.create(customer="Bo")
        outside.until(lambda: len(seen) == 2)
    assert seen == ["1", "2"]
    assert caplog.text.count("RuntimeError: cannot ship") == 2


def test_a_receiver_can_use_the_database_and_save(db, bus):
    orders = bus.bridge(Order)
    done = threading.Event()

    def answer(sender, event):
        if event.payload["customer"] == "question":
            Order.create(customer="answer")
        else:
            done.set()

    orders.saved.connect(answer)
    with bus:
        Order.create(customer="question")
        assert done.wait(outside.DEADLINE)
    assert Order.select().count() == 2


def test_signals_of_this_process_run_inside_the_transaction(db, bus, heard):
    @post_save.connect_via(Order)
    def check(sender, instance, created):
        if instance.customer == "forbidden":
            raise ValueError("no")

    with bus:
        with pytest.raises(ValueError, match="no"):
            Order.create(customer="forbidden")
        Order.create(customer="fine")
        outside.until(lambda: heard)
    post_save.disconnect(check, sender=Order)
    assert names(heard) == ["fine"]
    assert Order.select().count() == 1


def test_excluded_fields_never_leave(db, bus, path):
    seen = []

    def hear(sender, event):
        seen.append(event.payload)

    orders = bus.bridge(Order, exclude=["total"])
    orders.saved.connect(hear)
    with bus:
        Order.create(customer="Ada", total=decimal.Decimal("7315420.86"))
        outside.until(lambda: seen)
    assert seen == [{"customer": "Ada", "id": 1}]
    assert "7315420.86" not in str(outside.rows(path, "SELECT payload FROM _honker_notifications"))


def test_values_travel_as_json(db, bus):
    class Thing(Model):
        at = DateTimeField()
        price = DecimalField()
        key = UUIDField()
        data = BlobField()

        class Meta:
            database = db

    db.create_tables([Thing])
    seen = []

    def hear(sender, event):
        seen.append(event)

    key = uuid.uuid4()
    bus.bridge(Thing).saved.connect(hear)
    with bus:
        Thing.create(at=datetime.datetime(2020, 1, 2, 3), price=decimal.Decimal("1.50"), key=key, data=b"\x00\x01")
        outside.until(lambda: seen)
    payload = {"at": "2020-01-02T03:00:00", "price": "1.50", "key": str(key), "data": "AAE=", "id": 1}
    assert (seen[0].payload, seen[0].type, seen[0].id) == (payload, "thing.saved", "1")
    assert f":{os.getpid()}/" in seen[0].origin
    assert uuid.UUID(seen[0].event_id).version == 7


def test_composite_keys_and_updates_of_no_row(db, bus):
    class Place(Model):
        x = IntegerField()
        y = IntegerField()
        name = CharField(default="")

        class Meta:
            database = db
            primary_key = CompositeKey("x", "y")

    db.create_tables([Place])
    seen = []

    def hear(sender, event):
        seen.append((event.operation, event.id))

    places = bus.bridge(Place)
    places.saved.connect(hear)
    places.deleted.connect(hear)
    with bus:
        place = Place.create(x=1, y=2)
        Place(x=5, y=5, name="nowhere").save()  # an UPDATE of no row: nothing happened
        place.delete_instance()
        place.delete_instance()
        Place.create(x=3, y=4)
        outside.until(lambda: len(seen) >= 3)
    assert seen == [("insert", "1,2"), ("delete", "1,2"), ("insert", "3,4")]


def test_what_cannot_be_bridged_is_refused(db, bus):
    class Plain(PlainModel):
        pass

    with pytest.raises(TypeError, match=r"peewee_honker\.signals\.Model"):
        bus.bridge(Plain)
    with pytest.raises(ValueError, match="no field 'secret'"):
        bus.bridge(Order, exclude=["secret"])
    bridge = bus.bridge(Order)
    assert bus.bridge(Order) is bridge
    with pytest.raises(ValueError, match="already"):
        bus.bridge(Order, exclude=["total"])
    with pytest.raises(TypeError, match="HonkerDatabase"):
        EventBus(None)


def test_the_bus_goes_on_in_the_parent_after_a_fork(db, bus, heard):
    with bus:
        Order.create(customer="before")
        child = os.fork()
        if child == 0:
            Order.create(customer="child")
            os._exit(0)
        os.waitpid(child, 0)
        Order.create(customer="after")
        outside.until(lambda: len(heard) == 3)
    assert names(heard) == ["before", "child", "after"]


def in_child(work):
    """Fork, and give what the work says in the child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, repr(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


def test_a_bus_that_ran_before_a_fork_is_started_in_the_child(bus, heard):
    def work():
        del heard[:]
        was_running = bus.is_running
        bus.start()
        Order.create(customer="child")
        bus.stop()
        return was_running, names(heard)

    with bus:
        Order.create(customer="before")
        outside.until(lambda: heard)
        assert in_child(work) == "(False, ['child'])"
        outside.until(lambda: names(heard) == ["before", "child"])


def test_the_child_of_a_fork_is_not_its_parents_durable_consumer(db):
    bus = EventBus(db, consumer="counter")
    numbers, heard = bus.signal("numbers", durable=True), []
    numbers.connect(lambda _sender, number: heard.append(number), weak=False)

    def work():
        del heard[:]
        bus.stop()
        bus.start()
        numbers.send(number=2)
        bus.stop()
        return heard

    with bus:
        numbers.send(number=1)
        outside.until(lambda: heard)
        assert in_child(work) == "[]"
        outside.until(lambda: heard == [1, 2])
        numbers.send(number=3)
    assert heard == [1, 2, 3]


def test_a_bus_that_another_thread_still_stops_can_be_started(bus):
    def hear(sender, number):
        heard.append(number)
        if number == 1:
            inside.set()
            goes_on.wait(outside.DEADLINE)

    numbers, heard, inside, goes_on = bus.signal("numbers"), [], threading.Event(), threading.Event()
    numbers.connect(hear)
    bus.start()
    numbers.send(number=1)
    inside.wait(outside.DEADLINE)
    stopping = threading.Thread(target=bus.stop)
    stopping.start()
    outside.until(lambda: not bus.is_running)
    starting = threading.Thread(target=bus.start)
    starting.start()
    goes_on.set()
    starting.join(outside.DEADLINE)
    stopping.join(outside.DEADLINE)
    numbers.send(number=2)
    outside.until(lambda: heard == [1, 2])


def test_a_process_that_forgets_to_stop_the_bus_ends_cleanly(path, db, bus):
    code = SHOP + "    bus.start(); Order.create(customer='x'); print('leaving')\n"
    with outside.Script(code, path) as careless:
        assert careless.finish().split() == ["leaving"]
        assert careless.process.returncode == 0


@pytest.mark.parametrize("durable", [False, True])
def test_async_receivers_are_awaited_on_the_callers_loop(db, durable):
    with db.bind_ctx([Order]):
        db.create_tables([Order])
        bus = EventBus(db, consumer="async")
        orders = bus.bridge(Order, durable=durable)
        heard, loops = [], []

        async def receive(sender, event):
            await asyncio.sleep(0)
            loops.append(asyncio.get_running_loop())
            heard.append(event.payload["customer"])

        def plain(sender, event):
            heard.append(event.payload["customer"].upper())

        orders.saved.connect(receive)
        orders.saved.connect(plain)

        async def main():
            serving = asyncio.create_task(bus.serve())
            while bus._running is None:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(Order.create, customer="ada")
            deadline = asyncio.get_running_loop().time() + outside.DEADLINE
            while len(heard) < 2 and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.005)
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert loops == [asyncio.get_running_loop()]

        asyncio.run(main())
        orders.unpublish()
    assert sorted(heard) == ["ADA", "ada"]
    assert bus._running is None


@pytest.mark.parametrize("turns", range(4))
def test_a_bus_whose_serving_is_cancelled_while_it_starts_does_not_run(bus, turns):
    async def main():
        serving = asyncio.create_task(bus.serve())
        for _ in range(turns):
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
        assert serving.cancelled()

    asyncio.run(main())  # which waits for threads
    assert not bus.is_running
    assert bus.loop is None


def test_an_async_receiver_without_a_loop_is_told_what_it_needs(db, bus, caplog):
    async def receive(sender, event):
        raise AssertionError("never runs")

    bus.bridge(Order).saved.connect(receive)
    with bus:
        Order.create(customer="Ada")
        outside.until(lambda: "async with bus" in caplog.text)


def test_old_notifications_are_pruned(db, bus, path):
    db.execute_sql(
        "INSERT INTO _honker_notifications (channel, payload, created_at) "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
        "SELECT 'old', '1', unixepoch() - 7200 FROM n"
    )
    with EventBus(db, ephemeral_seconds=2.0):
        Order.create(customer="new")
        outside.until(
            lambda: outside.rows(path, "SELECT COUNT(*) FROM _honker_notifications WHERE channel = 'old'") == [[0]]
        )


def test_a_full_disk_takes_row_and_event_back_together_and_receiving_goes_on(db):
    class Thing(Model):
        text = CharField()

        class Meta:
            database = db

    db.create_tables([Thing])
    bus, heard = EventBus(db), []
    things = bus.bridge(Thing)
    things.saved.connect(lambda _, event: heard.append(event.payload["text"]), weak=False)
    with bus:
        Thing.create(text="before")
        db.execute_sql(f"PRAGMA max_page_count = {db.pragma('page_count')}")  # SQLite's error is that of a full disk
        with pytest.raises(OperationalError) as found:
            for _ in range(1000):
                Thing.create(text="x" * 2000)
        errors = [found.value]
        while errors[-1].__context__ is not None:
            errors.append(errors[-1].__context__)
        assert any("database or disk is full" in str(error) for error in errors)  # behind that of Peewee's own rollback
        outside.until(lambda: heard and heard[0] == "before")
        rows = Thing.select().count()
        outside.until(lambda: len(heard) == rows)
        db.execute_sql("PRAGMA max_page_count = 1000000")
        Thing.create(text="after")
        outside.until(lambda: heard[-1] == "after")
    assert len(heard) == rows + 1
