"""Reading a durable stream for all who are connected: each event once, by one thread."""

import logging
import threading
from collections.abc import Callable, Sequence

from peewee_honker.driver import Engine
from peewee_honker.events import Event
from peewee_honker.events.event import gap_event
from peewee_honker.events.listener import running_loop
from peewee_honker.events.store import Store

__all__ = ["Reader"]

logger = logging.getLogger("peewee_honker.hub")

_PAGE = 500
_LOOK = 0.5  # seconds between two looks when nothing says that there is something
_PAUSE = 0.5  # seconds after an error


class Reader:
    """Gives what commits to a stream from its start on, in order, in a thread of its own.

    Arguments:
        store: where the stream is.
        stream: its name.
        take: is called with events, and the offset up to which there are no others. The next ones are read when it returns.
        moved: is called when the file was replaced by another, whose offsets are others.
    """

    def __init__(
        self, store: Store, stream: str, take: Callable[[Sequence[Event], int], None], moved: Callable[[], None]
    ) -> None:
        self._store = store
        self._stream = stream
        self._take = take
        self._moved = moved
        self._moved_to: Engine | None = None
        self._busy = threading.Lock()  # held while events are given
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self.position = store.offset_of(stream, "now")
        """Every event up to this offset was read."""
        self._thread = threading.Thread(target=self._run, name="peewee-honker-hub-reader", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()
        self._store.dispatcher.add_source(self)

    def close(self) -> None:
        """Read no more; returns when `take` runs no more."""
        self._store.dispatcher.remove_source(self)
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def settle(self) -> None:
        """Wait until what is being taken now was; not where that would be waiting for oneself."""
        if threading.current_thread() is not self._thread and running_loop() is None:
            with self._busy:
                pass

    # A source of the dispatcher, which tells when there may be something new

    def poll(self) -> bool:
        """Wake the thread."""
        self._woken.set()
        return False

    def moved(self, engine: Engine) -> None:
        """Go on with another file."""
        self._moved_to = engine
        self._woken.set()

    def stop(self) -> None:
        """Nothing to undo in the dispatcher's thread."""

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            if self._stopping.is_set():
                break
            try:
                busy = self._turn()
            except Exception:
                logger.exception("reading the stream %s failed; trying again", self._stream)
                self._stopping.wait(_PAUSE)
                continue
            if not busy:
                self._woken.wait(_LOOK)
        self._store.close_thread()

    def _turn(self) -> bool:
        """Give what is new; whether there may be more."""
        if self._moved_to is not None:
            engine, self._moved_to = self._moved_to, None
            self._store.moved(engine)
            before, self.position = self.position, self._store.offset_of(self._stream, "now")
            self._moved()
            self._take([gap_event(self._stream, before, None, "the file was replaced")], self.position)
        newest = self._store.offset_of(self._stream, "now")  # before the page: what is behind it was not there yet
        offsets, found = self._store.read_page(self._stream, self.position, _PAGE)
        events = list(found)
        if offsets and offsets[0] != self.position + 1:
            pruned = self._store.pruned_offset(self._stream)
            if pruned > self.position:
                events.insert(0, gap_event(self._stream, self.position, pruned + 1, "pruned"))
        is_full = len(offsets) == _PAGE
        position = offsets[-1] if is_full else max([newest, self.position, *offsets[-1:]])
        if events or position != self.position:
            with self._busy:
                self._take(events, position)
            self.position = position
        return is_full
