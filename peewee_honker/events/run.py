"""The thread that reads what was committed and hands it to those who listen, wherever it reads.

`peewee_honker.events.dispatcher` has the one of an engine's file.
"""

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ClassVar, Protocol

from peewee_honker.driver import Engine
from peewee_honker.errors import EngineClosedError
from peewee_honker.events.event import Event, gap_event
from peewee_honker.events.listener import running_loop

__all__ = ["EventDispatcher", "Outlet", "Run", "Source", "Waiting"]

logger = logging.getLogger("peewee_honker.events")

_PAUSE_AFTER_ERROR = 1.0
_LONGEST_GOODBYE = 30.0  # seconds that leaving waits for a receiver that runs


class Outlet(Protocol):
    """Who wants events of ephemeral channels."""

    def hears(self, channel: str) -> bool:
        """Whether events of the channel may be wanted; asked again after `Dispatcher.refresh`."""

    def receive(self, event: Event) -> None:
        """Take an event; called in the dispatcher's thread. Does not raise because a listener has failed."""

    def missed(self, gap: Event) -> None:
        """Take the word that events are gone before they were read."""

    def moved(self, engine: Engine) -> None:
        """Go on with another file that has taken the place of the engine's; called in the dispatcher's thread."""


class Source(Protocol):
    """Something beside the ephemeral channels that the dispatcher's thread looks after."""

    def poll(self) -> bool:
        """Do what is due; whether there may be more to do at once. Called when a stream has got an event, and every 100
        milliseconds otherwise."""

    def moved(self, engine: Engine) -> None:
        """Go on with another file that has taken the place of the engine's."""

    def stop(self) -> None:
        """End; called in the dispatcher's thread."""


class Waiting(Protocol):
    """What a dispatcher's thread waits with."""

    def wait(self) -> bool:
        """Wait until there may be something new, or a while; whether there may be."""

    def wake(self) -> None:
        """End the wait, in whichever thread it is."""


