"""Publish and subscribe with async iterators, over any event target.

    pubsub = create_pubsub(HonkerEventTarget(db))
    pubsub.publish("order.saved", "17", {"total": 9})

    async with pubsub.subscribe("order.saved") as orders:
        async for event in orders: ...

`peewee_honker.events.operators` has what is done with such iterators.
"""

import weakref
from typing import Any

from peewee_honker.events.buffer import Buffer, WhenFull
from peewee_honker.events.event import Event
from peewee_honker.events.listener import Where
from peewee_honker.events.target import EventTarget

__all__ = ["PubSub", "Subscription", "create_pubsub"]


class Subscription:
    """An async iterator of events, from the moment it was made. Close it by `async with`, `aclose` or `close`.

    - `dropped`: how many events a full buffer has dropped.

    One coroutine iterates over it. One that is garbage is closed.
    """

    def __init__(self, target: EventTarget, topic: str, where: Where | None, size: int, when_full: WhenFull) -> None:
        self._target = target
        self._topic = topic
        self._buffer: Buffer[Event] = Buffer(size, when_full)
        self._listener = _Put(self._buffer, target)
        target.add_listener(topic, self._listener, where=where)
        # The target knows the buffer alone, so that a subscription that was left lying does not go on for ever.
        self._end = weakref.finalize(self, _end, target, topic, self._listener)
        self._end.atexit = False

    @property
    def dropped(self) -> int:
        """How many events were dropped since the buffer was full."""
        return self._buffer.dropped

    def close(self) -> None:
        """Hear nothing more; who iterates gets what is there, then the end. For any thread."""
        self._end()

    async def aclose(self) -> None:
        """As `close`."""
        self._end()

    async def __aenter__(self) -> "Subscription":
        return self

    async def __aexit__(self, *error: object) -> None:
        self._end()

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Event:
        return await self._buffer.__anext__()


class _Put:
    """A subscription's listener."""

    def __init__(self, buffer: Buffer[Event], target: EventTarget) -> None:
        self.buffer = buffer
        self._recorder = target.recorder

    def __call__(self, event: Event) -> None:
        dropped = self.buffer.dropped
        try:
            self.buffer.put(event)
        except RuntimeError:  # "block" in the loop's own thread, which cannot wait for itself
            self.buffer.overflow()
        if self.buffer.dropped > dropped:
            self._recorder.dropped(event.type, self.buffer.dropped - dropped)


def _end(target: EventTarget, topic: str, listener: _Put) -> None:
    listener.buffer.close()  # first: a thread may be waiting in it
    target.remove_listener(topic, listener)


class PubSub:
    """Publish and subscribe over a target."""

    def __init__(self, target: EventTarget) -> None:
        self.target = target

    def publish(self, type_: str, id_: str = "", payload: Any = None) -> Event:
        """Publish an event, in the transaction that is open. Gives it; raises as `EventTarget.dispatch` does."""
        event = Event(type_, id_, payload)
        self.target.dispatch(event)
        return event

    def subscribe(
        self,
        type_: str,
        id_: str | None = None,
        *,
        size: int = 1024,
        when_full: WhenFull = "block",
        where: Where | None = None,
    ) -> Subscription:
        """Events of a type that commit after this returns, for a coroutine of the event loop that runs here.

        Arguments:
            type_: a type, or a pattern with `*`.
            id_: of one id only; '' for events without one; None for all.
            size: how many events may wait to be taken.
            when_full: what happens with the next one: `block` makes the bus's thread wait, and with it all other listeners
                of this process; in the loop's own thread, where it would wait for itself, it acts as `raise`.
                `drop_oldest` drops and counts; `raise` ends the iteration with BufferFullError. See `Buffer`.
            where: is asked first.

        Raises RuntimeError without a running loop, and as `EventTarget.add_listener` does.
        """
        topic = type_ if id_ is None else f"{type_}:{id_}"
        return Subscription(self.target, topic, where, size, when_full)


def create_pubsub(target: EventTarget) -> PubSub:
    """Publish and subscribe over a target."""
    return PubSub(target)
