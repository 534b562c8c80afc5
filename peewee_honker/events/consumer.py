"""A named reader of durable streams: its place, who of several processes reads, and what happens when a receiver fails."""

import logging
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from peewee_honker.events.dead_letter import DeadLetter, bury, forget, make_table
from peewee_honker.events.event import Event
from peewee_honker.events.stream import newest_offset, read_stream
from peewee_honker.signals import is_in_transaction

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["Consumer", "Receiver", "StartAt"]

logger = logging.getLogger("peewee_honker.consumer")

Receiver = Callable[..., object]  # called as receiver(event=event)
StartAt = Literal["now", "beginning"]

_PAGE = 200  # events read, and at most delivered before the offset is saved
_LEASE = 6  # seconds that a lease outlives its holder
_RENEW = 2.0  # seconds between two renewals
_ASK = 1.0  # seconds between two looks for a free lease
_LONGEST_BACKOFF = 60.0

_HOLDER = "SELECT owner FROM _honker_locks WHERE name = ? AND expires_at > unixepoch()"
_OFFSET = "SELECT offset FROM _honker_stream_consumers WHERE name = ? AND topic = ?"
_BEGIN_AT = "INSERT OR IGNORE INTO _honker_stream_consumers (name, topic, offset) VALUES (?, ?, ?)"
_SAVE = "UPDATE _honker_stream_consumers SET offset = ? WHERE name = ? AND topic = ? AND offset < ?"


class _LeaseLostError(Exception):
    """Another process has become the consumer; what was being done for it is rolled back."""


@dataclass(slots=True)
class _Place:
    """How far a consumer has come in a stream, and what it is stuck on."""

    receivers: Callable[[Event], list[Receiver]]
    offset: int = 0
    saved: int = 0
    left: list[Receiver] | None = None  # receivers of the next event that have not succeeded yet
    attempts: int = 0
    not_before: float = 0.0
    failures: dict[str, Exception] = field(default_factory=dict)


