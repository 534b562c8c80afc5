"""The one thread of an engine that reads what was committed and hands it to those who listen.

However many channels and listeners there are, a wake costs one SELECT by `id > last`; ids are given in commit order,
since SQLite has one writer.
"""

import asyncio
import logging
import os
import threading
import time
from typing import Any, Protocol

from peewee_honker.driver import Engine, engine_for
from peewee_honker.errors import EngineClosedError
from peewee_honker.events.event import Event, gap_event
from peewee_honker.events.wake import Waker

__all__ = ["Dispatcher", "Outlet", "Source", "dispatcher_for"]

logger = logging.getLogger("peewee_honker.events")

_PAGE = 500
_SINCE = f"SELECT id, channel, payload FROM _honker_notifications WHERE id > ? ORDER BY id LIMIT {_PAGE}"
_NEWEST = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '_honker_notifications'), 0) AS newest"
_PUBLISHED = "SELECT name, seq FROM sqlite_sequence WHERE name IN ('_honker_notifications', '_honker_stream')"
_SHORT = 0.001  # seconds of the first waits after a wake
_TIMEOUT = 5.0
_PAUSE_AFTER_ERROR = 1.0
_LONGEST_GOODBYE = 30.0  # seconds that leaving waits for a receiver that runs
_STALL = 1.0  # seconds without a look after which rows may have been pruned unread


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
        """Do what is due; whether there may be more to do at once. Called when a stream has got an event, and every 50
        milliseconds otherwise."""

    def moved(self, engine: Engine) -> None:
        """Go on with another file that has taken the place of the engine's."""

    def stop(self) -> None:
        """End; called in the dispatcher's thread."""


