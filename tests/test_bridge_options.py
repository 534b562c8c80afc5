"""What a bridge can be asked for, signals by name, and capture on the bus."""

import asyncio
import dataclasses
import datetime
import decimal

import marshmallow
import pytest
from blinker import ANY
from peewee import CharField, DateTimeField, DecimalField, IntegerField, TextField
from peewee import Model as PlainModel

from peewee_honker import Event, EventBus, PayloadError, TopicError
from peewee_honker.signals import Model, in_transaction
from tests.support import outside


class Order(Model):
    customer = CharField()
    total = IntegerField(default=0)


class Note(PlainModel):
    text = TextField()


@pytest.fixture
def make_bus(db):
    """`make_bus(...)` gives a bus that runs, whose bridges end with the test."""
    made = []
    with db.bind_ctx([Order, Note]):
        db.create_tables([Order, Note])

        def make(**options):
            made.append(EventBus(db, **options))
            return made[-1]

        yield make
        for bus in made:
            bus.stop()
            for bridge in bus._bridges.values():
                bridge.unpublish()


def heard_by(*signals):
    """A list of the events that the signals' receivers are called with."""
    events = []
    for signal in signals:
        signal.connect(lambda _sender, event, **named: events.append((event, named)), weak=False)
    return events


def test_only_the_operations_that_were_asked_for(make_bus):
    bus = make_bus()
    orders = bus.bridge(Order, operations=["insert", "delete"])
    events = heard_by(orders.saved, orders.deleted)
    with bus:
        order = Order.create(customer="Ada")
        order.customer = "Bo"
        order.save()
        order.delete_instance()
    assert [event.operation for event, _ in events] == ["insert", "delete"]


def test_changes_tell_old_and_new_values_as_they_are_in_the_database(make_bus, db):
    bus = make_bus()
    orders = bus.bridge(Order, changes=True, exclude=["customer"])
    events = heard_by(orders.saved)
    with bus:
        order = Order.create(customer="Ada", total=1)
        order.customer, order.total = "Bo", 2
        order.save(only=[Order.customer])  # the total stays what it was
        order.save()
        with db.atomic():
            order.total = 3
            order.save()
            order.total = 4
            order.save()
    assert [event.changes for event, _ in events] == [None, {}, {"total": [1, 2]}, {"total": [2, 3]}, {"total": [3, 4]}]


def test_a_schema_or_a_function_makes_the_payload(make_bus):
    class OrderSchema(marshmallow.Schema):
        customer = marshmallow.fields.String(data_key="Customer")

    for payload, expected in ((OrderSchema(), {"Customer": "Ada"}), (lambda order: [order.total], [5])):
        bus = make_bus()
        bridge = bus.bridge(Order, payload=payload)
        events = heard_by(bridge.saved)
        with bus:
            Order.create(customer="Ada", total=5)
        bridge.unpublish()
        assert [event.payload for event, _ in events] == [expected]


def test_a_receiver_can_have_the_payload_loaded_and_checked(make_bus):
    class Parcel(Model):
        at = DateTimeField()
        weight = DecimalField()
        private = CharField()

    bus = make_bus()
    with bus.database.bind_ctx([Parcel]):
        bus.database.create_tables([Parcel])
        parcels = bus.bridge(Parcel, exclude=["private"])
        events = heard_by(parcels.saved)
        at = datetime.datetime(2026, 11, 24, 1, 2, 3)
        with bus:
            Parcel.create(at=at, weight=decimal.Decimal("1.50"), private="x")
    event = events[0][0]
    assert event.payload == {"id": 1, "at": "2026-11-24T01:02:03", "weight": "1.50"}
    assert parcels.load(event) == {"id": 1, "at": at, "weight": decimal.Decimal("1.50")}
    with pytest.raises(marshmallow.ValidationError):
        parcels.load(dataclasses.replace(event, payload={"weight": "heavy"}))


def test_a_payload_that_cannot_travel_is_refused_before_the_write(make_bus, db):
    bus = make_bus(max_bytes=2000)
    bus.bridge(Order)
    with db.atomic():
        Order.create(customer="fits")
        with pytest.raises(PayloadError, match="2000 are allowed"):
            Order.create(customer="x" * 3000)
        Order.create(customer="y" * 1000)
    assert [len(order.customer) for order in Order.select()] == [4, 1000]


def test_reserved_and_malformed_types_are_refused(make_bus):
    bus = make_bus()
    for channel in ("__gap__", "a:b", "order.*", ""):
        with pytest.raises(TopicError):
            bus.bridge(Order, channel=channel)


