"""What consumers and targets ask of NATS, see `peewee_honker.events.store`: streams of JetStream, a bucket of keys for
places and leases, and a stream of dead letters."""

import atexit
import datetime
import json
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, NamedTuple

from peewee_honker.driver import Engine
from peewee_honker.errors import ForwardConflictError, PayloadError
from peewee_honker.events.dead_letter import DeadLetter, error_texts
from peewee_honker.events.event import Event
from peewee_honker.events.retention import Retention
from peewee_honker.events.stream import Position, check_position
from peewee_honker.events.target import Forwarded
from peewee_honker.servers.nats import names
from peewee_honker.servers.nats.dispatcher import NatsDispatcher
from peewee_honker.servers.nats.jetstream import JetStream, NotAtomicError, Stored, StreamLimits, WrongSequenceError
from peewee_honker.servers.nats.link import Link, Message, NatsError
from peewee_honker.servers.nats.reader import Reader

__all__ = ["NatsStore"]

logger = logging.getLogger("peewee_honker.nats")

_RELAYED = "Peewee-Honker-Offset"
_EVENT_ID = "Peewee-Honker-Event-Id"
_LETTER = "Peewee-Honker-Letter"
_RESERVED = 32 * 1024  # bytes of a message that are left for what is said of a dead letter
_UNUSED = 30.0  # seconds after which a reader serves another, or ends
_LONGEST_TRACEBACK, _LONGEST_ERROR = 8000, 2000
_BATCH, _BATCH_BYTES = 500, 8 * 1024 * 1024  # events that are forwarded at once; the server allows 1,000


