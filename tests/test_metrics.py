"""Recorders and trace contexts: what is counted, and what travels beside an event."""

import logging

import pytest

from peewee_honker import Event, EventBus
from peewee_honker.events import HonkerEventTarget, LoggingRecorder
from tests.support import outside

prometheus_client = pytest.importorskip("prometheus_client")


@pytest.fixture
def count():
    """`count(name, type)` gives a metric's value in the recorder's registry."""
    registry = prometheus_client.CollectorRegistry()

    def value(name, **labels):
        return registry.get_sample_value(f"peewee_honker_{name}", labels) or 0

    value.registry = registry
    return value


def test_prometheus_counts_what_happens(db, count):
    from peewee_honker.contrib.prometheus import PrometheusRecorder

    recorder = PrometheusRecorder(count.registry)
    failures = [2]

    def fail_twice(event):
        if event.id == "1" and failures[0]:
            failures[0] -= 1
            raise ValueError("not yet")
        if event.id == "2":
            raise ValueError("never")

    target = HonkerEventTarget(db, "durable", consumer="c", attempts=3, backoff=0.01, recorder=recorder)
    target.add_listener("tick", fail_twice)
    for id_ in "123":
        target.dispatch(Event("tick", id_))
    outside.until(lambda: count("events_delivered_total", type="tick") == 2)
    outside.until(lambda: count("events_dead_total", type="tick") == 1)
    target.close()
    assert count("events_published_total", type="tick") == 3
    assert count("events_failed_total", type="tick") == 5
    assert count("events_retried_total", type="tick") == 4
    assert count("delivery_seconds_count", type="tick") == 7


def test_the_lag_of_a_consumer_is_told(db, count, monkeypatch):
    from peewee_honker.contrib.prometheus import PrometheusRecorder

    monkeypatch.setattr("peewee_honker.events.consumer._RENEW", 0.05)
    release = []

    def wait(event):
        if not release:
            raise ValueError("not yet")

    target = HonkerEventTarget(
        db, "durable", consumer="c", attempts=10_000, backoff=0.01, recorder=PrometheusRecorder(count.registry)
    )
    target.add_listener("tick", wait)
    for id_ in "12345":
        target.dispatch(Event("tick", id_))
    outside.until(lambda: count("consumer_lag", consumer="c", stream="events") == 5)
    release.append(True)
    outside.until(lambda: count("consumer_lag", consumer="c", stream="events") == 0)
    target.close()


def test_the_logging_recorder_tells_from_time_to_time(db, caplog):
    caplog.set_level(logging.INFO, "peewee_honker.metrics")
    bus = EventBus(db, recorder=LoggingRecorder(every=0.0))
    ready = bus.signal("ready")
    ready.connect(print)
    with bus:
        ready.send("x")
    assert "published 1" in caplog.text
    assert "delivered 1" in caplog.text


def test_a_trace_goes_on_in_the_receiver(db):
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")
    heard = []
    target = HonkerEventTarget(db)
    target.add_listener("tick", lambda event: heard.append((event, trace.get_current_span().get_span_context().trace_id)))
    with tracer.start_as_current_span("publishing") as span:
        target.dispatch(Event("tick"))
        expected = span.get_span_context().trace_id
    target.dispatch(Event("tick"))
    outside.until(lambda: len(heard) == 2)
    target.close()
    assert [trace_id for _, trace_id in heard] == [expected, 0]
    assert heard[0][0].headers["traceparent"].split("-")[1] == f"{expected:032x}"
    assert heard[1][0].headers is None
