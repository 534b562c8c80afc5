"""Server-sent events: what has committed, to every page that is open. The part that no web framework is needed for.

A `Feed` is what pages may hear; `peewee_honker.contrib.flask` and `peewee_honker.contrib.starlette` serve it. The format is
that of the HTML standard, section 9.2 (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

import asyncio
import itertools
import json
import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple
from weakref import WeakSet

from peewee_honker.database import HonkerDatabase
from peewee_honker.errors import HonkerError
from peewee_honker.events import Event, Follower, HonkerEventTarget
from peewee_honker.events.stream import newest_offset, offset_before_last, pruned_offset, read_stream
from peewee_honker.events.topic import Topics

__all__ = ["HEADERS", "Client", "Feed", "FeedFullError", "Filter", "event_data"]

logger = logging.getLogger("peewee_honker.contrib")

Filter = Callable[[Event], bool]
"""Says of an event whether a page may hear it."""

HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
"""What a response needs beside its type, so that no proxy keeps events back."""

_BATCH = 200  # events read or given at a time
_KEEP_ALIVE = b": keep-alive\n\n"
_REPLACED = "the file was replaced"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class FeedFullError(HonkerError):
    """As many pages listen as a feed allows. The way out is to come back later, or a larger `clients`."""


class _Kept(NamedTuple):
    position: int
    event: Event
    frame: bytes


def event_data(event: Event) -> dict[str, Any]:
    """What a page is told of an event unless the feed is given `data`: nothing that names a process or a host."""
    data = {"type": event.type, "id": event.id, "operation": event.operation, "time": event.time, "payload": event.payload}
    return data if event.changes is None else {**data, "changes": event.changes}


class Feed:
    """The events that pages may hear: of a durable stream, or of ephemeral channels.

        feed = Feed(db, stream="orders")
        feed = Feed(db, topics=["price.*"])

    Arguments:
        database: a HonkerDatabase.
        stream: a durable stream's name. Its events have ids, so that a page that lost its connection, or whose server was
            started again, goes on where it was: no event is missed and none comes twice. Without it the feed is of
            ephemeral events: they have no ids, and a page that was away has missed what happened.
        topics: which events, see `peewee_honker.events.topic`.
        data: gives what a page is told of an event, any JSON value; by default `event_data`.
        named: send each event under its type's name, for `source.addEventListener("order.saved", ...)`; by default all go
            to `source.onmessage`.
        clients: how many pages may listen at a time.
        buffer: how many of the last events are held in memory, for all pages together. A page that is further behind reads
            from the stream; without a stream it is told of a gap.
        replay: how many stored events a page is given when it connects, at most; before them it is told of a gap.
        keep_alive: seconds of silence after which a comment is sent. By it a page that has gone is noticed, and proxies do
            not close the connection.
        retry: seconds after which a browser connects again.

    A gap is an event of the name `gap`: events are missing, for the reason that its data name (`after` and `before` are
    offsets, where they are known). The page should load its state anew.

    A feed may be made before a fork, as by gunicorn's `--preload`. It begins to listen with the first page, and `close()`
    ends all pages' connections.
    """

    def __init__(
        self,
        database: HonkerDatabase,
        *,
        stream: str | None = None,
        topics: Iterable[str] = ("*",),
        data: Callable[[Event], Any] = event_data,
        named: bool = False,
        clients: int = 100,
        buffer: int = 1000,
        replay: int = 10_000,
        keep_alive: float = 15.0,
        retry: float = 2.0,
    ) -> None:
        for name, value in (("clients", clients), ("buffer", buffer), ("keep_alive", keep_alive)):
            if value <= 0:
                raise ValueError(f"{name} is more than 0, not {value!r}")
        self.database = database
        self.stream = stream
        self.topics = tuple(topics)
        self.keep_alive = keep_alive
        self.retry = retry
        self._data, self._named = data, named
        self._most_clients, self._most_kept, self._replay = clients, buffer, replay
        self._wanted: Topics[None] = Topics()
        for topic in self.topics:
            self._wanted.add(topic, None)
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changing = threading.RLock()
        self._clients: WeakSet[Client] = WeakSet()  # who drops a connection without closing it frees its place too
        self._source: Follower | HonkerEventTarget | None = None
        self._kept: deque[_Kept] = deque()
        self._from = 0  # behind this position, what is kept is all there was
        self._numbers = itertools.count(1)  # positions of ephemeral events
        self._files = 0  # how often the file was replaced: offsets begin anew then

    # What a framework asks for

    def connect(
        self, last_event_id: str | None = None, *, after: str | int | None = None, where: Filter | None = None
    ) -> "Client":
        """A new page's connection.

        Arguments:
            last_event_id: what the browser sent as `Last-Event-ID`.
            after: the offset behind which a page wants to begin that has no last event yet; by default it is given what
                commits from now on.
            where: which events this page may hear.

        Raises FeedFullError. The caller closes what it is given.
        """
        if self._process != os.getpid():  # the child of a fork: the parent's pages are not here
            self._begin()
        with self._changing:
            if self._closed:
                raise FeedFullError("the feed is closed: its server is stopping")
            if len(self._clients) >= self._most_clients:
                raise FeedFullError(f"{len(self._clients)} pages listen already, as many as the feed allows: clients=")
            self._open()
            client = Client(self, where)
            client._start(last_event_id or after)
            self._clients.add(client)
            return client

    @property
    def position(self) -> int:
        """The offset of the newest event of the file. A page that is rendered from what is read after this, and that then
        connects with `after` this, misses nothing."""
        return newest_offset(self.database.engine)

    @property
    def clients(self) -> int:
        """How many pages listen."""
        return len(self._clients)

    def close(self) -> None:
        """End all connections, and listen no more."""
        with self._changing:
            self._closed = True
            source, self._source = self._source, None
            for client in list(self._clients):
                client._wake()
        if isinstance(source, Follower):
            source.close()
        elif source is not None:
            for topic in (*self.topics, "__gap__"):
                source.remove_listener(topic, self._hear)

    def __enter__(self) -> "Feed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Listening

    def _open(self) -> None:
        if self._source is not None:
            return
        if self.stream is None:
            self._source = HonkerEventTarget(self.database)
            for topic in (*self.topics, "__gap__"):
                self._source.add_listener(topic, self._hear)
        else:
            self._source = Follower(self.database, self.stream, self._hear)
            self._from = self._source.offset
            self._source.start()

    def _hear(self, event: Event) -> None:
        """Keep an event, and wake the pages. In the dispatcher's thread."""
        with self._changing:
            if event.is_gap and isinstance(self._source, Follower) and event.payload["before"] is None:
                self._files += 1
                self._kept.clear()
                self._from = self._source.offset
            elif event.is_gap or self._wanted.match(event.type, event.id):
                position = (event.offset or 0) if self.stream is not None else next(self._numbers)
                if event.is_gap and self.stream is not None:
                    position -= 1  # a gap tells the offset of the first event behind it
                self._kept.append(_Kept(position, event, self._frame(event, position)))
                if len(self._kept) > self._most_kept:
                    self._from = self._kept.popleft().position
            else:
                return
            for client in list(self._clients):  # one whose loop was closed goes
                client._wake()

    def _frame(self, event: Event, position: int) -> bytes:
        """What is sent for an event."""
        if event.is_gap:
            return self._gap(position, event.payload["after"], event.payload["before"], event.payload["reason"])
        try:
            text = _encode(self._data(event))
        except Exception:
            logger.exception("the event %s could not be made into what pages are told", event.event_id)
            return self._gap(position, None, None, "an event could not be sent")
        return self._lines(position, _name(event.type) if self._named else "", text)

    def _gap(self, position: int, after: int | None, before: int | None, reason: str) -> bytes:
        if self.stream is None:
            after = before = None  # no offsets that a page could know
        return self._lines(position, "gap", _encode({"reason": reason, "after": after, "before": before}))

    def _lines(self, position: int, name: str, text: str) -> bytes:
        lines = [f"id: {position}"] if self.stream is not None else []
        if name:
            lines.append(f"event: {name}")
        return "\n".join((*lines, f"data: {text}", "\n")).encode()

    def _left(self, client: "Client") -> None:
        with self._changing:
            self._clients.discard(client)


