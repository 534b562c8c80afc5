"""One connection of a hub: who is there, what they want to hear, and what waits to be sent."""

import asyncio
import contextlib
from typing import Any

from peewee_honker.events import Event
from peewee_honker.events.topic import Topics
from peewee_honker.hub.access import Peer
from peewee_honker.hub.message import encode
from peewee_honker.hub.outbox import Outbox

__all__ = ["PATIENCE", "Subscriber"]

PATIENCE = 0.25  # seconds that others wait for a connection with much to be sent
_LONGEST_WAIT = 2.0  # seconds that answers wait for one

_MOST_REQUESTS = 64  # that are worked on at a time for one connection


class Subscriber:
    """A connection, as the server sees it. Belongs to the server's event loop.

    - `topics`: what it wants to hear, each with the offset behind which its events are.
    - `is_live`: whether it is given events as they are read; else it is catching up, or has no topics.
    - `is_late`: whether others have waited for it, and wait no more.
    - `spoke`: the name that it has registered, or None.
    """

    def __init__(self, socket: Any, peer: Peer, outbox: Outbox, max_message: int) -> None:
        self.socket = socket
        self.peer = peer
        self.outbox = outbox
        self.topics: dict[str, int] = {}
        self.is_live = False
        self.is_late = False
        self.echo = True
        self.spoke: str | None = None
        self.requests: asyncio.Queue[Event] = asyncio.Queue(_MOST_REQUESTS)
        self.writes = asyncio.Semaphore(_MOST_REQUESTS)
        self.is_quiet = True  # no event was sent since the last position
        self.catching_up: asyncio.Task[None] | None = None
        self._matching: Topics[str] = Topics()
        self._floor = 0  # the highest of the topics' offsets
        self._max_message = max_message

    def __repr__(self) -> str:
        return f"<{self.peer.identity.id} of {self.peer.tenant}, {self.spoke or 'no spoke'}>"

    def send(self, event: Event) -> bool:
        """Send a message of the protocol."""
        return self.outbox.put(encode(event, self._max_message))

    async def wait_for_room(self) -> None:
        """Wait while much is to be sent, so that a burst of answers drops nobody who reads. For a while and once:
        others for whom the same spoke has answers wait too."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT):
                while self.outbox.is_filling and self.outbox.is_open and not self.is_late:
                    await self.outbox.room()  # and look again: others may have waited too, and filled it
        self.is_late = self.outbox.is_filling

    def add_topic(self, topic: str, after: int) -> None:
        """Hear a topic's events behind an offset."""
        self.topics[topic] = after
        self._floor = max(self._floor, after)
        self._matching.add(topic, topic)

    def remove_topic(self, topic: str) -> None:
        """Hear a topic no more."""
        if self.topics.pop(topic, None) is not None:
            self._matching.remove(topic, topic)

    def wants(self, event: Event) -> bool:
        """Whether an event is of a topic, and behind its offset."""
        offset = event.offset or 0
        return any(self.topics.get(topic, offset) < offset for topic in self._matching.match(event.type, event.id))

    def gets(self, event: Event) -> bool:
        """Whether an event of a topic of its is to be given: it is behind the topic's offset, and not its own."""
        if (event.offset or 0) <= self._floor and not self.wants(event):
            return False
        return self.echo or self.spoke is None or (event.headers or {}).get("hub-spoke") != self.spoke
