"""`RedisTarget`: events through a Redis server, heard in every process that is connected to it."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import redis

from peewee_honker.errors import HonkerError
from peewee_honker.events.consumer import replay
from peewee_honker.events.database_target import DatabaseTarget
from peewee_honker.events.dead_letter import DeadLetter
from peewee_honker.events.event import MAX_BYTES, Event
from peewee_honker.events.listener import Listener, Where
from peewee_honker.events.metrics import Recorder
from peewee_honker.events.retention import Pruner, Retention
from peewee_honker.events.stream import Position
from peewee_honker.events.target import Forwarded
from peewee_honker.servers.redis.store import RedisStore
from peewee_honker.signals import is_in_transaction

__all__ = ["RedisTarget"]

logger = logging.getLogger("peewee_honker.redis")


class RedisTarget(DatabaseTarget):
    """Events through Redis 7 or later: pub/sub for the moment, or a stream that keeps them.

    Arguments:
        server: a URL (`redis://localhost:6379/0`, `rediss://`, `unix://`), or a `redis.Redis`, of which where the server is
            and who asks are taken; the target has connections of its own.
        mode: `ephemeral`: who is subscribed at the moment hears it, once at most. `durable`: it is kept in a stream, and
            every named consumer hears it, once at least.
        stream, consumer, start_at, attempts, backoff: as of `HonkerEventTarget`; `consumer` is a name.
        prefix: of all keys and channels in Redis; ends with `:`. Targets with one prefix hear each other.
        retention: what the stream keeps; None: everything, or what others let it. Deleted in batches about once a minute,
            by the processes that publish and consume. Redis is in memory: what nobody has consumed is kept by default,
            whatever its age.

    Redis takes no part in a database's transactions: `dispatch` sends at once, whatever becomes of a transaction that is
    open. For events that are to commit with rows, publish to the database and let a `Relay` forward them. A receiver
    marked with `in_transaction` is refused. An event is checked (type, JSON, size) before anything is sent.

    Guarantee: the order in which the server got the events; ephemeral at most once, durable at least once for each consumer.
    When the connection is lost the target connects again by itself; durable events wait, and a listener of `__gap__` hears
    that ephemeral ones may have been missed. `dispatch` does not try again: when it raises RedisUnavailableError, the event
    may or may not be there.

    Raises RedisUnavailableError, at the first listener or dispatch, when no server answers; RedisMemoryError when it takes
    nothing more.
    """

    _store: RedisStore

    def __init__(
        self,
        server: "str | redis.Redis",
        mode: Literal["ephemeral", "durable"] = "ephemeral",
        *,
        stream: str = "events",
        prefix: str = "peewee_honker:",
        consumer: str | None = None,
        start_at: Position = "now",
        attempts: int = 5,
        backoff: float = 0.2,
        max_bytes: int = MAX_BYTES,
        recorder: Recorder | None = None,
        retention: Retention | None = Retention(),  # noqa: B008  (it is frozen)
    ) -> None:
        store = RedisStore(server, prefix=prefix)
        super().__init__(
            store,
            mode,
            stream=stream,
            consumer=consumer,
            start_at=start_at,
            attempts=attempts,
            backoff=backoff,
            max_bytes=max_bytes,
            recorder=recorder,
        )
        self.store = store
        """Where the events, places and dead letters are, see `peewee_honker.events.store`."""
        self._pruner = Pruner(store, 2.0, self._retentions)
        self._retention = retention if mode == "durable" else None

    def add_listener(self, topic: str, listener: Listener, *, where: Where | None = None) -> None:
        """As EventTarget.add_listener; returns when the server has confirmed the subscription. Raises ValueError for a
        receiver marked with `in_transaction`."""
        if is_in_transaction(listener):
            raise ValueError(
                "Redis has no transaction with your database, so a receiver cannot be `in_transaction`: let it know an "
                "event that comes again by its event_id, or relay the stream into the database"
            )
        super().add_listener(topic, listener, where=where)

    def forward(self, relay: str, events: Sequence[Event], after: Forwarded | None) -> None:
        """As EventTarget.forward. A durable target appends them and remembers the last in one step of the server."""
        super().forward(relay, events, after)
        self._prune_if_due()

    def dead_letters(self) -> list[DeadLetter]:
        """What the target's consumer could not take, oldest first; of all consumers when it has no name."""
        return self.store.dead_letters(None if self._consumer is None else self.consumer.name)

    def replay(self, letter: DeadLetter) -> None:
        """Give a dead letter to the receiver that failed on it, and delete it; raises what that raises, and LookupError
        when there is no such receiver or no such letter any more."""
        replay(self.store, letter, self._calls_for)

    def drop(self, letter: DeadLetter) -> bool:
        """Delete a dead letter. Whether it was there."""
        return self.store.forget(letter)

    def close(self) -> None:
        """Remove all listeners and close the connections; a dispatch would make them anew."""
        super().close()
        self.store.link.close()

    def _dispatch(self, event: Event) -> None:
        super()._dispatch(event)
        self._prune_if_due()

    def _open(self) -> None:
        super()._open()
        if self._retention is not None:
            self.store.dispatcher.add_source(self._pruner)

    def _close(self) -> Callable[[], None]:
        if self._retention is None:
            return super()._close()
        waits = (self.store.dispatcher.begin_to_remove(self._pruner), super()._close())

        def wait() -> None:
            for each in waits:
                each()

        return wait

    def _retentions(self) -> dict[str, Retention]:
        return {} if self._retention is None else {self.stream: self._retention}

    def _prune_if_due(self) -> None:
        """Those who only publish keep the stream within its bounds too."""
        if self._retention is None or self._pruner.due_in() > 0:
            return
        try:
            self._pruner.poll()
        except (HonkerError, redis.RedisError):
            logger.exception("the stream %s could not be pruned; the event was published", self.stream)
