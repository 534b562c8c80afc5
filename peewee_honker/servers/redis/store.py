"""The store of a Redis server, see `peewee_honker.events.store`: streams, places, leases and dead letters as its keys."""

import dataclasses
import datetime
import json
import logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from peewee_honker.driver import Engine
from peewee_honker.errors import ForwardConflictError, HonkerError
from peewee_honker.events.dead_letter import DeadLetter, error_texts
from peewee_honker.events.event import Event
from peewee_honker.events.retention import Retention
from peewee_honker.events.stream import Position, check_position
from peewee_honker.events.target import Forwarded
from peewee_honker.servers.redis import scripts
from peewee_honker.servers.redis.dispatcher import RedisDispatcher
from peewee_honker.servers.redis.link import Link, RedisUnavailableError
from peewee_honker.servers.redis.offsets import BITS, id_of, offset_of
from peewee_honker.servers.redis.wires import events_of, read_page

if TYPE_CHECKING:
    import redis

__all__ = ["RedisStore"]

logger = logging.getLogger("peewee_honker.redis")

_COUNTED = 2000  # events of a lag that are counted; it is estimated beyond
_PRUNED_AT_ONCE = 100
_LINES = 100  # of a relay's events that are one text on their way; the server takes no text of 512 MB
_LONGEST_ID = 20  # characters; a longer one has a number that offsets will soon have no room for


