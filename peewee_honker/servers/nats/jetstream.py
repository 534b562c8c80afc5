"""JetStream as this package uses it: streams, messages and batches of them, by requests over the link."""

import base64
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from peewee_honker.errors import PayloadError
from peewee_honker.servers.nats.link import Link, Message, NatsError

__all__ = ["JetStream", "NatsFullError", "NotAtomicError", "Stored", "StreamLimits", "StreamState", "WrongSequenceError"]

_NO_STREAM, _NO_MESSAGE, _WRONG_SEQUENCE, _TOO_LONG, _DOUBLE, _NOT_ATOMIC = 10059, 10037, 10071, 10054, 10201, 10174
_NAME_IN_USE = 10058
_FULL = frozenset({10002, 10023, 10028, 10047, 10077})  # of the account, the server's memory and disk, and the stream
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class NatsFullError(NatsError):
    """The server has no room: the stream, the account or the disk is full. The event was not stored."""


class WrongSequenceError(NatsError):
    """A subject's last message is another than was expected."""


class NotAtomicError(NatsError):
    """The stream, or a server before 2.12, takes no batches."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How a stream is kept by the server.

    - `age`: seconds, after which an event goes; None for ever.
    - `count`: how many of the newest events are kept; None for all.
    - `size`: how many bytes the stream may take; None for as much as the server has.
    - `refuse_when_full`: at `count` or `size`, refuse new events (NatsFullError) instead of deleting the oldest.
    - `replicas`: on how many servers of a cluster it is kept.
    - `duplicate_window`: seconds for which the server remembers the ids of events, and drops one that comes again.

    A consumer that needs what was deleted gets a gap event. Unlike `Retention` the server does not wait for consumers.
    """

    age: float | None = 7 * 24 * 3600.0
    count: int | None = None
    size: int | None = None
    refuse_when_full: bool = False
    replicas: int = 1
    duplicate_window: float = 120.0

    def __post_init__(self) -> None:
        given = (self.age, self.count, self.size, self.replicas, self.duplicate_window)
        if any(limit is not None and limit <= 0 for limit in given):
            raise ValueError(f"limits are larger than 0, or None where there are none: {self}")

    def config(self) -> dict[str, Any]:
        """As the server is told."""
        window = self.duplicate_window if self.age is None else min(self.duplicate_window, self.age)
        return {
            "max_age": _nanoseconds(self.age or 0),
            "max_msgs": self.count or -1,
            "max_bytes": self.size or -1,
            "discard": "new" if self.refuse_when_full else "old",
            "num_replicas": self.replicas,
            "duplicate_window": _nanoseconds(window),
        }


class Stored(NamedTuple):
    """A message of a stream."""

    sequence: int
    subject: str
    data: bytes
    headers: Mapping[str, str]
    time: str


class StreamState(NamedTuple):
    """A stream: when it was made, and the sequences of its first and last message. Of an empty one the first is the next
    that there will be."""

    made: str
    first: int
    last: int
    size: int


