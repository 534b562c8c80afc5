"""OpenTelemetry's trace context in the headers of an event, when the application uses OpenTelemetry.

The publisher's context travels as its propagator writes it (W3C `traceparent` by default), and is current again while a
receiver runs, in whichever process. Nothing is imported for it: who traces has imported the API already.
"""

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from peewee_honker.events.event import Event

__all__ = ["traced", "within_trace"]


def traced(event: Event) -> Event:
    """The event with the current trace context in its headers, where there is one."""
    if "opentelemetry.propagate" not in sys.modules and "opentelemetry.trace" not in sys.modules:
        return event
    propagate: Any = importlib.import_module("opentelemetry.propagate")
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    if not carrier:
        return event
    return dataclasses.replace(event, headers={**(event.headers or {}), **carrier})


def within_trace(event: Event) -> AbstractContextManager[Any]:
    """What a receiver runs in: the trace context that the event carries, else nothing."""
    if not event.headers or "opentelemetry.trace" not in sys.modules:
        return _nothing
    return _attached(event)


@contextmanager
def _attached(event: Event) -> Iterator[None]:
    context: Any = importlib.import_module("opentelemetry.context")
    propagate: Any = importlib.import_module("opentelemetry.propagate")
    token = context.attach(propagate.extract(event.headers or {}))
    try:
        yield
    finally:
        context.detach(token)


_nothing: AbstractContextManager[Any] = nullcontext()
