"""The one connection on which a target's thread hears of events: a subscription, or the pages of a stream."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from peewee_honker.events.event import Event
from peewee_honker.servers.redis.link import Link
from peewee_honker.servers.redis.offsets import id_of, offset_of
from peewee_honker.servers.redis.scripts import PAGE

__all__ = ["Page", "Pages", "Subscription", "Wire", "read_page"]

_BLOCK = 2000  # milliseconds that the server waits for an entry before it says that there is none
_QUIET = 10.0  # seconds without a word after which a subscription asks whether the server is there
_PAGE_BYTES = 4 * 1024 * 1024
_PAGE_EVENTS = 300


class Wire:
    """A connection of one thread, which can be waited for. What it raises when there is no server, or no longer, is
    RedisUnavailableError; then it is closed, and `open` makes it anew."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._connection: Any = None
        self._deadline: float | None = None  # when an answer is to have come
        self.has_spoken = False
        """Set by who has waited for it: there is something to receive, which need not be asked for once more."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def open(self) -> None:
        """Connect."""
        self._connection = self._link.connect()

    def close(self) -> None:
        """Let the connection go."""
        connection, self._connection, self._deadline = self._connection, None, None
        self.has_spoken = False
        if connection is not None:
            self._link.release(connection)

    def fileno(self) -> int | None:
        """What becomes readable when the server has something to say; None while there is no connection."""
        sock = None if self._connection is None else self._connection._sock  # there is no public way to wait for it
        return None if sock is None else sock.fileno()

    def _send(self, *commands: tuple[Any, ...]) -> None:
        try:
            self._connection.send_packed_command(self._connection.pack_commands(commands))
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._lost(error)

    def _receive(self) -> Any:
        """The next answer; one that is an error is given, not raised."""
        try:
            return self._connection.read_response(disable_decoding=True, disconnect_on_error=False)
        except ResponseError as error:
            return error
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._lost(error)

    def _has_data(self) -> bool:
        """Whether there is something to receive. A server that owes an answer for too long is taken for lost."""
        if self.has_spoken:
            self.has_spoken = False
            return True
        try:
            if self._connection.can_read(0):
                return True
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._lost(error)
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._lost(RedisTimeoutError("it does not answer"))
        return False

    def _lost(self, error: Exception) -> Any:
        self.close()
        raise self._link.lost(error) from error


class Subscription(Wire):
    """The messages of all channels that begin with a prefix, in the order in which the server got them."""

    def __init__(self, link: Link, prefix: str) -> None:
        super().__init__(link)
        self._pattern = "".join(f"\\{letter}" if letter in "\\*?[]^" else letter for letter in prefix) + "*"
        self._cut = len(prefix.encode())
        self._heard_at = 0.0

    def open(self) -> None:
        """Connect and subscribe; returns when the server has confirmed it."""
        super().open()
        self._send(("PSUBSCRIBE", self._pattern))
        answer = self._receive()
        if isinstance(answer, ResponseError):
            self.close()
            raise answer
        self._heard_at = time.monotonic()

    def messages(self) -> Iterator[tuple[str, bytes]]:
        """What has come: the channels, without the prefix, and the texts."""
        while self._has_data():
            message = self._receive()
            self._deadline = None
            if message[0] == b"pmessage":
                yield message[2][self._cut :].decode(errors="replace"), message[3]
            self._heard_at = time.monotonic()
        if self._deadline is None and time.monotonic() - self._heard_at > _QUIET:
            self._send(("PING",))
            self._deadline = time.monotonic() + self._link.patience


@dataclass(slots=True)
class Page:
    """Events of a stream: behind which offset, their offsets, their JSON, and up to which offset events are gone."""

    after: int
    offsets: list[int]
    text: bytes
    pruned: int

    def behind(self, offset: int) -> "tuple[list[int], list[Any] | None]":
        """The offsets behind one, and the values of their events; None for the values when the text is not what it
        should be."""
        try:
            values = json.loads(self.text)
        except (ValueError, RecursionError):
            return self.offsets, None
        if len(values) != len(self.offsets):
            return self.offsets, None
        skipped = 0 if offset <= self.after else sum(known <= offset for known in self.offsets)
        return self.offsets[skipped:], values[skipped:]


_EMPTY = Page(0, [], b"[]", 0)


class Pages(Wire):
    """The entries of a stream, page after page. The page behind a full one is asked for before that is worked on; when there
    is none yet, the server answers as soon as there is.

    It waits for one stream at a time, see `is_free_for`.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.is_wanted = True
        """Whether somebody waits for a page. An answer that nobody takes, as a consumer pauses, shall wake nobody."""
        self._asked: tuple[str, int] | None = None  # a stream's key, and behind which offset
        self._due: tuple[str, str, str, int] | None = None  # what is to be asked for when events were handed over
        self._page: tuple[str, Page] | None = None  # the last one, while it is worked on

    def close(self) -> None:
        super().close()
        self._asked = self._page = self._due = None

    def fileno(self) -> int | None:
        return super().fileno() if self.is_wanted else None

    def is_free_for(self, key: str) -> bool:
        """Whether a stream's pages can be had here: one that is waited for in another stream cannot be called back."""
        return self._asked is None or self._asked[0] == key

    def page(self, key: str, notes: str, stream: str, after: int) -> Page:
        """The page behind an offset; an empty one while there is none, or the server has not answered yet."""
        self.is_wanted = True
        if self._page is not None:
            known_key, page = self._page
            if known_key == key and page.after <= after < page.offsets[-1]:
                return page
            self._page = None
        if self._asked is not None and self._asked[1] > after:
            self.close()  # it cannot be asked for something else before it has answered
        if not self.is_open:
            self.open()
        if self._asked is None:
            self._ask(key, notes, stream, after)
            return _EMPTY
        if not self._has_data():
            return _EMPTY
        came = self._answer()
        if came is None or not came.offsets or came.offsets[-1] <= after:
            self._ask(key, notes, stream, after)
            return _EMPTY
        behind = key, notes, stream, came.offsets[-1]
        if len(came.offsets) < _PAGE_EVENTS:
            self._due = behind
        else:
            self._ask(*behind)
        self._page = key, came
        return came

    def ask_ahead(self) -> None:
        """Ask for the page behind one that was not full: new events are handed over before that."""
        if self._due is not None and self._asked is None and self.is_open:
            self._ask(*self._due)

    def _ask(self, key: str, notes: str, stream: str, after: int) -> None:
        id_, self._due = id_of(after), None
        self._send(
            ("XREAD", "COUNT", 1, "BLOCK", _BLOCK, "STREAMS", key, id_),  # the second is answered when this one is
            ("EVALSHA", PAGE.sha, 2, key, notes, stream, id_, _PAGE_EVENTS, _PAGE_BYTES, ""),
        )
        self._asked = key, after
        self._deadline = time.monotonic() + _BLOCK / 1000 + self._link.patience

    def _answer(self) -> Page | None:
        assert self._asked is not None  # noqa: S101 # something was asked
        wake, answer = self._receive(), self._receive()
        _, after = self._asked
        self._asked = self._deadline = None
        if isinstance(answer, NoScriptError):  # the first time, or the server has forgotten it
            self._send(("SCRIPT", "LOAD", PAGE.text))
            answer = self._receive()
            if not isinstance(answer, ResponseError):
                return None
        for got in (wake, answer):
            if isinstance(got, ResponseError):
                raise got
        return _page(after, answer)


