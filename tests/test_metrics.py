"""What a bus tells its recorder, and the recorder that logs."""

import asyncio
import logging
from collections import Counter
from contextlib import contextmanager

import pytest
from peewee import CharField

from peewee_honker import EventBus
from peewee_honker.events import (
    CompositeEventTarget,
    Event,
    HonkerEventTarget,
    LocalEventTarget,
    LoggingRecorder,
    SilentRecorder,
)
from peewee_honker.signals import Model, in_transaction
from tests.support import outside


class Counting(SilentRecorder):
    """Counts calls by name and type."""

    def __init__(self):
        self.counts = Counter()
        self.lags = []

    def published(self, type_):
        self.counts["published", type_] += 1

    @contextmanager
    def delivering(self, event):
        self.counts["begun", event.type] += 1
        yield
        self.counts["delivered", event.type] += 1

    def failed(self, type_):
        self.counts["failed", type_] += 1

    def retried(self, type_):
        self.counts["retried", type_] += 1

    def dead(self, type_):
        self.counts["dead", type_] += 1

    def lag(self, consumer, stream, events):
        self.lags.append((consumer, stream, events))


@pytest.fixture
def counting():
    return Counting()


@pytest.fixture
def order(db):
    class Order(Model):
        customer = CharField()

        class Meta:
            database = db

    db.create_tables([Order])
    return Order


def counts(recorder, type_="order.saved"):
    return {name: count for (name, kind), count in recorder.counts.items() if kind == type_}


class OopsError(Exception):
    pass


def test_an_event_is_published_once_and_delivered_to_each_receiver(db, order, counting):
    bus = EventBus(db, recorder=counting)
    bridge = bus.bridge(order)

    @bridge.saved.connect
    def first(sender, event):
        """Nothing to do."""

    @bridge.saved.connect
    def second(sender, event):
        """Nothing to do."""

    with bus:
        order.create(customer="Ada")
    assert counts(counting) == {"published": 1, "begun": 2, "delivered": 2}


def test_an_event_of_a_local_bridge_is_published_once(db, order, counting):
    bus = EventBus(db, recorder=counting)

    @bus.bridge(order, local=True).saved.connect
    def receive(sender, event):
        """Nothing to do."""

    with bus:
        order.create(customer="Ada")
    assert counts(counting) == {"published": 1, "begun": 1, "delivered": 1}


def test_an_event_of_a_composite_target_is_published_once(db, counting):
    target = CompositeEventTarget(LocalEventTarget(db, recorder=counting), HonkerEventTarget(db, recorder=counting))
    target.dispatch(Event("a"))
    assert counts(counting, "a") == {"published": 1}


def test_what_is_rolled_back_was_published_but_never_delivered(db, order, counting):
    bus = EventBus(db, recorder=counting)

    @bus.bridge(order).saved.connect
    def receive(sender, event):
        """Nothing to do."""

    with bus, pytest.raises(OopsError), db.atomic():
        order.create(customer="Eve")
        raise OopsError
    assert counts(counting) == {"published": 1}


def test_an_ephemeral_failure_is_counted_and_the_others_deliver(db, order, counting, caplog):
    bus = EventBus(db, recorder=counting)
    bridge = bus.bridge(order)

    @bridge.saved.connect
    def fail(sender, event):
        raise OopsError

    @bridge.saved.connect
    def receive(sender, event):
        """Nothing to do."""

    with bus:
        order.create(customer="Ada")
    assert counts(counting) == {"published": 1, "begun": 2, "delivered": 1, "failed": 1}


def test_a_durable_event_that_succeeds_at_the_second_attempt_was_retried_once(db, order, counting):
    bus = EventBus(db, consumer="shipping", backoff=0.001, recorder=counting)

    @bus.bridge(order, durable=True).saved.connect
    def fail_once(sender, event):
        if not counting.counts["failed", "order.saved"]:
            raise OopsError

    with bus:
        order.create(customer="Ada")
        outside.until(lambda: counting.counts["delivered", "order.saved"])
    assert counts(counting) == {"published": 1, "begun": 2, "delivered": 1, "failed": 1, "retried": 1}


