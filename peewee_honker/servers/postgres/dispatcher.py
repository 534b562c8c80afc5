"""The thread that reads what was committed in PostgreSQL: woken by NOTIFY, and every two seconds in any case."""

import logging
import os
import random
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from peewee_honker.events.run import EventDispatcher, Run
from peewee_honker.servers.postgres.link import Link, PostgresUnavailableError

if TYPE_CHECKING:
    from peewee_honker.servers.postgres.store import PostgresStore

__all__ = ["PostgresDispatcher"]

logger = logging.getLogger("peewee_honker.postgres")

_PAGE = 500
_IDLE = 2.0  # seconds between two looks without a word from the server
_SHORTEST = 0.01
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # between two attempts to connect again
_STALL = 30.0  # seconds without a look after which ephemeral events may have been pruned unread


class PostgresDispatcher(EventDispatcher):
    """Hands events of a PostgreSQL database to outlets and polls sources, see `EventDispatcher`.

    When the connection is lost it connects again, with growing pauses, and goes on where it was.
    """

    def __init__(self, store: "PostgresStore") -> None:
        super().__init__()
        self.store = store

    def __repr__(self) -> str:
        return f"<PostgresDispatcher of {self.store.link!r}>"

    def newest(self) -> int:
        """The id of the last ephemeral event that was committed, or 0."""
        return self.store.newest_notification()

    def _new_run(self) -> "_PostgresRun":
        return _PostgresRun(self)


class _PostgresRun(Run):
    """One life of the thread."""

    lost = PostgresUnavailableError
    waker: "_Waker"
    _dispatcher: PostgresDispatcher

    def __init__(self, dispatcher: PostgresDispatcher) -> None:
        self._store = dispatcher.store
        self._link = dispatcher.store.link
        self._last = 0
        self._looked_at = time.monotonic()
        self._pause = 0.0  # before the next attempt to connect; 0 while there is a connection
        self._not_before = 0.0
        super().__init__(dispatcher)

    def _enter(self) -> None:
        self._store.prepare()
        self._link.hold()
        try:
            self._last = self._store.newest_notification()
        except BaseException:
            self._link.let_go()
            raise
        self._generation = self._link.generation
        self.waker = _Waker(self._link, self._patience)
        self._link.on_news = self.waker.wake

    def _leave(self) -> None:
        self._link.on_news = None
        self._link.let_go()
        self.waker.close()

    def _patience(self) -> float:
        """Seconds that the thread may wait for news."""
        now = time.monotonic()
        if self._pause:
            return max(_SHORTEST, self._not_before - now)
        longest = _IDLE
        for source in self._dispatcher.sources:
            due_in: Callable[[], float | None] | None = getattr(source, "due_in", None)
            due = None if due_in is None else due_in()
            if due is not None:
                longest = min(longest, max(due, self._paused.get(id(source), 0.0) - now))
        return max(_SHORTEST, longest)

    def _turn(self, *, woken: bool, was_busy: bool, flushing: bool) -> bool:
        if self._pause and time.monotonic() < self._not_before:
            return False
        try:
            news = self._link.take_news()
            came_back = self._link.generation != self._generation
            if came_back:
                self._generation = self._link.generation
                logger.warning("connected to %r again; going on behind event %s", self._link, self._last)
            self._pause = 0.0
            everywhere = came_back or flushing or not woken
            if everywhere or "n" in news:
                self._deliver_notifications(came_back)
            if everywhere or "s" in news:
                self._poll_is_due = True
            return self._poll_is_due and not self._stopping and self._poll_sources()
        except PostgresUnavailableError as error:
            self._pause = min(self._pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            self._not_before = time.monotonic() + self._pause * random.uniform(0.5, 1.0)
            logger.warning("no events for now, trying again in %.1f s: %s", self._pause, error)
            return False

    def _deliver_notifications(self, came_back: bool) -> None:
        now = time.monotonic()
        stalled, self._looked_at = came_back or now - self._looked_at > _STALL, now
        while True:
            rows = self._store.notifications_behind(self._last, _PAGE)
            if (rows and rows[0][0] != self._last + 1) or (stalled and not rows):
                self._look_for_gap()
            for row in rows:
                if self._stopping:
                    return
                self._last = row[0]
                self._dispatcher.route(*row)
            if len(rows) < _PAGE:
                return

    def _look_for_gap(self) -> None:
        """A number may be missing because its transaction failed, or because the event was pruned unread."""
        pruned = self._store.pruned_offset("")
        if pruned > self._last:
            self._dispatcher.tell_of_gap(self._last, pruned + 1, "they were deleted before they were read")
            self._last = pruned


class _Waker:
    """Waits for the link's server, a wake from another thread, or as long as it may."""

    def __init__(self, link: Link, patience: Callable[[], float]) -> None:
        self._link = link
        self._patience = patience
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        self._closed = False
        self._closing = threading.Lock()

    def wait(self) -> bool:
        """Wait; whether somebody had something to say."""
        poll: Any = select.poll()
        poll.register(self._read_end, select.POLLIN)
        server = self._link.fileno()
        if server is not None:
            poll.register(server, select.POLLIN)
        woken = bool(poll.poll(self._patience() * 1000))
        try:
            while os.read(self._read_end, 4096):
                pass
        except BlockingIOError:
            pass  # it is empty
        return woken

    def wake(self) -> None:
        """End the wait."""
        with self._closing:
            if self._closed:
                return
            try:
                os.write(self._write_end, b".")
            except BlockingIOError:
                pass  # full: it will not wait

    def close(self) -> None:
        """Give the pipe back."""
        with self._closing:
            self._closed = True
            os.close(self._write_end)
            os.close(self._read_end)