def test_the_publishing_process_gets_the_instance(make_bus, path):
    bus = make_bus()
    events = heard_by(bus.bridge(Order, instance=True).saved)
    with bus:
        order = Order.create(customer="Ada")
        with outside.Script(OTHER + "    Order.create(customer='Bo')\n", path) as other:
            other.finish()
    assert [named for _, named in events] == [{"instance": order}, {"instance": None}]
    assert events[0][1]["instance"] is order


OTHER = """
    import sys
    from peewee import *
    from peewee_honker import EventBus, HonkerDatabase
    from peewee_honker.signals import Model
    db = HonkerDatabase(sys.argv[1])
    class Order(Model):
        customer = CharField()
        total = IntegerField(default=0)
        class Meta:
            database = db
    bus = EventBus(db)
    orders = bus.bridge(Order)
"""


@pytest.mark.parametrize("durable", [False, True], ids=["ephemeral", "durable"])
def test_local_receivers_hear_at_once_in_the_committing_thread_and_once(make_bus, db, path, durable):
    bus = make_bus(consumer="here")
    events = heard_by(bus.bridge(Order, local=True, durable=durable).saved)
    with bus:
        with db.atomic():
            Order.create(customer="Ada")
            with pytest.raises(ZeroDivisionError), db.atomic():
                Order.create(customer="rolled back")
                _ = 1 / 0
            assert events == []
        assert [event.payload["customer"] for event, _ in events] == ["Ada"]
        other = OTHER.replace("bridge(Order)", f"bridge(Order, durable={durable})") + "    Order.create(customer='Bo')\n"
        with outside.Script(other, path) as script:
            script.finish()
        outside.until(lambda: len(events) >= 2)
        Order.create(customer="Cy")
    assert [event.payload["customer"] for event, _ in events] == ["Ada", "Bo", "Cy"]


def test_a_bridge_made_while_the_bus_runs_is_heard(make_bus):
    bus = make_bus(consumer="c")
    with bus:
        events = heard_by(bus.bridge(Order, durable=True).saved)
        Order.create(customer="Ada")
        outside.until(lambda: events)


# Signals by name


def test_a_named_signal_publishes_in_the_transaction_and_is_heard_everywhere(make_bus, db, path):
    bus = make_bus()
    ready = bus.signal("report.ready")
    heard = []

    @ready.connect
    def hear(sender, pages, title="none"):
        heard.append((sender, pages, title))

    code = OTHER + (
        "    ready = bus.signal('report.ready')\n"
        "    @ready.connect\n"
        "    def hear(sender, **named): print(sender, named)\n"
        "    bus.start(); print('ready'); sys.stdin.readline(); bus.stop()\n"
    )
    with outside.Script(code, path) as other, bus:
        assert other.line() == "ready"
        with db.atomic():
            assert ready.send("monthly", pages=3, title="May") == []
            with pytest.raises(ZeroDivisionError), db.atomic():
                ready.send("rolled back", pages=0)
                _ = 1 / 0
        ready.send(pages=1)
        assert other.line() == "monthly {'pages': 3, 'title': 'May'}"
        assert other.line() == "None {'pages': 1}"
        other.say("done")
        other.finish()
    assert heard == [("monthly", 3, "May"), (None, 1, "none")]
    assert bus.signal("report.ready") is ready


def test_blinkers_ways_work_on_a_named_signal(make_bus):
    bus = make_bus()
    ready = bus.signal("report.ready")
    heard = []

    @ready.connect_via("monthly")
    def monthly(sender, **named):
        heard.append(("monthly only", sender))

    def temporary(sender, **named):
        heard.append(("temporary", sender))

    assert ready.has_receivers_for("monthly")
    assert not ready.has_receivers_for("daily")
    with bus:
        ready.send("monthly")
        outside.until(lambda: heard)
        with ready.connected_to(temporary, sender=ANY):
            ready.send("daily")
            asyncio.run(ready.send_async("daily"))
            outside.until(lambda: len(heard) == 3)
        with ready.muted():
            ready.send("monthly")
        ready.connect(lambda _: heard.append("gone"))  # weak, so gone at once
        ready.send("daily")
    assert heard == [("monthly only", "monthly"), ("temporary", "daily"), ("temporary", "daily")]


