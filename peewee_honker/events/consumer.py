"""A named reader of durable streams: its place, who of several processes reads, and what happens when a receiver fails."""

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peewee_honker.driver import Engine
from peewee_honker.events.dead_letter import DeadLetter
from peewee_honker.events.event import Event, gap_event
from peewee_honker.events.listener import Interrupted, is_coroutine_function, name_of, running_loop
from peewee_honker.events.metrics import Recorder, SilentRecorder
from peewee_honker.events.store import Store, store_of
from peewee_honker.events.stream import Position, check_position
from peewee_honker.events.tracing import within_trace
from peewee_honker.signals import is_in_transaction

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["Consumer", "Receiver"]

logger = logging.getLogger("peewee_honker.consumer")

Receiver = Callable[[Event], object]
_Failure = tuple[Receiver, Exception]

_PAGE = 300  # events that are read at once; with more the garbage collector finds more to look at
_LEASE = 6  # seconds that a lease outlives its holder
_RENEW = 2.0  # seconds between two renewals
_ASK = 1.0  # seconds between two looks for a free lease
_LONGEST_BACKOFF = 60.0
_SAVE_WHEN_IDLE = 0.1  # seconds that a place may be unsaved when nothing comes any more
_SAVE_WHEN_BUSY = 1.0
_MOST_LOSSES = 10  # of the connection under one event; more are counted as its receiver's failures
_PAUSE = 1.0  # after a loop has ended under a receiver


class _LeaseLostError(Exception):
    """Another process has become the consumer; what was being done for it is rolled back."""


class _MovedError(Exception):
    """Somebody has put the consumer elsewhere; what was being done is rolled back."""


@dataclass(slots=True)
class _Place:
    """How far a consumer has come in a stream, and what it is stuck on."""

    receivers: Callable[[Event], Sequence[Receiver]]
    missed: Callable[[Event], None]
    found: bool = False  # whether the offset was looked up
    leaving: bool = False
    offset: int = 0
    saved: int = 0
    left: Sequence[Receiver] | None = None  # receivers of the next event that have not succeeded yet
    attempts: int = 0
    losses: int = 0  # of the connection, while the next event's receivers ran
    not_before: float = 0.0
    given_up: dict[str, Exception] = field(default_factory=dict)  # by name, receivers that have failed as often as they may