class Consumer:
    """Delivers the events of durable streams to receivers, for one consumer name. Belongs to the dispatcher's thread.

    Guarantee: every event behind the consumer's offset is given to each receiver, in order within its stream, at least once;
    the offset is saved after the receivers have succeeded. Receivers marked with `in_transaction` run in one transaction
    with the saving of the offset, so that what they write to this database takes effect exactly once.

    Of several processes with one name one is active, which holds a Honker lock; it is followed within seconds of its death.
    A receiver that raises is called again with growing pauses, and the stream waits; after `attempts` times the event
    becomes a dead letter, and the stream goes on.
    """

    def __init__(
        self, database: "HonkerDatabase", name: str, *, start_at: StartAt = "now", attempts: int = 5, backoff: float = 0.2
    ) -> None:
        if not name:
            raise ValueError("a durable consumer needs a name, by which it finds its place again after a restart")
        if start_at not in ("now", "beginning"):
            raise ValueError(f"a consumer starts at 'now' or at the 'beginning', not {start_at!r}")
        self.name = name
        self._database = database
        self._engine = database.engine
        self._start_at = start_at
        self._attempts = attempts
        self._backoff = backoff
        self._places: dict[str, _Place] = {}
        self._lock = f"peewee_honker.consumer.{name}"
        self._owner = uuid.uuid4().hex
        self._active = False
        self._next_lease = 0.0

    def listen(self, stream: str, receivers: Callable[[Event], list[Receiver]]) -> None:
        """Read a stream; `receivers` gives who is to be called with an event. Not while the dispatcher runs it."""
        self._places[stream] = _Place(receivers)

    def start(self) -> None:
        """Give a new consumer its place: what commits after this is delivered, or all from the beginning, as asked."""
        make_table(self._database)
        first = newest_offset(self._engine) if self._start_at == "now" else 0
        for stream in self._places:
            if not self._engine.read(_OFFSET, (self.name, stream), 5.0):
                self._database.write_beside(_BEGIN_AT, (self.name, stream, first))

    def poll(self) -> bool:
        """Deliver what is due; whether there was anything."""
        if not self._keep_lease():
            return False
        found = False
        try:
            for stream, place in self._places.items():
                found = self._read(stream, place) or found
        except _LeaseLostError:
            logger.warning("consumer %s was taken over by another process", self.name)
            self._active = False
        return found

    def stop(self) -> None:
        """Save the offsets and let another process follow."""
        if not self._active:
            return
        try:
            for stream, place in self._places.items():
                self._save(stream, place)
        except _LeaseLostError:
            logger.info("consumer %s had been taken over before it stopped", self.name)
        else:
            with self._engine.face.transaction() as transaction:
                transaction.query("SELECT honker_lock_release(?, ?)", (self._lock, self._owner))
        self._active = False
        if not self._database.is_closed():
            self._database.close()  # of the dispatcher's thread

    def replay(self, letter: DeadLetter) -> None:
        """Give a dead letter to the receiver that failed on it again, and delete it; raises what that raises."""
        place = self._places.get(letter.stream)
        if place is None:
            raise ValueError(f"consumer {self.name} does not read the stream {letter.stream!r}")
        with self._database.atomic():
            for receiver in place.receivers(letter.event):
                if _name_of(receiver) == letter.receiver:
                    receiver(event=letter.event)
            forget(self._database, letter)

    # The lease

    def _keep_lease(self) -> bool:
        now = time.monotonic()
        if now < self._next_lease:
            return self._active
        if self._active:
            if not self._ask("honker_lock_renew"):
                logger.warning("consumer %s was taken over by another process", self.name)
                self._active = False
        else:
            holders = self._engine.read(_HOLDER, (self._lock,), 5.0)
            if not holders and self._ask("honker_lock_acquire"):
                self._active = True
                self._find_places()
                logger.info("consumer %s is active in this process", self.name)
        self._next_lease = now + (_RENEW if self._active else _ASK)
        return self._active

    def _ask(self, function: str) -> bool:
        with self._engine.face.transaction() as transaction:
            rows = transaction.query(f"SELECT {function}(?, ?, ?) AS yes", (self._lock, self._owner, _LEASE))
        return bool(rows[0]["yes"])

    def _find_places(self) -> None:
        for stream, place in self._places.items():
            rows = self._engine.read(_OFFSET, (self.name, stream), 5.0)
            place.offset = place.saved = rows[0]["offset"] if rows else 0
            place.left, place.attempts, place.not_before, place.failures = None, 0, 0.0, {}

    # Delivery

    def _read(self, stream: str, place: _Place) -> bool:
        if time.monotonic() < place.not_before:
            return False
        events = read_stream(self._engine, stream, place.offset, _PAGE)
        for offset, event in events:
            if not self._deliver(stream, place, offset, event):
                break
            if time.monotonic() >= self._next_lease and not self._keep_lease():
                raise _LeaseLostError
        self._save(stream, place)
        return bool(events)

    def _deliver(self, stream: str, place: _Place, offset: int, event: Event) -> bool:
        """Give one event to its receivers; False when it has to be tried again.

        The transactional ones come last and once the others are done with: with their work the offset is saved.
        """
        if place.left is None:
            place.left, place.attempts, place.failures = place.receivers(event), 0, {}
        place.attempts += 1
        together = [receiver for receiver in place.left if is_in_transaction(receiver)]
        failed = [
            receiver
            for receiver in place.left
            if not is_in_transaction(receiver) and not self._succeeds(place, receiver, event)
        ]
        may_try_again = place.attempts < self._attempts
        if failed and may_try_again:
            return self._wait(place, failed + together)
        if together and not self._succeed_together(stream, place, together, event, offset):
            if may_try_again:
                return self._wait(place, together)
            self._conclude(stream, place, offset, event)
        elif failed and not together:
            self._conclude(stream, place, offset, event)
        place.offset, place.left = offset, None
        return True

    def _wait(self, place: _Place, left: list[Receiver]) -> bool:
        place.left = left
        pause = min(self._backoff * 2 ** (place.attempts - 1), _LONGEST_BACKOFF)
        place.not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
        return False

    def _succeeds(self, place: _Place, receiver: Receiver, event: Event) -> bool:
        try:
            receiver(event=event)
        except Exception as error:
            self._note(place, receiver, event, error)
            return False
        place.failures.pop(_name_of(receiver), None)
        return True

    def _succeed_together(self, stream: str, place: _Place, receivers: list[Receiver], event: Event, offset: int) -> bool:
        """Run the transactional receivers and save the offset, with the dead letters of the others, in one transaction."""
        current = receivers[0]
        given_up = dict(place.failures)
        for receiver in receivers:
            given_up.pop(_name_of(receiver), None)
        try:
            with self._database.atomic():
                self._check_lease()
                for current in receivers:
                    current(event=event)
                self._bury(stream, given_up, event, place.attempts)
                self._save_at(stream, offset)
        except _LeaseLostError:
            raise
        except Exception as error:
            self._note(place, current, event, error)
            return False
        place.saved = offset
        return True

    def _conclude(self, stream: str, place: _Place, offset: int, event: Event) -> None:
        """Leave an event behind as a dead letter of each receiver that has failed on it."""
        with self._database.atomic():
            self._check_lease()
            self._bury(stream, place.failures, event, place.attempts)
            self._save_at(stream, offset)
        place.saved = offset

    def _bury(self, stream: str, failures: dict[str, Exception], event: Event, attempts: int) -> None:
        for name, error in failures.items():
            bury(self._database, self.name, stream, event, name, error, attempts)
            logger.error("event %s is a dead letter of consumer %s for %s", event.event_id, self.name, name)

    def _note(self, place: _Place, receiver: Receiver, event: Event, error: Exception) -> None:
        place.failures[_name_of(receiver)] = error
        logger.error(
            "receiver %s of consumer %s failed on event %s, attempt %s of %s",
            _name_of(receiver),
            self.name,
            event.event_id,
            place.attempts,
            self._attempts,
            exc_info=error,
        )

    # Offsets

    def _save(self, stream: str, place: _Place) -> None:
        if place.saved == place.offset:
            return
        with self._database.atomic():
            self._check_lease()
            self._save_at(stream, place.offset)
        place.saved = place.offset

    def _save_at(self, stream: str, offset: int) -> None:
        self._database.write_beside(_SAVE, (offset, self.name, stream, offset))

    def _check_lease(self) -> None:
        """In a transaction: nobody can take the lease over before its end, so a holder's work is one holder's alone."""
        transaction = self._database.honker_transaction
        holders = transaction.query(_HOLDER, (self._lock,)) if transaction is not None else []
        if [holder["owner"] for holder in holders] != [self._owner]:
            raise _LeaseLostError


def _name_of(receiver: Receiver) -> str:
    called = getattr(receiver, "func", receiver)  # a partial's function
    return f"{getattr(called, '__module__', '')}.{getattr(called, '__qualname__', repr(called))}"