class Dispatcher:
    """Hands events to outlets and polls sources, in a thread of its own that runs while there is one of them.

    Guarantee: an event that commits after `attach` has returned is handed over once, in commit order, or a gap is told of.
    When the file is replaced under it, it goes on with the new one and says so; when the file is deleted, it waits for
    another.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changing = threading.Lock()
        self._outlets: tuple[Outlet, ...] = ()
        self._sources: tuple[Source, ...] = ()
        self._leaving: list[tuple[Source, threading.Event]] = []
        self._routes: dict[str, tuple[Outlet, ...]] = {}
        self._busy = threading.RLock()  # held while an event is handed over
        self._run: _Run | None = None
        self._process = os.getpid()
        self.failure: BaseException | None = None
        """What ended the thread, if something did; it starts anew with the next who attaches."""

    @property
    def engine(self) -> Engine:
        """The engine whose file is read now."""
        return self._engine

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
        with self._changing:
            if self._process != os.getpid():
                return
            self._outlets = tuple(other for other in self._outlets if other is not outlet)
            self._routes = {}
            ended = self._end_if_unused()
        self.settle()
        if ended is not None:
            ended.join()

    def add_source(self, source: Source) -> None:
        """Poll `source` at every wake."""
        with self._changing:
            self._forget_other_process()
            self._sources = (*self._sources, source)
            run = self._ensure_running()
        run.wake()

    def remove_source(self, source: Source) -> None:
        """Stop `source` in the dispatcher's thread; returns when it has stopped (but see `settle`)."""
        stopped = threading.Event()
        with self._changing:
            run = self._run
            if run is None or source not in self._sources or self._process != os.getpid():
                return
            self._leaving.append((source, stopped))
        run.wake()
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
        if not _runs_a_loop() and self._busy.acquire(timeout=_LONGEST_GOODBYE):  # the dispatcher's thread gets it at once
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

    def newest(self) -> int:
        """The id of the last notification that was committed, or 0."""
        return int(self._read(_NEWEST)[0]["newest"])

    # The thread

    def _forget_other_process(self) -> None:
        if self._process != os.getpid():  # the child of a fork: the thread stayed with the parent
            self._process, self._run, self._busy = os.getpid(), None, threading.RLock()
            self._outlets, self._sources, self._leaving = (), (), []

    def _ensure_running(self) -> "_Run":
        if self._run is None:
            self.failure = None
            self._run = _Run(self)
        return self._run

    def _end_if_unused(self) -> "_Run | None":
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

    def adopt(self, engine: Engine) -> None:
        """Go on with the engine that another file under the same path has got; for the thread."""
        self._engine = engine
        engine.services.setdefault(Dispatcher, self)

    def ended(self, run: "_Run", failure: BaseException | None) -> None:
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

    def route(self, row: dict[str, Any]) -> None:
        """Hand a notification to the outlets that hear its channel; for the thread."""
        channel = row["channel"]
        routes = self._routes
        outlets = routes.get(channel)
        if outlets is None:
            outlets = tuple(outlet for outlet in self._outlets if outlet.hears(channel))
            if len(routes) > 100_000:
                routes.clear()
            routes[channel] = outlets
        if not outlets:
            return
        event = Event.from_json(row["payload"], channel, row["id"])
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

    def _read(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        return self._engine.read(sql, parameters, _TIMEOUT)


class _Run:
    """One life of the dispatcher's thread."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._stopping = False
        self._paused: dict[int, float] = {}  # by source: not before
        self._file_is_gone = False
        self._flushes: list[tuple[threading.Event, float]] = []  # and until when to go on with what is left
        self._last = 0
        self._streams_at = 0  # the offset of the last event of any stream, when the sources were polled
        self._has_news = True  # of a channel, as far as known
        self._poll_is_due = True
        self._looked_at = time.monotonic()
        self._enter(dispatcher.engine)
        self._thread = threading.Thread(target=self._live, name="peewee-honker-dispatcher", daemon=True)
        self._thread.start()

    def may_be_waited_for(self) -> bool:
        """Whether the calling thread can wait for this one without waiting for itself."""
        return threading.current_thread() is not self._thread and not _runs_a_loop()

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

    def _enter(self, engine: Engine) -> None:
        self._engine = engine
        engine.open(time.monotonic() + _TIMEOUT)  # so that there is a WAL to watch
        self._generation = engine.generation
        self._end_lease = engine.lease(self)
        self.waker = Waker(engine.path)
        self._last = int(engine.read(_NEWEST, (), _TIMEOUT)[0]["newest"])
        engine.after_commit.append(self._committed)
        engine.before_close.append(self._before_close)

    def _committed(self) -> None:
        self.waker.wake()

    def _before_close(self) -> None:
        if not self._engine.retired:
            self._dispatcher.end()

    def _leave(self) -> None:
        engine = self._engine
        for hooks, hook in ((engine.after_commit, self._committed), (engine.before_close, self._before_close)):
            if hook in hooks:
                hooks.remove(hook)
        self.waker.close()
        self._end_lease()

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
                    if flushes or not was_busy:
                        self._expect_news(everywhere=bool(flushes) or not woken)
                    busy = self._deliver()
                    if not busy and woken and not flushes:
                        busy = self._look_again()
                    if not woken or self._file_is_gone:
                        self._look_at_file()
                except EngineClosedError:
                    self._look_at_file()
                except Exception:
                    logger.exception("reading events of %s failed; trying again", self._engine.path)
                    time.sleep(0.1)
                self._end_flushes(flushes, busy)
        except BaseException as error:  # of a receiver: for whoever runs the bus, see `Dispatcher.failure`
            logger.critical("the dispatcher of %s has ended", self._engine.path, exc_info=error)
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

    def _look_again(self) -> bool:
        """Wait a little for a commit whose writing has been seen; whether there may be one."""
        for pause in self.waker.pauses:
            time.sleep(pause)
            if self._stopping or self._find_news():
                return True
        self.waker.wait(0)  # what it says now is about commits that have been seen, but for the last
        if self._find_news():
            return True
        for _ in range(2):
            if self.waker.wait(_SHORT):
                self._expect_news()
                return True
            if self._find_news():
                return True
        return False

    def _expect_news(self, *, everywhere: bool = False) -> None:
        """Something was written: channels are looked at then, and streams if they have got something, or `everywhere`."""
        self._has_news = True
        if everywhere:
            self._poll_is_due = True
        elif self._dispatcher.sources and not self._poll_is_due:
            self._find_news()

    def _find_news(self) -> bool:
        """Whether something was published that was not looked at. One cheap SELECT: every read while a commit is being
        written slows the one who writes."""
        if self._file_is_gone:
            return False
        published = {row["name"]: row["seq"] for row in self._engine.read(_PUBLISHED, (), _TIMEOUT)}
        self._has_news = published.get("_honker_notifications", 0) > self._last
        streams_at = published.get("_honker_stream", 0)
        if streams_at != self._streams_at:
            self._streams_at = streams_at
            self._poll_is_due = True
        return self._has_news or self._poll_is_due

    def _deliver(self) -> bool:
        """Hand over what is new; whether there may be more."""
        if self._file_is_gone:
            return False
        now = time.monotonic()
        stalled, self._looked_at = now - self._looked_at > _STALL, now
        if self._has_news or stalled:
            self._has_news = False
            self._deliver_notifications(stalled)
        if not self._poll_is_due or self._stopping:
            return False
        self._poll_is_due = False
        for source in self._dispatcher.sources:
            self._poll_is_due = self._poll(source) or self._poll_is_due
        return self._poll_is_due

    def _deliver_notifications(self, stalled: bool) -> None:
        found = False
        while rows := self._engine.read(_SINCE, (self._last,), _TIMEOUT):
            found = True
            for row in rows:
                if self._stopping:
                    return
                last, self._last = self._last, row["id"]
                if row["id"] != last + 1:
                    self._dispatcher.tell_of_gap(last, row["id"], "they were deleted before they were read")
                self._dispatcher.route(row)
            if len(rows) < _PAGE:
                return
        if stalled and not found:
            newest = int(self._engine.read(_NEWEST, (), _TIMEOUT)[0]["newest"])
            if newest > self._last and not self._engine.read(_SINCE, (self._last,), _TIMEOUT):
                self._dispatcher.tell_of_gap(self._last, newest + 1, "they were deleted before they were read")
                self._last = newest

    def _poll(self, source: Source) -> bool:
        if self._paused and time.monotonic() < self._paused.get(id(source), 0.0):
            return False
        try:
            return source.poll()
        except EngineClosedError:
            raise
        except Exception:
            logger.exception("%r failed; trying again in %s s", source, _PAUSE_AFTER_ERROR)
            self._paused[id(source)] = time.monotonic() + _PAUSE_AFTER_ERROR
            return False

    def _look_at_file(self) -> None:
        """Go on with another file when this one was replaced; watch the WAL again when the engine was opened anew."""
        engine = self._engine
        if engine.was_replaced() or engine.retired:
            if not os.path.exists(engine.path):
                if not self._file_is_gone:
                    logger.error("%s is gone: no events until there is a file again", engine.path)
                self._file_is_gone = True
                return
            self._move()
        elif engine.generation != self._generation:  # the file was closed and opened, by a fork for instance
            self._generation = engine.generation
            self.waker.watch()

    def _move(self) -> None:
        old, last = self._engine, self._last
        options = {name: getattr(old, name) for name in ("max_readers", "watcher_poll_interval_ms", "sqlite3_guard")}
        new = engine_for(old.location, **options)
        self._leave()
        self._enter(new)
        self._file_is_gone = False
        self._dispatcher.adopt(new)
        logger.error("%s was replaced by another file: going on with that one, from now", new.path)
        for outlet in self._dispatcher.outlets:
            outlet.moved(new)
        for source in self._dispatcher.sources:
            source.moved(new)
        self._dispatcher.tell_of_gap(last, None, "the file was replaced")


def _runs_a_loop() -> bool:
    """Whether an event loop runs in this thread, for which a receiver may be waiting."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _stop_source(source: Source) -> None:
    try:
        source.stop()
    except Exception:
        logger.exception("%r could not be stopped in good order", source)


_making = threading.Lock()


def dispatcher_for(engine: Engine) -> Dispatcher:
    """The engine's one dispatcher."""
    with _making:
        found = engine.services.get(Dispatcher)
        if found is None:
            found = engine.services[Dispatcher] = Dispatcher(engine)
        return found
