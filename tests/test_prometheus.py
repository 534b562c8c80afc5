"""PrometheusRecorder: what a scrape of the process says."""

import pytest
from peewee import CharField
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from peewee_honker import EventBus
from peewee_honker.contrib.prometheus import PrometheusRecorder
from peewee_honker.events import Event
from peewee_honker.signals import Model
from tests.support import outside


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def order(db):
    class Order(Model):
        customer = CharField()

        class Meta:
            database = db

    db.create_tables([Order])
    return Order


def value(registry, name, **labels):
    return registry.get_sample_value(f"peewee_honker_{name}", labels)


def test_published_and_delivered_events_are_counted_by_type(db, order, registry):
    bus = EventBus(db, recorder=PrometheusRecorder(registry))
    heard = []

    @bus.bridge(order).saved.connect
    def hear(sender, event):
        heard.append(event)

    with bus:
        for name in ("Ada", "Eve"):
            order.create(customer=name)
        order.get().delete_instance()
    assert value(registry, "events_published_total", type="order.saved") == 2
    assert value(registry, "events_published_total", type="order.deleted") == 1
    assert value(registry, "events_delivered_total", type="order.saved") == len(heard) == 2
    assert value(registry, "receiver_duration_seconds_count", type="order.saved") == 2
    assert value(registry, "receiver_failures_total", type="order.saved") is None


def test_failures_retries_and_dead_letters_are_counted(db, order, registry):
    bus = EventBus(db, consumer="shipping", attempts=3, backoff=0.001, recorder=PrometheusRecorder(registry))

    @bus.bridge(order, durable=True).saved.connect
    def fail(sender, event):
        raise ValueError("no stamps")

    with bus:
        order.create(customer="Ada")
        outside.until(bus.dead_letters, "the dead letter")
        outside.until(lambda: value(registry, "events_dead_total", type="order.saved"))
    assert value(registry, "receiver_failures_total", type="order.saved") == 3
    assert value(registry, "events_retried_total", type="order.saved") == 2
    assert value(registry, "events_dead_total", type="order.saved") == 1
    assert value(registry, "events_delivered_total", type="order.saved") is None
    assert value(registry, "receiver_duration_seconds_count", type="order.saved") == 3


def test_the_lag_of_a_consumer_is_a_gauge(db, order, registry):
    bus = EventBus(db, consumer="shipping", recorder=PrometheusRecorder(registry))

    @bus.bridge(order, durable=True).saved.connect
    def ship(sender, event):
        """Nothing to do."""

    with bus:
        outside.until(lambda: value(registry, "consumer_lag_events", consumer="shipping", stream="order") == 0)


def test_a_lag_that_is_told_no_longer_is_no_longer_scraped(registry):
    recorder = PrometheusRecorder(registry, lag_expires=0.05)
    recorder.lag("shipping", "order", 7)
    outside.until(lambda: value(registry, "consumer_lag_events", consumer="shipping", stream="order") is None)
    recorder.lag("shipping", "order", 3)
    recorder.lag("billing", "order", 0)
    assert value(registry, "consumer_lag_events", consumer="billing", stream="order") == 0


def test_dropped_events_are_counted(registry):
    PrometheusRecorder(registry).dropped("order.saved", 5)
    assert value(registry, "events_dropped_total", type="order.saved") == 5


def test_a_scrape_gives_every_metric_with_help_and_kind(registry):
    recorder = PrometheusRecorder(registry)
    recorder.lag("shipping", "order", 1)
    with recorder.delivering(Event("a")):
        pass
    found = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert {name: family.type for name, family in found.items() if not name.endswith("_created")} == {
        "peewee_honker_events_published": "counter",
        "peewee_honker_events_delivered": "counter",
        "peewee_honker_receiver_failures": "counter",
        "peewee_honker_events_retried": "counter",
        "peewee_honker_events_dead": "counter",
        "peewee_honker_events_dropped": "counter",
        "peewee_honker_receiver_duration_seconds": "histogram",
        "peewee_honker_consumer_lag_events": "gauge",
    }
    assert all(family.documentation for name, family in found.items() if not name.endswith("_created"))


def test_a_second_recorder_in_one_registry_is_refused(registry):
    PrometheusRecorder(registry)
    with pytest.raises(ValueError, match="peewee_honker_events_published"):
        PrometheusRecorder(registry)


def test_prometheus_client_is_imported_only_with_its_module(path):
    code = """
        import sys, peewee_honker.bus, peewee_honker.events, peewee_honker.contrib
        assert "prometheus_client" not in sys.modules
        import peewee_honker.contrib.prometheus
        assert "prometheus_client" in sys.modules
    """
    with outside.Script(code) as other:
        other.finish()