class JetStream:
    """Requests to JetStream. All raise NatsUnavailableError without an answer, and NatsError for one that says no."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._changing = threading.Lock()
        self._known: set[str] = set()  # streams that are there

    def api(self, subject: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the API, of which `subject` is the part behind `$JS.API.`."""
        payload = json.dumps(request).encode() if request is not None else b""
        try:
            answer: dict[str, Any] = _checked(self.link.ask(Message(f"$JS.API.{subject}", payload)).data, subject)
        except NatsError as error:
            if error.code == _NO_STREAM:  # one that was known may have been deleted
                self._known.clear()
            raise
        return answer

    # Streams

    def ensure(self, name: str, subjects: Sequence[str], config: Mapping[str, Any], *, update: bool = False) -> None:
        """Make a stream where it is missing; with `update` also give one that is there this configuration. Nothing the
        second time."""
        if name in self._known:
            return
        with self._changing:
            known = self._config(name)
            wanted = {"name": name, "subjects": list(subjects), "storage": "file", "retention": "limits", **config}
            if known is None:
                try:
                    self.api(f"STREAM.CREATE.{name}", wanted)
                except NatsError as error:
                    if error.code != _NAME_IN_USE:  # another process with another configuration was first
                        raise
            elif update and any(known.get(key) != value for key, value in config.items()):
                self.api(f"STREAM.UPDATE.{name}", {**known, **config})
            self._known.add(name)

    def forget(self, name: str) -> None:
        """Look again whether a stream is there, the next time."""
        self._known.discard(name)

    def _config(self, name: str) -> dict[str, Any] | None:
        try:
            config: dict[str, Any] = self.api(f"STREAM.INFO.{name}")["config"]
        except NatsError as error:
            if error.code == _NO_STREAM:
                return None
            raise
        return config

    def state(self, name: str) -> StreamState:
        """How a stream is now."""
        info = self.api(f"STREAM.INFO.{name}")
        state = info["state"]
        # A stream that never had a message says 0 and 0.
        return StreamState(info["created"], max(1, state["first_seq"]), state["last_seq"], state["messages"])

    # Messages

    def publish(self, *messages: Message) -> dict[str, Any]:
        """Store messages, several as a batch, and give what the server says of the last."""
        answer = self.link.ask(*messages, may_repeat=len(messages) == 1)
        said: dict[str, Any] = _checked(answer.data, messages[-1].subject)
        return said

    def publish_each(self, messages: Sequence[Message]) -> None:
        """Store messages one by one, all under way at once."""
        for answer, message in zip(self.link.ask_each([(each,) for each in messages]), messages, strict=True):
            _checked(answer.data, message.subject)

    def publish_batch(self, messages: Sequence[Message], batch: str, expected: int) -> int:
        """Store all messages or none, if the last on their subject has the expected sequence, else raise WrongSequenceError.
        Gives the sequence of the last."""
        if len(messages) == 1:
            [only] = messages
            said = self.publish(only._replace(headers={**(only.headers or {}), _EXPECTED: str(expected)}))
            return expected if said.get("duplicate") else int(said["seq"])
        numbered = []
        for number, message in enumerate(messages, 1):
            headers = {**(message.headers or {}), "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            if number == 1:
                headers[_EXPECTED] = str(expected)
            if number == len(messages):
                headers["Nats-Batch-Commit"] = "1"
            numbered.append(message._replace(headers=headers))
        try:
            return int(self.publish(*numbered)["seq"])
        except NatsError as error:
            if error.code != _DOUBLE:
                raise
        half = len(messages) // 2  # find the one that the stream has already
        expected = self.publish_batch(messages[:half], f"{batch}a", expected)
        return self.publish_batch(messages[half:], f"{batch}b", expected)

    def last(self, stream: str, subject: str) -> Stored | None:
        """The last message on a subject."""
        return self._get(stream, {"last_by_subj": subject})

    def next(self, stream: str, subject: str, sequence: int) -> Stored | None:
        """The first message on a subject, which may have wildcards, from a sequence on."""
        return self._get(stream, {"seq": sequence, "next_by_subj": subject})

    def _get(self, stream: str, which: Mapping[str, Any]) -> Stored | None:
        try:
            found = self.api(f"STREAM.MSG.GET.{stream}", which)["message"]
        except NatsError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise
        lines = base64.b64decode(found.get("hdrs", "")).decode().split("\r\n")[1:]
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        data = base64.b64decode(found.get("data", ""))
        return Stored(found["seq"], found["subject"], data, headers, found["time"])

    def delete(self, stream: str, sequence: int) -> bool:
        """Delete a message. Whether it was there."""
        if self._get(stream, {"seq": sequence}) is None:
            return False
        return bool(self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})["success"])

    # Keys, each a subject of which the last message is kept

    def value(self, bucket: str, key: str) -> tuple[dict[str, Any], int]:
        """A key's value and revision; `{}` and 0 when there is none."""
        found = self.last(f"KV_{bucket}", f"$KV.{bucket}.{key}")
        if found is None or not found.data:
            return {}, found.sequence if found is not None else 0
        value: dict[str, Any] = json.loads(found.data)
        return value, found.sequence

    def put(self, bucket: str, key: str, value: Mapping[str, Any], revision: int) -> int:
        """Put a value in the place of the one with that revision, and give the new one's. Raises WrongSequenceError when the
        key has another; also when the answer to a first attempt was lost."""
        message = Message(f"$KV.{bucket}.{key}", json.dumps(value).encode(), {_EXPECTED: str(revision)})
        return int(self.publish(message)["seq"])


def _checked(data: bytes, subject: str) -> Any:
    answer = json.loads(data)
    error = answer.get("error")
    if error is None:
        return answer
    code, text = error.get("err_code", 0), error.get("description", error)
    if code in _FULL:
        raise NatsFullError(
            f"{subject} was not stored, NATS has no room: {text}. Raise the limit, or let the stream delete its oldest", code
        )
    if code == _WRONG_SEQUENCE:
        raise WrongSequenceError(f"{subject}: {text}", code)
    if code == _NOT_ATOMIC:
        raise NotAtomicError(f"{subject}: {text}", code)
    if code == _TOO_LONG:
        raise PayloadError(f"{subject} was not stored: {text}")
    raise NatsError(f"NATS refuses {subject}: {text} ({code})", code)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)
