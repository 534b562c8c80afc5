"""The numbers of a bus for Prometheus, by prometheus_client: the extra `peewee-honker[prometheus]`.

    bus = EventBus(db, recorder=PrometheusRecorder())

| metric                                           | kind      | labels           | counts                                 |
|--------------------------------------------------|-----------|------------------|----------------------------------------|
| `peewee_honker_events_published_total`           | counter   | type             | published, also if then rolled back    |
| `peewee_honker_events_delivered_total`           | counter   | type             | calls of receivers that succeeded      |
| `peewee_honker_receiver_failures_total`          | counter   | type             | calls of receivers that raised         |
| `peewee_honker_events_retried_total`             | counter   | type             | durable events to be delivered again   |
| `peewee_honker_events_dead_total`                | counter   | type             | dead letters                           |
| `peewee_honker_events_dropped_total`             | counter   | type             | dropped by full buffers                |
| `peewee_honker_receiver_duration_seconds`        | histogram | type             | how long receivers ran                 |
| `peewee_honker_consumer_lag_events`              | gauge     | consumer, stream | events that wait for a consumer        |

The label `type` is the event's type, so types should be few: what happened belongs into it, to what it happened does not.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from peewee_honker.events import Event, SilentRecorder

__all__ = ["PrometheusRecorder"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class PrometheusRecorder(SilentRecorder):
    """Counts for Prometheus what a bus, or several, do in this process.

    Arguments:
        registry: where the metrics are; prometheus_client's default one unless given. One recorder for a registry: give all
            buses of a process the same.
        buckets: upper bounds of the histogram of durations, in seconds.
        lag_expires: seconds after which a consumer's lag is no longer told when it was not told to the recorder again, so
            that a process whose consumer has moved to another process does not tell an old number.

    Raises ValueError (prometheus_client's) when the registry has these metrics already.

    With prometheus_client's multiprocess mode the lag is missing: its collectors know no numbers that expire. Read it from
    the database there, by `peewee_honker.events.consumer_places`.
    """

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        *,
        buckets: Sequence[float] = _BUCKETS,
        lag_expires: float = 30.0,
    ) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"peewee_honker_{name}_total", text, ["type"], registry=registry)

        self._published = counter("events_published", "Events that were published, also those that were rolled back then.")
        self._delivered = counter("events_delivered", "Calls of receivers that succeeded.")
        self._failures = counter("receiver_failures", "Calls of receivers that raised.")
        self._retried = counter("events_retried", "Durable events that are to be delivered again after a failure.")
        self._dead = counter("events_dead", "Durable events that became dead letters.")
        self._dropped = counter("events_dropped", "Events that full buffers dropped.")
        self._duration = Histogram(
            "peewee_honker_receiver_duration_seconds",
            "How long receivers ran, in seconds; also those that failed.",
            ["type"],
            buckets=buckets,
            registry=registry,
        )
        self._lags = _Lags(lag_expires)
        registry.register(self._lags)

    def published(self, type_: str) -> None:
        """Count it."""
        self._published.labels(type_).inc()

    @contextmanager
    def delivering(self, event: Event) -> Iterator[None]:
        """Measure it, and count it when it has succeeded."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._duration.labels(event.type).observe(time.perf_counter() - begin)
        self._delivered.labels(event.type).inc()

    def failed(self, type_: str) -> None:
        """Count it."""
        self._failures.labels(type_).inc()

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
        """Keep it for the next scrapes."""
        self._lags.tell(consumer, stream, events)


class _Lags(Collector):
    """The lags that were told lately."""

    def __init__(self, expires: float) -> None:
        self._expires = expires
        self._changing = threading.Lock()
        self._told: dict[tuple[str, str], tuple[int, float]] = {}  # by consumer and stream: the events, and when

    def tell(self, consumer: str, stream: str, events: int) -> None:
        with self._changing:
            self._told[consumer, stream] = (events, time.monotonic())

    def describe(self) -> Iterable[Metric]:
        """The name alone; asked for once by the registry."""
        return [self._metric()]

    def collect(self) -> Iterable[Metric]:
        """The gauge with what holds; asked for at each scrape."""
        metric = self._metric()
        oldest = time.monotonic() - self._expires
        with self._changing:
            self._told = {key: told for key, told in self._told.items() if told[1] >= oldest}
            for (consumer, stream), (events, _) in self._told.items():
                metric.add_metric([consumer, stream], events)
        return [metric]

    def _metric(self) -> GaugeMetricFamily:
        text = "Events that wait for a consumer, told by the process in which it is active."
        return GaugeMetricFamily("peewee_honker_consumer_lag_events", text, labels=["consumer", "stream"])
