"""The event bus: models' saves and deletes on the way out, blinker receivers on the way in.

bus = EventBus(db)
orders = bus.bridge(Order)

@orders.saved.connect
def ship(sender, event): ...

bus.run()
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any

import blinker

from peewee_honker import signals
from peewee_honker.database import HonkerDatabase
from peewee_honker.events import Channel, Dispatcher, Event, dispatcher_for
from peewee_honker.events.payload import key_text, row_payload
from peewee_honker.signals import in_transaction

__all__ = ["Bridge", "EventBus"]

logger = logging.getLogger("peewee_honker.bus")


class EventBus:
    """Publishes in the transactions of a database and calls receivers after commit, in this and every other process.

    Arguments:
        database: a `HonkerDatabase`.
        origin: what `Event.origin` says of events published here; by default `host:pid`.

    Receivers are called in a thread of the bus while it runs: `bus.run()` blocks until Ctrl-C, SIGTERM or `stop()`; `with
    bus:` runs it beside the block. What commits after it has started is delivered, in commit order, at most once to
    each process (ephemeral delivery: a process that is not there misses it).
    """

    def __init__(self, database: HonkerDatabase, *, origin: str | None = None) -> None:
        if not isinstance(database, HonkerDatabase):
            raise TypeError(f"an EventBus needs a HonkerDatabase, not {type(database).__name__}")
        self.database = database
        self._origin = origin
        self._bridges: dict[type[signals.Model], Bridge] = {}
        self._running: Dispatcher | None = None
        self._changing = threading.RLock()
        self._stopped = threading.Event()

    @property
    def origin(self) -> str:
        """The name of this process in the events that it publishes."""
        return self._origin or f"{socket.gethostname()}:{os.getpid()}"

    def bridge(
        self, model: type[signals.Model], *, exclude: Iterable[str] = (), channel: str = "{table}.{operation}"
    ) -> "Bridge":
        """Publish every `save()` and `delete_instance()` of `model` and its subclasses, in the transaction of the write.

        Arguments:
            model: a subclass of `peewee_honker.signals.Model` on the bus's database.
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
            made = Bridge(self, model, tuple(exclude), channel)
            if known is not None:
                if known.options != made.options:
                    raise ValueError(f"{model.__name__} is bridged already, with other options: {known.options}")
                return known
            made.publish()
            self._bridges[model] = made
            if self._running is not None:
                made.listen(self._running)
            return made

    # Running

    def start(self) -> None:
        """Begin to call receivers: with all that commits after this returns. Nothing when the bus runs."""
        with self._changing:
            if self._running is not None:
                return
            dispatcher = dispatcher_for(self.database.engine)
            for bridge in self._bridges.values():
                bridge.listen(dispatcher)
            dispatcher.start()
            self._running = dispatcher
            self._stopped.clear()

    def stop(self) -> None:
        """Call no more receivers; returns when those that run have ended. Nothing when the bus does not run."""
        with self._changing:
            dispatcher, self._running = self._running, None
            self._stopped.set()
        if dispatcher is not None:
            for bridge in self._bridges.values():
                bridge.leave(dispatcher)
            dispatcher.stop()

    def __enter__(self) -> "EventBus":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def run(self) -> None:
        """Run until Ctrl-C, SIGTERM (when called in the main thread) or `stop()`, then return.

        A receiver that runs at that moment is let finish.
        """
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

    def __init__(self, bus: EventBus, model: type[signals.Model], exclude: tuple[str, ...], channel: str) -> None:
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
        self.options = (self._exclude, *names)
        self._channel_saved, self._channel_deleted = (Channel(bus.database, name) for name in names)

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
        dispatcher.add(self._channel_saved.name, self._hear_saved)
        dispatcher.add(self._channel_deleted.name, self._hear_deleted)

    def leave(self, dispatcher: Dispatcher) -> None:
        """Undo `listen`."""
        dispatcher.remove(self._channel_saved.name, self._hear_saved)
        dispatcher.remove(self._channel_deleted.name, self._hear_deleted)

    def _check(self, sender: type[signals.Model], instance: signals.Model, created: bool) -> None:
        """Refuse what has no form in JSON before the write is sent, so that the open transaction can go on."""
        row_payload(instance, self._exclude)

    @in_transaction
    def _on_save(self, sender: type[signals.Model], instance: signals.Model, created: bool) -> None:
        if instance.__rows__:
            self._publish(self._channel_saved, instance, "insert" if created else "update")

    @in_transaction
    def _on_delete(self, sender: type[signals.Model], instance: signals.Model) -> None:
        if instance.__rows__:
            self._publish(self._channel_deleted, instance, "delete")

    def _publish(self, channel: Channel, instance: signals.Model, operation: str) -> None:
        channel.publish(
            Event(
                channel.name,
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
                receiver(self.model, event=event)
            except Exception:
                logger.exception("receiver %r failed on %s (event %s)", receiver, event.type, event.event_id)


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
