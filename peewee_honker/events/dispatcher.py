"""The one thread of an engine that reads what was committed and calls those who listen.

However many channels and listeners there are, a wake costs one SELECT by `id > last`; ids are given in commit order,
since SQLite has one writer.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from peewee_honker.driver import Engine
from peewee_honker.events.event import Event
from peewee_honker.events.wake import Waker

__all__ = ["Dispatcher", "Source", "dispatcher_for"]

logger = logging.getLogger("peewee_honker.events")

Listener = Callable[[Event], None]

_SINCE = "SELECT id, channel, payload FROM _honker_notifications WHERE id > ? ORDER BY id LIMIT 500"
_NEWEST = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '_honker_notifications'), 0) AS newest"
_PRUNE = (
    "DELETE FROM _honker_notifications WHERE id IN "
    "(SELECT id FROM _honker_notifications WHERE created_at < unixepoch() - ? ORDER BY id LIMIT 1000)"
)
# A WAL write is seen before its commit is: look again after these pauses (seconds), then go back to sleep.
_LOOK_AGAIN = (*[0.00005] * 12, *[0.0002] * 10, *[0.0005] * 4)
_PRUNE_EVERY = 60.0
_TIMEOUT = 5.0
_PAUSE_AFTER_ERROR = 1.0
_LONGEST_GOODBYE = 30.0  # seconds that `stop` waits for a receiver that runs


class Source(Protocol):
    """Something beside the ephemeral channels that the dispatcher's thread looks after."""

    def poll(self) -> bool:
        """Deliver what is due; whether there was anything."""

    def stop(self) -> None:
        """End; called in the dispatcher's thread."""


