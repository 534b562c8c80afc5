"""Durable bridges: each consumer gets every committed event, in order, from where it stopped, whatever dies."""

import asyncio
import os
import signal
import threading

import pytest
from peewee import CharField, IntegerField
from peewee import Model as PlainModel

from peewee_honker import EventBus
from peewee_honker.events import HonkerEventTarget, dead_letters
from peewee_honker.signals import Model, in_transaction
from tests.support import outside
from tests.support.errors import HARD_TO_WRITE


class Order(Model):
    customer = CharField()


class Shipment(PlainModel):
    order = IntegerField()


@pytest.fixture(autouse=True)
def _tables(db):
    with db.bind_ctx([Order, Shipment]):
        db.create_tables([Order, Shipment])
        yield


@pytest.fixture
def make_bus(db):
    """`make_bus("name")` gives a bus with a durable bridge, and the events that its receiver hears."""
    made = []

    def make(consumer, receiver=None, **options):
        bus = EventBus(db, consumer=consumer, **options)
        orders = bus.bridge(Order, durable=True)
        events = []

        def hear(sender, event):
            events.append(event)

        bus.receiver = receiver or hear
        orders.saved.connect(bus.receiver)
        orders.deleted.connect(bus.receiver)
        if made:
            orders.unpublish()  # one of the test's buses publishes
        made.append(bus)
        return bus, events

    yield make
    for bus in made:
        bus.stop()
        bus.bridge(Order, durable=True).unpublish()


def names(events):
    return [event.payload["customer"] for event in events]


WORKER = """
    import os, sys
    from peewee import *
    from peewee_honker import EventBus, HonkerDatabase
    from peewee_honker.signals import Model, in_transaction
    db = HonkerDatabase(sys.argv[1], timeout=30)
    class Order(Model):
        customer = CharField()
        class Meta:
            database = db
    class Shipment(db.Model):
        order = IntegerField()
    bus = EventBus(db, consumer="shipping", start_at="beginning")
    orders = bus.bridge(Order, durable=True)
"""


def test_a_consumer_goes_on_where_it_stopped(make_bus):
    bus, heard = make_bus("shipping")
    with bus:
        Order.create(customer="a")
        Order.create(customer="b").delete_instance()
        outside.until(lambda: len(heard) == 3)
    Order.create(customer="while it was away")
    assert len(heard) == 3
    with bus:
        Order.create(customer="c")
        outside.until(lambda: len(heard) == 5)
    assert [(event.operation, event.payload["customer"]) for event in heard] == [
        ("insert", "a"),
        ("insert", "b"),
        ("delete", "b"),
        ("insert", "while it was away"),
        ("insert", "c"),
    ]
    assert [event.offset for event in heard] == sorted({event.offset for event in heard})


def test_a_new_consumer_starts_now_or_at_the_beginning(make_bus):
    make_bus("publisher")
    Order.create(customer="before")
    late, heard_late = make_bus("late")
    early, heard_early = make_bus("early", start_at="beginning")
    with late, early:
        Order.create(customer="after")
        outside.until(lambda: len(heard_early) == 2 and len(heard_late) == 1)
    assert names(heard_late) == ["after"]
    assert names(heard_early) == ["before", "after"]


def test_nothing_of_a_rollback_is_ever_delivered(db, make_bus):
    bus, heard = make_bus("shipping")
    with bus:
        with pytest.raises(ZeroDivisionError), db.atomic():
            Order.create(customer="rolled back")
            _ = 1 / 0
        with db.atomic():
            with pytest.raises(ZeroDivisionError), db.atomic():
                Order.create(customer="savepoint")
                _ = 1 / 0
            Order.create(customer="kept")
        outside.until(lambda: heard)
    assert names(heard) == ["kept"]


def test_a_consumer_without_a_name_is_refused(db):
    bus = EventBus(db)
    orders = bus.bridge(Order, durable=True)
    try:
        bus.start()  # nobody is connected: it only publishes
        bus.stop()

        def hear(sender, event):
            pass

        orders.saved.connect(hear)
        with pytest.raises(ValueError, match="consumer name"):
            bus.start()
    finally:
        orders.unpublish()


def test_a_receiver_that_fails_is_called_again_in_order(make_bus):
    calls = []

    def shaky(sender, event):
        calls.append(event.payload["customer"])
        if calls.count("b") in (1, 2) and calls[-1] == "b":
            raise ConnectionError("the printer is off")

    bus, _ = make_bus("shipping", shaky, backoff=0.01)
    with bus:
        for name in "abc":
            Order.create(customer=name)
        outside.until(lambda: calls[-1:] == ["c"])
    assert calls == ["a", "b", "b", "b", "c"]
    assert bus.dead_letters() == []


