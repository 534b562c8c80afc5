"""The thread that hands over what has come from NATS: ephemeral events as they arrive, and the wakes of consumers."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from nats.aio.msg import Msg

from peewee_honker.events.event import Event, gap_event
from peewee_honker.events.run import EventDispatcher, Outlet
from peewee_honker.servers.nats.link import NatsUnavailableError, Subscription
from peewee_honker.servers.nats.names import event_subject, type_of
from peewee_honker.servers.run import ServerRun

if TYPE_CHECKING:
    from peewee_honker.servers.nats.store import NatsStore

__all__ = ["NatsDispatcher"]

logger = logging.getLogger("peewee_honker.nats")

_PAGE = 500  # events that are handed over before consumers have their turn
_MOST_TYPES = 4096  # of which is remembered whether somebody listens to them
# That may wait for their listeners; more are dropped, with a gap event.
_MOST_EVENTS, _MOST_BYTES = 100_000, 64 * 1024 * 1024


class NatsDispatcher(EventDispatcher):
    """Hands ephemeral events to outlets and polls sources, see `EventDispatcher`.

    An outlet's `prefix` is what it subscribes to: all its events come by one subscription, so that they stay in order.
    """

    def __init__(self, store: "NatsStore") -> None:
        super().__init__()
        self.store = store

    def __repr__(self) -> str:
        return f"<NatsDispatcher of {self.store.link!r}>"

    def newest(self) -> int:
        """0: ephemeral events have no numbers."""
        return 0

    def attach(self, outlet: Outlet) -> None:
        """Hand events to `outlet` from now on: when this returns, the server has the subscription."""
        super().attach(outlet)
        run = self._run
        try:
            if isinstance(run, _NatsRun):
                run.subscribe(outlet)
        except BaseException:
            self.detach(outlet)
            raise

    def begin_to_detach(self, outlet: Outlet) -> Callable[[], None]:
        """As EventDispatcher.begin_to_detach."""
        run = self._run
        if isinstance(run, _NatsRun):
            run.unsubscribe(outlet)
        return super().begin_to_detach(outlet)

    def refresh(self) -> None:
        """As EventDispatcher.refresh."""
        super().refresh()
        run = self._run
        if isinstance(run, _NatsRun):
            run.refresh()

    def hand_over(self, outlet: Outlet, event: Event) -> None:
        """Give an outlet an event; for the thread."""
        with self._busy:
            if event.is_gap:
                outlet.missed(event)
            else:
                outlet.receive(event)

    def _new_run(self) -> "_NatsRun":
        return _NatsRun(self)


class _NatsRun(ServerRun):
    """One life of the thread."""

    lost = NatsUnavailableError
    logger = logger
    waker: "_Waker"
    _dispatcher: NatsDispatcher

    def __init__(self, dispatcher: NatsDispatcher) -> None:
        self._store = dispatcher.store
        self._link = dispatcher.store.link
        self._news: deque[tuple[Any, str, bytes]] = deque()  # outlet, type and text; of a gap, '' and the reason
        self._bytes = 0  # that came, less those that were taken: each is counted in one thread
        self._taken = 0
        self._is_full = False
        self._subscriptions: dict[int, Subscription] = {}
        self._heard: dict[tuple[int, str], str | None] = {}  # by outlet and subject: the type, if somebody listens to it
        super().__init__(dispatcher)

    def _enter(self) -> None:
        self._link.connect()
        self.waker = _Waker(self.patience)
        self._link.on_connected.append(self._connected_again)
        self._store.begun()

    def _leave(self) -> None:
        for key in list(self._subscriptions):
            self._link.unsubscribe(self._subscriptions.pop(key))
        if self._connected_again in self._link.on_connected:
            self._link.on_connected.remove(self._connected_again)
        self._store.ended()

    # Ephemeral events, as they come in the loop's thread

    def subscribe(self, outlet: Any) -> None:
        """Receive what an outlet hears."""
        known = id(outlet)
        subject = event_subject(outlet.prefix, ">")
        receive = partial(self._receive, outlet, len(subject) - 1)
        self.refresh()
        self._subscriptions[known] = self._link.subscribe(subject, receive)

    def unsubscribe(self, outlet: Outlet) -> None:
        """Receive it no more."""
        subscription = self._subscriptions.pop(id(outlet), None)
        if subscription is not None:
            self._link.unsubscribe(subscription)

    def _receive(self, outlet: Any, start: int, message: Msg) -> None:
        heard, key = self._heard, (id(outlet), message.subject)
        try:
            type_ = heard[key]
        except KeyError:
            named = type_of(message.subject[start:])
            type_ = heard[key] = named if outlet.hears(outlet.prefix + named) else None
            if len(heard) > _MOST_TYPES:
                self.refresh()
        if type_ is None:
            return
        if len(self._news) >= _MOST_EVENTS or self._bytes - self._taken >= _MOST_BYTES:
            self._drop()
            return
        self._is_full = False
        self._bytes += len(message.data)
        self._news.append((outlet, type_, message.data))
        self.waker.wake()

    def _drop(self) -> None:
        if not self._is_full:
            self._is_full = True
            for outlet in self._dispatcher.outlets:
                self._tell(outlet, "they came faster than they were taken")

    def refresh(self) -> None:
        """Ask the outlets again what they hear."""
        self._heard = {}

    def _connected_again(self) -> None:
        for outlet in self._dispatcher.outlets:
            self._tell(outlet, "the connection was lost")
        self._not_before = 0.0
        self.wake()

    def _tell(self, outlet: Outlet, reason: str) -> None:
        logger.warning("ephemeral events of %r may have been missed: %s", self._link, reason)
        self._news.append((outlet, "", reason.encode()))
        self.waker.wake()

    # The thread

    def _turn(self, *, woken: bool, was_busy: bool, flushing: bool) -> bool:
        for _ in range(_PAGE):
            if not self._news or self._stopping:
                break
            outlet, type_, text = self._news.popleft()
            self._taken += len(text) if type_ else 0
            # A newer one of a removed outlet would have its own subscription.
            if id(outlet) in self._subscriptions:
                self._dispatcher.hand_over(outlet, _event(type_, text))
        busy = not self._stopping and super()._turn(woken=woken, was_busy=was_busy, flushing=flushing)
        return busy or bool(self._news)

    def _look(self, *, everywhere: bool) -> bool:
        if everywhere:
            self._poll_is_due = True
        return self._poll_is_due and self._poll_sources()


def _event(type_: str, text: bytes) -> Event:
    if not type_:
        return gap_event("", 0, None, text.decode())
    return Event.from_json(text.decode(errors="replace"), type_)


class _Waker:
    """Waits for a wake from another thread, or as long as it may."""

    def __init__(self, patience: Callable[[], float]) -> None:
        self._patience = patience
        self._woken = threading.Event()

    def wait(self) -> bool:
        """Wait; whether somebody had something to say."""
        woken = self._woken.wait(self._patience())
        self._woken.clear()
        return woken

    def wake(self) -> None:
        """End the wait."""
        if not self._woken.is_set():
            self._woken.set()
