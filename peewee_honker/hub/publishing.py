"""What connections publish: whose it is, whether they may, and having it written."""

import dataclasses
from typing import TYPE_CHECKING, Any

from peewee_honker.errors import HonkerError, PayloadError
from peewee_honker.events import Event
from peewee_honker.events.event import check_type
from peewee_honker.events.store import Store
from peewee_honker.hub import message as protocol
from peewee_honker.hub.access import PUBLISH, is_authorized
from peewee_honker.hub.errors import HubRefusedError, MessageError
from peewee_honker.hub.subscriber import Subscriber
from peewee_honker.hub.writer import Writer

if TYPE_CHECKING:
    from peewee_honker.hub.server import WebSocketServerTarget

__all__ = ["Publishing"]

_LONGEST_NAME = 255  # characters


class Publishing:
    """Takes events from connections into the server's stream. Belongs to the server's event loop."""

    def __init__(self, server: "WebSocketServerTarget", store: Store, writer: Writer) -> None:
        self._server = server
        self._store = store
        self._writer = writer

    async def publish(self, subscriber: Subscriber, event: Event) -> None:
        """Have an event written, and acknowledge it then."""
        try:
            text = self._text_of(subscriber, event)
        except HonkerError as error:
            self._server.refuse(subscriber, event, error)
            return
        await subscriber.writes.acquire()

        def written(outcome: Exception | int) -> None:
            subscriber.writes.release()
            if isinstance(outcome, Exception):
                self._server.refuse(subscriber, event, outcome)
            else:
                self._server.recorder.published(event.type)
                self._server.acknowledge(subscriber, event, {"offset": outcome})

        self._writer.put(event.id, text, written)

    def _text_of(self, subscriber: Subscriber, event: Event) -> str:
        """An event's JSON, with whose it is and who has published it. Raises what refuses it."""
        check_type(event.type)
        if not is_authorized(self._server.authorize, subscriber.peer, PUBLISH, event.topic):
            raise HubRefusedError("ACCESS_DENIED", f"{event.topic} may not be published with this key")
        headers = {name: text for name, text in (event.headers or {}).items() if not name.startswith("hub-")}
        peer = subscriber.peer
        for name, value in (("tenant", peer.tenant), ("spoke", subscriber.spoke), ("by", peer.identity.id)):
            if value is not None:
                headers[f"hub-{name}"] = value
        text = dataclasses.replace(event, headers=headers).to_json(self._server.max_bytes)
        if not _is_encodable(text):
            raise PayloadError(f"the event {event.topic} has no form in UTF-8")
        return text

    async def forwarded(self, subscriber: Subscriber, event: Event) -> Any:
        """Answer `__forwarded`."""
        relay = _relay_of(subscriber, event.payload)
        last = await self._writer.run(self._store.forwarded, relay)
        return {"last": None if last is None else list(last)}

    async def forward(self, subscriber: Subscriber, event: Event) -> Any:
        """Answer `__forward`: the events are there, and remembered, once."""
        relay = _relay_of(subscriber, event.payload)
        after = protocol.read_place(event.payload.get("after"))
        envelopes = event.payload.get("events")
        if not isinstance(envelopes, list) or not envelopes:
            raise MessageError("events are a list")
        events = [protocol.read_envelope(each) for each in envelopes]
        rows = [(each.id, self._text_of(subscriber, each)) for each in events]
        if any(each.offset is None for each in events) or (after is not None and after[1] is None):
            raise MessageError("the events of a relay have their offsets")
        last = (events[-1].offset, events[-1].event_id)
        await self._writer.forward(relay, rows, after, last)
        for each in events:
            self._server.recorder.published(each.type)
        return {}


def _relay_of(subscriber: Subscriber, payload: Any) -> str:
    """The name under which a relay's place is kept: no tenant reaches another's."""
    relay = payload.get("relay") if isinstance(payload, dict) else None
    if not isinstance(relay, str) or not 0 < len(relay) <= _LONGEST_NAME:
        raise MessageError(f"a relay has a name of at most {_LONGEST_NAME} characters")
    return f"hub:{subscriber.peer.tenant or ''}:{relay}"


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
