"""Counts what a bus does for Prometheus; needs the extra `prometheus` (prometheus_client).

    EventBus(db, recorder=PrometheusRecorder())

| metric | labels | |
|---|---|---|
| `peewee_honker_events_published_total` | type | published; its transaction may have been rolled back |
| `peewee_honker_events_delivered_total` | type | calls of receivers that succeeded |
| `peewee_honker_events_failed_total` | type | calls of receivers that raised |
| `peewee_honker_events_retried_total` | type | durable events that come again |
| `peewee_honker_events_dead_total` | type | durable events that became dead letters |
| `peewee_honker_events_dropped_total` | type | dropped by full buffers |
| `peewee_honker_delivery_seconds` | type | a histogram of how long receivers take |
| `peewee_honker_consumer_lag` | consumer, stream | how many events wait for a consumer, in its active process |
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from peewee_honker.events import Event, SilentRecorder

__all__ = ["PrometheusRecorder"]


class PrometheusRecorder(SilentRecorder):
    """A recorder whose numbers are in a Prometheus registry, by default prometheus_client's own. One for each registry."""

    def __init__(self, registry: Any = REGISTRY) -> None:
        def counter(name: str, told: str) -> Any:
            return Counter(f"peewee_honker_events_{name}", told, ["type"], registry=registry)

        self._published = counter("published", "Events published; their transactions may have been rolled back.")
        self._delivered = counter("delivered", "Calls of receivers that succeeded.")
        self._failed = counter("failed", "Calls of receivers that raised.")
        self._retried = counter("retried", "Durable events that come again.")
        self._dead = counter("dead", "Durable events that became dead letters.")
        self._dropped = counter("dropped", "Events dropped by full buffers.")
        self._seconds: Any = Histogram(
            "peewee_honker_delivery_seconds", "How long receivers take.", ["type"], registry=registry
        )
        self._lag: Any = Gauge(
            "peewee_honker_consumer_lag", "How many events wait.", ["consumer", "stream"], registry=registry
        )

    def published(self, type_: str) -> None:
        """Count it."""
        self._published.labels(type_).inc()

    @contextmanager
    def delivering(self, event: Event) -> Iterator[None]:
        """Take the time, and count it when it has succeeded."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.labels(event.type).observe(time.perf_counter() - began)
        self._delivered.labels(event.type).inc()

    def failed(self, type_: str) -> None:
        """Count it."""
        self._failed.labels(type_).inc()

    def retried(self, type_: str) -> None:
        """Count it."""
        self._retried.labels(type_).inc()

    def dead(self, type_: str) -> None:
        """Count it."""
        self._dead.labels(type_).inc()

    def dropped(self, type_: str, count: int) -> None:
        """Count them."""
        self._dropped.labels(type_).inc(count)

    def lag(self, consumer: str, stream: str, events: int) -> None:
        """Set it."""
        self._lag.labels(consumer, stream).set(events)
