"""Reading a stream ahead: what comes behind an offset, kept until it was passed."""

import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from itertools import islice

from nats.aio.msg import Msg

from peewee_honker.servers.nats.jetstream import JetStream
from peewee_honker.servers.nats.link import Message, Subscription

__all__ = ["Reader"]

logger = logging.getLogger("peewee_honker.nats")

_FEW, _AHEAD = 300, 600  # events: when so few are there or under way, so many are asked for
_BYTES = 16 * 1024 * 1024  # that one request may bring
_EXPIRES = 10.0  # seconds that a request stays with the server
_LATE = 5.0  # seconds behind that after which the server has forgotten us
_FIRST_WAIT = 2.0  # seconds that the first page waits for what is there
_KEEP = 60.0  # seconds after which the server forgets a reader that does not ask

Row = tuple[int, str, bytes]  # sequence, subject and text


class Reader:
    """The messages of a stream behind an offset, brought by a consumer of the server's that asks for no acknowledgements.

    The place of who reads is not the server's to keep: it begins anew behind any offset, on a new connection, when something
    was lost on the way, and when the one who reads was moved.
    """

    def __init__(self, jetstream: JetStream, stream: str, wake: Callable[[], None]) -> None:
        self._jetstream = jetstream
        self._link = jetstream.link
        self._stream = stream
        self._wake = wake
        self._changing = threading.Lock()
        self._arrived = threading.Event()
        self._rows: deque[Row] = deque()
        self._behind = -1  # the rows are all that there is behind this
        self._asked = 0  # messages that are to come
        self._last_answer = 0.0
        self._is_broken = True
        self._generation = -1
        self._delivered = 0  # the consumer's count
        self._name = self._inbox = ""
        self._subscription: Subscription | None = None
        self.using = threading.Lock()
        """To be held by who asks for a page."""
        self.used = time.monotonic()
        """When a page was asked for last."""

    def is_at(self, offset: int) -> bool:
        """Whether what comes behind an offset is what was read ahead."""
        with self._changing:
            return self._behind <= offset <= (self._rows[-1][0] if self._rows else self._behind)

    def page(self, after: int, most: int) -> list[Row]:
        """The next messages behind an offset that are here, `most` at most; what is before it is given back no more."""
        self.used = time.monotonic()
        first = self._is_broken or after < self._behind or self._generation != self._link.generation
        if not first and self._asked and time.monotonic() > self._last_answer + _EXPIRES + _LATE:
            logger.warning("the reader of %s was forgotten by the server: asking for another", self._stream)
            first = True
        there = self._begin(after) if first else 0
        with self._changing:
            rows = self._rows
            while rows and rows[0][0] <= after:
                rows.popleft()
            self._behind = after
            if self._asked + len(rows) < _FEW:
                self._ask()
        if there and not rows:
            self._arrived.wait(_FIRST_WAIT)
        with self._changing:
            return list(islice(rows, most))

    def close(self) -> None:
        """Receive no more."""
        self._is_broken = True
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._link.unsubscribe(subscription)
            if self._link.is_connected:
                self._link.send(Message(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}"))
        self._rows.clear()

    def _begin(self, after: int) -> int:
        """Have the server make a consumer; gives how many messages there are for it."""
        self.close()
        self._link.connect()
        generation = self._link.generation
        self._name = name = uuid.uuid4().hex
        self._arrived.clear()
        self._asked, self._delivered, self._behind = 0, 0, after
        rows: deque[Row] = deque()
        self._rows = rows
        self._inbox = self._link.new_inbox()
        self._subscription = self._link.subscribe(self._inbox, lambda message: self._take(message, name, rows))
        made = self._jetstream.api(
            f"CONSUMER.CREATE.{self._stream}.{name}",
            {
                "stream_name": self._stream,
                "config": {
                    "name": name,
                    "description": "a reader of peewee_honker",
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": after + 1,
                    "ack_policy": "none",
                    "replay_policy": "instant",
                    "mem_storage": True,
                    "num_replicas": 1,
                    "inactive_threshold": round(_KEEP * 1e9),
                },
            },
        )
        self._generation, self._is_broken = generation, False
        return int(made["num_pending"])

    def _ask(self) -> None:
        asked = _AHEAD - self._asked
        request = {"batch": asked, "expires": round(_EXPIRES * 1e9), "max_bytes": max(_BYTES, 2 * self._link.max_payload)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        self._link.send(Message(subject, json.dumps(request).encode(), reply=self._inbox))
        self._asked += asked
        self._last_answer = time.monotonic()

    def _take(self, message: Msg, name: str, rows: "deque[Row]") -> None:
        """Take what the server sends; in the loop's thread."""
        if name != self._name or self._is_broken:
            return
        self._last_answer = time.monotonic()
        status = message.headers.get("Status") if message.headers is not None else None
        if status is not None and not message.reply:
            self._hear(status, message)
            return
        fields = message.reply.split(".")
        at = 5 if len(fields) == 9 else 7  # newer servers name the domain and the account too
        sequence, count = int(fields[at]), int(fields[at + 1])
        if count != self._delivered + 1:
            self._is_broken = True
            logger.warning("messages of %s were lost on the way: reading them again", self._stream)
        else:
            self._delivered = count
            with self._changing:
                self._asked -= 1
                rows.append((sequence, message.subject, message.data))
        self._arrived.set()
        self._wake()

    def _hear(self, status: str, message: Msg) -> None:
        """A request has ended, or cannot be served."""
        headers = message.headers or {}
        left = headers.get("Nats-Pending-Messages")
        if status in ("408", "409") and left is not None:
            with self._changing:
                self._asked -= int(left)
                if self._asked + len(self._rows) < _FEW:
                    self._ask()
            return
        if status != "100":
            logger.info("the reader of %s ended: %s %s", self._stream, status, headers.get("Description"))
            self._is_broken = True
            self._wake()
