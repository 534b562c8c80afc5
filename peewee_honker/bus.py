"""The event bus: models' saves and deletes on the way out, blinker receivers on the way in.

bus = EventBus(db)
orders = bus.bridge(Order)

@orders.saved.connect
def ship(sender, event): ...

bus.run()
"""

import asyncio
import inspect
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any

import blinker

from peewee_honker import signals
from peewee_honker.database import HonkerDatabase
from peewee_honker.events import (
    Channel,
    Consumer,
    DeadLetter,
    Dispatcher,
    Event,
    Receiver,
    StartAt,
    Stream,
    dead_letters,
    dispatcher_for,
)
from peewee_honker.events.dead_letter import forget
from peewee_honker.events.payload import check_payload, key_text, row_payload
from peewee_honker.signals import in_transaction, is_in_transaction

__all__ = ["Bridge", "EventBus"]

logger = logging.getLogger("peewee_honker.bus")

_host = socket.gethostname()


class EventBus:
    """Publishes in the transactions of a database and calls receivers after commit, in this and every other process.

    Arguments:
        database: a `HonkerDatabase`.
        origin: what `Event.origin` says of events published here; by default `host:pid`.
        consumer: the name by which this process receives from durable bridges; it finds its place again by it after a
            restart. Of several processes with one name one receives, and the next takes over when it dies.
        start_at: where a consumer of a new name begins: `now`, or at the `beginning` of the streams.
        attempts, backoff: how often a receiver of a durable event is called before the event becomes a dead letter, and the
            first pause in seconds between two calls; it doubles.

    Receivers are called in a thread of the bus while it runs: `bus.run()` blocks until Ctrl-C, SIGTERM or `stop()`; `with
    bus:` runs it beside the block, `async with bus` and `await bus.serve()` do so for asyncio, where receivers may be
    coroutine functions. What commits after it has started is delivered, in commit order: of ephemeral bridges at most
    once to each process (one that is not there misses it), of durable bridges at least once to each consumer.
    """

    def __init__(
        self,
        database: HonkerDatabase,
        *,
        origin: str | None = None,
        consumer: str | None = None,
        start_at: StartAt = "now",
        attempts: int = 5,
        backoff: float = 0.2,
    ) -> None:
        if not isinstance(database, HonkerDatabase):
            raise TypeError(f"an EventBus needs a HonkerDatabase, not {type(database).__name__}")
        self.database = database
        self._origin = origin
        self._consumer_name = consumer
        self._consumer_options: dict[str, Any] = {"start_at": start_at, "attempts": attempts, "backoff": backoff}
        self._consumer: Consumer | None = None
        self._bridges: dict[type[signals.Model], Bridge] = {}
        self._running: Dispatcher | None = None
        self._changing = threading.RLock()
        self._stopped = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None  # where async receivers run

    @property
    def origin(self) -> str:
        """The name of this process in the events that it publishes."""
        return self._origin or f"{_host}:{os.getpid()}"

    def bridge(
        self,
        model: type[signals.Model],
        *,
        durable: bool = False,
        exclude: Iterable[str] = (),
        channel: str = "{table}.{operation}",
    ) -> "Bridge":
        """Publish every `save()` and `delete_instance()` of `model` and its subclasses, in the transaction of the write.

        Arguments:
            model: a subclass of `peewee_honker.signals.Model` on the bus's database.
            durable: keep the events in a stream, named after the table, for consumers that are not there now.
            exclude: names of fields whose values never leave the process.
            channel: the name of the channels and the type of the events; `{table}` is the model's table, `{operation}`
                `saved` or `deleted`.

        Returns the model's bridge, whose blinker signals `saved` and `deleted` call receivers after commit. A model is
        bridged once: the second time its bridge is returned. A write outside a transaction and its event are one
        transaction of their own.

        Queries (`Model.insert`, `insert_many`, `update`, `delete`, `bulk_create`, ...) send no signals, and so no events.

        Raises TypeError for a model without signals, ValueError for a field to exclude that there is not, or for
        different options than the first time.
        """
        if not (isinstance(model, type) and issubclass(model, signals.Model)):
            raise TypeError(
                f"{model!r} sends no signals: let it inherit from peewee_honker.signals.Model instead of peewee.Model"
            )
        with self._changing:
            known = self._bridges.get(model)
            made = Bridge(self, model, tuple(exclude), channel, durable=durable)
            if known is not None:
                if known.options != made.options:
                    raise ValueError(f"{model.__name__} is bridged already, with other options: {known.options}")
                return known
            made.publish()
            self._bridges[model] = made
            if self._running is not None:
                if durable:
                    logger.warning("%s was bridged while the bus runs: received after its next start", model.__name__)
                else:
                    made.listen(self._running)
            return made

    # Running

    def start(self) -> None:
        """Begin to call receivers: with all that commits after this returns. Nothing when the bus runs.

        Raises ValueError when receivers are connected to a durable bridge and the bus has no consumer name.
        """
        with self._changing:
            if self._running is not None:
                return
            dispatcher = dispatcher_for(self.database.engine)
            self._consumer = self._make_consumer()
            for bridge in self._bridges.values():
                if not bridge.durable:
                    bridge.listen(dispatcher)
            if self._consumer is not None:
                self._consumer.start()
                dispatcher.add_source(self._consumer)
            dispatcher.start()
            self._running = dispatcher

    def stop(self) -> None:
        """Call no more receivers; returns when those that run have ended. Nothing when the bus does not run."""
        with self._changing:
            dispatcher, self._running = self._running, None
            self._stopped.set()
        if dispatcher is not None:
            for bridge in self._bridges.values():
                bridge.leave(dispatcher)
            if self._consumer is not None:
                dispatcher.remove_source(self._consumer)
            dispatcher.stop()

    def _make_consumer(self) -> Consumer | None:
        bridges = [bridge for bridge in self._bridges.values() if bridge.durable]
        if self._consumer_name is None:
            if any(bridge.saved.receivers or bridge.deleted.receivers for bridge in bridges):
                raise ValueError(
                    "receivers of a durable bridge need a consumer name, by which they find their place again after a "
                    "restart: EventBus(db, consumer='shipping')"
                )
            return None
        consumer = Consumer(self.database, self._consumer_name, **self._consumer_options)
        for bridge in bridges:
            consumer.listen(bridge.stream_name, bridge.receivers_of)
        return consumer

    # Dead letters

    def dead_letters(self, consumer: str | None = None) -> list[DeadLetter]:
        """The events that receivers could not take, oldest first: of one consumer, or of all."""
        return dead_letters(self.database, consumer)

    def replay(self, letter: DeadLetter) -> None:
        """Call the receiver that failed on a dead letter again, here and now, in a transaction; delete the letter.

        Raises what the receiver raises, and the letter stays; ValueError when this bus is not its consumer.
        """
        consumer = self._consumer or self._make_consumer()
        if consumer is None or consumer.name != letter.consumer:
            raise ValueError(f"the dead letter is of consumer {letter.consumer!r}, which this bus is not")
        consumer.replay(letter)

    def drop(self, letter: DeadLetter) -> None:
        """Delete a dead letter."""
        forget(self.database, letter)

    def __enter__(self) -> "EventBus":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> "EventBus":
        self.loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # In a thread, so that a coroutine that a receiver is waiting for can end.
            await asyncio.shield(asyncio.to_thread(self.stop))
        finally:
            self.loop = None

    async def serve(self) -> None:
        """Run until the task is cancelled. Async receivers are awaited on this loop, others called in the bus's thread."""
        async with self:
            await asyncio.Event().wait()

    def run(self) -> None:
        """Run until Ctrl-C, SIGTERM (when called in the main thread) or `stop()`, then return.

        A receiver that runs at that moment is let finish.
        """
        self._stopped.clear()
        with _Terminating(self._stopped), self:
            try:
                while not self._stopped.wait(3600):
                    pass
            except KeyboardInterrupt:
                logger.info("stopped by Ctrl-C")


