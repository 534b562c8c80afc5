"""`Relay`: a durable stream forwarded to another engine, in order, from where it stopped."""

import logging
import random
import threading
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from peewee_honker.driver import Engine
from peewee_honker.errors import PayloadError, TopicError
from peewee_honker.events import Event, EventTarget
from peewee_honker.events.metrics import Recorder, SilentRecorder
from peewee_honker.events.store import Store, store_of
from peewee_honker.events.stream import Position, check_position
from peewee_honker.events.target import Forwarded

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["Relay"]

logger = logging.getLogger("peewee_honker.relay")

_LEASE = 6  # seconds that a lease outlives its holder
_RENEW = 2.0  # seconds between two renewals
_LOOK = 0.5  # seconds between two looks into the stream when nothing says that there is something
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds between two attempts to reach the target


class Relay:
    """Forwards the events of a durable stream to a target, in a thread of its own.

        with Relay(db, "orders", RedisTarget("redis://localhost", "durable", stream="orders")):
            ...

    Arguments:
        database: a HonkerDatabase, or the store of another database.
        stream: the stream's name.
        target: where its events go: a durable target of another engine, of another file, or of a hub.
        name: the consumer's name, by which it finds its place again; by default `relay:` and the stream's name. Relays of
            one stream to several targets need names of their own.
        start_at: where a relay of a new name begins, see `Position`.
        batch: how many events are sent at a time.
        recorder: is told of the lag every few seconds.

    Guarantee: every event behind the relay's place is forwarded, in order, at least once, with its `event_id`, time and
    origin. Where the target remembers what a relay has forwarded (see `EventTarget.forward`: files, PostgreSQL, Redis,
    NATS and hubs do), each event is there once, through a crash of either side. While the target is away events wait in
    the stream: it goes on with growing pauses, and catches up. Of several processes that run a relay of one name one is
    active, and is followed within seconds of its death.

    An event that the target refuses for what it is (PayloadError, TopicError) becomes a dead letter under the relay's name,
    and the relay goes on. Events that retention has deleted before they were forwarded are logged and counted in `missed`:
    `Retention(consumed=True)` waits for a relay as for every consumer.
    """

    def __init__(
        self,
        database: "HonkerDatabase | Store",
        stream: str,
        target: EventTarget,
        *,
        name: str | None = None,
        start_at: Position = "beginning",
        batch: int = 500,
        recorder: Recorder | None = None,
    ) -> None:
        check_position(start_at)
        if batch < 1:
            raise ValueError(f"a relay forwards one event at a time at least, not {batch}")
        self.stream = stream
        self.target = target
        self.name = name or f"relay:{stream}"
        self._store = store_of(database)
        self._start_at: Position = start_at
        self._batch = batch
        self._recorder: Recorder = recorder or SilentRecorder()
        self._owner = uuid.uuid4().hex
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._retrying = threading.Event()
        self._moved_to: Engine | None = None
        self._active = False
        self._next_lease = 0.0
        self._offset: int | None = None  # None: is to be looked up
        self._saved = 0
        self._passed = 0  # how far it had come when it looked up its place: the target may be behind that
        self._at_target: Forwarded | None = None
        self.error: Exception | None = None
        """Why events wait, while the target is away; None when all is well."""
        self.missed = 0
        """How many offsets were deleted before they were forwarded, since the start."""

    def __repr__(self) -> str:
        return f"<Relay {self.name!r} of the stream {self.stream!r} to {type(self.target).__name__}>"

    @property
    def is_active(self) -> bool:
        """Whether it is this process that forwards."""
        return self._active

    @property
    def lag(self) -> int:
        """How many events of the stream wait to be forwarded, by what is saved."""
        return self._store.lag(self.stream, self._store.place(self.name, self.stream) or 0)

    def start(self) -> None:
        """Begin to forward. The target need not be there yet."""
        if self._thread is not None:
            raise RuntimeError(f"{self!r} runs already")
        self._store.make_place(self.name, self.stream, self._start_at)
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="peewee-honker-relay", daemon=True)
        self._thread.start()
        self._store.dispatcher.add_source(self)

    def close(self) -> None:
        """End after the batch that is being sent; its place is saved."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        self._woken.set()
        self._retrying.set()
        self._store.dispatcher.remove_source(self)
        thread.join()

    def retry(self) -> None:
        """Try again now, if it waits for a target that was away."""
        self._retrying.set()

    def catch_up(self, timeout: float) -> bool:
        """Wait until everything was forwarded that is in the stream now; False when that takes longer than so many
        seconds, or the relay is closed before."""
        goal = self._store.offset_of(self.stream, "now")
        deadline = time.monotonic() + timeout
        while True:
            is_over = self._stopping.is_set() or time.monotonic() >= deadline
            place = self._store.place(self.name, self.stream) or 0
            if place >= goal or not self._store.lag(self.stream, place):
                return True
            if is_over:
                return False
            self._woken.set()
            self._stopping.wait(0.02)

    def __enter__(self) -> "Relay":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # A source of the dispatcher, which tells when there may be something new

    def poll(self) -> bool:
        """Wake the relay's thread."""
        self._woken.set()
        return False

    def due_in(self) -> float | None:
        """Nothing is due in the dispatcher's thread."""
        return None

    def moved(self, engine: Engine) -> None:
        """Go on with another file that has taken the place of the first."""
        self._moved_to = engine
        self._woken.set()

    def stop(self) -> None:
        """Nothing to undo in the dispatcher's thread; to end a relay, `close` it."""

    # The thread

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            try:
                busy = self._turn()
            except Exception as error:  # of a server that is away, whatever its client raises
                pause = self._pause(error, pause)
                continue
            if self.error is not None:
                logger.info("%r goes on", self)
                self.error = None
            pause = 0.0
            if not busy:
                self._woken.wait(_LOOK)
                self._woken.clear()
        self._leave()

    def _pause(self, error: Exception, last: float) -> float:
        pause = min(last * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
        if self.error is None or type(self.error) is not type(error):
            logger.warning("%r waits: %s: %s", self, type(error).__name__, error)
        self.error = error
        self._offset = None  # what was sent is not known
        self._close_connections()  # which may be broken
        if self._retrying.wait(pause * random.uniform(0.5, 1.0)):
            self._retrying.clear()
            return 0.0
        return pause

    def _turn(self) -> bool:
        """Forward a batch; whether there may be more."""
        if self._moved_to is not None:
            self._store.moved(self._moved_to)
            self._moved_to, self._active, self._offset, self._next_lease = None, False, None, 0.0
        if not self._keep_lease():
            return False
        if self._offset is None:
            self._find_place()
        assert self._offset is not None  # noqa: S101 # it was found
        offsets, events = self._store.read_page(self.stream, self._offset, self._batch)
        if offsets and offsets[0] != self._offset + 1:
            self._look_for_gap()
        if offsets:
            self._forward([event for event in events if (event.offset or 0) > self._offset])
            self._offset = offsets[-1]
        if self._offset != self._saved:
            self._save_place()
        return len(offsets) == self._batch

    def _forward(self, events: Sequence[Event]) -> None:
        try:
            self.target.forward(self.name, events, self._at_target)
        except (PayloadError, TopicError) as error:
            if len(events) > 1:  # find the one
                for event in events:
                    self._forward([event])
                return
            self._bury(events[0], error)
            return
        if events:
            self._at_target = Forwarded(events[-1].offset or 0, events[-1].event_id)

    def _bury(self, event: Event, error: Exception) -> None:
        if (event.offset or 0) <= self._passed and self._is_dead(event):
            return
        with self._store.atomic():
            self._store.bury(self.name, self.stream, event, "relay", error, 1)
        self._recorder.dead(event.type)
        logger.error("event %s is a dead letter of %r: %s", event.event_id, self, error)

    def _is_dead(self, event: Event) -> bool:
        """Whether it is a dead letter already: the target does not know of one, so that what follows its last event comes
        again."""
        return any(letter.event.event_id == event.event_id for letter in self._store.dead_letters(self.name))

    # Its place

    def _find_place(self) -> None:
        """Where to go on: behind what the target has, if it knows, else behind what was saved here."""
        self._store.make_place(self.name, self.stream, self._start_at)
        self._offset = self._saved = self._passed = self._store.place(self.name, self.stream) or 0
        self._at_target = self.target.forwarded(self.name)
        if self._at_target is not None and self._is_of_this_stream(self._at_target):
            self._offset = self._at_target.offset
        self._look_for_gap()

    def _is_of_this_stream(self, forwarded: Forwarded) -> bool:
        """Whether what the target has last is what this stream has there. It is not when the file is another one, or one
        that was restored from a backup: its offsets were given to other events then."""
        offsets, events = self._store.read_page(self.stream, forwarded.offset - 1, 1)
        if offsets == [forwarded.offset]:
            is_same = next(iter(events)).event_id == forwarded.event_id
        else:  # deleted by retention, or never there
            is_same = forwarded.offset <= self._store.pruned_offset(self.stream)
        if not is_same:
            logger.warning("%r was of another file: going on behind the place that is saved in this one", self)
        return is_same

    def _look_for_gap(self) -> None:
        pruned = self._store.pruned_offset(self.stream)
        if self._offset is not None and pruned > self._offset:
            self.missed += pruned - self._offset
            logger.error("%r has missed events up to %s: they were pruned before they were forwarded", self, pruned)
            self._offset = pruned

    def _save_place(self) -> None:
        assert self._offset is not None  # noqa: S101 # something was forwarded
        with self._store.atomic():
            is_mine = self._store.is_leader(self.name, self._owner)
            is_saved = is_mine and self._store.save_place(self.name, self.stream, self._saved, self._offset)
        if is_saved:
            self._saved = self._offset
            return
        self._offset, self._active = None, is_mine  # was moved by somebody, or taken over
        logger.info("%r was %s", self, "moved" if is_mine else "taken over by another process")

    # The lease

    def _keep_lease(self) -> bool:
        now = time.monotonic()
        if now < self._next_lease:
            return self._active
        self._next_lease = now + _RENEW
        if self._active:
            self._active = self._store.keep_leading(self.name, self._owner, _LEASE)
            if self._active:
                self._recorder.lag(self.name, self.stream, self._store.lag(self.stream, self._offset or self._saved))
        elif self._store.lead(self.name, self._owner, _LEASE):
            self._active, self._offset = True, None
            logger.info("%r is active in this process", self)
        return self._active

    def _leave(self) -> None:
        try:
            if self._active:
                self._store.stop_leading(self.name, self._owner)
        except Exception:
            logger.exception("%r could not give its lease back: it ends by itself", self)
        self._close_connections()
        self._active, self._offset, self._next_lease = False, None, 0.0

    def _close_connections(self) -> None:
        """Close what this thread holds of both sides; what it uses next is made anew."""
        for side in (self._store, self.target):
            try:
                side.close_thread()
            except Exception as error:  # of a connection that is broken, whatever its client raises
                logger.debug("a connection of %r could not be closed in good order: %s", self, error)