def read_page(
    link: Link, key: str, notes: str, stream: str, after: int, most: int
) -> tuple[list[int], Sequence[Event] | Iterator[Event], int]:
    """A page of at most so many events behind an offset: their offsets, the events, and up to which offset events are
    gone. By a command of its own, for any thread."""
    page = _page(after, link.run(PAGE, (key, notes), stream, id_of(after), most, _PAGE_BYTES, ""))
    offsets, events = events_of(link, page, key, notes, stream, after)
    return offsets, events, page.pruned


def events_of(
    link: Link, page: Page, key: str, notes: str, stream: str, after: int
) -> tuple[list[int], Sequence[Event] | Iterator[Event]]:
    """The offsets and events of a page behind an offset, which are made one by one."""
    offsets, values = page.behind(after)
    if values is not None:
        return offsets, map(Event.from_value, values, repeat(stream), offsets)
    # What somebody wrote is not one JSON value: each by itself then.
    ids, texts = link.run(PAGE, (key, notes), stream, id_of(after), len(offsets), _PAGE_BYTES, "apart")
    offsets = [offset_of(id_) for id_ in ids.split()]
    return offsets, [Event.from_json(text, stream, offset) for text, offset in zip(texts, offsets, strict=True)]


def _page(after: int, answer: Any) -> Page:
    ids, gone, text = answer.split(b"\n", 2)
    offsets = [offset_of(id_) for id_ in ids.split()]
    pruned = offset_of(gone)
    if offsets:
        pruned = min(pruned, offsets[0] - 1)  # what was deleted after it was read is there
    return Page(after, offsets, text, pruned)