def test_an_event_nobody_can_take_becomes_a_dead_letter_and_the_stream_goes_on(make_bus, caplog):
    seen, broken = [], threading.Event()
    broken.set()

    def picky(sender, event):
        if event.payload["customer"] == "poison" and broken.is_set():
            raise ValueError("cannot swallow")
        seen.append(event.payload["customer"])

    bus, _ = make_bus("shipping", picky, attempts=3, backoff=0.01)
    others = []

    def other(sender, event):
        others.append(event.payload["customer"])

    bus.bridge(Order, durable=True).saved.connect(other)
    with bus:
        for name in ["a", "poison", "c"]:
            Order.create(customer=name)
        outside.until(lambda: seen[-1:] == ["c"])
    assert others == ["a", "poison", "c"]
    [letter] = bus.dead_letters()
    assert (letter.consumer, letter.attempts, letter.event.payload["customer"]) == ("shipping", 3, "poison")
    assert "cannot swallow" in letter.error
    assert "picky" in letter.traceback
    assert letter.receiver.endswith("picky")
    assert letter.event.event_id in caplog.text
    with pytest.raises(ValueError, match="cannot swallow"):
        bus.replay(letter)
    assert bus.dead_letters() == [letter]
    broken.clear()
    bus.replay(letter)
    assert (bus.dead_letters(), seen, others) == ([], ["a", "c", "poison"], ["a", "poison", "c"])


def test_a_transactional_receiver_commits_with_the_offset_or_not_at_all(db, make_bus):
    tries = []

    @in_transaction
    def book(sender, event):
        Shipment.create(order=int(event.id))
        tries.append(event.id)
        if len(tries) == 1:
            raise ConnectionError("after the write")

    with db.bind_ctx([Shipment]):
        bus, _ = make_bus("shipping", book, backoff=0.01)
        with bus:
            Order.create(customer="a")
            Order.create(customer="b")
            outside.until(lambda: Shipment.select().count() == 2)
    assert tries == ["1", "1", "2"]
    assert [shipment.order for shipment in Shipment.select()] == [1, 2]


def test_two_processes_with_one_name_one_works_and_the_other_takes_over(path, make_bus):
    make_bus("publisher")
    code = WORKER + (
        "    @orders.saved.connect\n"
        "    def ship(sender, event): print(os.getpid(), event.payload['customer'])\n"
        "    bus.start(); print('ready'); bus.run()\n"
    )
    with outside.Script(code, path) as one:
        assert one.line() == "ready"
        Order.create(customer="a")
        assert one.line().split()[1] == "a"
        with outside.Script(code, path) as two:
            assert two.line() == "ready"
            Order.create(customer="b")
            assert one.line().split()[1] == "b"
            one.process.send_signal(signal.SIGKILL)
            one.process.wait()
            Order.create(customer="c")
            heard = [two.line().split()[1]]
            while heard[-1] != "c":  # what one had not saved comes again
                heard.append(two.line().split()[1])
            assert heard[-1] == "c"
            Order.create(customer="d")
            assert two.line().split()[1] == "d"


def test_a_consumer_that_stops_leaves_its_place_to_the_next_at_once(path, make_bus, db):
    make_bus("publisher")
    one, heard_by_one = make_bus("shipping")
    two, heard_by_two = make_bus("shipping")
    with one:
        Order.create(customer="a")
        outside.until(lambda: heard_by_one)
        two.start()
    Order.create(customer="b")
    outside.until(lambda: heard_by_two)
    two.stop()
    assert (names(heard_by_one), names(heard_by_two)) == (["a"], ["b"])
    assert outside.rows(path, "SELECT COUNT(*) FROM _honker_locks") == [[0]]


def ship_through_kills(path, db, kills):
    """The receiver is killed again and again, at points that vary; each order is shipped exactly once."""
    code = WORKER + (
        "    @orders.saved.connect\n"
        "    @in_transaction\n"
        "    def book(sender, event):\n"
        "        Shipment.create(order=int(event.id)); print(event.id)\n"
        "    bus.run()\n"
    )
    for number in range(kills):
        with db.atomic():
            for _ in range(40):
                Order.create(customer=str(number))
        db.execute_sql("DELETE FROM _honker_locks")  # a killed holder's lease would be waited for
        with outside.Script(code, path) as worker:
            for _ in range(1 + number * 7 % 30):
                worker.line()
            os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
    db.execute_sql("DELETE FROM _honker_locks")
    with outside.Script(code, path):
        outside.until(lambda: Shipment.select().count() >= kills * 40, "the shipments")
    assert [shipment.order for shipment in Shipment.select().order_by(Shipment.id)] == list(range(1, kills * 40 + 1))


