"""`NatsTarget`: events through a NATS server, heard in every process that is connected to it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from peewee_honker.events.consumer import Consumer
from peewee_honker.events.database_target import DatabaseTarget
from peewee_honker.events.event import MAX_BYTES, Event, check_type
from peewee_honker.events.listener import Listener, Where
from peewee_honker.events.metrics import Recorder
from peewee_honker.events.stream import Position
from peewee_honker.events.target import EventTarget, Forwarded
from peewee_honker.servers.nats.jetstream import StreamLimits
from peewee_honker.servers.nats.store import NatsStore
from peewee_honker.signals import is_in_transaction

__all__ = ["NatsTarget"]


class NatsTarget(DatabaseTarget):
    """Events through NATS: its plain subjects for ephemeral ones, a stream of JetStream for durable ones.

    Arguments:
        url: `nats://[user:password@]host[:port]`, or several with commas between, of one cluster; or a NatsStore, for
            several targets on one connection.
        mode, stream, prefix, consumer, start_at, attempts, backoff: as of `HonkerEventTarget`.
        limits: how the stream is kept, see `StreamLimits`.
        timeout: seconds that a call may take, with the waiting for a connection that was lost.
        options: for `nats.connect`, such as `tls`, `user_credentials` or `nkeys_seed`.

    `dispatch` sends at once: there is no transaction with the rows of a database, and a rollback does not call an event
    back. What has to be atomic with the row goes into a durable stream of the database, from which a `Relay` brings it here.

    Guarantee: the events of a publisher are heard in the order in which it sent them. Ephemeral: by whoever listens at that
    moment, at most once; a gap event says that the connection was lost, or that listeners were too slow. Durable: `dispatch`
    returns when the server has stored the event; each named consumer gets it at least once, in the stream's order, from
    where it stopped; its place is saved after the receivers have succeeded.

    Raises NatsUnavailableError, at the first listener or dispatch, when no server answers; later, when none does within
    `timeout`: a durable event may have been stored then, and can be dispatched again, since the server drops an `event_id`
    that it has had within its duplicate window. Raises NatsFullError when the server has no room for it.
    """

    def __init__(
        self,
        url: str | NatsStore,
        mode: Literal["ephemeral", "durable"] = "ephemeral",
        *,
        stream: str = "events",
        prefix: str = "",
        consumer: str | Consumer | None = None,
        start_at: Position = "now",
        attempts: int = 5,
        backoff: float = 0.2,
        max_bytes: int = MAX_BYTES,
        recorder: Recorder | None = None,
        limits: StreamLimits | None = None,
        timeout: float = 5.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(url, str) and (limits is not None or options is not None):
            raise ValueError("limits and options are said to the NatsStore")
        self._nats = NatsStore(url, limits=limits, timeout=timeout, options=options) if isinstance(url, str) else url
        super().__init__(
            self._nats,
            mode,
            stream=stream,
            prefix=prefix,
            consumer=consumer,
            start_at=start_at,
            attempts=attempts,
            backoff=backoff,
            max_bytes=max_bytes,
            recorder=recorder,
        )
        self._is_owner = isinstance(url, str)

    @property
    def store(self) -> NatsStore:
        """Where the events are, with the places of consumers and the dead letters."""
        return self._nats

    def add_listener(self, topic: str, listener: Listener, *, where: Where | None = None) -> None:
        """As EventTarget.add_listener. Raises ValueError for a listener that is marked with `in_transaction`."""
        if is_in_transaction(listener):
            raise ValueError(
                "NATS has no transaction for a listener marked with in_transaction: relay the events into a database, and "
                "listen there"
            )
        super().add_listener(topic, listener, where=where)

    def _dispatch(self, event: Event) -> None:
        text = event.to_json(self.max_bytes)
        if self.mode == "durable":
            self._nats.append_event(self.stream, event, text)
        else:
            self._nats.send(self.prefix, event.type, text)

    def forward(self, relay: str, events: Sequence[Event], after: Forwarded | None) -> None:
        """As EventTarget.forward. A durable target stores up to 500 events at once, as a whole or not at all, and only
        behind the relay's last: none is there twice, as long as the stream keeps that one."""
        if self.mode == "ephemeral" or not events:
            EventTarget.forward(self, relay, events, after)
            return
        for event in events:
            check_type(event.type)
        texts = [event.to_json(self.max_bytes) for event in events]
        self._nats.append_relayed(self.stream, relay, events, texts, after)
        for event in events:
            self.recorder.published(event.type)

    def forwarded(self, relay: str) -> Forwarded | None:
        """As EventTarget.forwarded."""
        return self._nats.forwarded(relay, self.stream) if self.mode == "durable" else None

    def close(self) -> None:
        """Remove all listeners; of a connection of the target's own, write what waits and end it."""
        super().close()
        if self._is_owner:
            self._nats.close()
