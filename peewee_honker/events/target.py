"""What every transport of events offers: listeners by topic, and dispatch."""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import blinker

from peewee_honker.events.event import MAX_BYTES, Event, check_type
from peewee_honker.events.listener import (
    Listener,
    Outcome,
    RefusedAsync,
    Where,
    call,
    ended,
    is_coroutine_function,
    name_of,
    running_loop,
)
from peewee_honker.events.metrics import Recorder, SilentRecorder
from peewee_honker.events.topic import Topics, check_topic
from peewee_honker.events.tracing import traced, within_trace
from peewee_honker.signals import is_in_transaction

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["Call", "EventTarget", "Forwarded", "LocalEventTarget", "dispatched"]

logger = logging.getLogger("peewee_honker.events")

_MOST_TYPES = 4096  # that are remembered: as right, and with their calls

dispatched = blinker.Signal("`receiver(target, event=event)`: an event was dispatched, in the transaction that is open.")
"""For tests that want to see what is published whether it commits or not, see `peewee_honker.testing`."""


class _Registration(NamedTuple):
    call: "Call | None"  # None for a listener that stands for several
    where: Where | None
    loop: asyncio.AbstractEventLoop | None
    since: int  # offsets up to this were committed before the listener was there
    always: "tuple[Call, ...]"  # what each event is given to, where that does not depend on the event


class Forwarded(NamedTuple):
    """The last event that a target has of a relay: its offset where it came from, and its id."""

    offset: int
    event_id: str


