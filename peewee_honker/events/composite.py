"""Two targets in one: what this process publishes is heard here at once, what others publish comes by the other."""

import dataclasses
import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager

from peewee_honker.events.event import Event
from peewee_honker.events.listener import Listener, Where
from peewee_honker.events.target import EventTarget, LocalEventTarget

__all__ = ["CompositeEventTarget", "new_origin"]

_host = socket.gethostname()


def new_origin(name: str | None = None) -> str:
    """A name for this process as a publisher, never used before: `name`, or `host:pid`, with a random part."""
    return f"{name or f'{_host}:{os.getpid()}'}/{uuid.uuid4().hex[:8]}"


class CompositeEventTarget(EventTarget):
    """Local receivers at once after the commit, other processes through another target, and nobody twice.

    Arguments:
        local: a LocalEventTarget on the same database.
        remote: a HonkerEventTarget, or another transport.
        origin: what `Event.origin` says of the events published here, by which the remote's copies of them are known;
            no two targets may have one. Also a function that gives it. By default a new one for this process.

    Guarantee: an event that is dispatched here is heard by the listeners here once, at once after its commit, in the thread
    that has committed; if the process dies in between, not at all. Events of others are as the remote target gives them.
    With a durable remote, events of an earlier life of this process that its consumer had not passed come again.
    """

    def __init__(
        self, local: LocalEventTarget, remote: EventTarget, *, origin: str | Callable[[], str] | None = None
    ) -> None:
        super().__init__(max_bytes=remote.max_bytes)  # the remote tells its recorder of what is published
        self._local = local
        self._remote = remote
        self._origin = origin
        self._process = os.getpid()
        self._added: set[tuple[str, Listener]] = set()
        self._changing = threading.RLock()

    @property
    def origin(self) -> str:
        """The origin of what is dispatched here."""
        if callable(self._origin):
            return self._origin()
        if self._origin is None or self._process != os.getpid():  # the child of a fork is a publisher of its own
            self._origin, self._process = new_origin(), os.getpid()
        return self._origin

    def add_listener(self, topic: str, listener: Listener, *, where: Where | None = None) -> None:
        """As EventTarget.add_listener, for the events of all processes."""
        with self._changing:
            if (topic, listener) in self._added:
                return

            def from_elsewhere(event: Event) -> bool:
                return event.origin != self.origin and (where is None or where(event))

            self._remote.add_listener(topic, listener, where=from_elsewhere)
            try:
                self._local.add_listener(topic, listener, where=where)
            except BaseException:
                self._remote.remove_listener(topic, listener)
                raise
            self._added.add((topic, listener))

    def remove_listener(self, topic: str, listener: Listener) -> None:
        """As EventTarget.remove_listener."""
        with self._changing:
            if (topic, listener) not in self._added:
                return
            self._added.remove((topic, listener))
        self._local.remove_listener(topic, listener)
        self._remote.remove_listener(topic, listener)

    def close(self) -> None:
        """Remove all listeners that were added here."""
        for topic, listener in list(self._added):
            self.remove_listener(topic, listener)

    def holding(self) -> AbstractContextManager[None]:
        """As EventTarget.holding."""
        return self._remote.holding()

    def _dispatch(self, event: Event) -> None:
        if event.origin != self.origin:
            event = dataclasses.replace(event, origin=self.origin)
        self._remote.dispatch(event)
        self._local._dispatch(event)