@pytest.mark.parametrize("mark", [lambda receiver: receiver, in_transaction], ids=["plain", "in_transaction"])
def test_a_durable_event_that_never_succeeds_is_dead_once(db, order, counting, mark):
    bus = EventBus(db, consumer="shipping", attempts=3, backoff=0.001, recorder=counting)

    @bus.bridge(order, durable=True).saved.connect
    @mark
    def fail(sender, event):
        raise OopsError

    with bus:
        order.create(customer="Ada")
        outside.until(bus.dead_letters)
    assert counts(counting) == {"published": 1, "begun": 3, "failed": 3, "retried": 2, "dead": 1}


def test_the_lag_of_the_active_consumer_is_told(db, order, counting):
    bus = EventBus(db, consumer="shipping", attempts=1000, backoff=30, recorder=counting)

    @bus.bridge(order, durable=True).saved.connect
    def fail(sender, event):
        raise OopsError

    with bus:
        with db.atomic():
            for number in range(5):
                order.create(customer=str(number))
        outside.until(lambda: ("shipping", "order", 5) in counting.lags)


class TestLoggingRecorder:
    def test_says_once_in_a_while_what_has_happened_since(self, caplog):
        recorder = LoggingRecorder(every=0.05)
        with caplog.at_level(logging.INFO, "peewee_honker.metrics"):
            for _ in range(3):
                recorder.published("a")
            with recorder.delivering(Event("a")):
                pass
            recorder.failed("a")
            recorder.retried("a")
            recorder.dead("a")
            recorder.dropped("a", 4)

            def logged():
                recorder.published("b")
                return caplog.messages

            outside.until(logged)
        counted = dict(part.rsplit(" ", 1) for part in caplog.messages[0].split(", "))
        assert int(counted.pop("published")) > 3
        assert counted == {"delivered": "1", "failed": "1", "retried": "1", "dead": "1", "dropped": "4"}

    def test_counts_anew_after_each_line(self, caplog):
        recorder = LoggingRecorder(every=0.0)
        with caplog.at_level(logging.INFO, "peewee_honker.metrics"):
            recorder.published("a")
            recorder.failed("a")
        assert caplog.messages == ["published 1", "failed 1"]

    def test_tells_the_last_lag_of_each_consumer(self, caplog):
        recorder = LoggingRecorder(every=0.0)
        with caplog.at_level(logging.INFO, "peewee_honker.metrics"):
            recorder.lag("shipping", "order", 7)
            recorder.lag("shipping", "order", 3)
            recorder.published("a")
        assert caplog.messages[-1] == "published 1, lag of shipping in order 3"
        assert caplog.messages[0] == "lag of shipping in order 7"

    def test_a_failed_delivery_is_not_delivered(self, caplog):
        recorder = LoggingRecorder(every=0.0)
        caplog.set_level(logging.INFO, "peewee_honker.metrics")
        with pytest.raises(OopsError), recorder.delivering(Event("a")):
            raise OopsError
        assert caplog.messages == []

    def test_logs_for_a_bus(self, db, order, caplog):
        with caplog.at_level(logging.INFO, "peewee_honker.metrics"):
            bus = EventBus(db, recorder=LoggingRecorder(every=0.0))
            bus.bridge(order)
            order.create(customer="Ada")
        assert [record.getMessage() for record in caplog.records if record.name == "peewee_honker.metrics"] == [
            "published 1"
        ]


def test_a_failing_async_listener_is_counted_also_in_its_loops_own_thread(db, counting):
    target = LocalEventTarget(db, recorder=counting)
    heard = []

    async def fail(event):
        heard.append(event.id)
        raise ValueError("cannot")

    async def hear(event):
        heard.append(event.id)

    async def main():
        target.add_listener("a", fail)
        target.add_listener("a", hear)
        target.dispatch(Event("a", "1"))
        while len(heard) < 2 or counts(counting, "a").get("delivered") != 1:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert counts(counting, "a") == {"published": 1, "begun": 2, "delivered": 1, "failed": 1}


def test_a_dead_letter_that_was_rolled_back_is_not_counted(db, order, counting):
    bus = EventBus(db, consumer="shipping", attempts=1, recorder=counting)
    orders = bus.bridge(order, durable=True)

    def fail(sender, event):
        db.execute_sql("UPDATE _honker_locks SET owner = 'somebody else'")
        raise ValueError("cannot")

    orders.saved.connect(fail)
    with bus:
        order.create(customer="Ada")
        outside.until(lambda: counts(counting).get("failed"))
    assert "dead" not in counts(counting)