class EventTarget(ABC):
    """A transport of events. Subclasses say how events leave and come in; listeners and topics are here.

    Arguments:
        max_bytes: how long an event's JSON may be.
        recorder: hears of what is published, delivered and failed, see `peewee_honker.events.metrics`.

    Guarantee of all targets: events reach a listener in the order in which they were committed. An event that was
    dispatched within a transaction of the target's database is heard after its commit, and never after a rollback, of a
    savepoint too. A listener that raises is logged with the event's id, and the others are still called.

    Listeners may be coroutine functions: each runs on the event loop that ran where it was added. A target can be used by
    any thread.
    """

    def __init__(self, *, max_bytes: int = MAX_BYTES, recorder: Recorder | None = None) -> None:
        self.max_bytes = max_bytes
        self.recorder: Recorder = recorder or SilentRecorder()
        self._topics: Topics[_Key] = Topics()
        self._registrations: dict[_Key, _Registration] = {}
        self._short: dict[str, Sequence[Call]] = {}  # by type, while nobody comes or goes: see `_calls_for`
        self._listening = threading.RLock()
        self._known_types: set[str] = set()  # that were found to be right

    def add_listener(self, topic: str, listener: Listener, *, where: Where | None = None) -> None:
        """Call `listener(event)` with the events of a topic that commit after this returns.

        Arguments:
            topic: `type:id`, a type alone for every id, or a pattern with `*`; see `peewee_honker.events.topic`.
            listener: a function or a coroutine function. It is called once for an event, however many of its topics match,
                and is added to a topic once.
            where: is asked first; the listener hears the events for which it is true.

        Raises TopicError for what is no topic, and what the transport raises when it cannot be had.
        """
        check_topic(topic)
        key = _Key(topic, listener)
        with self._listening:
            if key in self._registrations:
                return
            first = not self._registrations
            # Before the listener can be called: it hears all from some event on, and nothing that was committed before.
            self._registrations[key] = _made(listener, where, self._newest())
            new_topic = self._topics.add(topic, key)
            self._short = {}
            try:
                if first:
                    self._open()
                if new_topic:
                    self._open_topic(topic)
            except BaseException:
                self._topics.remove(topic, key)
                del self._registrations[key]
                self._short = {}
                raise

    def remove_listener(self, topic: str, listener: Listener) -> None:
        """No longer call `listener` for a topic; nothing if it is not there. The topic's transport ends with its last one.

        When this returns the listener runs no more. Only where that would be waiting for itself, inside a listener or in
        the thread of an event loop, it returns at once and what runs goes on to its end.
        """
        key = _Key(topic, listener)
        with self._listening:
            if self._registrations.pop(key, None) is None:
                return
            is_gone = self._topics.remove(topic, key)
            self._short = {}
            if is_gone:
                self._close_topic(topic)
            # Begun while nobody can add a first listener; waited for when a listener that is waited for can add one.
            wait = self._settle if self._registrations else self._close()
        wait()

    def close(self) -> None:
        """Remove all listeners."""
        for key in list(self._registrations):
            self.remove_listener(key.topic, key.listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def holding(self) -> AbstractContextManager[None]:
        """Let nothing that waits be read until the block ends: listeners that are added in it hear of the same events."""
        return nullcontext()

    def close_thread(self) -> None:  # noqa: B027  (what a transport without it does)
        """Give back what the calling thread holds of the transport, such as its connection to a database."""

    def dispatch(self, event: Event) -> bool:
        """Publish an event, in the transaction that is open. Gives True.

        Raises TopicError for a type that is not one or is reserved, PayloadError for a payload that has no form in JSON
        or is too large, both before anything is written; and what the transport raises.
        """
        if event.type not in self._known_types:
            check_type(event.type)
            if len(self._known_types) >= _MOST_TYPES:  # types may have a key in them
                self._known_types = set()
            self._known_types.add(event.type)
        event = traced(event)
        self._dispatch(event)
        self.recorder.published(event.type)
        if dispatched.receivers:
            dispatched.send(self, event=event)
        return True

    def forward(self, relay: str, events: Sequence[Event], after: Forwarded | None) -> None:
        """Publish the events of a relay, in order, see `peewee_honker.relay`.

        Arguments:
            relay: the relay's name.
            events: with the offsets that they have in the relay's stream.
            after: what `forwarded` gave, or the last event of the call before.

        A target that can remembers the last event in one transaction with them, and publishes nothing when it remembers
        another than `after` (ForwardConflictError). This one publishes one after the other and remembers nothing. Raises
        PayloadError and TopicError before any of the events is published, and what the transport raises.
        """
        for event in events:
            check_type(event.type)
            event.to_json(self.max_bytes)
        for event in events:
            self.dispatch(event)

    def forwarded(self, relay: str) -> Forwarded | None:
        """The last event that was published of a relay; None when that is not known."""
        return None

    # For subclasses

    @abstractmethod
    def _dispatch(self, event: Event) -> None:
        """Send a checked event on its way."""

    def _open(self) -> None:  # noqa: B027  (what a transport without it does)
        """Begin to receive: there is a first listener."""

    def _close(self) -> Callable[[], None]:
        """Receive no more: the last listener has gone. Gives what waits until listeners that run now have ended."""
        return self._settle

    def _open_topic(self, topic: str) -> None:  # noqa: B027  (what a transport without it does)
        """Receive a topic that has a first listener."""

    def _close_topic(self, topic: str) -> None:  # noqa: B027  (what a transport without it does)
        """Receive a topic no more: its last listener has gone."""

    def _settle(self) -> None:  # noqa: B027  (what a transport without it does)
        """Wait until listeners that run now have ended, where that can be."""

    def _newest(self) -> int:
        """The offset of the last event that was committed, where there are offsets, else 0."""
        return 0

    def _calls_for(self, event: Event) -> Sequence[Callable[[Event], "Outcome | None"]]:
        """Whom an event is to be given to, each ready to be called with it."""
        short = self._short  # before looking: who comes or goes meanwhile puts another in its place
        known = short.get(event.type)
        if known is not None:
            return known
        keys = self._topics.match(event.type, event.id)
        if len(keys) == 1:  # as of most types
            registration = self._registrations.get(keys[0])
            if registration is not None and registration.always:
                if len(short) < _MOST_TYPES and not self._topics.id_matters(event.type):
                    short[event.type] = registration.always
                return registration.always
        calls: list[Callable[[Event], Outcome | None]] = []
        seen = set()
        for key in keys:
            registration = self._registrations.get(key)
            if registration is None or (len(keys) > 1 and key.listener in seen):
                continue
            if registration.since and event.offset is not None and event.offset <= registration.since:
                continue
            try:
                wanted = registration.where is None or registration.where(event)
            except Exception:
                logger.exception("the filter of listener %s failed on event %s", name_of(key.listener), event.event_id)
                continue
            if wanted:
                seen.add(key.listener)
                if registration.call is not None:
                    calls.append(registration.call)
                else:
                    fan_out: Any = key.listener
                    calls += [Call(listener, registration.loop) for listener in fan_out.listeners_for(event)]
        return calls

    def _deliver(self, event: Event) -> None:
        """Give an event to its listeners, one after the other, each whatever the others do."""
        in_loop = running_loop() is not None
        for each in self._calls_for(event):
            try:
                if in_loop:
                    self._deliver_in_loop(each, event)
                elif type(self.recorder) is SilentRecorder:
                    each(event)
                else:
                    with self.recorder.delivering(event):
                        each(event)
            except Exception:
                logger.exception("a receiver of %s failed on event %s: %s", event.type, event.event_id, name_of(each))
                self.recorder.failed(event.type)

    def _deliver_in_loop(self, each: Callable[[Event], Outcome | None], event: Event) -> None:
        """Give an event to a listener in the thread of an event loop, where what is awaited ends later."""
        with ExitStack() as stack:
            stack.enter_context(self.recorder.delivering(event))
            outcome = each(event)
            if outcome is not None:
                outcome.add_done_callback(partial(self._ended, event, stack.pop_all()))

    def _ended(self, event: Event, delivering: ExitStack, outcome: Outcome) -> None:
        error = None if outcome.cancelled() else outcome.result()
        if error is None:
            delivering.close()
            return
        delivering.__exit__(type(error), error, error.__traceback__)
        self.recorder.failed(event.type)


class _Key(NamedTuple):
    topic: str
    listener: Listener


class Call:
    """A listener, and where it runs if it is a coroutine function."""

    __slots__ = ("__dict__", "func", "loop")

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop | None) -> None:
        self.func = listener
        self.loop = loop
        self.__dict__.update(getattr(listener, "__dict__", {}))  # marks, such as `in_transaction`
        if is_in_transaction(self) and is_coroutine_function(listener):
            self.func = RefusedAsync(listener)

    def __call__(self, event: Event) -> Outcome | None:
        if event.headers:
            with within_trace(event):
                return call(self.func, event, loop=self.loop)
        result = self.func(event)
        # Nearly always nothing was given, and a call more would be felt in a replay.
        return None if result is None else ended(self.func, result, self.loop)


