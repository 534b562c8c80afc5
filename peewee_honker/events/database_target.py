"""Targets on a database's own tables: ephemeral or durable, written in the transaction that is open."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar, Literal

from peewee_honker.driver import Engine
from peewee_honker.events.consumer import Consumer
from peewee_honker.events.event import MAX_BYTES, Event, check_type
from peewee_honker.events.metrics import Recorder
from peewee_honker.events.store import Store, store_of
from peewee_honker.events.stream import Position
from peewee_honker.events.target import EventTarget, Forwarded, LocalEventTarget

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase
    from peewee_honker.events.run import EventDispatcher

__all__ = ["DatabaseTarget"]


class DatabaseTarget(EventTarget):
    """What targets on a database's tables have in common; see `HonkerEventTarget` for the arguments.

    Listeners run in the dispatcher's thread, one for each database and process, whatever the number of topics. A listener
    of the topic `__gap__` hears of events that were deleted before they were read here, see `gap_event`.
    """

    local_target: ClassVar[type[LocalEventTarget]] = LocalEventTarget
    """The target of one process whose events belong to transactions of such a database."""

    def __init__(
        self,
        database: "HonkerDatabase | Store | str",
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
    ) -> None:
        super().__init__(max_bytes=max_bytes, recorder=recorder)
        if mode not in ("ephemeral", "durable"):
            raise ValueError(f"a mode is 'ephemeral' or 'durable', not {mode!r}")
        if consumer is not None and mode == "ephemeral":
            raise ValueError("only a durable target has a consumer: mode='durable'")
        if prefix and mode == "durable":
            raise ValueError("a durable target has no channels to prefix: it has one stream")
        self._is_owner = isinstance(database, str)
        self._store = store_of(self._opened(database) if isinstance(database, str) else database)
        self.database = self._store.database
        self.mode = mode
        self.stream = stream
        self.prefix = prefix
        self._consumer = consumer
        self._consumer_options = {"start_at": start_at, "attempts": attempts, "backoff": backoff}
        self._dispatcher: EventDispatcher | None = None

    @staticmethod
    def _opened(where: str) -> "HonkerDatabase | Store":
        """A database of the target's own."""
        from peewee_honker.database import HonkerDatabase

        return HonkerDatabase(where)

    def close(self) -> None:
        """Remove all listeners; of a database of the target's own, also close the calling thread's connection."""
        super().close()
        if self._is_owner:
            self._store.close_thread()

    @property
    def consumer(self) -> Consumer:
        """The durable target's consumer. Raises ValueError when it was given no name."""
        consumer = self._consumer
        if consumer is None:
            raise ValueError(
                "listening to a durable stream needs a consumer's name, by which it finds its place again after a restart: "
                f"{type(self).__name__}(db, mode='durable', consumer='shipping')"
            )
        if isinstance(consumer, str):
            consumer = self._consumer = Consumer(
                self._store,
                consumer,
                recorder=self.recorder,
                **self._consumer_options,  # type: ignore[arg-type]  # of three types
            )
        return consumer

    def _dispatch(self, event: Event) -> None:
        text = event.to_json(self.max_bytes)
        if self.mode == "durable":
            self._store.append(self.stream, event.id, text)
        else:
            self._store.notify(self.prefix + event.type, text)

    def forward(self, relay: str, events: Sequence[Event], after: Forwarded | None) -> None:
        """As EventTarget.forward. A durable target remembers the last event, so that none is there twice."""
        if self.mode == "ephemeral" or not events:
            super().forward(relay, events, after)
            return
        for event in events:
            check_type(event.type)
        rows = [(event.id, event.to_json(self.max_bytes)) for event in events]
        last = Forwarded(events[-1].offset or 0, events[-1].event_id)
        self._store.append_forwarded(self.stream, relay, rows, after, last)
        for event in events:
            self.recorder.published(event.type)

    def holding(self) -> AbstractContextManager[None]:
        """As EventTarget.holding."""
        return self._store.dispatcher.holding_sources()

    def close_thread(self) -> None:
        """Close the calling thread's connection."""
        self._store.close_thread()

    def forwarded(self, relay: str) -> Forwarded | None:
        """As EventTarget.forwarded."""
        return self._store.forwarded(relay) if self.mode == "durable" else None

    def _open(self) -> None:
        if self.mode == "durable":
            self.consumer.listen(self.stream, self._calls_for, self.missed)
        else:
            self._dispatcher = self._store.dispatcher
            self._dispatcher.attach(self)

    def _close(self) -> Callable[[], None]:
        if self.mode == "durable":
            return self.consumer.begin_to_leave(self.stream)
        dispatcher, self._dispatcher = self._dispatcher, None
        return self._settle if dispatcher is None else dispatcher.begin_to_detach(self)

    def _open_topic(self, topic: str) -> None:
        if self._dispatcher is not None:
            self._dispatcher.refresh()

    def _settle(self) -> None:
        self._store.dispatcher.settle()

    def _newest(self) -> int:
        return 0 if self.mode == "durable" else self._store.dispatcher.newest()

    # What the dispatcher asks and tells

    def hears(self, channel: str) -> bool:
        """Whether somebody listens to events of a channel."""
        return channel.startswith(self.prefix) and self._topics.may_match(channel.removeprefix(self.prefix))

    def receive(self, event: Event) -> None:
        """Give an event of a channel to its listeners."""
        self._deliver(event)

    def missed(self, gap: Event) -> None:
        """Tell the listeners of `__gap__`."""
        self._deliver(gap)

    def moved(self, engine: Engine) -> None:
        """Go on with another file; offsets begin anew there."""
        self._store.moved(engine)
        for key, registration in list(self._registrations.items()):
            self._registrations[key] = registration._replace(since=0)
