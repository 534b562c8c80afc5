"""What travels: one event, and its form as JSON."""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from peewee_honker.errors import PayloadError, TopicError

__all__ = ["GAP", "MAX_BYTES", "Event", "check_type", "gap_event", "new_event_id"]

GAP = "__gap__"
"""The type of the event that tells a listener of events that it has missed."""
MAX_BYTES = 1024 * 1024
"""How long an event's JSON may be unless said otherwise, in bytes."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_encode_text: Callable[[str], str] = json.encoder.encode_basestring


def _payload_encoder() -> Callable[[Any], str]:
    """What encodes a JSON value. JSONEncoder makes its C encoder anew for each, which takes as long as a small payload."""
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    parts = make(None, _ENCODER.default, _encode_text, None, ":", ",", False, False, False)
    return lambda value: "".join(parts(value, 0))


_encode = _payload_encoder()

# As json.loads without the functions that lead to it: in a thread that has just been woken they take as long as the text.
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # not in typeshed

_now = time.time  # which an argument of `Event` hides
_clock = threading.Lock()
_last = 0  # the time in the last id
_FRAME = 1 << 124 | 1 << 63  # a digit before the time, so that its zeros are written, and the variant behind it
_chance = random.Random()  # of this module's own, which nobody seeds


def _after_fork_in_child() -> None:
    global _clock
    _clock = threading.Lock()
    _chance.seed()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def new_event_id() -> str:
    """A UUID of version 7 (RFC 9562, section 5.7): sorts by the time it was made, also within one millisecond here.

    The 12 bits behind the milliseconds are their fraction (section 6.2, method 3), and count up where the clock does not.
    """
    global _last
    with _clock:
        now = (time.time_ns() << 12) // 1_000_000
        if now <= _last:
            now = _last + 1
        _last = now
    digits = hex(_FRAME | now << 64 | _chance.getrandbits(62))  # one conversion takes a third of the time that five take
    return f"{digits[3:11]}-{digits[11:15]}-7{digits[15:18]}-{digits[18:22]}-{digits[22:]}"


@dataclass(frozen=True, init=False)
class Event:
    """One event.

    - `type`: what happened, for instance `order.saved`.
    - `id`: what it happened to (a row's key as text), or ''.
    - `payload`: any JSON value.
    - `event_id`: a UUIDv7, different for every event.
    - `time`: seconds since 1970 when it was published, by the publisher's clock.
    - `origin`: the process that published it: its bus's name, or `host:pid`, with a part that is new at each start.
    - `operation`: `insert`, `update` or `delete` for an event of a row, else ''.
    - `changes`: for an update, where asked for: by field name, the old and the new value of what has changed.
    - `transaction`: what the events of one transaction have in common, where it is known, else ''.
    - `headers`: texts that travel beside the payload, such as a trace's context.
    - `offset`: the place in its channel's or stream's table; larger for what was committed later.
    """

    type: str
    id: str = ""
    payload: Any = None
    event_id: str = field(default_factory=new_event_id)
    time: float = field(default_factory=_now)
    origin: str = ""
    operation: str = ""
    changes: Mapping[str, Any] | None = None
    transaction: str = ""
    headers: Mapping[str, str] | None = None
    offset: int | None = None

    def __init__(
        self,
        type: str,
        id: str = "",
        payload: Any = None,
        event_id: str | None = None,
        time: float | None = None,
        origin: str = "",
        operation: str = "",
        changes: Mapping[str, Any] | None = None,
        transaction: str = "",
        headers: Mapping[str, str] | None = None,
        offset: int | None = None,
    ) -> None:
        """A new event: its id and its time are of now unless they are given."""
        # All fields at once, which a frozen dataclass's own `__init__` sets one by one in several times as long.
        _keep(
            self,
            {
                "type": type,
                "id": id,
                "payload": payload,
                "event_id": new_event_id() if event_id is None else event_id,
                "time": _now() if time is None else time,
                "origin": origin,
                "operation": operation,
                "changes": changes,
                "transaction": transaction,
                "headers": headers,
                "offset": offset,
            },
        )

    @property
    def topic(self) -> str:
        """`type:id`, or the type alone when there is no id."""
        return f"{self.type}:{self.id}" if self.id else self.type

    @property
    def is_gap(self) -> bool:
        """Whether this tells of events that were missed, instead of being one."""
        return self.type == GAP

    def to_json(self, max_bytes: int = MAX_BYTES) -> str:
        """The event as JSON text, without its offset.

        Raises PayloadError for a payload that JSON cannot hold (also NaN and infinity, which other languages' readers
        refuse), for half a surrogate pair, which UTF-8 cannot, and when the text would be longer than `max_bytes` in UTF-8.
        """
        try:
            text = self._text()
            size = len(text) if text.isascii() else len(text.encode())  # which fails for half a surrogate pair
            if size > max_bytes:
                raise PayloadError(
                    f"the event {self.topic} takes {size} bytes, and {max_bytes} are allowed: keep large values in the "
                    "database and send their key, or raise max_bytes"
                )
        except (TypeError, ValueError, RecursionError) as error:
            if isinstance(error, PayloadError):
                raise
            raise PayloadError(f"the payload of {self.topic} has no form in JSON: {error}") from error
        return text

    def _text(self) -> str:
        """The event as JSON. Written piece by piece: half of the time that a dict of it takes."""
        text, seconds = _encode_text, self.time
        more = ""
        if self.changes is not None:
            more = f',"changes":{_encode(self.changes)}'
        if self.transaction:
            more += f',"transaction":{text(self.transaction)}'
        if self.headers:
            more += f',"headers":{_encode(self.headers)}'
        told = repr(seconds) if type(seconds) is float and isfinite(seconds) else _encode(seconds)
        return (
            f'{{"type":{text(self.type)},"id":{text(self.id)},"payload":{_encode(self.payload)},'
            f'"event_id":{text(self.event_id)},"time":{told},"origin":{text(self.origin)},'
            f'"operation":{text(self.operation)}{more}}}'
        )

    @classmethod
    def from_json(cls, text: str | bytes, channel: str, offset: int | None = None) -> "Event":
        """The event that `text` is. What is not of `to_json`'s form (a bare `notify`) becomes the payload of an event
        whose type is the channel."""
        try:
            value, end = _scan(text, 0)  # type: ignore[arg-type]  # bytes are a TypeError
        except (ValueError, RecursionError, StopIteration, TypeError):
            end = -1
        if end != len(text):  # there is space around it, or it is no JSON
            value = _loads(text)
        return cls.from_value(value, channel, offset)

    @classmethod
    def from_value(cls, value: Any, channel: str, offset: int | None = None) -> "Event":
        """As `from_json`, of what the text was decoded to, which is the event's from now on.

        Other programs write events too: a field that is not of its type is made text, or left out.
        """
        try:  # as to_json writes it
            type_, id_, event_id = value["type"], value["id"], value["event_id"]
            seconds, origin, operation = value["time"], value["origin"], value["operation"]
            value["payload"]
        except (TypeError, KeyError):
            return cls._from_other(value, channel, offset)
        texts = type(type_) is type(id_) is type(event_id) is type(origin) is type(operation) is str
        if not texts or type(seconds) is not float or not isfinite(seconds):
            return cls._from_other(value, channel, offset)
        if len(value) != 7:
            changes = value.get("changes")
            value = {name: value[name] for name in _ALWAYS} | {
                "changes": changes if type(changes) is dict else None,
                "transaction": str(value.get("transaction", "")),
                "headers": _texts(value.get("headers")),
            }
        else:
            value["headers"] = None  # which each call asks for; what is not here is as the class has it
        value["offset"] = offset
        made: Event = _new(cls)
        _keep(made, value)
        return made

    @classmethod
    def _from_other(cls, value: Any, channel: str, offset: int | None) -> "Event":
        """The event that another program has written, or a bare payload."""
        get = value.get if isinstance(value, dict) else {}.get
        type_, event_id = get("type"), get("event_id")
        if not (isinstance(type_, str) and isinstance(event_id, str)):
            return cls(channel, "", value, event_id=f"{channel}/{offset}", time=0, offset=offset)
        seconds, changes = get("time"), get("changes")
        if seconds is None and len(event_id) == 32:  # a trigger's, see capture/writing.py
            event_id, seconds = _with_dashes(event_id)
        return cls(
            type_,
            str(get("id", "")),
            get("payload"),
            event_id,
            _seconds(seconds),
            str(get("origin", "")),
            str(get("operation", "")),
            changes if isinstance(changes, dict) else None,
            str(get("transaction", "")),
            _texts(get("headers")),
            offset,
        )


_ALWAYS = ("type", "id", "payload", "event_id", "time", "origin", "operation")
"""What to_json writes of every event."""
_new = object.__new__
_keep: Callable[[Event, dict[str, Any]], None] = Event.__dict__["__dict__"].__set__  # as `event.__dict__ = ...`


def _loads(text: str | bytes) -> Any:
    """What a text is as JSON, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # text, or nested too deep
        return text if isinstance(text, str) else text.decode(errors="replace")


def _with_dashes(event_id: str) -> tuple[str, float | None]:
    """A UUID of version 7 in its usual form, and the time in it."""
    try:
        seconds = int(event_id[:12], 16) / 1000
    except ValueError:
        return event_id, None
    return f"{event_id[:8]}-{event_id[8:12]}-{event_id[12:16]}-{event_id[16:20]}-{event_id[20:]}", seconds


def _seconds(value: Any) -> float:
    """A time, 0.0 for what is none."""
    try:
        seconds = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:  # JSON's whole numbers have any size
        return 0.0
    return seconds if isfinite(seconds) else 0.0


def _texts(headers: Any) -> Mapping[str, str] | None:
    if type(headers) is not dict:
        return None
    return {name: text for name, text in headers.items() if type(text) is str}


def check_type(type_: str, *, reserved: bool = False) -> str:
    """Give an event's type back. Raises TopicError when it is empty, has a `:` or a `*`, or starts with `__`, which is
    for this package's own events unless `reserved` are allowed."""
    if not isinstance(type_, str) or not type_ or ":" in type_ or "*" in type_:
        raise TopicError(f"{type_!r} is no type of an event: it is text without ':' and '*', for instance 'order.saved'")
    if type_.startswith("__") and not reserved:
        raise TopicError(f"{type_!r} is reserved: types that start with '__' are for peewee_honker's own events")
    return type_


def gap_event(channel: str, after: int, before: int | None, reason: str) -> Event:
    """The event that tells of missed ones.

    Its payload says where: `channel` (a stream's name, or '' for the ephemeral channels), `after` and `before` (the
    offsets between which they lay; `before` is None when it is not known), `reason`.
    """
    return Event(
        GAP, channel, {"channel": channel, "after": after, "before": before, "reason": reason}, offset=before or after
    )