def _made(listener: Listener, where: Where | None, since: int) -> _Registration:
    loop = running_loop()
    one = None if hasattr(listener, "listeners_for") else Call(listener, loop)
    return _Registration(one, where, loop, since, () if one is None or where is not None or since else (one,))


class LocalEventTarget(EventTarget):
    """Events within this process: at once after the commit, in the thread that has committed.

    Arguments:
        database: a HonkerDatabase whose transactions the events belong to; without one, or outside a transaction, an
            event is heard at once.

    Guarantee: at most once, in commit order; a listener that dispatches is heard when its event's listeners have all been
    called. When another thread delivers at that moment, it delivers this event too, in its turn.
    """

    def __init__(
        self, database: "HonkerDatabase | None" = None, *, max_bytes: int = MAX_BYTES, recorder: Recorder | None = None
    ) -> None:
        super().__init__(max_bytes=max_bytes, recorder=recorder)
        self._database = database
        self._queue: deque[Event] = deque()
        self._delivering = threading.Lock()
        self._deliverer: int | None = None  # the thread that delivers

    def _dispatch(self, event: Event) -> None:
        # As it would be elsewhere: listeners see the same in every process, and nothing that a caller changes afterwards.
        event = Event.from_json(event.to_json(self.max_bytes), event.type)
        database = self._database
        if database is None or database.honker_transaction is None:
            self._queue.append(event)
            self._drain()
            return
        # The first keeps the order of the commits, as it runs while no other can commit; the second calls the listeners.
        database.at_commit(partial(self._queue.append, event), then=self._drain)

    def _drain(self) -> None:
        while self._queue and self._delivering.acquire(blocking=False):
            self._deliverer = threading.get_ident()
            try:
                while self._queue:
                    self._deliver(self._queue.popleft())
            finally:
                self._deliverer = None
                self._delivering.release()

    def _settle(self) -> None:
        if self._deliverer == threading.get_ident() or running_loop() is not None:
            return
        with self._delivering:
            pass