class EventDispatcher(ABC):
    """Hands events to outlets and polls sources, in a thread of its own that runs while there is one of them.

    Guarantee: an event that commits after `attach` has returned is handed over once, in commit order, or a gap is told of.
    Subclasses say where events are read.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._outlets: tuple[Outlet, ...] = ()
        self._sources: tuple[Source, ...] = ()
        self._leaving: list[tuple[Source, threading.Event]] = []
        self._routes: dict[str, tuple[Outlet, ...]] = {}
        self._busy = threading.RLock()  # held while an event is handed over
        self._holding = 0  # how many have sources wait
        self._run: Run | None = None
        self._process = os.getpid()
        self.failure: BaseException | None = None
        """What ended the thread, if something did; it starts anew with the next who attaches."""

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._run is not None

    def attach(self, outlet: Outlet) -> None:
        """Hand events to `outlet` from now on."""
        with self._changing:
            self._forget_other_process()
            self._outlets = (*self._outlets, outlet)
            self._routes = {}
            self._ensure_running()

    def detach(self, outlet: Outlet) -> None:
        """Hand nothing more to `outlet`; returns when what it does now has ended (see `settle`)."""
        self.begin_to_detach(outlet)()

    def begin_to_detach(self, outlet: Outlet) -> Callable[[], None]:
        """As `detach`, but the waiting is left to what this gives: for whoever holds a lock that a receiver may want."""
        with self._changing:
            if self._process != os.getpid():
                return _nothing
            self._outlets = tuple(other for other in self._outlets if other is not outlet)
            self._routes = {}
            ended = self._end_if_unused()

        def wait() -> None:
            self.settle()
            if ended is not None:
                ended.join()

        return wait

    def add_source(self, source: Source) -> None:
        """Poll `source` at every wake. One that was removed and has not been stopped yet stays."""
        with self._changing:
            self._forget_other_process()
            leaving = [stopped for gone, stopped in self._leaving if gone is source]
            if leaving:
                self._leaving = [each for each in self._leaving if each[0] is not source]
            else:
                self._sources = (*self._sources, source)
            run = self._ensure_running()
        for stopped in leaving:
            stopped.set()
        run.wake()

    @contextmanager
    def holding_sources(self) -> Iterator[None]:
        """Poll no source until the block ends: listeners that are added in it hear of the same events."""
        with self._changing:
            self._holding += 1
        try:
            yield
        finally:
            with self._changing:
                self._holding -= 1
            self.wake()

    def may_be_waited_for(self) -> bool:
        """Whether the calling thread can wait for receivers without waiting for itself."""
        run = self._run
        return run is None or run.may_be_waited_for()

    @property
    def is_holding(self) -> bool:
        """Whether sources wait."""
        return self._holding > 0

    def remove_source(self, source: Source) -> None:
        """Stop `source` in the dispatcher's thread; returns when it has stopped (but see `settle`)."""
        self.begin_to_remove(source)()

    def begin_to_remove(self, source: Source) -> Callable[[], None]:
        """As `remove_source`, but the waiting is left to what this gives."""
        stopped = threading.Event()
        with self._changing:
            run = self._run
            if run is None or source not in self._sources or self._process != os.getpid():
                return _nothing
            self._leaving.append((source, stopped))
        run.wake()
        return partial(self._wait_until_stopped, run, stopped)

    def _wait_until_stopped(self, run: "Run", stopped: threading.Event) -> None:
        if not run.may_be_waited_for():
            return
        if not stopped.wait(_LONGEST_GOODBYE):
            logger.warning("a receiver has not ended after %s s; leaving it behind", _LONGEST_GOODBYE)
        elif self._run is not run:
            run.join()

    def refresh(self) -> None:
        """Ask the outlets again what they hear."""
        self._routes = {}

    def settle(self) -> None:
        """Wait until the event that is being handed over now has been; not inside a receiver, nor in a thread that runs an
        event loop, for which that receiver may be waiting."""
        if self._process != os.getpid() or running_loop() is not None:
            return
        if self._busy.acquire(timeout=_LONGEST_GOODBYE):  # the dispatcher's thread gets it at once
            self._busy.release()

    def flush(self, backlog: float = 0.0) -> None:
        """Return when what has been committed before was handed over (see `settle`).

        A source's backlog may be longer than what it takes at once: it is waited for `backlog` seconds at most.
        """
        run = self._run
        if run is not None and self._process == os.getpid() and run.may_be_waited_for():
            run.flush(_LONGEST_GOODBYE, backlog)

    def wake(self) -> None:
        """Look for events and poll the sources now."""
        run = self._run
        if run is not None:
            run.wake()

    @abstractmethod
    def newest(self) -> int:
        """The id of the last notification that was committed, or 0."""

    # The thread

    @abstractmethod
    def _new_run(self) -> "Run":
        """Start a thread."""

    def _forget_other_process(self) -> None:
        if self._process != os.getpid():  # the child of a fork: the thread stayed with the parent
            self._process, self._run, self._busy = os.getpid(), None, threading.RLock()
            self._outlets, self._sources, self._leaving = (), (), []

    def _ensure_running(self) -> "Run":
        if self._run is None:
            self.failure = None
            self._run = self._new_run()
        return self._run

    def _end_if_unused(self) -> "Run | None":
        """Let the thread end when nobody needs it; gives it. The caller holds the lock."""
        run = self._run
        if run is None or self._outlets or self._sources:
            return None
        self._run = None
        run.end()
        return run

    def end(self) -> None:
        """End the thread, whoever is attached: the engine is being closed."""
        with self._changing:
            run = self._run
            if run is None or self._process != os.getpid():
                return
            run.end()
        run.join()

    def ended(self, run: "Run", failure: BaseException | None) -> None:
        """Note that a thread has ended; called by it as its last act."""
        with self._changing:
            if self._run is not run:  # nobody was attached any more, or somebody is again
                return
            self._run = None
            self._outlets = ()
            sources, self._sources = self._sources, ()
            self._routes = {}
            self.failure = failure
            leaving, self._leaving = self._leaving, []
        for source in (*sources, *(gone for gone, _ in leaving if gone not in sources)):
            _stop_source(source)
        for _, stopped in leaving:
            stopped.set()

    def let_leave(self) -> None:
        """Stop the sources that were removed; for the thread."""
        with self._changing:
            leaving, self._leaving = self._leaving, []
            gone = [source for source, _ in leaving]
            self._sources = tuple(source for source in self._sources if source not in gone)
        for source in gone:
            _stop_source(source)
        with self._changing:
            self._end_if_unused()
        for _, stopped in leaving:
            stopped.set()

    @property
    def outlets(self) -> tuple[Outlet, ...]:
        """Who is handed events."""
        return self._outlets

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is polled."""
        return self._sources

    @property
    def has_leaving(self) -> bool:
        """Whether a source was removed that has not been stopped yet."""
        return bool(self._leaving)

    def route(self, id_: int | None, channel: str, payload: str | bytes) -> None:
        """Hand a notification to the outlets that hear its channel; for the thread. `id_`: its offset, where it has one."""
        routes = self._routes
        outlets = routes.get(channel)
        if outlets is None:
            outlets = tuple(outlet for outlet in self._outlets if outlet.hears(channel))
            if len(routes) > 100_000:
                routes.clear()
            routes[channel] = outlets
        if not outlets:
            return
        event = Event.from_json(payload, channel, id_)
        with self._busy:
            for outlet in outlets:
                outlet.receive(event)

    def tell_of_gap(self, after: int, before: int | None, reason: str) -> None:
        """Tell every outlet that notifications are gone unread; for the thread."""
        gap = gap_event("", after, before, reason)
        logger.warning("notifications after %s and before %s were missed: %s", after, before, reason)
        with self._busy:
            for outlet in self._outlets:
                outlet.missed(gap)


class Run(ABC):
    """One life of a dispatcher's thread. Subclasses say what it waits for and where it reads."""

    lost: ClassVar[type[Exception]] = EngineClosedError
    """What says that events cannot be read at the moment; it passes through `poll_source`."""
    waker: "Waiting"

    def __init__(self, dispatcher: EventDispatcher) -> None:
        self._dispatcher = dispatcher
        self._stopping = False
        self._paused: dict[int, float] = {}  # by source: not before
        self._flushes: list[tuple[threading.Event, float]] = []  # and until when to go on with what is left
        self._poll_is_due = True
        self._enter()
        self._thread = threading.Thread(target=self._live, name="peewee-honker-dispatcher", daemon=True)
        self._thread.start()

    @abstractmethod
    def _enter(self) -> None:
        """Begin to watch: what commits from now on is to be handed over."""

    @abstractmethod
    def _leave(self) -> None:
        """End what `_enter` has begun."""

    @abstractmethod
    def _turn(self, *, woken: bool, was_busy: bool, flushing: bool) -> bool:
        """Hand over what is new and poll the sources; whether there may be more at once."""

    def may_be_waited_for(self) -> bool:
        """Whether the calling thread can wait for this one without waiting for itself."""
        return threading.current_thread() is not self._thread and running_loop() is None

    def wake(self) -> None:
        """Look for events and poll the sources now."""
        self._poll_is_due = True
        self.waker.wake()

    def flush(self, timeout: float, backlog: float) -> None:
        """Wait until the thread has looked once more from now on, and while there is a backlog."""
        looked = threading.Event()
        self._flushes.append((looked, time.monotonic() + backlog))
        self.waker.wake()
        while self._thread.is_alive() and not looked.wait(min(timeout, 0.5)):
            timeout -= 0.5
            if timeout <= 0:
                logger.warning("a receiver has not ended after %s s; going on without it", _LONGEST_GOODBYE)
                return

    def end(self) -> None:
        """Let the thread end after the event that it is handing over."""
        self._stopping = True
        self.waker.wake()

    def join(self) -> None:
        """Wait for the end, where that can be."""
        if self.may_be_waited_for():
            self._thread.join(_LONGEST_GOODBYE)
            if self._thread.is_alive():
                logger.warning("a receiver has not ended after %s s; leaving it behind", _LONGEST_GOODBYE)

    def _live(self) -> None:
        failure: BaseException | None = None
        busy = False
        try:
            while not self._stopping:
                woken = busy or self.waker.wait()
                was_busy, busy = busy, False
                if self._dispatcher.has_leaving:
                    self._dispatcher.let_leave()
                if self._stopping:
                    break
                flushes, self._flushes = self._flushes, []
                try:
                    busy = self._turn(woken=woken, was_busy=was_busy, flushing=bool(flushes))
                except Exception:
                    logger.exception("reading the events of %s failed; trying again", self._dispatcher)
                    time.sleep(0.1)
                self._end_flushes(flushes, busy)
        except BaseException as error:  # of a receiver: for whoever runs the bus, see `EventDispatcher.failure`
            logger.critical("the dispatcher of %s has ended", self._dispatcher, exc_info=error)
            failure = error
        finally:
            self._dispatcher.ended(self, failure)
            self._leave()

    def _end_flushes(self, flushes: list[tuple[threading.Event, float]], busy: bool) -> None:
        for looked, until in flushes:
            if busy and time.monotonic() < until:
                self._flushes.append((looked, until))
            else:
                looked.set()

    def _poll_sources(self) -> bool:
        """Poll the sources; whether they are to be polled again at once."""
        self._poll_is_due = False
        if self._dispatcher.is_holding:
            return False
        for source in self._dispatcher.sources:
            self._poll_is_due = self._poll_source(source) or self._poll_is_due
        return self._poll_is_due

    def _poll_source(self, source: Source) -> bool:
        if self._paused and time.monotonic() < self._paused.get(id(source), 0.0):
            return False
        try:
            return source.poll()
        except self.lost:
            raise
        except Exception:
            logger.exception("%r failed; trying again in %s s", source, _PAUSE_AFTER_ERROR)
            self._paused[id(source)] = time.monotonic() + _PAUSE_AFTER_ERROR
            return False


def _nothing() -> None:
    """There is nothing to wait for."""


def _stop_source(source: Source) -> None:
    try:
        source.stop()
    except Exception:
        logger.exception("%r could not be stopped in good order", source)