class Bridge:
    """What a model's writes publish, and who hears of them.

    - `saved`, `deleted`: blinker signals. A receiver is called as `receiver(model, event=event)` after commit, in the
      bus's thread; `event.payload` is the row by field name, `event.id` its key, `event.operation` insert, update or
      delete. One that raises is logged, and the others are still called.
    """

    def __init__(
        self, bus: EventBus, model: type[signals.Model], exclude: tuple[str, ...], channel: str, *, durable: bool
    ) -> None:
        unknown = [name for name in exclude if name not in model._meta.fields]
        if unknown:
            raise ValueError(f"{model.__name__} has no field {unknown[0]!r} to exclude")
        self.model = model
        self.saved = blinker.Signal(f"A {model.__name__} was saved, and committed.")
        self.deleted = blinker.Signal(f"A {model.__name__} was deleted, and that committed.")
        self._bus = bus
        self._exclude = frozenset(exclude)
        table = model._meta.table_name
        names = [channel.format(table=table, operation=operation) for operation in ("saved", "deleted")]
        self.durable = durable
        self.stream_name = table
        self.options = (self._exclude, durable, *names)
        self._type_saved, self._type_deleted = names
        self._targets: dict[str, Channel | Stream] = {
            name: Stream(bus.database, table) if durable else Channel(bus.database, name) for name in names
        }

    def publish(self) -> None:
        """Connect to the model's signals."""
        signals.pre_save.connect(self._check, sender=self.model, weak=False)
        signals.post_save.connect(self._on_save, sender=self.model, weak=False)
        signals.post_delete.connect(self._on_delete, sender=self.model, weak=False)

    def unpublish(self) -> None:
        """Publish the model's writes no longer."""
        signals.pre_save.disconnect(self._check, sender=self.model)
        signals.post_save.disconnect(self._on_save, sender=self.model)
        signals.post_delete.disconnect(self._on_delete, sender=self.model)

    def listen(self, dispatcher: Dispatcher) -> None:
        """Take part in what the dispatcher delivers."""
        dispatcher.add(self._type_saved, self._hear_saved)
        dispatcher.add(self._type_deleted, self._hear_deleted)

    def leave(self, dispatcher: Dispatcher) -> None:
        """Undo `listen`."""
        dispatcher.remove(self._type_saved, self._hear_saved)
        dispatcher.remove(self._type_deleted, self._hear_deleted)

    def _check(self, sender: type[signals.Model], instance: signals.Model, created: bool) -> None:
        """Refuse what has no form in JSON before the write is sent, so that the open transaction can go on."""
        check_payload(instance, self._exclude)

    @in_transaction
    def _on_save(self, sender: type[signals.Model], instance: signals.Model, created: bool) -> None:
        if instance.__rows__:
            self._publish(self._type_saved, instance, "insert" if created else "update")

    @in_transaction
    def _on_delete(self, sender: type[signals.Model], instance: signals.Model) -> None:
        if instance.__rows__:
            self._publish(self._type_deleted, instance, "delete")

    def receivers_of(self, event: Event) -> list[Receiver]:
        """Who is to be called with an event of the bridge's stream, as `receiver(event=event)`."""
        heard = self.deleted if event.type == self._type_deleted else self.saved
        receivers = [] if heard.is_muted else heard.receivers_for(self.model)
        return [_Call(receiver, self.model, self._bus) for receiver in receivers]

    def _publish(self, type_: str, instance: signals.Model, operation: str) -> None:
        self._targets[type_].publish(
            Event(
                type_,
                key_text(instance),
                row_payload(instance, self._exclude),
                origin=self._bus.origin,
                operation=operation,
            )
        )

    def _hear_saved(self, event: Event) -> None:
        self._hear(self.saved, event)

    def _hear_deleted(self, event: Event) -> None:
        self._hear(self.deleted, event)

    def _hear(self, heard: blinker.Signal, event: Event) -> None:
        if heard.is_muted:
            return
        for receiver in list(heard.receivers_for(self.model)):
            try:
                _Call(receiver, self.model, self._bus)(event)
            except Exception:
                logger.exception("receiver %r failed on %s (event %s)", receiver, event.type, event.event_id)


class _Call:
    """A receiver ready to be called with an event: a coroutine function on the loop of the bus, others here."""

    def __init__(self, receiver: Callable[..., Any], model: type[signals.Model], bus: EventBus) -> None:
        self.func = receiver
        self._model = model
        self._bus = bus
        if is_in_transaction(receiver):
            in_transaction(self)

    def __call__(self, event: Event) -> None:
        result = self.func(self._model, event=event)
        if not inspect.iscoroutine(result):
            return
        loop = self._bus.loop
        if loop is None or is_in_transaction(self):
            result.close()
            raise TypeError(
                "a transactional receiver cannot be async: its transaction is of the bus's thread"
                if is_in_transaction(self)
                else "an async receiver needs a loop: run the bus by `async with bus` or `await bus.serve()`"
            )
        asyncio.run_coroutine_threadsafe(result, loop).result()


class _Terminating:
    """While entered, SIGTERM sets the given event, if this is the main thread, the only one that may say so."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._handle)

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._stopped.set()
