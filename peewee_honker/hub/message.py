"""What travels over a WebSocket: one event's envelope a message, as JSON text, with its `offset` where it has one.

Types that start with `__` are of the protocol. Each request is answered by an `__ack` or an `__error`, whose id is the
request's `event_id`; an event that is published is a request too.

| from the client | payload | answer |
|---|---|---|
| an event | | `{offset}`: it has been committed, at that offset or before |
| `__subscribe` | `topics`, `after?` ([offset, event_id or null]), `echo?` | `{offset, refused}`: live behind that offset |
| `__unsubscribe` | `topics` | `{}`: nothing more of them comes |
| `__newest` | | `{offset}` of the last event that was committed |
| `__forwarded` | `relay` | `{last}`: null or [offset, event_id] |
| `__forward` | `relay`, `after` (null or [offset, event_id]), `events` (envelopes with the offsets of their stream) | `{}` |
| `__register` | `spoke`, `operations` (contracts) | `{}` |
| `__discover` | `spoke?`, `service?` | `{services}` |
| `call.*` | see `peewee_honker.operations.calls` | none: errors are `call.error` |

From the server come events with their offsets, `__gap__`, `call.*`, `__welcome` first, and `__position` (`{offset}`: every
event up to there was sent).
"""

import json
from typing import Any

from peewee_honker.events import Event
from peewee_honker.hub.errors import MessageError

__all__ = [
    "ACK",
    "DISCOVER",
    "ERROR",
    "FORWARD",
    "FORWARDED",
    "NEWEST",
    "POSITION",
    "REGISTER",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "WELCOME",
    "WRAPPING",
    "encode",
    "envelope",
    "read",
    "read_envelope",
    "read_place",
]

SUBSCRIBE, UNSUBSCRIBE, NEWEST = "__subscribe", "__unsubscribe", "__newest"
FORWARD, FORWARDED = "__forward", "__forwarded"
REGISTER, DISCOVER = "__register", "__discover"
ACK, ERROR, WELCOME, POSITION = "__ack", "__error", "__welcome", "__position"

WRAPPING = 65_536
"""How many bytes a message may be longer than an event, for what is around it."""
_LONGEST_TYPE, _LONGEST_ID = 255, 1024  # characters
_LARGEST = 2**63 - 1


def encode(event: Event, max_bytes: int) -> bytes:
    """The event as a message. Raises PayloadError when it has no form in JSON or is too large."""
    text = event.to_json(max_bytes)
    if event.offset is not None:
        text = f'{text[:-1]},"offset":{event.offset}}}'
    return text.encode()


def envelope(event: Event) -> dict[str, Any]:
    """The event as a JSON value, with its offset, for a message that holds several."""
    value: dict[str, Any] = json.loads(event.to_json(2**62))
    return {**value, "offset": event.offset}


def read(data: str | bytes) -> Event:
    """The event that a message is. Raises MessageError."""
    if not isinstance(data, str):
        raise MessageError("a message is text, not binary")
    try:
        value = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise MessageError("a message is JSON") from error
    return read_envelope(value)


def read_envelope(value: Any) -> Event:
    """The event that a decoded envelope is. Raises MessageError."""
    if not isinstance(value, dict):
        raise MessageError("a message is an object")
    for name, longest in (("type", _LONGEST_TYPE), ("event_id", _LONGEST_TYPE), ("id", _LONGEST_ID)):
        text = value.get(name, "")
        if not isinstance(text, str) or len(text) > longest or not (text or name == "id"):
            raise MessageError(f"a message's {name} is text of at most {longest} characters")
        if not _is_encodable(text):
            raise MessageError(f"a message's {name} has no form in UTF-8")
    offset = value.get("offset")
    if offset is not None and not _is_offset(offset):
        raise MessageError("an offset is a whole number")
    try:
        return Event.from_value(value, value["type"], offset)
    except (ValueError, TypeError, OverflowError) as error:
        raise MessageError("a field of the message is not of its type") from error


def read_place(value: Any) -> tuple[int, str | None] | None:
    """A place in a stream, as it travels: null, or [offset, event_id or null]. Raises MessageError."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and _is_offset(value[0]) and isinstance(value[1], str | None):
        return value[0], value[1]
    raise MessageError("a place in a stream is null or [offset, event_id]")


def _is_offset(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
