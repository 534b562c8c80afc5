"""Which connection hears which event, and how one that was away catches up."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from peewee_honker.errors import PayloadError
from peewee_honker.events import GAP, Event
from peewee_honker.events.event import gap_event
from peewee_honker.events.store import Store
from peewee_honker.events.topic import Topics, check_topic
from peewee_honker.hub.access import SUBSCRIBE, Authorize, by_scopes, is_authorized
from peewee_honker.hub.errors import HubRefusedError, MessageError
from peewee_honker.hub.message import POSITION, encode, read_place
from peewee_honker.hub.subscriber import PATIENCE, Subscriber

__all__ = ["EVERYBODY", "TENANT_HEADER", "Subscriptions"]

logger = logging.getLogger("peewee_honker.hub")

TENANT_HEADER = "hub-tenant"
"""The header of an event that says whose it is. What a connection publishes gets that of its key, whatever it says."""
EVERYBODY = "*"
"""In that header: an event for all tenants, which only the hub's own program can publish."""
_PAGE = 200
_AT_ONCE = 50  # events that are given to all before others have a turn in the loop
_LONGEST_TOPIC = 1300  # characters


class Subscriptions:
    """The topics of all connections. Belongs to one event loop.

    Arguments:
        store, stream: where those who were away catch up.
        authorize: whether a peer may hear a topic; asked for each event too, unless it is `by_scopes`.
        most_topics: of one connection.
        max_message: bytes of a message.
    """

    def __init__(self, store: Store, stream: str, authorize: Authorize, most_topics: int, max_message: int) -> None:
        self.position = 0
        """Up to this offset events were given to those who are live."""
        self._store = store
        self._stream = stream
        self._authorize = authorize
        self._asks_for_each = authorize is not by_scopes
        self._most_topics = most_topics
        self._max_message = max_message
        self._by_tenant: dict[str | None, Topics[Subscriber]] = {}
        self._live: set[Subscriber] = set()

    # Requests

    def subscribe(self, subscriber: Subscriber, payload: Any) -> dict[str, Any]:
        """Add topics; the answer is the request's. Raises MessageError, HubRefusedError."""
        topics = _topics_of(payload)
        after = read_place(payload.get("after"))
        if len(subscriber.topics.keys() | topics) > self._most_topics:
            raise HubRefusedError("TOO_MANY_TOPICS", f"a connection has at most {self._most_topics} topics")
        if after is not None and subscriber.topics:
            raise MessageError("a connection that has topics goes on with them: unsubscribe first, or leave `after` out")
        if "echo" in payload:
            subscriber.echo = payload["echo"] is not False
        refused = {}
        for topic in sorted(topics):
            try:
                check_topic(topic)
            except ValueError as error:
                refused[topic] = str(error)[:200]
                continue
            if topic.startswith("__") or not is_authorized(self._authorize, subscriber.peer, SUBSCRIBE, topic):
                refused[topic] = "ACCESS_DENIED"
        granted = topics - refused.keys()
        newest = self._store.offset_of(self._stream, "now")
        if after is None:
            offset = max(newest, self.position)
            self._add(subscriber, granted, offset)
        else:
            offset = self._resume(subscriber, granted, after, newest)
        return {"offset": offset, "refused": refused}

    def unsubscribe(self, subscriber: Subscriber, payload: Any) -> dict[str, Any]:
        """Take topics away; nothing more of them is sent after the answer. Raises MessageError."""
        for topic in _topics_of(payload) & subscriber.topics.keys():
            subscriber.remove_topic(topic)
            if subscriber.is_live:
                self._remove_live(subscriber, topic)
        if not subscriber.topics:
            self._leave(subscriber)
        return {}

    def forget(self, subscriber: Subscriber) -> None:
        """A connection has ended."""
        for topic in list(subscriber.topics):
            subscriber.remove_topic(topic)
            if subscriber.is_live:
                self._remove_live(subscriber, topic)
        self._leave(subscriber)

    def _leave(self, subscriber: Subscriber) -> None:
        subscriber.is_live = False
        self._live.discard(subscriber)
        if subscriber.catching_up is not None:
            subscriber.catching_up.cancel()
            subscriber.catching_up = None

    def _add(self, subscriber: Subscriber, topics: Iterable[str], after: int) -> None:
        for topic in topics:
            if topic in subscriber.topics:
                continue
            subscriber.add_topic(topic, after)
            if subscriber.is_live:
                self._add_live(subscriber, topic)
        if subscriber.topics and subscriber.catching_up is None:
            self._go_live(subscriber)

    def _go_live(self, subscriber: Subscriber) -> None:
        if not subscriber.is_live:
            subscriber.is_live = True
            self._live.add(subscriber)
            for topic in subscriber.topics:
                self._add_live(subscriber, topic)

    def _add_live(self, subscriber: Subscriber, topic: str) -> None:
        self._by_tenant.setdefault(subscriber.peer.tenant, Topics()).add(topic, subscriber)

    def _remove_live(self, subscriber: Subscriber, topic: str) -> None:
        tenant = subscriber.peer.tenant
        topics = self._by_tenant.get(tenant)
        if topics is not None:
            topics.remove(topic, subscriber)
            if not topics:
                del self._by_tenant[tenant]

    # Events

    async def give_all(self, events: Iterable[Event], position: int) -> None:
        """Send events, up to a position, to all who are live. A connection with much to be sent is waited for, for a moment
        and once, so that many events at a time drop nobody who reads."""
        for given, event in enumerate(events, 1):
            filling = [subscriber for subscriber in self._give(event) if not subscriber.is_late]
            if filling:
                waiting = [asyncio.create_task(subscriber.outbox.room()) for subscriber in filling]
                _, late = await asyncio.wait(waiting, timeout=PATIENCE)
                for task in late:
                    task.cancel()
                for subscriber in filling:
                    subscriber.is_late = subscriber.outbox.is_filling
            elif given % _AT_ONCE == 0:
                await asyncio.sleep(0)
        self.position = position

    def _give(self, event: Event) -> list[Subscriber]:
        """Send an event to all who are live and want it; gives those for whom much waits."""
        filling: list[Subscriber] = []
        if event.type == GAP:
            for subscriber in list(self._live):
                subscriber.send(event)
            return filling
        self.position = event.offset or self.position
        message: bytes | None = None
        for topics in self._audiences(event):
            for subscriber in topics.match(event.type, event.id):
                if not subscriber.gets(event) or not self._may_hear(subscriber, event):
                    continue
                if message is None:
                    message = self._message_of(event)
                subscriber.outbox.put(message)
                subscriber.is_quiet = False
                if subscriber.outbox.is_filling:
                    filling.append(subscriber)
                else:
                    subscriber.is_late = False
        return filling

    def _message_of(self, event: Event) -> bytes:
        """The event as a message; one that is too large, which other programs have written, is told as a gap."""
        try:
            return encode(event, self._max_message)
        except PayloadError as error:
            logger.error("an event of the stream %s is left out: %s", self._stream, error)
            offset = event.offset or 0
            return encode(gap_event(self._stream, offset - 1, offset + 1, "too large"), self._max_message)

    def _audiences(self, event: Event) -> Iterable[Topics[Subscriber]]:
        tenant = tenant_of(event)
        if tenant == EVERYBODY:
            return list(self._by_tenant.values())
        found = self._by_tenant.get(tenant)
        return () if found is None else (found,)

    def _may_hear(self, subscriber: Subscriber, event: Event) -> bool:
        # A pattern may cover topics that are not allowed by themselves.
        return not self._asks_for_each or is_authorized(self._authorize, subscriber.peer, SUBSCRIBE, event.topic)

    def tell_position(self) -> None:
        """Tell those who have been sent nothing for a while how far they are."""
        for subscriber in self._live:
            if subscriber.is_quiet:
                subscriber.send(Event(POSITION, "", {"offset": self.position}))
            subscriber.is_quiet = True

    # Catching up

    def _resume(self, subscriber: Subscriber, topics: Iterable[str], after: tuple[int, str | None], newest: int) -> int:
        offset, event_id = after
        is_known = offset <= newest
        if is_known and event_id is not None:
            is_known = self._has(offset, event_id)
        if not is_known:  # of another file, or of this one before it was restored from a backup
            self._add(subscriber, topics, newest)
            subscriber.send(gap_event(self._stream, offset, None, "the stream is not the one that was heard before"))
            return newest
        for topic in topics:
            subscriber.add_topic(topic, offset)
        if subscriber.topics:
            subscriber.catching_up = asyncio.create_task(self._catch_up(subscriber, offset))
        return offset

    def _has(self, offset: int, event_id: str) -> bool:
        offsets, events = self._store.read_page(self._stream, offset - 1, 1)
        if offsets == [offset]:
            return next(iter(events)).event_id == event_id
        return offset <= self._store.pruned_offset(self._stream)  # deleted by retention

    async def _catch_up(self, subscriber: Subscriber, offset: int) -> None:
        """Send what was missed, at the pace of the connection, until it is where those are who are live."""
        try:
            while offset < self.position:
                position = self.position  # before reading: what comes while it is read may be behind that
                offsets, found = await asyncio.to_thread(self._store.read_page, self._stream, offset, _PAGE)
                if not offsets or offsets[0] != offset + 1:  # at each page: it is at the pace of the connection
                    pruned = await asyncio.to_thread(self._store.pruned_offset, self._stream)
                    missed = min([pruned, *(first - 1 for first in offsets[:1])])
                    if missed > offset:
                        subscriber.send(gap_event(self._stream, offset, missed + 1, "pruned"))
                for event in found:
                    if self._is_for(subscriber, event):
                        await subscriber.outbox.room()
                        subscriber.outbox.put(self._message_of(event))
                offset = offsets[-1] if offsets else position
            for topic, floor in list(subscriber.topics.items()):
                subscriber.add_topic(topic, max(floor, offset))
            subscriber.catching_up = None
            self._go_live(subscriber)
            subscriber.send(Event(POSITION, "", {"offset": offset}))
        except Exception:
            logger.exception("%r could not catch up: ending its connection, so that it tries again", subscriber)
            subscriber.socket.transport.abort()

    def _is_for(self, subscriber: Subscriber, event: Event) -> bool:
        is_its_tenants = tenant_of(event) in (subscriber.peer.tenant, EVERYBODY)
        return (
            is_its_tenants
            and not event.type.startswith("__")
            and subscriber.wants(event)
            and subscriber.gets(event)
            and self._may_hear(subscriber, event)
        )


def tenant_of(event: Event) -> str | None:
    """Whose an event is; None: of those without a tenant."""
    return (event.headers or {}).get(TENANT_HEADER)


def _topics_of(payload: Any) -> set[str]:
    topics = payload.get("topics") if isinstance(payload, Mapping) else None
    if not isinstance(topics, list) or not all(isinstance(topic, str) and len(topic) <= _LONGEST_TOPIC for topic in topics):
        raise MessageError(f"topics are a list of texts of at most {_LONGEST_TOPIC} characters")
    return set(topics)
