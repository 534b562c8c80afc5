"""Counting what a bus does: the recorder that it tells, and one that logs.

    EventBus(db, recorder=LoggingRecorder())

`peewee_honker.contrib.prometheus` has one for prometheus_client. Write your own by subclassing `SilentRecorder`: its
methods are called in the thread in which it happens, so they have to be quick, and must not raise.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from peewee_honker.events.event import Event

__all__ = ["LoggingRecorder", "Recorder", "SilentRecorder"]


class Recorder(Protocol):
    """What is told of events, by their type."""

    def published(self, type_: str) -> None:
        """An event was published; its transaction may still be rolled back."""

    def delivering(self, event: Event) -> AbstractContextManager[object]:
        """Entered around a listener's call; an exception that leaves it is the listener's."""

    def failed(self, type_: str) -> None:
        """A listener has failed on an event."""

    def retried(self, type_: str) -> None:
        """A durable event will be given to a listener again."""

    def dead(self, type_: str) -> None:
        """A durable event became a dead letter."""

    def dropped(self, type_: str, count: int) -> None:
        """A full buffer has dropped events."""

    def lag(self, consumer: str, stream: str, events: int) -> None:
        """So many events wait for a consumer; told every few seconds by the process in which it is active."""


class SilentRecorder:
    """A recorder that does nothing; the base for others."""

    def published(self, type_: str) -> None:
        """Nothing."""

    def delivering(self, event: Event) -> AbstractContextManager[object]:
        """Nothing."""
        return _nothing

    def failed(self, type_: str) -> None:
        """Nothing."""

    def retried(self, type_: str) -> None:
        """Nothing."""

    def dead(self, type_: str) -> None:
        """Nothing."""

    def dropped(self, type_: str, count: int) -> None:
        """Nothing."""

    def lag(self, consumer: str, stream: str, events: int) -> None:
        """Nothing."""


_nothing: AbstractContextManager[object] = nullcontext()


class LoggingRecorder(SilentRecorder):
    """Logs, at INFO under `peewee_honker.metrics`, what has happened since the last line, once in `every` seconds."""

    def __init__(self, every: float = 60.0) -> None:
        self._every = every
        self._logger = logging.getLogger("peewee_honker.metrics")
        self._changing = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._lags: dict[str, int] = {}
        self._due = time.monotonic() + every

    def _count(self, name: str, amount: int = 1) -> None:
        with self._changing:
            self._counts[name] += amount
        self._log_if_due()

    def _log_if_due(self) -> None:
        with self._changing:
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + self._every
            counts, self._counts = self._counts, Counter()
            lags = dict(self._lags)
        told = [f"{name} {amount}" for name, amount in sorted(counts.items())]
        told += [f"lag of {name} {events}" for name, events in sorted(lags.items())]
        self._logger.info("%s", ", ".join(told))

    def published(self, type_: str) -> None:
        """Count it."""
        self._count("published")

    @contextmanager
    def delivering(self, event: Event) -> Iterator[None]:
        """Count it, when it has succeeded."""
        yield
        self._count("delivered")

    def failed(self, type_: str) -> None:
        """Count it."""
        self._count("failed")

    def retried(self, type_: str) -> None:
        """Count it."""
        self._count("retried")

    def dead(self, type_: str) -> None:
        """Count it."""
        self._count("dead")

    def dropped(self, type_: str, count: int) -> None:
        """Count it."""
        self._count("dropped", count)

    def lag(self, consumer: str, stream: str, events: int) -> None:
        """Keep the last of each consumer and stream for the next line."""
        with self._changing:
            self._lags[f"{consumer} in {stream}"] = events
        self._log_if_due()