def test_what_cannot_travel_is_refused_by_a_named_signal(make_bus):
    ready = make_bus().signal("report.ready")
    with pytest.raises(TypeError, match="text or None"):
        ready.send(Order)
    with pytest.raises(PayloadError, match="no form in JSON"):
        ready.send(pages=object())
    with pytest.raises(TopicError):
        make_bus().signal("__mine")


def test_a_durable_signal_waits_for_its_consumer_and_takes_effect_once(make_bus):
    publisher = make_bus()
    publisher.signal("report.ready", durable=True)
    bus = make_bus(consumer="archive")
    ready = bus.signal("report.ready", durable=True)

    @ready.connect
    @in_transaction
    def keep(sender, title):
        Note.create(text=title)

    with bus:
        pass
    publisher.signal("report.ready", durable=True).send(title="while away")
    with bus:
        outside.until(lambda: Note.select().count())
    assert [note.text for note in Note.select()] == ["while away"]


def test_arguments_of_a_signal_may_have_any_name(make_bus):
    bus = make_bus()
    ready, heard = bus.signal("report.ready"), []
    ready.connect(lambda _sender, **named: heard.append(named), weak=False)
    with bus:
        ready.send(loop=1, listener=2, self=3)
    assert heard == [{"loop": 1, "listener": 2, "self": 3}]


def test_what_another_program_writes_under_a_signals_name_does_not_stop_its_stream(make_bus):
    bus = make_bus(consumer="archive")
    ready, heard = bus.signal("report.ready", durable=True), []
    ready.connect(lambda _sender, **named: heard.append(named), weak=False)
    with bus:
        for payload in (None, [], {"named": {}}, {"sender": None, "named": 1}):
            ready.target.dispatch(Event("report.ready", payload=payload))
        ready.send(title="at last")
        outside.until(lambda: heard)
    assert heard == [{"title": "at last"}]
    assert bus.dead_letters() == []


@pytest.mark.parametrize("way", ["signal", "target"])
def test_a_transactional_receiver_that_is_async_is_refused(make_bus, way):
    bus = make_bus(consumer="archive", attempts=1)
    ready = bus.signal("report.ready", durable=True)

    async def main():
        async with bus:
            if way == "target":
                ready.target.add_listener("report.ready", in_transaction(keep))
            ready.send(title="never")
            await asyncio.to_thread(outside.until, bus.dead_letters)
            ready.target.remove_listener("report.ready", keep)

    async def keep(*event, **named):
        Note.create(text="kept")

    if way == "signal":
        ready.connect(in_transaction(keep))
    asyncio.run(main())
    (letter,) = bus.dead_letters()
    assert "cannot be async" in letter.error
    assert letter.receiver.endswith("keep")


# Capture


def test_captured_changes_reach_the_signals_of_a_bridge(make_bus, path):
    bus = make_bus()
    notes = bus.capture(Note)
    events = heard_by(notes.saved, notes.deleted)
    with bus:
        Note.insert_many([{"text": "a"}, {"text": "b"}]).execute()
        Note.update(text="c").where(Note.text == "b").execute()
        outside.rows(path, "SELECT 1")
        with outside.Script(
            "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('DELETE FROM note')\nc.commit()", path
        ) as s:
            s.finish()
        outside.until(lambda: len(events) == 5)
    assert [(event.operation, event.payload["text"]) for event, _ in events] == [
        ("insert", "a"),
        ("insert", "b"),
        ("update", "c"),
        ("delete", "a"),
        ("delete", "c"),
    ]


def test_a_model_both_bridged_and_captured_tells_each_change_once(make_bus):
    bus = make_bus()
    events = heard_by(bus.bridge(Order).saved)
    captured = bus.capture(Order)
    assert captured is bus.bridge(Order)
    with bus:
        Order.create(customer="Ada")
        Order.insert(customer="Bo").execute()
    assert [event.payload["customer"] for event, _ in events] == ["Ada", "Bo"]
    assert bus.uncapture(Order)
    with bus:
        Order.insert(customer="Cy").execute()
    assert len(events) == 2


def test_a_process_that_only_bridges_leaves_the_telling_to_the_triggers(make_bus, path):
    bus = make_bus()
    events = heard_by(bus.capture(Order).saved)
    with bus:
        with outside.Script(OTHER + "    Order.create(customer='Ada')\n    Order.create(customer='Bo')\n", path) as other:
            other.finish()
        outside.until(lambda: len(events) >= 2)
        Order.insert(customer="Cy").execute()
    assert [event.payload["customer"] for event, _ in events] == ["Ada", "Bo", "Cy"]
