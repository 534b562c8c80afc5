"""`WebSocketClientTarget`: a hub's stream, heard and written from another machine."""

import logging
import ssl as tls
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from peewee_honker.errors import ForwardConflictError, HonkerError, PayloadError, TopicError
from peewee_honker.events import Event, EventTarget
from peewee_honker.events.event import MAX_BYTES, check_type
from peewee_honker.events.listener import Listener, Where
from peewee_honker.events.metrics import Recorder
from peewee_honker.events.target import Forwarded, _Key
from peewee_honker.hub import message as protocol
from peewee_honker.hub.calls import CallTarget
from peewee_honker.hub.errors import HubConnectionError, HubRefusedError
from peewee_honker.hub.inbox import Inbox
from peewee_honker.hub.link import Link

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["WebSocketClientTarget"]

logger = logging.getLogger("peewee_honker.hub")

_UNCONFIRMED = 2**63 - 1  # an offset behind which there is nothing


class WebSocketClientTarget(EventTarget):
    """Hears and publishes events of a hub, see `WebSocketServerTarget`.

        with WebSocketClientTarget("wss://hub.example:8765", key="phk_...") as target:
            target.add_listener("order.*", print)
            target.dispatch(Event("order.saved", "17", {"total": 9}))

    Arguments:
        url: `wss://` or, where nobody else can listen, `ws://`.
        key: an API key, sent as `Authorization: Bearer` with the handshake.
        tenant: the organization, by id or slug, for a key whose owner is in several.
        ssl: a client's SSLContext; by default that of the system for `wss://`.
        headers: further headers of the handshake.
        proxy: the URL of a proxy to go through.
        database: a HonkerDatabase whose open transaction `dispatch` waits for: its events are sent after its commit.
        after: begin behind this offset of the hub's stream, as `event.offset` gives it; by default with what commits from
            now on.
        echo: whether to hear what this connection has published as a spoke.
        timeout: seconds for an answer of the hub.
        heartbeat: seconds between two pings; a hub that does not answer one for as long is away.
        buffer: bytes of events that may wait for slow listeners. With more it asks the hub to stop, and gets the rest later.
        max_bytes: how long an event's JSON may be; where the hub takes less, as long as it does.

    Guarantee: while it is connected, `add_listener` returns when the hub has confirmed the topic, and what commits after
    that is heard, in order. When the connection is lost it connects again, with growing pauses, and gets what it has missed
    from the hub's stream; where that was deleted, or the stream is another, listeners of `__gap__` hear of it. `dispatch`
    returns when the hub has committed the event, and raises HubConnectionError when it is away. What may not be lost while
    the hub is away goes by a `Relay`, see `Spoke`.

    Listeners run in a thread of the target's own.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        tenant: str | None = None,
        ssl: tls.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
        proxy: str | None = None,
        database: "HonkerDatabase | None" = None,
        after: int | None = None,
        echo: bool = True,
        timeout: float = 10.0,
        heartbeat: float = 20.0,
        buffer: int = 4 * 1024 * 1024,
        max_bytes: int = MAX_BYTES,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(max_bytes=max_bytes, recorder=recorder)
        self.url = url
        self.database = database
        self.timeout = timeout
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if tenant is not None:
            sent["X-Tenant"] = tenant
        options = {"additional_headers": sent, "ssl": ssl, "proxy": proxy}
        options = {name: value for name, value in options.items() if value is not None or name == "proxy"}
        self._link = Link(self, url, options, heartbeat=heartbeat, timeout=timeout, echo=echo)
        self._given: tuple[int, str | None] | None = None if after is None else (after, None)
        """As `Link.place`, of what listeners were given."""
        self._buffer = buffer
        self._inbox: Inbox | None = None
        self._known = 0  # an offset that is known to have been committed
        self._adding = _Key("", print)  # the listener that is being added
        self._queue: deque[Event] = deque()  # of committed transactions, to be sent
        self._sending = threading.Lock()
        self.calls = CallTarget(self._link)
        """Where calls of operations go and come from, for a CallClient or a CallHandler."""

    def __repr__(self) -> str:
        return f"<WebSocketClientTarget of {self.url}{'' if self.is_connected else ', not connected'}>"

    # Life

    @property
    def is_connected(self) -> bool:
        """Whether the hub is there, and has confirmed the topics."""
        return self._link.is_connected

    @property
    def error(self) -> Exception | None:
        """Why it is not connected, or None."""
        return self._link.error

    @property
    def place(self) -> int | None:
        """The offset of the last event that listeners were given; what `after` takes. None before the first connection."""
        return None if self._given is None else self._given[0]

    def start(self) -> None:
        """Begin to connect, in a thread. The hub need not be there yet."""
        if self._inbox is not None:
            raise RuntimeError(f"{self!r} runs already")
        self._inbox = Inbox(self._buffer, self._receive, self._link.resume)
        self._link.place = self._given  # what waited for listeners when it was stopped comes again
        self._link.start()

    def wait_connected(self, timeout: float) -> None:
        """Wait until it is connected. Raises HubRefusedError when the hub does not accept the key, HubConnectionError
        after so many seconds."""
        self._link.wait_connected(timeout)

    def stop(self) -> None:
        """End the connection. Listeners stay, for another start, which goes on behind what they were given."""
        self._link.stop()
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            inbox.close()

    def close(self) -> None:
        """Remove all listeners, and end the connection."""
        self.stop()
        super().close()

    def __enter__(self) -> "WebSocketClientTarget":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # Publishing

    def _dispatch(self, event: Event) -> None:
        event.to_json(self._link.max_bytes)
        database = self.database
        if database is None or database.honker_transaction is None:
            self._publish(event)
            return
        database.at_commit(partial(self._queue.append, event), then=self._drain)

    def _publish(self, event: Event) -> None:
        answer = self._ask(event)
        self._known = max(self._known, answer["offset"])

    def _drain(self) -> None:
        """Send what was committed, in the order of the commits."""
        while self._queue and self._sending.acquire(blocking=False):
            try:
                while self._queue:
                    event = self._queue.popleft()
                    try:
                        self._publish(event)
                    except HonkerError as error:  # the transaction has committed: nobody is there to raise it to
                        logger.error("the event %s was not published: %s", event.event_id, error)
            finally:
                self._sending.release()

    def _ask(self, request: Event) -> Any:
        """The hub's answer. Raises what the hub refuses with."""
        answer = self._link.ask(request)
        if answer.type == protocol.ACK:
            return answer.payload
        told = answer.payload if isinstance(answer.payload, Mapping) else {}
        code, text = str(told.get("code")), str(told.get("message"))
        kind = _ERRORS.get(code)
        raise HubRefusedError(code, text) if kind is None else kind(text)

    def forward(self, relay: str, events: Sequence[Event], after: Forwarded | None) -> None:
        """As EventTarget.forward: the hub remembers the last event, so that none is there twice."""
        batch: list[Any] = []
        size, most = 0, self._link.max_bytes
        for event in events:
            check_type(event.type)
        for event in events:
            length = len(event.to_json(most).encode())
            if batch and size + length > most:
                after = self._forward(relay, batch, after)
                batch, size = [], 0
            batch.append(event)
            size += length + 64
        if batch:
            self._forward(relay, batch, after)

    def _forward(self, relay: str, events: Sequence[Event], after: Forwarded | None) -> Forwarded:
        payload = {
            "relay": relay,
            "after": None if after is None else list(after),
            "events": [protocol.envelope(event) for event in events],
        }
        self._ask(Event(protocol.FORWARD, "", payload))
        for event in events:
            self.recorder.published(event.type)
        return Forwarded(events[-1].offset or 0, events[-1].event_id)

    def forwarded(self, relay: str) -> Forwarded | None:
        """As EventTarget.forwarded."""
        last = protocol.read_place(self._ask(Event(protocol.FORWARDED, "", {"relay": relay}))["last"])
        return None if last is None else Forwarded(last[0], last[1] or "")

    def discover(self, spoke: str | None = None, service: str | None = None) -> list[dict[str, Any]]:
        """What can be called: `{spoke, service, operations}`, with the operations' contracts as JSON values; of one spoke or
        service, or of all."""
        found: list[dict[str, Any]] = self._ask(Event(protocol.DISCOVER, "", {"spoke": spoke, "service": service}))[
            "services"
        ]
        return found

    # Hearing

    def add_listener(self, topic: str, listener: Listener, *, where: Where | None = None) -> None:
        """As EventTarget.add_listener. While it is connected this returns when the hub has confirmed the topic; raises
        HubRefusedError when the hub does not allow it."""
        with self._listening:
            self._adding = _Key(topic, listener)
            super().add_listener(topic, listener, where=where)

    def _open_topic(self, topic: str) -> None:
        if topic.startswith("__"):  # said here, not there
            self._hear_behind(self._adding, self._known)
            return
        key = self._adding
        self._link.wanted[topic] = None
        try:
            reason = self._link.subscribe(topic, partial(self._hear_behind, key))
        except HubConnectionError:  # is asked for when there is a connection again
            logger.debug("%r is away: %s is asked for later", self, topic)
            reason = None
        if self._registrations[key].since == _UNCONFIRMED:
            self._hear_behind(key, self._known)
        if reason is not None:
            del self._link.wanted[topic]
            raise HubRefusedError("ACCESS_DENIED", f"the topic {topic} is not allowed with this key: {reason}")

    def _close_topic(self, topic: str) -> None:
        if self._link.wanted.pop(topic, 0) is None:
            self._link.unsubscribe(topic)
        if not self._link.wanted:
            self._link.place = self._given = None  # who comes next begins then

    def _hear_behind(self, key: _Key, offset: int) -> None:
        """The hub has confirmed a topic: its events are those behind the offset. In the link's loop, before they come."""
        registration = self._registrations.get(key)
        if registration is not None:
            self._registrations[key] = registration._replace(since=offset)

    def _newest(self) -> int:
        if self._link.is_connected and self._adding.topic not in self._link.wanted and not self._link.is_behind:
            return _UNCONFIRMED  # what is on its way of an earlier subscription is not for this one
        if self._link.is_behind:  # what comes now was committed before
            try:
                self._known = max(self._known, self._ask(Event(protocol.NEWEST))["offset"])
            except HubConnectionError:
                logger.debug("%r is away: a listener hears what it has missed", self)
        return self._known

    def _settle(self) -> None:
        if self._inbox is not None:
            self._inbox.settle()

    def take(self, event: Event, size: int) -> bool:
        """Have an event of so many bytes given to the listeners; False when the hub is to stop. In the link's loop."""
        return self._inbox is None or self._inbox.put(event, size)

    def _receive(self, events: Sequence[Event]) -> None:
        """Give events to the listeners. In the inbox's thread."""
        inbox = self._inbox
        for event in events:
            if event.type == protocol.POSITION:
                self._known = max(self._known, event.offset or 0)
                self._note_place((event.offset or 0, None))
                continue
            if event.is_gap:
                self._note_gap(event)
            elif event.offset is not None:
                self._known = max(self._known, event.offset)
                self._note_place((event.offset, event.event_id))
            self._deliver(event)
            if self._inbox is not inbox:  # it was stopped meanwhile; the others come again after the next start
                return

    def _note_place(self, place: tuple[int, str | None] | None) -> None:
        if self._link.wanted:
            self._given = place

    def _note_gap(self, gap: Event) -> None:
        logger.warning("%r has missed events: %s", self, gap.payload)
        before = gap.payload.get("before") if isinstance(gap.payload, Mapping) else 0
        self._note_place((before - 1, None) if before else None)
        if before is None:  # offsets begin anew
            with self._listening:
                self._known = 0
                for key, registration in list(self._registrations.items()):
                    self._registrations[key] = registration._replace(since=0)


_ERRORS: dict[str, type[HonkerError]] = {
    "PAYLOAD": PayloadError,
    "TOPIC": TopicError,
    "CONFLICT": ForwardConflictError,
    "UNAVAILABLE": HubConnectionError,
}