class Consumer:
    """Delivers the events of durable streams to receivers, for one consumer name.

    Arguments:
        database: a HonkerDatabase, or the store of another database.
        name: by which it finds its place again after a restart.
        start_at: where a consumer of a new name begins in a stream: `now`, at the `beginning`, behind an offset, or at a
            time.
        attempts, backoff: how often a receiver is called with an event, and the first pause in seconds between two calls,
            which doubles; up to half of a pause is left out at random.

    Guarantee: every event behind the consumer's offset is given to each receiver, in order within its stream, at least once;
    the offset is saved after the receivers have succeeded: when idle, within a second when busy, and at the end. Receivers
    marked with `in_transaction` run in one transaction with the saving of the offset, so that what they write to this
    database takes effect exactly once. Reading takes no lock.

    Of several processes with one name one is active, which holds a Honker lock; it is followed within seconds of its death.
    A receiver that raises is called again with growing pauses, and the stream waits; after `attempts` times the event
    becomes a dead letter, and the stream goes on. Transactional receivers that share an event share its transaction: when
    one is given up, the others are called without it. Receivers are called in the dispatcher's thread.
    """

    def __init__(
        self,
        database: "HonkerDatabase | Store",
        name: str,
        *,
        start_at: Position = "now",
        attempts: int = 5,
        backoff: float = 0.2,
        recorder: Recorder | None = None,
    ) -> None:
        if not name:
            raise ValueError("a durable consumer needs a name, by which it finds its place again after a restart")
        if attempts < 1:
            raise ValueError(f"a receiver is called once at least, not {attempts} times")
        check_position(start_at)
        self.name = name
        self._store = store_of(database)
        self._start_at: Position = start_at
        self._attempts = attempts
        self._backoff = backoff
        self._recorder: Recorder = recorder or SilentRecorder()
        self._is_silent = type(self._recorder) is SilentRecorder
        self._changing = threading.Lock()
        self._places: dict[str, _Place] = {}
        self._owner, self._process = uuid.uuid4().hex, os.getpid()
        self._active = False
        self._next_lease = 0.0
        self._unsaved_since: float | None = None
        self._has_more = False  # a stream had a full page

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} of {', '.join(self._places) or 'no streams'}>"

    def listen(
        self, stream: str, receivers: Callable[[Event], Sequence[Receiver]], missed: Callable[[Event], None] | None = None
    ) -> None:
        """Read a stream; a new consumer gets its place in it before this returns.

        Arguments:
            receivers: gives who is to be called with an event.
            missed: called with a gap event when events were deleted before this consumer has had them.

        Raises ValueError when the stream is read already.
        """
        with self._changing:
            if self._process != os.getpid():  # the child of a fork: the lease, and the thread, stayed with the parent
                self._owner, self._process = uuid.uuid4().hex, os.getpid()
                self._active, self._next_lease, self._unsaved_since, self._places = False, 0.0, None, {}
            known = self._places.get(stream)
            if known is not None and not known.leaving:
                raise ValueError(f"consumer {self.name} reads the stream {stream!r} already")
            self._store.make_place(self.name, stream, self._start_at)
            is_idle = all(place.leaving for place in self._places.values())
            if known is None:
                self._places = {**self._places, stream: _Place(receivers, missed or _ignore)}
            else:  # as when who has left could not wait for the end of it: goes on where it is
                known.receivers, known.missed, known.left, known.leaving = receivers, missed or _ignore, None, False
            if is_idle:  # before another thread can leave
                self._store.dispatcher.add_source(self)
        if not is_idle:
            self._store.dispatcher.wake()

    def leave(self, stream: str) -> None:
        """Read a stream no more; returns when the place in it is saved (see `Dispatcher.settle`)."""
        self.begin_to_leave(stream)()

    def begin_to_leave(self, stream: str) -> Callable[[], None]:
        """As `leave`, but the waiting is left to what this gives: for whoever holds a lock that a receiver may want."""
        dispatcher = self._store.dispatcher
        with self._changing:
            place = self._places.get(stream)
            if place is None:
                return dispatcher.settle
            place.leaving = True
            if all(other.leaving for other in self._places.values()):
                return dispatcher.begin_to_remove(self)
        return dispatcher.flush

    def poll(self) -> bool:
        """Deliver what is due; whether there may be more at once."""
        if not self._keep_lease():
            return False
        found = self._has_more = False
        try:
            for stream, place in self._places.items():
                try:
                    found = self._read(stream, place) or found
                except _MovedError:
                    logger.info("consumer %s was moved in the stream %s", self.name, stream)
                    place.found = False
            self._save_if_due(found)
            if any(place.leaving for place in self._places.values()):
                self._save_all()
                with self._changing:
                    self._places = {stream: place for stream, place in self._places.items() if not place.leaving}
        except _LeaseLostError:
            self._lost()
        return self._has_more

    def due_in(self) -> float | None:
        """Seconds until there is something to do though no event has come; None when that is not known to be soon."""
        due = [place.not_before for place in self._places.values() if place.left is not None]
        if self._unsaved_since is not None:
            due.append(self._unsaved_since + _SAVE_WHEN_IDLE)
        due.append(self._next_lease)
        return max(0.0, min(due) - time.monotonic())

    def stop(self) -> None:
        """Save the offsets and let another process follow."""
        try:
            if self._active:
                self._save_all()
                self._store.stop_leading(self.name, self._owner)
        except _LeaseLostError:
            logger.info("consumer %s had been taken over before it stopped", self.name)
        finally:  # also where the server is away: a consumer that is used again begins anew
            self._active = False
            self._next_lease = 0.0
            with self._changing:
                self._places = {stream: place for stream, place in self._places.items() if not place.leaving}
            self._store.close_thread()

    def moved(self, engine: Engine) -> None:
        """Go on with another file that has taken the place of the first."""
        self._store.moved(engine)
        self._active, self._next_lease, self._unsaved_since = False, 0.0, None
        for stream, place in self._places.items():
            self._store.make_place(self.name, stream, self._start_at)
            place.found = False
            place.missed(gap_event(stream, place.offset, None, "the file was replaced"))

    def replay(self, letter: DeadLetter) -> None:
        """Give a dead letter to the receiver that failed on it again, and delete it; raises what that raises.

        Raises LookupError when there is no such receiver any more.
        """
        place = self._places.get(letter.stream)
        if place is None:
            raise ValueError(f"consumer {self.name} does not read the stream {letter.stream!r}")
        replay(self._store, letter, place.receivers)

    # The lease

    def _keep_lease(self) -> bool:
        now = time.monotonic()
        if now < self._next_lease:
            return self._active
        if self._active:
            if self._store.keep_leading(self.name, self._owner, _LEASE):
                self._look_whether_moved()
            else:
                self._lost()
        elif self._store.lead(self.name, self._owner, _LEASE):
            self._active = True
            self._unsaved_since = None
            for place in self._places.values():
                place.found = False
            logger.info("consumer %s is active in this process", self.name)
        self._next_lease = now + (_RENEW if self._active else _ASK)
        return self._active

    def _lost(self) -> None:
        logger.warning("consumer %s was taken over by another process", self.name)
        self._active = False

    def _look_whether_moved(self) -> None:
        """Find out that somebody has put the consumer elsewhere, or forgotten it; and tell of its lag."""
        for stream, place in self._places.items():
            if self._store.place(self.name, stream) != place.saved:
                place.found = False
            elif place.found:
                self._look_for_gap(stream, place)
            if not self._is_silent:
                self._recorder.lag(self.name, stream, self._store.lag(stream, place.offset))

    def _find_place(self, stream: str, place: _Place) -> None:
        self._store.make_place(self.name, stream, self._start_at)
        place.offset = place.saved = self._store.place(self.name, stream) or 0
        place.left, place.attempts, place.not_before = None, 0, 0.0
        place.found = True

    # Delivery

    def _read(self, stream: str, place: _Place) -> bool:
        if not place.found:
            self._find_place(stream, place)
            self._look_for_gap(stream, place)
        if place.leaving or time.monotonic() < place.not_before:
            return False
        offsets, events = self._store.read_page(stream, place.offset, _PAGE)
        if offsets and offsets[0] != place.offset + 1:
            self._look_for_gap(stream, place)
        for offset, event in zip(offsets, events, strict=True):
            try:
                if not self._deliver(stream, place, offset, event):
                    break
            except Interrupted as interrupted:
                logger.info("event %s is left for later: %s", event.event_id, interrupted)
                place.attempts -= 1
                place.not_before = time.monotonic() + _PAUSE
                break
            if place.leaving:
                break
            if time.monotonic() >= self._next_lease and not self._keep_lease():
                raise _LeaseLostError
            if not place.found:
                break
        if place.offset != place.saved and self._unsaved_since is None:
            self._unsaved_since = time.monotonic()
        self._has_more = self._has_more or len(offsets) == _PAGE
        return bool(offsets)

    def _look_for_gap(self, stream: str, place: _Place) -> None:
        """Tell of events that retention has deleted before they were had."""
        pruned = self._store.pruned_offset(stream)
        if pruned <= place.offset:
            return
        logger.warning("consumer %s has missed events of %s up to %s: they were pruned", self.name, stream, pruned)
        place.missed(gap_event(stream, place.offset, pruned + 1, "pruned"))
        place.offset, place.left = pruned, None

    def _deliver(self, stream: str, place: _Place, offset: int, event: Event) -> bool:
        """Give one event to its receivers; False when it has to be tried again.

        The transactional ones come last and once the others are done with: with their work the offset is saved.
        """
        left = place.left
        if left is None:
            left = place.left = place.receivers(event)
            place.attempts = place.losses = 0
            if place.given_up:
                place.given_up = {}
        place.attempts += 1
        together: tuple[Receiver, ...] = ()  # as of most events: what is done here is done for each of a replay
        failed: tuple[_Failure, ...] = ()
        for receiver in left:
            if is_in_transaction(receiver):
                together += (receiver,)
                continue
            try:
                if self._is_silent:
                    receiver(event)
                else:
                    with self._recorder.delivering(event):
                        receiver(event)
            except Interrupted:
                raise
            except Exception as error:
                self._note_unless_lost(place, receiver, event, error)
                failed += ((receiver, error),)
        if failed or together or place.given_up:
            return self._go_on(stream, place, offset, event, failed, together)
        place.offset, place.left = offset, None
        return True

    def _go_on(
        self,
        stream: str,
        place: _Place,
        offset: int,
        event: Event,
        failed: tuple[_Failure, ...],
        together: tuple[Receiver, ...],
    ) -> bool:
        """Behind an event on which receivers have failed, or which transactional ones still have to be given; False when it
        has to be tried again.

        What the others have written in the transaction of one that fails is rolled back with it: when that one is given up,
        they are called without it.
        """
        if failed:
            if place.attempts < self._attempts:
                return self._wait(place, event, [*(receiver for receiver, _ in failed), *together])
            self._give_up(place, failed, together)
        while together:
            failure = self._succeed_together(stream, place, together, event, offset)
            if failure is None:
                break
            if place.attempts < self._attempts:
                return self._wait(place, event, together)
            together = tuple(receiver for receiver in together if receiver is not failure[0])
            self._give_up(place, [failure], together)
        else:
            self._conclude(stream, place, offset, event)
        place.offset, place.left = offset, None
        return True

    def _give_up(self, place: _Place, failures: Sequence[_Failure], left: Sequence[Receiver]) -> None:
        """Call those no more that have failed as often as they may; who is left has as many attempts of its own."""
        place.given_up.update((name_of(receiver), error) for receiver, error in failures)
        place.left = left
        place.attempts = 1

    def _wait(self, place: _Place, event: Event, left: Sequence[Receiver]) -> bool:
        place.left = left
        self._recorder.retried(event.type)
        pause = min(self._backoff * 2 ** (place.attempts - 1), _LONGEST_BACKOFF)
        place.not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
        return False

    def _succeed_together(
        self, stream: str, place: _Place, receivers: Sequence[Receiver], event: Event, offset: int
    ) -> _Failure | None:
        """Run the transactional receivers and save the offset, with the dead letters of the others, in one transaction.
        Gives the one that has failed."""
        current = receivers[0]
        try:
            with self._store.atomic():
                self._check_lease()
                for current in receivers:
                    with self._recorder.delivering(event):
                        current(event)
                self._bury(stream, place.given_up, event)
                self._save_at(stream, place, offset)
        except (_LeaseLostError, _MovedError, Interrupted):
            raise
        except Exception as error:
            self._note_unless_lost(place, current, event, error)
            return current, error
        place.saved = offset
        self._tell_of_dead(event, place.given_up)
        return None

    def _conclude(self, stream: str, place: _Place, offset: int, event: Event) -> None:
        """Leave an event behind as a dead letter of each receiver that was given up."""
        with self._store.atomic():
            self._check_lease()
            self._bury(stream, place.given_up, event)
            self._save_at(stream, place, offset)
        place.saved = offset
        self._tell_of_dead(event, place.given_up)

    def _bury(self, stream: str, given_up: dict[str, Exception], event: Event) -> None:
        for name, error in given_up.items():
            self._store.bury(self.name, stream, event, name, error, self._attempts)

    def _tell_of_dead(self, event: Event, given_up: Iterable[str]) -> None:
        for name in given_up:
            self._recorder.dead(event.type)
            logger.error("event %s is a dead letter of consumer %s for %s", event.event_id, self.name, name)

    def _note_unless_lost(self, place: _Place, receiver: Receiver, event: Event, error: Exception) -> None:
        """Count a receiver's failure; one that came with the loss of the connection is none of its own."""
        if self._store.has_lost_connection() and place.losses < _MOST_LOSSES:
            place.losses += 1
            raise Interrupted(f"the connection was lost: {error}") from error
        self._recorder.failed(event.type)
        logger.error(
            "receiver %s of consumer %s failed on event %s, attempt %s of %s",
            name_of(receiver),
            self.name,
            event.event_id,
            place.attempts,
            self._attempts,
            exc_info=error,
        )

    # Offsets

    def _save_if_due(self, busy: bool) -> None:
        if self._unsaved_since is None:
            return
        if time.monotonic() - self._unsaved_since >= (_SAVE_WHEN_BUSY if busy else _SAVE_WHEN_IDLE):
            self._save_all()

    def _save_all(self) -> None:
        """Save the places of all streams, in one transaction."""
        self._unsaved_since = None
        unsaved = {stream: place for stream, place in self._places.items() if place.found and place.saved != place.offset}
        if not unsaved:
            return
        try:
            with self._store.atomic():
                self._check_lease()
                for stream, place in unsaved.items():
                    self._save_at(stream, place, place.offset)
        except _MovedError:
            logger.info("consumer %s was moved", self.name)
            for place in unsaved.values():
                place.found = False
        else:
            for place in unsaved.values():
                place.saved = place.offset

    def _save_at(self, stream: str, place: _Place, offset: int) -> None:
        if not self._store.save_place(self.name, stream, place.saved, offset):
            raise _MovedError

    def _check_lease(self) -> None:
        """In a transaction: nobody can take the lease over before its end, so a holder's work is one holder's alone."""
        if not self._store.is_leader(self.name, self._owner):
            raise _LeaseLostError