class NatsStore:
    """Keeps events in NATS. Several targets can share one, and with it its connection and threads.

    Arguments:
        url: `nats://[user:password@]host[:port]`, or several with commas between, of one cluster.
        limits: how the streams are kept, see `StreamLimits`. Without, a stream that is there stays as it is, and a new one
            has the default.
        timeout: seconds that a request may take, with the waiting for a connection that was lost.
        options: for `nats.connect`, such as `tls`, `user_credentials` or `nkeys_seed`.
    """

    database = None  # no transactions: each call takes effect at once

    def __init__(
        self,
        url: str,
        *,
        limits: StreamLimits | None = None,
        timeout: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.link = Link(url, timeout=timeout, options=options)
        self.jetstream = JetStream(self.link)
        self.dispatcher = NatsDispatcher(self)
        self._limits = limits
        self._readers: dict[str, list[Reader]] = {}
        self._reading = threading.Lock()
        self._leases: dict[str, int] = {}  # by consumer: the revision of the lease that is held
        self._others: dict[str, tuple[int, float]] = {}  # by consumer: another's lease, and when it was seen first
        self._forwarded: dict[tuple[str, str], tuple[Forwarded, int]] = {}  # by stream and relay: the last, and its sequence
        self._process = os.getpid()
        self._running = 0  # lives of the dispatcher's thread
        self._is_closing = False
        _stores.add(self)
        # One that nobody closes and nobody has any more; at the interpreter's end it is `_close_all` that closes.
        weakref.finalize(self, self.link.close).atexit = False

    # The connection

    def close(self) -> None:
        """End the connection and its thread; the dispatcher's ends first. It begins anew when it is used again."""
        self._is_closing = True
        if self._running <= 0 or self._process != os.getpid():
            self._close()

    def begun(self) -> None:
        """A life of the dispatcher's thread begins."""
        if self._process != os.getpid():  # the child of a fork: what there is belongs to the parent
            self._process, self._running, self._readers = os.getpid(), 0, {}
        self._running += 1

    def ended(self) -> None:
        """A life of the dispatcher's thread has ended; called in it."""
        self._running -= 1
        if self._running <= 0:
            with self._reading:
                readers, self._readers = self._readers, {}
            for reader in chain(*readers.values()):
                reader.close()
            if self._is_closing:
                self._close()

    def _close(self) -> None:
        self._is_closing = False
        self.link.close()

    # Streams

    def prepare(self, stream: str) -> str:
        """Make a stream where it is missing. Gives the name that JetStream has for it."""
        name = names.stream_name(stream)
        config = (self._limits or StreamLimits()).config()
        config |= {"allow_atomic": True}
        self.jetstream.ensure(name, [names.stream_subjects(stream)], config, update=self._limits is not None)
        return name

    def _prepare_keys(self) -> None:
        replicas = (self._limits or StreamLimits()).replicas
        config = {
            "max_msgs_per_subject": 1,
            "discard": "new",
            "deny_delete": True,
            "allow_rollup_hdrs": True,
            "allow_direct": True,  # as other clients of buckets expect
            "num_replicas": replicas,
        }
        self.jetstream.ensure(f"KV_{names.BUCKET}", [f"$KV.{names.BUCKET}.>"], config)

    def _prepare_letters(self) -> None:
        replicas = (self._limits or StreamLimits()).replicas
        self.jetstream.ensure(names.DEAD, [names.DEAD_SUBJECTS], {"max_msgs_per_subject": 1, "num_replicas": replicas})

    # Events

    def notify(self, channel: str, text: str) -> None:
        """Publish an ephemeral event without a prefix."""
        self.send("", channel, text)

    def send(self, prefix: str, type_: str, text: str) -> None:
        """Publish an ephemeral event: to whom listens now."""
        self.link.send(Message(names.event_subject(prefix, type_), _encoded(text)), patient=True)

    def append(self, stream: str, key: str, text: str) -> None:
        """Append an event to a stream."""
        self.append_event(stream, Event.from_json(text, stream), text)

    def append_event(self, stream: str, event: Event, text: str) -> None:
        """Append an event to a stream, and return when the server has stored it. One that it has had within its duplicate
        window is stored once."""
        self.prepare(stream)
        message = self._message(names.stream_event_subject(stream, event.type), event, text)
        try:
            self.jetstream.publish(message)
        except NatsError as error:
            if error.code != _NOBODY_ANSWERS:
                raise
            self.jetstream.forget(names.stream_name(stream))  # somebody has deleted the stream
            self.prepare(stream)
            self.jetstream.publish(message)

    def _message(self, subject: str, event: Event, text: str, **headers: str) -> Message:
        payload = _encoded(text)
        if len(payload) + _RESERVED > self.link.max_payload:
            most = self.link.max_payload - _RESERVED
            raise PayloadError(
                f"the event {event.topic} takes {len(payload)} bytes, and {most} fit into a message of {self.link!r}: keep "
                "large values in the database and send their key, or raise the server's max_payload"
            )
        return Message(subject, payload, {"Nats-Msg-Id": names.message_id(event.event_id), **headers})

    def read_page(self, stream: str, after: int, most: int) -> tuple[list[int], Iterable[Event]]:
        reader = self._reader(stream, after)
        try:
            rows = reader.page(after, most)
        finally:
            reader.using.release()
        return [row[0] for row in rows], (_event(stream, *row) for row in rows)

    def _reader(self, stream: str, after: int) -> Reader:
        """The reader that is at an offset, else another: each consumer and relay of the stream has its own, in effect. The
        caller has it to itself."""
        name = self.prepare(stream)
        with self._reading:
            readers = self._readers.setdefault(stream, [])
            free = [reader for reader in readers if reader.using.acquire(blocking=False)]
            chosen = next((reader for reader in free if reader.is_at(after)), None)
            old = [reader for reader in free if reader is not chosen and time.monotonic() - reader.used > _UNUSED]
            if chosen is None:
                chosen = old.pop() if old else Reader(self.jetstream, name, self.dispatcher.wake)
                if chosen not in readers:
                    chosen.using.acquire()
                    readers.append(chosen)
            for reader in free:
                if reader is not chosen:
                    reader.using.release()
            self._readers[stream] = [reader for reader in readers if reader not in old]
        for reader in old:
            reader.close()
        return chosen

    def offset_of(self, stream: str, position: Position) -> int:
        check_position(position)
        if isinstance(position, int):
            return position
        name = self.prepare(stream)
        state = self.jetstream.state(name)
        if position == "beginning":
            return state.first - 1
        if isinstance(position, datetime.datetime):
            return self._offset_at(name, position)
        return state.last

    def _offset_at(self, name: str, when: datetime.datetime) -> int:
        """The offset behind which is what was stored at that time or later: where a consumer would begin."""
        consumer = uuid.uuid4().hex
        made = self.jetstream.api(
            f"CONSUMER.CREATE.{name}.{consumer}",
            {
                "stream_name": name,
                "config": {
                    "name": consumer,
                    "deliver_policy": "by_start_time",
                    "opt_start_time": when.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z"),
                    "ack_policy": "none",
                    "mem_storage": True,
                    "num_replicas": 1,
                    "inactive_threshold": 5_000_000_000,
                },
            },
        )
        self.link.send(Message(f"$JS.API.CONSUMER.DELETE.{name}.{consumer}"))
        return int(made["delivered"]["stream_seq"])

    def pruned_offset(self, stream: str) -> int:
        return self.jetstream.state(self.prepare(stream)).first - 1

    def prune_notifications(self, older_than: float) -> bool:
        return False  # they are not kept

    def prune_stream(self, stream: str, retention: Retention) -> bool:
        return False  # the server does, see StreamLimits

    def lag(self, stream: str, offset: int) -> int:
        state = self.jetstream.state(self.prepare(stream))
        return max(0, min(state.size, state.last - offset))

    # What relays have brought

    def forwarded(self, relay: str, stream: str = "events") -> Forwarded | None:
        """The last event that the stream has of a relay, as long as it keeps that event."""
        known = self._last_of(stream, relay)
        return known[0] if known is not None else None

    def _last_of(self, stream: str, relay: str) -> tuple[Forwarded, int] | None:
        found = self.jetstream.last(self.prepare(stream), names.relay_subject(stream, relay))
        known = None
        if found is not None and found.headers.get(_RELAYED, "").isdecimal():
            known = Forwarded(int(found.headers[_RELAYED]), json.loads(found.headers[_EVENT_ID])), found.sequence
            self._forwarded[stream, relay] = known
        else:
            self._forwarded.pop((stream, relay), None)
        return known

    def append_forwarded(
        self, stream: str, relay: str, rows: Sequence[tuple[str, str]], after: Forwarded | None, last: Forwarded
    ) -> None:
        raise NotImplementedError("append_relayed takes the events themselves")

    def append_relayed(
        self, stream: str, relay: str, events: Sequence[Event], texts: Sequence[str], after: Forwarded | None
    ) -> None:
        """Append events of a relay, in order, in batches of which each is stored as a whole, if the last event that the
        stream has of the relay is `after`. Raises ForwardConflictError when it is another."""
        self.prepare(stream)
        subject = names.relay_subject(stream, relay)
        messages = [
            self._message(subject, event, text, **{_RELAYED: str(event.offset or 0), _EVENT_ID: json.dumps(event.event_id)})
            for event, text in zip(events, texts, strict=True)
        ]
        known = self._forwarded.get((stream, relay))
        if (known[0] if known is not None else None) != after:
            known = self._last_of(stream, relay)
            if (known[0] if known is not None else None) != after:
                raise ForwardConflictError(f"the relay {relay} has brought other events to the stream {stream!r} meanwhile")
        sequence = known[1] if known is not None else 0
        at = 0
        for part in _parts(messages):
            try:
                sequence = self.jetstream.publish_batch(part, uuid.uuid4().hex, sequence)
            except NotAtomicError:
                self._append_unremembered(stream, events[at:], texts[at:])
                return
            except WrongSequenceError as error:
                self._forwarded.pop((stream, relay), None)
                raise ForwardConflictError(
                    f"the relay {relay} has brought other events to the stream {stream!r} meanwhile: {error}"
                ) from error
            except BaseException:
                self._forwarded.pop((stream, relay), None)  # what was stored is not known
                raise
            at += len(part)
            last = events[at - 1]
            self._forwarded[stream, relay] = Forwarded(last.offset or 0, last.event_id), sequence

    def _append_unremembered(self, stream: str, events: Sequence[Event], texts: Sequence[str]) -> None:
        """Append events as dispatched ones, all under way at once. Where one is refused, those behind it may be stored: it
        comes behind them then, when it is sent again, and they are dropped as long as the duplicate window lasts."""
        self.jetstream.publish_each(
            [
                self._message(names.stream_event_subject(stream, event.type), event, text)
                for event, text in zip(events, texts, strict=True)
            ]
        )

    # The places of consumers

    def _place(self, consumer: str, stream: str) -> "_Place":
        self._prepare_keys()
        made = self.jetstream.state(self.prepare(stream)).made
        value, revision = self.jetstream.value(names.BUCKET, _place_key(consumer, stream))
        offset = value.get("offset")
        if offset and value.get("made") != made:
            logger.error(
                "the stream %s was deleted and made anew: consumer %s goes on at its beginning, not behind %s",
                *(stream, consumer, offset),
            )
            offset = 0
        return _Place(offset, made, revision)

    def _put_place(self, consumer: str, stream: str, offset: int | None, place: "_Place") -> bool:
        value = {"offset": offset, "made": place.made}
        try:
            self.jetstream.put(names.BUCKET, _place_key(consumer, stream), value, place.revision)
        except WrongSequenceError:
            return False
        return True

    def place(self, consumer: str, stream: str) -> int | None:
        return self._place(consumer, stream).offset

    def make_place(self, consumer: str, stream: str, start_at: Position) -> None:
        place = self._place(consumer, stream)
        if place.offset is None:
            self._put_place(consumer, stream, self.offset_of(stream, start_at), place)

    def save_place(self, consumer: str, stream: str, before: int, offset: int) -> bool:
        place = self._place(consumer, stream)
        if place.offset != before:
            return False
        # The answer to a first attempt may have been lost: then it is there.
        return self._put_place(consumer, stream, offset, place) or self.place(consumer, stream) == offset

    def seek(self, consumer: str, stream: str, position: Position, *, create: bool = False) -> int:
        """As `peewee_honker.events.seek`: put a consumer at a position of a stream."""
        offset = self.offset_of(stream, position)
        while True:
            place = self._place(consumer, stream)
            if place.offset is None and not create:
                raise LookupError(
                    f"no consumer {consumer} has read the stream {stream}: create=True makes a place for it there"
                )
            if self._put_place(consumer, stream, offset, place):
                return offset

    def forget_consumer(self, consumer: str, stream: str) -> None:
        """Forget a consumer's place in a stream."""
        while (place := self._place(consumer, stream)).offset is not None:
            self._put_place(consumer, stream, None, place)

    # Who is active: whose name stands in the consumer's lease, as long as it is written anew. Who waits measures by its own
    # clock how long a revision has stood; clocks of machines need not agree.

    def lead(self, consumer: str, owner: str, seconds: int) -> bool:
        self._prepare_keys()
        value, revision = self.jetstream.value(names.BUCKET, _lease_key(consumer))
        holder = value.get("owner")
        if holder and holder != owner:
            seen, since = self._others.get(consumer, (0, 0.0))
            if seen != revision:
                self._others[consumer] = (revision, time.monotonic())
                return False
            if time.monotonic() - since < seconds:
                return False
        self._others.pop(consumer, None)
        return self._put_lease(consumer, owner, revision)

    def _put_lease(self, consumer: str, owner: str, revision: int) -> bool:
        lease = {"owner": owner, "renewed": time.time()}  # the time is for who looks
        try:
            self._leases[consumer] = self.jetstream.put(names.BUCKET, _lease_key(consumer), lease, revision)
        except WrongSequenceError:
            value, found = self.jetstream.value(names.BUCKET, _lease_key(consumer))
            if not owner or value.get("owner") != owner:  # else the answer was lost
                self._leases.pop(consumer, None)
                return False
            self._leases[consumer] = found
        return True

    def keep_leading(self, consumer: str, owner: str, seconds: int) -> bool:
        revision = self._leases.get(consumer)
        return revision is not None and self._put_lease(consumer, owner, revision)

    def stop_leading(self, consumer: str, owner: str) -> None:
        revision = self._leases.pop(consumer, None)
        if revision is not None:
            self._put_lease(consumer, "", revision)
            self._leases.pop(consumer, None)

    def is_leader(self, consumer: str, owner: str) -> bool:
        return self.jetstream.value(names.BUCKET, _lease_key(consumer))[0].get("owner") == owner

    # Dead letters

    def bury(self, consumer: str, stream: str, event: Event, receiver: str, error: Exception, attempts: int) -> None:
        self._prepare_letters()
        offset = event.offset or 0
        stored = self.jetstream.next(names.stream_name(stream), names.stream_subjects(stream), offset) if offset else None
        text = stored.data if stored is not None and stored.sequence == offset else _encoded(event.to_json(1 << 62))
        short, told = error_texts(error)
        letter = {
            "consumer": consumer,
            "stream": stream,
            "offset": offset,
            "receiver": receiver,
            "error": _shortened(short, _LONGEST_ERROR),
            "traceback": _shortened(told, _LONGEST_TRACEBACK),
            "attempts": attempts,
            "died_at": time.time(),
        }
        subject = names.dead_subject(consumer, stream, offset, receiver)
        header = json.dumps(letter)
        if len(header) > _RESERVED - 1024:  # texts that take many bytes
            header = json.dumps({**letter, "traceback": "", "error": short[:200], "receiver": receiver[:1000]})
        # Of what another program has made longer than we would, the first part is kept.
        text = text[: self.link.max_payload - len(header) - 1024]
        self.jetstream.publish(Message(subject, text, {_LETTER: header}))

    def dead_letters(self, consumer: str | None = None) -> list[DeadLetter]:
        self._prepare_letters()
        subject = names.dead_subject(consumer) if consumer is not None else names.DEAD_SUBJECTS
        letters: list[DeadLetter] = []
        sequence = 1
        while (found := self.jetstream.next(names.DEAD, subject, sequence)) is not None:
            letters.append(_letter(found))
            sequence = found.sequence + 1
        return letters

    def forget(self, letter: DeadLetter) -> bool:
        return self.jetstream.delete(names.DEAD, letter.id)

    # Transactions and connections

    def atomic(self) -> AbstractContextManager[Any]:
        """Nothing is atomic: a letter is buried before the place is saved, and is the same one when it is buried again."""
        return nullcontext()

    def has_lost_connection(self) -> bool:
        return not self.link.is_connected

    def close_thread(self) -> None:
        """Threads have nothing of their own."""

    def moved(self, engine: Engine) -> None:
        raise NotImplementedError("a server is not replaced as a file is")


_NOBODY_ANSWERS = 503


_stores: "weakref.WeakSet[NatsStore]" = weakref.WeakSet()


def _close_all() -> None:
    """At the interpreter's end: places are saved, others can follow at once, what was sent last is written."""
    for store in list(_stores):
        store.dispatcher.end()
        store.close()


atexit.register(_close_all)


class _Place(NamedTuple):
    offset: int | None
    made: str  # when the stream was made whose offset it is
    revision: int  # of the key


def _event(stream: str, sequence: int, subject: str, data: bytes) -> Event:
    """The event of a message; of what another program has written, with the type that its subject says."""
    start = len(names.stream_subjects(stream)) - 1 + len("event.")
    return Event.from_json(data.decode(errors="replace"), names.type_of(subject[start:]) or stream, sequence)


def _letter(found: Stored) -> DeadLetter:
    told = json.loads(found.headers[_LETTER])
    event = Event.from_json(found.data.decode(errors="replace"), told["stream"], told["offset"])
    return DeadLetter(id=found.sequence, event=event, **told)


def _parts(messages: Sequence[Message]) -> Iterable[Sequence[Message]]:
    """Messages in batches that the server takes."""
    start = size = 0
    for at, message in enumerate(messages):
        if at > start and (at - start >= _BATCH or size + message.size > _BATCH_BYTES):
            yield messages[start:at]
            start, size = at, 0
        size += message.size
    if messages:
        yield messages[start:]


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}\n...\n{text[-longest // 2 :]}"


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise PayloadError(f"a text has no form in UTF-8: {error}") from error


def _place_key(consumer: str, stream: str) -> str:
    return f"place.{names.token(consumer)}.{names.token(stream)}"


def _lease_key(consumer: str) -> str:
    return f"lease.{names.token(consumer)}"