class Dispatcher:
    """Calls listeners, in a thread of its own, with the events that were committed since it started.

    Guarantee: every event that commits after `start` has returned is delivered to the listeners of its channel once, in
    commit order, unless it is older than `retention` seconds by then or the process ends before. `stop` waits for the
    listeners that run.
    """

    def __init__(self, engine: Engine, retention: float = 600.0) -> None:
        self._engine = engine
        self._retention = retention
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self._changing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waker: Waker | None = None
        self._stopping = False
        self._pause_until = 0.0
        self._last = 0
        self._users = 0
        self._process = os.getpid()
        self._sources: tuple[Source, ...] = ()
        self._leaving: list[tuple[Source, threading.Event]] = []

    def add_source(self, source: Source) -> None:
        """Poll `source` at every wake."""
        with self._changing:
            self._sources = (*self._sources, source)

    def remove_source(self, source: Source) -> None:
        """Stop `source` in the dispatcher's thread; returns when it has stopped."""
        stopped = threading.Event()
        with self._changing:
            waker = self._waker
            if waker is None or source not in self._sources:
                return
            self._leaving.append((source, stopped))
        waker.wake()
        if threading.current_thread() is not self._thread:
            stopped.wait(_LONGEST_GOODBYE)

    def add(self, channel: str, listener: Listener) -> None:
        """Call `listener` with the events of `channel`."""
        with self._changing:
            self._listeners[channel] = (*self._listeners.get(channel, ()), listener)

    def remove(self, channel: str, listener: Listener) -> None:
        """No longer call `listener`; nothing if it is not there."""
        with self._changing:
            left = tuple(known for known in self._listeners.get(channel, ()) if known != listener)
            if left:
                self._listeners[channel] = left
            else:
                self._listeners.pop(channel, None)

    def start(self) -> None:
        """Begin to deliver; each `start` needs a `stop`. What commits after this returns is delivered."""
        with self._changing:
            if self._process != os.getpid():  # the child of a fork: the thread stayed with the parent
                self._process, self._users, self._thread, self._waker = os.getpid(), 0, None, None
            self._users += 1
            if self._users > 1:
                return
            engine = self._engine
            engine.open(time.monotonic() + _TIMEOUT)  # so that there is a WAL to watch
            self._waker = Waker(engine.path)
            self._last = self._read(_NEWEST)[0]["newest"]
            self._stopping = False
            engine.after_commit.append(self._waker.wake)
            engine.before_close.append(self._end)
            self._thread = threading.Thread(target=self._run, name="peewee-honker-dispatcher", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Undo one `start`. After the last the thread has ended, with every event delivered whole or not at all."""
        with self._changing:
            if self._users == 0 or self._process != os.getpid():
                return
            self._users -= 1
            if self._users > 0:
                return
        self._end()

    def _end(self) -> None:
        thread, waker = self._thread, self._waker
        if thread is None or waker is None:
            return
        self._stopping = True
        waker.wake()
        if thread is not threading.current_thread():
            thread.join(_LONGEST_GOODBYE)
            if thread.is_alive():
                logger.warning("a receiver has not ended after %s s; leaving it behind", _LONGEST_GOODBYE)
                return
            self._clean_up(waker)
        self._users = 0

    def _clean_up(self, waker: Waker) -> None:
        if self._waker is not waker:
            return
        if waker.wake in self._engine.after_commit:
            self._engine.after_commit.remove(waker.wake)
        if self._end in self._engine.before_close:
            self._engine.before_close.remove(self._end)
        self._thread = self._waker = None
        waker.close()

    def _run(self) -> None:
        waker = self._waker
        if waker is None:
            return
        generation = self._engine.generation
        prune_at = time.monotonic() + _PRUNE_EVERY
        try:
            while not self._stopping:
                woken = waker.wait()
                if self._leaving:
                    self._let_leave()
                if not self._deliver() and woken:
                    self._look_again()
                if self._engine.generation != generation:  # the file was closed and opened, by a fork for instance
                    generation = self._engine.generation
                    waker.watch()
                if time.monotonic() > prune_at:
                    self._prune()
                    prune_at = time.monotonic() + _PRUNE_EVERY
        except Exception:
            logger.exception("the dispatcher of %s has died; no more events are delivered", self._engine.path)
        finally:
            self._let_leave()
            sources, self._sources = self._sources, ()
            for source in sources:
                self._stop_source(source)
            self._clean_up(waker)

    def _look_again(self) -> None:
        for pause in _LOOK_AGAIN:
            time.sleep(pause)
            if self._stopping or self._deliver():
                return

    def _deliver(self) -> bool:
        """Deliver what is new; whether there was anything."""
        found = False
        while rows := self._read(_SINCE, (self._last,)):
            found = True
            for row in rows:
                if self._stopping:
                    return True
                self._last = row["id"]
                listeners = self._listeners.get(row["channel"])
                if listeners:
                    event = Event.from_json(row["payload"], row["channel"], row["id"])
                    for listener in listeners:
                        self._call(listener, event)
        for source in self._sources:
            found = self._poll(source) or found
        return found

    def _poll(self, source: Source) -> bool:
        if time.monotonic() < self._pause_until:
            return False
        try:
            return source.poll()
        except Exception:
            logger.exception("%r failed; trying again in %s s", source, _PAUSE_AFTER_ERROR)
            self._pause_until = time.monotonic() + _PAUSE_AFTER_ERROR
            return False

    def _let_leave(self) -> None:
        with self._changing:
            leaving, self._leaving = self._leaving, []
            self._sources = tuple(source for source in self._sources if source not in [gone for gone, _ in leaving])
        for source, stopped in leaving:
            self._stop_source(source)
            stopped.set()

    def _stop_source(self, source: Source) -> None:
        try:
            source.stop()
        except Exception:
            logger.exception("%r could not be stopped in good order", source)

    def _call(self, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception:
            logger.exception("a receiver of %s failed on event %s", event.type, event.event_id)

    def _read(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
        return self._engine.read(sql, parameters, _TIMEOUT)

    def _prune(self) -> None:
        """Delete what is older than the retention, a thousand rows at a time."""
        while not self._stopping:
            with self._engine.face.transaction() as transaction:
                transaction.execute(_PRUNE, (int(self._retention),))
                removed = transaction.query("SELECT changes() AS n")[0]["n"]
            if removed < 1000:
                return


_making = threading.Lock()


def dispatcher_for(engine: Engine) -> Dispatcher:
    """The engine's one dispatcher."""
    with _making:
        found = engine.services.get(Dispatcher)
        if found is None:
            found = engine.services[Dispatcher] = Dispatcher(engine)
        return found
