"""The one thread of an engine that reads what was committed and hands it to those who listen.

However many channels and listeners there are, a wake costs one SELECT by `id > last`; ids are given in commit order,
since SQLite has one writer.
"""

import logging
import os
import threading
import time

from peewee_honker.driver import Engine, engine_for
from peewee_honker.errors import EngineClosedError
from peewee_honker.events.run import EventDispatcher, Outlet, Run, Source
from peewee_honker.events.wake import Waker

__all__ = ["Dispatcher", "Outlet", "Source", "dispatcher_for"]

logger = logging.getLogger("peewee_honker.events")

_PAGE = 500
_SINCE = f"SELECT id, channel, payload FROM _honker_notifications WHERE id > ? ORDER BY id LIMIT {_PAGE}"
_NEWEST = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '_honker_notifications'), 0) AS newest"
_PUBLISHED = "SELECT name, seq FROM sqlite_sequence WHERE name IN ('_honker_notifications', '_honker_stream')"
_SHORT = 0.001  # seconds of the first waits after a wake
_TIMEOUT = 5.0
_STALL = 1.0  # seconds without a look after which rows may have been pruned unread


class Dispatcher(EventDispatcher):
    """Hands events of a file to outlets and polls sources, see `EventDispatcher`.

    When the file is replaced under it, it goes on with the new one and says so; when the file is deleted, it waits for
    another.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def __repr__(self) -> str:
        return f"<Dispatcher of {self._engine.path}>"

    @property
    def engine(self) -> Engine:
        """The engine whose file is read now."""
        return self._engine

    def newest(self) -> int:
        """The id of the last notification that was committed, or 0."""
        return int(self._engine.read(_NEWEST, (), _TIMEOUT)[0]["newest"])

    def adopt(self, engine: Engine) -> None:
        """Go on with the engine that another file under the same path has got; for the thread."""
        self._engine = engine
        engine.services.setdefault(Dispatcher, self)

    def _new_run(self) -> "_EngineRun":
        return _EngineRun(self)


class _EngineRun(Run):
    """One life of the thread that reads an engine's file."""

    waker: Waker
    _dispatcher: Dispatcher

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._file_is_gone = False
        self._last = 0
        self._streams_at = 0  # the offset of the last event of any stream, when the sources were polled
        self._has_news = True  # of a channel, as far as known
        self._looked_at = time.monotonic()
        super().__init__(dispatcher)

    def _enter(self) -> None:
        self._watch(self._dispatcher.engine)

    def _watch(self, engine: Engine) -> None:
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

    def _turn(self, *, woken: bool, was_busy: bool, flushing: bool) -> bool:
        busy = False
        try:
            if flushing or not was_busy:
                self._expect_news(everywhere=flushing or not woken)
            busy = self._deliver()
            if not busy and woken and not flushing:
                busy = self._look_again()
            if not woken or self._file_is_gone:
                self._look_at_file()
        except EngineClosedError:
            self._look_at_file()
        return busy

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
        return self._poll_sources()

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
                self._dispatcher.route(row["id"], row["channel"], row["payload"])
            if len(rows) < _PAGE:
                return
        if stalled and not found:
            newest = int(self._engine.read(_NEWEST, (), _TIMEOUT)[0]["newest"])
            if newest > self._last and not self._engine.read(_SINCE, (self._last,), _TIMEOUT):
                self._dispatcher.tell_of_gap(self._last, newest + 1, "they were deleted before they were read")
                self._last = newest

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
        self._watch(new)
        self._file_is_gone = False
        self._dispatcher.adopt(new)
        logger.error("%s was replaced by another file: going on with that one, from now", new.path)
        for outlet in self._dispatcher.outlets:
            outlet.moved(new)
        for source in self._dispatcher.sources:
            source.moved(new)
        self._dispatcher.tell_of_gap(last, None, "the file was replaced")


_making = threading.Lock()


def dispatcher_for(engine: Engine) -> Dispatcher:
    """The engine's one dispatcher."""
    with _making:
        found = engine.services.get(Dispatcher)
        if found is None:
            found = engine.services[Dispatcher] = Dispatcher(engine)
        return found
