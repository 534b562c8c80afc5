"""The thread that reads what was committed in PostgreSQL: woken by NOTIFY, and every two seconds in any case."""

import logging
import time
from typing import TYPE_CHECKING

from peewee_honker.events.run import EventDispatcher
from peewee_honker.servers.postgres.link import PostgresUnavailableError
from peewee_honker.servers.run import ServerRun, SocketWaker

if TYPE_CHECKING:
    from peewee_honker.servers.postgres.store import PostgresStore

__all__ = ["PostgresDispatcher"]

logger = logging.getLogger("peewee_honker.postgres")

_PAGE = 500
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


class _PostgresRun(ServerRun):
    """One life of the thread."""

    lost = PostgresUnavailableError
    logger = logger
    waker: "SocketWaker"
    _dispatcher: PostgresDispatcher

    def __init__(self, dispatcher: PostgresDispatcher) -> None:
        self._store = dispatcher.store
        self._link = dispatcher.store.link
        self._last = 0
        self._looked_at = time.monotonic()
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
        self.waker = SocketWaker(self._link.fileno, self.patience)
        self._link.on_news = self.waker.wake

    def _leave(self) -> None:
        self._link.on_news = None
        self._link.let_go()
        self.waker.close()

    def _look(self, *, everywhere: bool) -> bool:
        news = self._link.take_news()
        came_back = self._link.generation != self._generation
        if came_back:
            self._generation = self._link.generation
            logger.warning("connected to %r again; going on behind event %s", self._link, self._last)
        everywhere = everywhere or came_back
        if everywhere or "n" in news:
            self._deliver_notifications(came_back)
        if everywhere or "s" in news:
            self._poll_is_due = True
        return self._poll_is_due and not self._stopping and self._poll_sources()

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