def test_a_transactional_receiver_takes_effect_once_through_kills(path, make_bus, db):
    make_bus("publisher")
    ship_through_kills(path, db, kills=6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_transactional_receiver_takes_effect_once_through_two_hundred_kills(path, make_bus, db):
    make_bus("publisher")
    ship_through_kills(path, db, kills=200)


def test_a_killed_publisher_loses_no_committed_event_and_tells_of_no_other(path, make_bus):
    bus, heard = make_bus("audit")
    bus.bridge(Order, durable=True).unpublish()  # the other process publishes
    code = WORKER + (
        "    number = 0\n"
        "    while True:\n"
        "        with db.atomic():\n"
        "            Order.create(customer=f'{number} a'); Order.create(customer=f'{number} b')\n"
        "        number += 1; print(number)\n"
    )
    with bus:
        for _ in range(4):
            with outside.Script(code, path) as publisher:
                for _ in range(15):
                    publisher.line()
                os.kill(publisher.process.pid, signal.SIGKILL)
                publisher.process.wait()
        count = Order.select().count()
        outside.until(lambda: len(heard) >= count)
    assert names(heard) == [order.customer for order in Order.select().order_by(Order.id)]


def test_an_event_that_json_has_no_form_for_becomes_a_dead_letter_like_others(db):
    heard = []

    def fail(event):
        if event.payload != "fine":
            raise ValueError("no")
        heard.append(event)

    target = HonkerEventTarget(db, "durable", stream="s", consumer="c", attempts=2, backoff=0.01)
    target.add_listener("*", fail)
    db.stream("s").publish({"a": float("nan")})
    db.stream("s").publish("fine")
    outside.until(lambda: heard)
    target.close()
    (letter,) = dead_letters(db)
    assert letter.event.payload["a"] != letter.event.payload["a"]


def test_a_dead_letter_is_replayed_once(make_bus, db):
    broken = [True]
    taken = []

    def ship(sender, event):
        if broken:
            raise ValueError("no")
        taken.append(event.id)

    bus, _ = make_bus("shipping", ship, attempts=1)
    with bus:
        order = Order.create(customer="a")
        outside.until(bus.dead_letters)
    broken.clear()
    (letter,) = bus.dead_letters()
    bus.replay(letter)
    with pytest.raises(LookupError, match="is gone"):
        bus.replay(letter)
    assert taken == [str(order.id)]
    assert bus.dead_letters() == []


def test_what_waits_in_a_stream_reaches_every_receiver_of_a_bus_that_starts(db):
    class Thing(Model):
        name = CharField()

        class Meta:
            database = db

    db.create_tables([Thing])
    EventBus(db).bridge(Thing, durable=True)
    Thing.create(name="a").delete_instance()
    other = EventBus(db).signal("thing", durable=True)  # in the same stream
    other.send("b")
    for number in range(40):
        bus = EventBus(db, consumer=f"c{number}", start_at="beginning")
        things, signal, heard = bus.bridge(Thing, durable=True), bus.signal("thing", durable=True), []
        things.saved.connect(lambda *_, heard=heard, **__: heard.append("saved"), weak=False)
        things.deleted.connect(lambda *_, heard=heard, **__: heard.append("deleted"), weak=False)
        signal.connect(lambda *_, heard=heard, **__: heard.append("signal"), weak=False)
        with bus:
            pass
        assert heard == ["saved", "deleted", "signal"]


def test_a_transactional_receiver_that_is_given_up_takes_nothing_from_the_others(make_bus):
    @in_transaction
    def before(sender, event):
        Shipment.create(order=1)

    @in_transaction
    def broken(sender, event):
        raise ValueError("never")

    @in_transaction
    def behind(sender, event):
        Shipment.create(order=2)

    bus, _ = make_bus("shipping", before, attempts=2, backoff=0.01)
    orders = bus.bridge(Order, durable=True)
    orders.saved.connect(broken)
    orders.saved.connect(behind)
    with bus:
        Order.create(customer="a")
        outside.until(bus.dead_letters)
    assert [(letter.receiver.rpartition(".")[2], letter.attempts) for letter in bus.dead_letters()] == [("broken", 2)]
    assert [shipment.order for shipment in Shipment.select()] == [1, 2]


def test_a_transactional_receiver_has_all_its_attempts_behind_one_that_is_given_up(make_bus):
    calls = []

    @in_transaction
    def broken(sender, event):
        raise ValueError("never")

    @in_transaction
    def shaky(sender, event):
        calls.append(event.id)
        if len(calls) < 3:
            raise ConnectionError("not yet")
        Shipment.create(order=1)

    bus, _ = make_bus("shipping", broken, attempts=3, backoff=0.01)
    bus.bridge(Order, durable=True).saved.connect(shaky)
    with bus:
        Order.create(customer="a")
        outside.until(bus.dead_letters)
    assert [letter.receiver.rpartition(".")[2] for letter in bus.dead_letters()] == ["broken"]
    assert (len(calls), Shipment.select().count()) == (3, 1)


@pytest.mark.parametrize("marked", [False, True])
def test_a_dead_letter_is_kept_though_another_receiver_of_the_same_name_succeeds(make_bus, marked):
    def made(name, broken):
        def receiver(sender, event):
            heard.append(name)
            if broken:
                raise ValueError("never")

        return receiver

    heard = []
    first, second = made("first", broken=True), made("second", broken=False)
    bus, _ = make_bus("shipping", first, attempts=1)
    bus.bridge(Order, durable=True).saved.connect(in_transaction(second) if marked else second)
    with bus:
        Order.create(customer="a")
        outside.until(lambda: heard == ["first", "second"])
    (letter,) = bus.dead_letters()
    assert letter.receiver.endswith("made.<locals>.receiver")


def test_a_bus_that_starts_again_before_its_stop_could_be_waited_for_goes_on_where_it_was(make_bus):
    async def main():  # in a loop's thread, stop() does not wait for receivers
        for name in "abc":
            bus.start()
            Order.create(customer=name)
            async with asyncio.timeout(outside.DEADLINE):
                while names(heard)[-1:] != [name]:
                    await asyncio.sleep(0.01)
            bus.stop()

    bus, heard = make_bus("shipping")
    asyncio.run(main())
    assert names(heard) == ["a", "b", "c"]


def test_a_receiver_can_stop_the_bus_and_start_it_again(make_bus):
    def hear(sender, event):
        heard.append(event)
        bus.stop()
        bus.start()

    heard = []
    bus, _ = make_bus("shipping", hear)
    with bus:
        for name in "abc":
            Order.create(customer=name)
            outside.until(lambda name=name: names(heard)[-1:] == [name])
    assert names(heard) == ["a", "b", "c"]


def test_an_async_receiver_that_waits_for_what_was_cancelled_does_not_stop_its_stream(make_bus):
    heard = []

    async def hear(sender, event):
        if event.payload["customer"] == "a":
            gone = asyncio.get_running_loop().create_future()
            gone.cancel()
            await gone
        heard.append(event)

    async def main():
        async with bus:
            Order.create(customer="a")
            Order.create(customer="b")
            async with asyncio.timeout(outside.DEADLINE):
                while not heard:
                    await asyncio.sleep(0.01)

    bus, _ = make_bus("shipping", hear, attempts=2, backoff=0.01)
    asyncio.run(main())
    assert names(heard) == ["b"]
    assert [letter.event.payload["customer"] for letter in bus.dead_letters()] == ["a"]


@pytest.mark.parametrize("seconds", ["1" * 400, "1e400", "NaN", '"now"'])
def test_an_event_with_a_time_that_is_none_does_not_stop_its_stream(db, seconds):
    heard = []
    target = HonkerEventTarget(db, "durable", stream="s", consumer="c")
    target.add_listener("*", heard.append)
    text = f'{{"type": "a", "id": "", "payload": 1, "event_id": "1", "time": {seconds}, "origin": "", "operation": ""}}'
    db.execute_sql("INSERT INTO _honker_stream (topic, key, payload) VALUES ('s', '', ?)", (text,))
    outside.until(lambda: heard)
    target.close()
    assert (heard[0].payload, heard[0].time) == (1, 0.0)


@pytest.mark.parametrize("error", HARD_TO_WRITE)
def test_an_error_that_cannot_be_written_as_it_is_does_not_stop_its_stream(make_bus, error):
    heard = []

    def hear(sender, event):
        heard.append(event)
        raise error

    bus, _ = make_bus("shipping", hear, attempts=1)
    with bus:
        Order.create(customer="a")
        Order.create(customer="b")
        outside.until(lambda: len(bus.dead_letters()) == 2)
    assert names(heard) == ["a", "b"]
    assert all(letter.error and "hear" in letter.traceback for letter in bus.dead_letters())
