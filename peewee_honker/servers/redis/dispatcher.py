"""The thread of a target that hears of events from Redis."""

import logging
import threading
from typing import TYPE_CHECKING

from peewee_honker.events.run import EventDispatcher
from peewee_honker.servers.redis.link import RedisUnavailableError
from peewee_honker.servers.redis.wires import Pages, Subscription
from peewee_honker.servers.run import ServerRun, SocketWaker

if TYPE_CHECKING:
    from peewee_honker.servers.redis.store import RedisStore

__all__ = ["RedisDispatcher"]

logger = logging.getLogger("peewee_honker.redis")

_TURN = 500  # messages that are handed over before the thread looks at what else there is


class RedisDispatcher(EventDispatcher):
    """Hands the messages of a subscription to outlets, or polls sources, see `EventDispatcher`: of a target, it is one of
    the two.

    When the connection is lost it connects again, with growing pauses. Of the messages of the time between nothing is
    known: a gap is told of.
    """

    def __init__(self, store: "RedisStore") -> None:
        super().__init__()
        self.store = store

    def __repr__(self) -> str:
        return f"<RedisDispatcher of {self.store.link!r}>"

    def newest(self) -> int:
        """Messages have no offsets: 0."""
        return 0

    def pages_here(self) -> Pages | None:
        """In the dispatcher's thread: its connection for pages."""
        run = self._run
        return run.pages if isinstance(run, _RedisRun) and run.is_here else None

    def _new_run(self) -> "_RedisRun":
        return _RedisRun(self)


class _RedisRun(ServerRun):
    """One life of the thread."""

    lost = RedisUnavailableError
    logger = logger
    waker: "SocketWaker"
    _dispatcher: RedisDispatcher

    def __init__(self, dispatcher: RedisDispatcher) -> None:
        store = dispatcher.store
        self.pages: Pages | None = None
        self._subscription: Subscription | None = None
        if dispatcher.outlets:
            self._wire: Pages | Subscription = Subscription(store.link, store.prefix)
            self._subscription = self._wire
        else:
            self._wire = self.pages = Pages(store.link)
        self._link = store.link
        super().__init__(dispatcher)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.get_ident() == self._thread.ident

    def _enter(self) -> None:
        self._wire.open()
        self.waker = SocketWaker(self._wire.fileno, self.patience)

    def _leave(self) -> None:
        self._wire.close()
        self.waker.close()

    def _look(self, *, everywhere: bool) -> bool:
        self._wire.has_spoken = self._wire.is_open and self.waker.server_spoke
        self.waker.server_spoke = False  # a turn without a wait may follow
        if not self._wire.is_open:
            self._wire.open()
            logger.warning("connected to %r again", self._link)
            if self._subscription is not None:
                self._dispatcher.tell_of_gap(0, None, "the connection to the server was lost")
        if self._subscription is not None:
            return self._deliver(self._subscription)
        if self.pages is None:
            return False
        self.pages.is_wanted = False
        more = not self._stopping and self._poll_sources()
        self.pages.ask_ahead()
        return more

    def _deliver(self, subscription: Subscription) -> bool:
        for number, (channel, text) in enumerate(subscription.messages()):
            self._dispatcher.route(None, channel, text)
            if self._stopping or number == _TURN:
                return True
        return False