class RedisStore:
    """Keeps events in Redis 7 or later, under keys that begin with a prefix.

    Arguments:
        where: a URL, or a `redis.Redis`, see `RedisTarget`.
        prefix: of all keys and channels; ends with `:`, so that none is the beginning of another.

    A consumer's place in a stream is the last id of a consumer group of its name. A "transaction" (`atomic`) is one step of
    the server at its end; what is read in it is checked again there.
    """

    def __init__(self, where: "str | redis.Redis", *, prefix: str = "peewee_honker:") -> None:
        if not prefix.endswith(":"):
            raise ValueError(f"a prefix ends with ':', so that none is the beginning of another, not {prefix!r}")
        self.prefix = prefix
        self.link = Link(where)
        self.database: Any = None  # there are no rows here
        self.dispatcher = RedisDispatcher(self)
        self._notes = f"{prefix}pruned"
        self._dead, self._last_dead = f"{prefix}dead", f"{prefix}dead:last"
        self._here = threading.local()
        self._known: dict[tuple[str, str], int] = {}  # places of consumers of this process

    # Events

    def notify(self, channel: str, text: str) -> None:
        self.link.call("PUBLISH", self.prefix + channel, text)

    def append(self, stream: str, key: str, text: str) -> None:
        name = self._stream(stream)
        id_ = self.link.call("XADD", name, "*", "event", text)
        if len(id_) > _LONGEST_ID:
            self._step_over(name, id_)

    def _step_over(self, name: str, id_: bytes) -> None:
        """Go on with the next millisecond, where the server's clock is behind for long."""
        try:
            self.link.call("XSETID", name, f"{int(id_.partition(b'-')[0]) + 1}-0")
        except ResponseError as error:  # another has been quicker
            logger.debug("the ids of %s have gone on: %s", name, error)

    def read_page(self, stream: str, after: int, most: int) -> tuple[list[int], Iterable[Event]]:
        name, pages = self._stream(stream), self.dispatcher.pages_here()
        if pages is None or not pages.is_free_for(name):
            offsets, events, pruned = read_page(self.link, name, self._notes, stream, after, most)
        else:
            page = pages.page(name, self._notes, stream, after)
            if not page.offsets:
                return [], ()
            offsets, events = events_of(self.link, page, name, self._notes, stream, after)
            pruned = page.pruned
        if offsets:
            self._here.pruned = stream, pruned
        return offsets, events

    def offset_of(self, stream: str, position: Position) -> int:
        check_position(position)
        if isinstance(position, int):
            return position
        if isinstance(position, datetime.datetime):
            return (int(position.timestamp() * 1000) << BITS) - 1
        last, gone = self._state(stream)
        return offset_of(gone if position == "beginning" else last)

    def pruned_offset(self, stream: str) -> int:
        known, self._here.pruned = getattr(self._here, "pruned", None), None
        if known is not None and known[0] == stream:  # what came with the page
            pruned: int = known[1]
            return pruned
        return offset_of(self._state(stream)[1])

    def prune_notifications(self, older_than: float) -> bool:
        return False  # messages are not kept

    def prune_stream(self, stream: str, retention: Retention) -> bool:
        if retention.age is None and retention.count is None and not retention.consumed:
            return False
        age = "" if retention.age is None else int(retention.age * 1000)
        count = "" if retention.count is None else retention.count
        keys, wanted = (self._stream(stream), self._notes), (age, count, int(retention.consumed), _PRUNED_AT_ONCE)
        return bool(self.link.run(scripts.PRUNE, keys, stream, *wanted) >= _PRUNED_AT_ONCE)

    # What relays have brought

    def forwarded(self, relay: str) -> Forwarded | None:
        text = self.link.call("HGET", f"{self.prefix}forwarded", relay)
        if text is None:
            return None
        offset, _, event_id = text.decode().partition(" ")
        return Forwarded(int(offset), event_id)

    def append_forwarded(
        self, stream: str, relay: str, rows: Sequence[tuple[str, str]], after: Forwarded | None, last: Forwarded
    ) -> None:
        texts = [text for _, text in rows]
        lines = ["\n".join(texts[at : at + _LINES]) for at in range(0, len(texts), _LINES)]
        expected = "" if after is None else f"{after.offset} {after.event_id}"
        keys = self._stream(stream), f"{self.prefix}forwarded"
        if not self.link.run(scripts.APPEND, keys, relay, expected, f"{last.offset} {last.event_id}", *lines):
            raise ForwardConflictError(f"the relay {relay} has brought other events to the stream {stream!r} meanwhile")

    # The places of consumers

    def place(self, consumer: str, stream: str) -> int | None:
        found = self.link.run(scripts.PLACE, (self._stream(stream),), consumer)
        if found is None:
            return None
        self._known[consumer, stream] = offset_of(found)
        return self._known[consumer, stream]

    def make_place(self, consumer: str, stream: str, start_at: Position) -> None:
        known = self._known.get((consumer, stream))
        if self.place(consumer, stream) is not None:
            return
        if known is None:
            self._make_group(consumer, stream, self.offset_of(stream, start_at))
            return
        # The server has forgotten it: go on behind it, and have a gap told of. Where the stream is still there, others may
        # have to read what is in it, and it was the consumer alone that somebody has forgotten.
        logger.error("the place of consumer %s in the stream %s is gone from %r", consumer, stream, self.link)
        self._make_group(consumer, stream, known)
        if not self.link.call("XRANGE", self._stream(stream), "-", id_of(known), "COUNT", 1):
            self.link.call("HSET", self._notes, stream, f"{id_of(known + 1)} 0")

    def _make_group(self, consumer: str, stream: str, offset: int) -> None:
        try:
            self.link.call("XGROUP", "CREATE", self._stream(stream), consumer, id_of(offset), "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # another has been quicker
                raise

    def seek(self, consumer: str, stream: str, position: Position, *, create: bool = False) -> int:
        """As `peewee_honker.events.seek`: put a consumer at a position of a stream."""
        offset = self.offset_of(stream, position)
        if self.place(consumer, stream) is None:
            if not create:
                raise LookupError(
                    f"no consumer {consumer} has read the stream {stream} yet: create=True makes a place for it"
                )
            self._make_group(consumer, stream, offset)
        else:
            self.link.call("XGROUP", "SETID", self._stream(stream), consumer, id_of(offset))
        return offset

    def forget_consumer(self, consumer: str, stream: str) -> None:
        """Forget a consumer's place in a stream: retention waits for it no longer."""
        self._known.pop((consumer, stream), None)
        try:
            self.link.call("XGROUP", "DESTROY", self._stream(stream), consumer)
        except ResponseError as error:
            if "exist" not in str(error):  # no such stream: nothing to forget
                raise

    def save_place(self, consumer: str, stream: str, before: int, offset: int) -> bool:
        if self.place(consumer, stream) != before:
            return False
        step = self._open_step()
        step.places.append((step.key(self._stream(stream)), consumer, id_of(before), id_of(offset)))
        return True

    def lag(self, stream: str, offset: int) -> int:
        """How many events of a stream are behind an offset: exact up to 2,000, an estimate by their times beyond."""
        keys = self._stream(stream), self._notes
        return int(self.link.run(scripts.LAG, keys, stream, id_of(offset), _COUNTED))

    # Who is active: whose name is in a key that expires.

    def lead(self, consumer: str, owner: str, seconds: int) -> bool:
        return bool(self.link.run(scripts.LEAD, (self._lease(consumer),), owner, seconds * 1000))

    def keep_leading(self, consumer: str, owner: str, seconds: int) -> bool:
        return bool(self.link.run(scripts.KEEP, (self._lease(consumer),), owner, seconds * 1000))

    def stop_leading(self, consumer: str, owner: str) -> None:
        self.link.run(scripts.RELEASE, (self._lease(consumer),), owner)

    def is_leader(self, consumer: str, owner: str) -> bool:
        if self.link.call("GET", self._lease(consumer)) != owner.encode():
            return False
        step = self._open_step()
        step.leases.append((step.key(self._lease(consumer)), owner))
        return True

    # Dead letters

    def bury(self, consumer: str, stream: str, event: Event, receiver: str, error: Exception, attempts: int) -> None:
        short, told = error_texts(error)
        kept = {
            "consumer": consumer,
            "stream": stream,
            "offset": event.offset,
            "event": self._text_of(stream, event),
            "receiver": receiver,
            "error": short,
            "traceback": told,
            "attempts": attempts,
            "died_at": time.time(),
        }
        self._open_step().letters.append(json.dumps(kept))

    def _text_of(self, stream: str, event: Event) -> str:
        """The event as it was stored: what another program wrote may be more than `Event.to_json` would say."""
        offset = event.offset or 0
        keys = self._stream(stream), self._notes
        ids, texts = self.link.run(scripts.PAGE, keys, stream, id_of(offset - 1), 1, 1, "apart")
        if ids.decode() != id_of(offset):  # deleted
            return event.to_json(sys.maxsize)
        text: bytes = texts[0]
        return text.decode(errors="replace")

    def dead_letters(self, consumer: str | None = None) -> list[DeadLetter]:
        got = self.link.call("HGETALL", self._dead)
        letters = []
        for id_, text in sorted((int(id_), text) for id_, text in zip(got[::2], got[1::2], strict=True)):
            kept = json.loads(text)
            kept["event"] = Event.from_json(kept["event"], kept["stream"], kept["offset"])
            if consumer in (None, kept["consumer"]):
                letters.append(DeadLetter(id=id_, **kept))
        return letters

    def forget(self, letter: DeadLetter) -> bool:
        return bool(self.link.call("HDEL", self._dead, letter.id))

    # Transactions and connections

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """What is changed in the block is changed in one step at its end, or not at all."""
        if getattr(self._here, "step", None) is not None:
            yield
            return
        self._here.step = _Step()
        try:
            yield
            step: _Step = self._here.step
        finally:
            self._here.step = None
        if step.places or step.letters:
            work = json.dumps({"leases": step.leases, "places": step.places, "letters": step.letters})
            if not self.link.run(scripts.COMMIT, [*step.keys, self._dead, self._last_dead], work):
                raise HonkerError("a consumer was taken over or moved in the moment in which its place was to be saved")

    def _open_step(self) -> "_Step":
        step: _Step | None = getattr(self._here, "step", None)
        if step is None:
            raise RuntimeError("only within atomic()")
        return step

    def has_lost_connection(self) -> bool:
        try:
            self.link.call("PING")
        except RedisUnavailableError:
            return True
        return False

    def close_thread(self) -> None:
        """Nothing: connections are a pool's."""

    def moved(self, engine: Engine) -> None:
        raise NotImplementedError("a server's database is not replaced as a file is")

    # Keys

    def _stream(self, stream: str) -> str:
        return f"{self.prefix}stream:{stream}"

    def _lease(self, consumer: str) -> str:
        return f"{self.prefix}lease:{consumer}"

    def _state(self, stream: str) -> Any:
        return self.link.run(scripts.STATE, (self._stream(stream), self._notes), stream)


@dataclasses.dataclass(slots=True)
class _Step:
    """What is to be changed at the end of a block; keys are named by their number in `keys`, from 1."""

    keys: list[str] = dataclasses.field(default_factory=list)
    leases: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    places: list[tuple[int, str, str, str]] = dataclasses.field(default_factory=list)
    letters: list[str] = dataclasses.field(default_factory=list)

    def key(self, name: str) -> int:
        """The number of a key."""
        self.keys.append(name)
        return len(self.keys)
