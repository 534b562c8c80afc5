"""What travels: one event, and its form as JSON."""

import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Event", "new_event_id"]

# json.dumps would make an encoder for every event.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

_clock = threading.Lock()
_last = [0, 0]  # milliseconds, counter within them


def new_event_id() -> str:
    """A UUID of version 7 (RFC 9562, section 5.7): sorts by the time it was made, also within one millisecond here."""
    with _clock:
        now = time.time_ns() // 1_000_000
        if now > _last[0]:
            _last[:] = [now, int.from_bytes(os.urandom(2)) >> 5]  # an 11-bit start leaves room to count up in 12 bits
        else:
            _last[1] += 1
            if _last[1] > 0xFFF:
                _last[:] = [_last[0] + 1, 0]
        milliseconds, counter = _last
    number = (milliseconds << 80) | (0x7000 | counter) << 64 | (0b10 << 62) | (int.from_bytes(os.urandom(8)) >> 2)
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    - `type`: what happened, for instance `order.saved`; it is also the channel that the event travels on.
    - `id`: what it happened to (a row's key as text), or ''.
    - `payload`: any JSON value.
    - `event_id`: a UUIDv7, different for every event.
    - `time`: seconds since 1970 when it was published, by the publisher's clock.
    - `origin`: the process that published it, as `host:pid` or the name its bus was given.
    - `operation`: `insert`, `update` or `delete` for an event of a row, else ''.
    - `offset`: the place in its channel's table; larger for what was committed later.
    """

    type: str
    id: str = ""
    payload: Any = None
    event_id: str = field(default_factory=new_event_id)
    time: float = field(default_factory=time.time)
    origin: str = ""
    operation: str = ""
    offset: int | None = None

    def to_json(self) -> str:
        """The event as JSON text, without its offset. Raises `TypeError` or `ValueError` for a payload that JSON cannot
        hold (also NaN and infinity, which other languages' readers refuse)."""
        return _encode(
            {
                "type": self.type,
                "id": self.id,
                "payload": self.payload,
                "event_id": self.event_id,
                "time": self.time,
                "origin": self.origin,
                "operation": self.operation,
            }
        )

    @classmethod
    def from_json(cls, text: str, channel: str, offset: int | None = None) -> "Event":
        """The event that `text` is. What is not of `to_json`'s form (a bare `notify`) becomes the payload of an event
        whose type is the channel."""
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(value, dict) and isinstance(value.get("type"), str) and isinstance(value.get("event_id"), str):
            return cls(
                value["type"],
                str(value.get("id", "")),
                value.get("payload"),
                value["event_id"],
                float(value.get("time", 0)),
                str(value.get("origin", "")),
                str(value.get("operation", "")),
                offset,
            )
        return cls(channel, "", value, event_id=f"{channel}/{offset}", time=0, offset=offset)