class Client:
    """One page's connection: an iterator of bytes to send, for threads and (`async for`) for asyncio.

    It ends when the feed is closed. `close()` frees the page's place, also when nothing was read yet.
    """

    def __init__(self, feed: Feed, where: Filter | None) -> None:
        self._feed = feed
        self._where = where
        self._position = 0
        self._files = feed._files
        self._first: list[bytes] = [f"retry: {int(feed.retry * 1000)}\n\n".encode()]
        self._woken = threading.Event()
        self._async: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._closed = False

    def close(self) -> None:
        """Free the page's place."""
        self._closed = True
        self._feed._left(self)
        self._wake()

    # For threads

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._is_over:
            self._woken.clear()
            if frames := self._take():
                return frames
            if not self._woken.wait(self._feed.keep_alive):
                return _KEEP_ALIVE
        self.close()
        raise StopIteration

    # For asyncio

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop, woken = self._async = (asyncio.get_running_loop(), asyncio.Event())
        try:
            while not self._is_over:
                woken.clear()
                # What is in memory at once; a read of the file beside the loop.
                frames = self._take() if self._is_near else await loop.run_in_executor(None, self._take)
                if frames:
                    yield frames
                    continue
                try:
                    await asyncio.wait_for(woken.wait(), self._feed.keep_alive)
                except TimeoutError:
                    yield _KEEP_ALIVE
        finally:
            self.close()

    def _wake(self) -> None:
        self._woken.set()
        if self._async is not None:
            loop, woken = self._async
            try:
                loop.call_soon_threadsafe(woken.set)
            except RuntimeError:  # the loop is closed, and whoever waited on it has gone
                self._feed._left(self)

    @property
    def _is_over(self) -> bool:
        return self._closed or self._feed._closed

    # What there is to send

    def _start(self, wanted: str | int | None) -> None:
        """Find the position to begin at."""
        feed = self._feed
        if feed.stream is None:
            self._position = feed._kept[-1].position if feed._kept else feed._from
            return
        newest = feed.position
        if wanted is None:
            self._position = newest
            return
        text = str(wanted)
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            self._begin_with_gap(None, newest, "the last event's id is not one of this feed")
        elif int(text) > newest:
            self._begin_with_gap(None, newest, _REPLACED)
        else:
            engine = feed.database.engine
            self._position = int(text)
            limit = offset_before_last(engine, feed.stream, feed._replay)
            if limit > self._position:
                self._begin_with_gap(self._position, limit, f"more than {feed._replay} events were missed")

    def _begin_with_gap(self, after: int | None, position: int, reason: str) -> None:
        self._first.append(self._feed._gap(position, after, position + 1, reason))
        self._position = position

    @property
    def _is_near(self) -> bool:
        return self._feed.stream is None or self._position >= self._feed._from or bool(self._first)

    def _take(self) -> bytes:
        """What is there to send now; nothing when the page has had all."""
        if self._first:
            frames, self._first = self._first, []
            return b"".join(frames)
        feed = self._feed
        while True:
            with feed._changing:
                if self._files != feed._files:
                    self._files, self._position = feed._files, feed._from
                    return feed._gap(feed._from, None, None, _REPLACED)
                complete = feed._from  # what is kept begins here, and all before it is in the file
                is_near = self._position >= complete
                kept = self._kept() if is_near else []
            if is_near:
                if not kept:
                    return b""
                self._position = kept[-1].position
                frames = [one.frame for one in kept if self._hears(one.event)]
            elif feed.stream is None:
                self._position = complete
                return feed._gap(complete, None, None, "the page was too slow")
            else:
                frames = self._read(feed.stream, complete)
            if frames:
                return b"".join(frames)

    def _kept(self) -> list[_Kept]:
        """The next events of those that are kept in memory."""
        behind = list(itertools.takewhile(lambda kept: kept.position > self._position, reversed(self._feed._kept)))
        return behind[: -_BATCH - 1 : -1]

    def _hears(self, event: Event) -> bool:
        return event.is_gap or self._where is None or self._where(event)

    def _read(self, stream: str, complete: int) -> list[bytes]:
        """The next events from the file, for a page that is behind what is kept in memory."""
        feed, after = self._feed, self._position
        engine = feed.database.engine
        events = read_stream(engine, stream, after, _BATCH)
        pruned = pruned_offset(engine, stream)
        if pruned > after:  # looked up after reading: what was deleted meanwhile is a gap too
            self._position = pruned
            return [feed._gap(pruned, after, pruned + 1, "pruned")]
        self._position = (events[-1].offset or after) if events else max(after, complete)
        heard = (event for event in events if feed._wanted.match(event.type, event.id) and self._hears(event))
        return [feed._frame(event, event.offset or 0) for event in heard]


def _name(type_: str) -> str:
    """A type as an event's name: a line of its own."""
    return " ".join(type_.split())
