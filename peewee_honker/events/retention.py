"""Deleting what nobody needs any more: notifications by age, events of streams by age, number, and consumers."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peewee_honker.driver import Engine
from peewee_honker.events.stream import PRUNED_TABLE

if TYPE_CHECKING:
    from peewee_honker.events.store import Store

__all__ = ["BATCH", "EPHEMERAL_SECONDS", "Pruner", "Retention", "prunable", "prune_notifications", "prune_stream"]

EPHEMERAL_SECONDS = 600.0
"""How long a notification is kept for those who are late, unless said otherwise."""

BATCH = 500  # rows that one transaction deletes
_EVERY = 60.0  # seconds between two rounds

_PRUNE_NOTIFICATIONS = (
    "DELETE FROM _honker_notifications WHERE id IN "
    "(SELECT id FROM _honker_notifications WHERE created_at < unixepoch() - ? ORDER BY id LIMIT ?)"
)
# The offset before the first event that is young enough: where a clock has jumped, too much is kept rather than too little.
_OLD = """SELECT coalesce(
    (SELECT offset - 1 FROM _honker_stream WHERE topic = ?1 AND created_at >= unixepoch() - ?2 ORDER BY offset LIMIT 1),
    (SELECT max(offset) FROM _honker_stream WHERE topic = ?1)) AS upto"""
_TOO_MANY = "SELECT offset AS upto FROM _honker_stream WHERE topic = ? ORDER BY offset DESC LIMIT 1 OFFSET ?"
_PASSED = "SELECT min(offset) AS upto FROM _honker_stream_consumers WHERE topic = ?"
_BATCH_END = (
    "SELECT max(offset) AS upto FROM "
    "(SELECT offset FROM _honker_stream WHERE topic = ? AND offset <= ? ORDER BY offset LIMIT ?)"
)
_PRUNABLE = "SELECT count(*) AS n FROM _honker_stream WHERE topic = ? AND offset <= ?"
_DELETE = "DELETE FROM _honker_stream WHERE topic = ? AND offset <= ?"
_NOTE = (
    "INSERT INTO _honker_peewee_pruned (stream, offset) VALUES (?, ?) "
    "ON CONFLICT (stream) DO UPDATE SET offset = max(offset, excluded.offset)"
)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a stream keeps its events.

    - `age`: seconds, after which an event may go; None for ever.
    - `count`: how many of the newest events are kept; None for all.
    - `consumed`: never delete what a known consumer has not passed. With neither age nor count, events go as soon as all
      consumers have passed them (with no consumer, none go).

    The default keeps a week, and longer what some consumer still needs. A consumer that needs what was deleted gets a gap
    event.
    """

    age: float | None = 7 * 24 * 3600.0
    count: int | None = None
    consumed: bool = True

    def __post_init__(self) -> None:
        if (self.age is not None and self.age < 0) or (self.count is not None and self.count < 0):
            raise ValueError(f"an age and a count are not negative: {self}")


def prune_notifications(engine: Engine, older_than: float, batch: int = BATCH) -> int:
    """Delete notifications older than so many seconds, `batch` at most, in one transaction. Gives how many."""
    with engine.face.transaction() as transaction:
        transaction.execute(_PRUNE_NOTIFICATIONS, (int(older_than), batch))
        return int(transaction.query("SELECT changes() AS n")[0]["n"])


def prune_stream(engine: Engine, stream: str, retention: Retention, batch: int = BATCH) -> int:
    """Delete what a stream need not keep, `batch` events at most, in one transaction. Gives how many."""
    upto = _limit(engine, stream, retention)
    end = engine.read(_BATCH_END, (stream, upto, batch), 5.0)[0]["upto"] if upto else None
    if end is None:
        return 0
    with engine.face.transaction() as transaction:
        if retention.consumed:  # one may have come or been put back in the meantime
            passed = transaction.query(_PASSED, (stream,))[0]["upto"]
            end = end if passed is None else min(end, passed)
        transaction.execute(PRUNED_TABLE)
        transaction.execute(_DELETE, (stream, end))
        deleted = int(transaction.query("SELECT changes() AS n")[0]["n"])
        if deleted:
            transaction.execute(_NOTE, (stream, end))
        return deleted


def prunable(engine: Engine, stream: str, retention: Retention) -> int:
    """How many events `prune_stream` would delete now, batch after batch. Takes no lock."""
    return int(engine.read(_PRUNABLE, (stream, _limit(engine, stream, retention)), 5.0)[0]["n"])


def _limit(engine: Engine, stream: str, retention: Retention) -> int:
    """The last offset that may be deleted, or 0."""
    limits = []
    if retention.age is not None:
        limits.append(engine.read(_OLD, (stream, int(retention.age)), 5.0)[0]["upto"] or 0)
    if retention.count is not None:
        limits += [row["upto"] for row in engine.read(_TOO_MANY, (stream, retention.count), 5.0)]
    upto = max(limits, default=0)
    if retention.consumed:
        passed = engine.read(_PASSED, (stream,), 5.0)[0]["upto"]
        if retention.age is None and retention.count is None:
            return passed or 0
        if passed is not None:
            upto = min(upto, passed)
    return upto


class Pruner:
    """Keeps notifications and streams within their bounds; a source of the dispatcher. One batch at a time, so that events
    are delivered in between."""

    def __init__(self, store: "Store", ephemeral_seconds: float, streams: Callable[[], Mapping[str, Retention]]) -> None:
        self._store = store
        self._ephemeral_seconds = ephemeral_seconds
        self._streams = streams
        self._next = time.monotonic() + min(_EVERY, max(1.0, ephemeral_seconds / 2))

    def poll(self) -> bool:
        """Delete a batch, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return False
        deleted = self._store.prune_notifications(self._ephemeral_seconds)
        for stream, retention in self._streams().items():
            deleted = self._store.prune_stream(stream, retention) or deleted
        self._next = now if deleted else now + _EVERY
        return False  # nothing to hurry for

    def moved(self, engine: Engine) -> None:
        """Go on with another file."""
        self._store.moved(engine)

    def due_in(self) -> float:
        """Seconds until the next round."""
        return max(0.0, self._next - time.monotonic())

    def stop(self) -> None:
        """Nothing to undo."""