def _ignore(_gap: Event) -> None:
    """Nobody asked to be told of gaps."""


def replay(database: "HonkerDatabase | Store", letter: DeadLetter, receivers: Callable[[Event], Sequence[Receiver]]) -> None:
    """Give a dead letter to the receiver that failed on it, and delete it.

    For receivers marked with `in_transaction` that is one transaction; others are called outside of one, and the letter is
    deleted after they have succeeded. Raises LookupError when there is no such receiver or no such letter any more, and what
    the receiver raises; the letter stays then.
    """
    again = [receiver for receiver in receivers(letter.event) if name_of(receiver) == letter.receiver]
    if not again:
        raise LookupError(f"no receiver {letter.receiver} hears {letter.event.topic} any more: drop the dead letter")
    store = store_of(database)
    if not any(known.id == letter.id for known in store.dead_letters(letter.consumer)):
        raise LookupError(f"the dead letter {letter.id} is gone: it was replayed or dropped")
    if running_loop() is not None and any(is_coroutine_function(receiver) for receiver in again):
        raise RuntimeError(
            "an async receiver cannot be waited for in its loop's thread: await asyncio.to_thread(bus.replay, letter)"
        )
    with within_trace(letter.event):
        if any(is_in_transaction(receiver) for receiver in again):
            with store.atomic():
                if not store.forget(letter):
                    raise LookupError(f"the dead letter {letter.id} is gone: it was replayed or dropped")
                for receiver in again:
                    receiver(letter.event)
            return
        for receiver in again:
            receiver(letter.event)
        store.forget(letter)
