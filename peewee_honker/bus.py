"""The event bus: models' saves and deletes on the way out, blinker receivers on the way in.

bus = EventBus(db)
orders = bus.bridge(Order)

@orders.saved.connect
def ship(sender, event): ...

bus.run()
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

import blinker
import peewee

from peewee_honker import signals
from peewee_honker.bridge import OPERATIONS, Bridge, Operation, PayloadSchema
from peewee_honker.bussignal import BusSignal
from peewee_honker.capture import Capture, Installed, installed_captures
from peewee_honker.capture.postgres import PostgresCapture, installed_postgres_captures
from peewee_honker.database import HonkerDatabase
from peewee_honker.errors import EngineClosedError
from peewee_honker.events import (
    GAP,
    CompositeEventTarget,
    Consumer,
    DeadLetter,
    Event,
    EventTarget,
    HonkerEventTarget,
    Position,
    Recorder,
    Retention,
    SilentRecorder,
)
from peewee_honker.events.composite import new_origin
from peewee_honker.events.consumer import replay
from peewee_honker.events.event import MAX_BYTES
from peewee_honker.events.retention import EPHEMERAL_SECONDS, Pruner
from peewee_honker.events.store import HonkerStore, Store

if TYPE_CHECKING:
    from peewee_honker.events.run import EventDispatcher

__all__ = ["Bridge", "BusSignal", "EventBus"]

logger = logging.getLogger("peewee_honker.bus")

_LOOK = 0.5  # seconds between two looks whether the dispatcher is well
_LONGEST_STOP = 60.0  # seconds that start() waits for a stop() in another thread
_BACKLOG = 5.0  # seconds that stop() gives to what durable streams hold


class EventBus:
    """Publishes in the transactions of a database and calls receivers after commit, in this and every other process.

    Arguments:
        database: a `HonkerDatabase`, or Peewee's `PostgresqlDatabase` (with the extra `postgres`).
        origin: what `Event.origin` says of events published here, with a part that is new at each start; by default
            `host:pid`.
        consumer: the name by which this process receives from durable bridges; it finds its place again by it after a
            restart. Of several processes with one name one receives, and the next takes over when it dies.
        start_at: where a consumer of a new name begins: `now`, at the `beginning` of the streams, behind an offset, or at a
            time (a datetime).
        attempts, backoff: how often a receiver of a durable event is called before the event becomes a dead letter, and the
            first pause in seconds between two calls; it doubles.
        max_bytes: how long an event's JSON may be.
        ephemeral_seconds: how long ephemeral events are kept for processes that are late.
        recorder: is told what happens, see `peewee_honker.events.metrics`.

    Receivers are called in a thread of the bus while it runs: `bus.run()` blocks until Ctrl-C, SIGTERM or `stop()`; `with
    bus:` runs it beside the block, `async with bus` and `await bus.serve()` do so for asyncio, where receivers may be
    coroutine functions. What commits after it has started is delivered, in commit order: of ephemeral bridges at most
    once to each process (one that is not there misses it), of durable bridges at least once to each consumer. `stop`
    delivers what this process has committed before.

    `bus.missed` is a blinker signal: its receivers are called as `receiver(bus, event=event)` when events were deleted
    before this process had them, or the file was replaced; `event.payload` says where.
    """

    def __init__(
        self,
        database: HonkerDatabase | peewee.PostgresqlDatabase,
        *,
        origin: str | None = None,
        consumer: str | None = None,
        start_at: Position = "now",
        attempts: int = 5,
        backoff: float = 0.2,
        max_bytes: int = MAX_BYTES,
        ephemeral_seconds: float = EPHEMERAL_SECONDS,
        recorder: Recorder | None = None,
    ) -> None:
        self._store, self._target_class = _store_and_target(database)
        self.database: Any = database
        self.max_bytes = max_bytes
        self.recorder: Recorder = recorder or SilentRecorder()
        self.missed = blinker.Signal("Events were deleted before this process had them.")
        self.loop: asyncio.AbstractEventLoop | None = None  # where async receivers run
        self._name = origin
        self._origin, self._process = new_origin(origin), os.getpid()
        self._ephemeral_seconds = ephemeral_seconds
        self._consumer_name = consumer
        self._consumer_options: dict[str, Any] = {"start_at": start_at, "attempts": attempts, "backoff": backoff}
        self._consumer: Consumer | None = None
        self._bridges: dict[type[Any], Bridge] = {}
        self._signals: dict[str, BusSignal] = {}
        self._targets: dict[tuple[bool, str, bool], EventTarget] = {}
        self._running: EventDispatcher | None = None
        self._runs_in = os.getpid()
        self._pruner: Pruner | None = None
        self._changing = threading.RLock()
        self._stopped = threading.Event()
        self._ended = threading.Event()  # the last stop
        self._ended.set()

    @property
    def origin(self) -> str:
        """The name of this process in the events that it publishes."""
        if self._process != os.getpid():  # the child of a fork is a publisher of its own
            self._origin, self._process = new_origin(self._name), os.getpid()
        return self._origin

    @property
    def is_running(self) -> bool:
        """Whether receivers are called, in this process: a fork leaves that to the parent."""
        return self._running is not None and self._runs_in == os.getpid()

    # What is published and heard

    def bridge(
        self,
        model: type[signals.Model],
        *,
        durable: bool = False,
        local: bool = False,
        operations: Iterable[Operation] = OPERATIONS,
        exclude: Iterable[str] = (),
        payload: PayloadSchema | Callable[[Any], Any] | None = None,
        changes: bool = False,
        instance: bool = False,
        channel: str = "{table}.{operation}",
        stream: str | None = None,
        retention: Retention | None = None,
    ) -> Bridge:
        """Publish every `save()` and `delete_instance()` of `model` and its subclasses, in the transaction of the write.

        Arguments:
            model: a subclass of `peewee_honker.signals.Model` on the bus's database.
            durable: keep the events in a stream for consumers that are not there now.
            local: call the receivers in this process at once after the commit, in the thread that has committed; the others
                as without it, and none twice. The local calls are made once, also if they fail.
            operations: which of `insert`, `update` and `delete`.
            exclude: names of fields whose values never leave the process.
            payload: a marshmallow schema whose dump of the instance is the payload, or a function that gives it; by default
                all fields as JSON values.
            changes: tell, for updates, the old and the new value of what has changed as `event.changes`. Costs two reads.
            instance: call the receivers in the publishing process with the saved instance as keyword argument `instance`,
                which is None elsewhere.
            channel: the name of the channels and the type of the events; `{table}` is the model's table, `{operation}`
                `saved` or `deleted`.
            stream: the durable stream's name; by default the table's.
            retention: how long the stream keeps events; by default a week, and longer what a consumer still needs.

        Returns the model's bridge, whose blinker signals `saved` and `deleted` call receivers after commit. A model is
        bridged once: the second time its bridge is returned. A write outside a transaction and its event are one
        transaction of their own.

        Queries (`Model.insert`, `insert_many`, `update`, `delete`, `bulk_create`, ...) send no signals, and so no events:
        see `capture`.

        Raises TypeError for a model without signals, ValueError for a field to exclude that there is not, or for
        different options than the first time.
        """
        if not (isinstance(model, type) and issubclass(model, signals.Model)):
            raise TypeError(
                f"{model!r} sends no signals: let it inherit from peewee_honker.signals.Model instead of peewee.Model"
            )
        made = Bridge(
            self,
            model,
            names=_names(channel, model),
            durable=durable,
            local=local,
            exclude=exclude,
            operations=operations,
            payload=payload,
            changes=changes,
            instance=instance,
            retention=retention,
            stream=stream,
        )
        with self._changing:
            known = self._bridges.get(model)
            if known is not None:
                if known.options != made.options:
                    raise ValueError(f"{model.__name__} is bridged already, with other options: {known.options}")
                return known
            made.publish()
            self._add(made)
            return made

    def capture(
        self,
        model: type[Any],
        *,
        durable: bool = False,
        operations: Iterable[Operation] = OPERATIONS,
        columns: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        old_values: bool = False,
        where: Any = None,
        channel: str = "{table}.{operation}",
        stream: str | None = None,
        retention: Retention | None = None,
    ) -> Bridge:
        """Publish every committed change of the model's table, whoever makes it, by triggers; see `peewee_honker.capture`.

        Arguments are those of `Capture` and of `bridge`. The triggers are made, or made anew when the table or the options
        have changed, before this returns. A bridge of the model on this bus publishes no longer, so that each change is
        told once; its receivers stay connected.

        Returns a bridge, whose signals `saved` and `deleted` call receivers as those of `bridge` do. Raises as
        `Capture.install` does.
        """
        capture = self._capture_class(
            model,
            operations=operations,
            columns=columns,
            exclude=exclude,
            old_values=old_values,
            where=where,
            durable=durable,
            stream=stream,
            channel=channel,
        )
        capture.install(self.database)
        with self._changing:
            known = self._bridges.get(model)
            if known is not None:
                known.unpublish()
                same = (known.type_saved, known.type_deleted, known.durable) == (*_names(channel, model), durable)
                if not same or (durable and known.stream_name != capture.stream_name):
                    raise ValueError(f"{model.__name__} is bridged already, with other options: {known.options}")
                return known
            made = Bridge(
                self, model, names=_names(channel, model), durable=durable, retention=retention, stream=capture.stream_name
            )
            self._add(made)
            return made

    def uncapture(self, model: type[Any]) -> bool:
        """Drop the triggers of `capture`; a bridge of the model does not publish by itself again. Whether there were any."""
        return self._capture_class(model).uninstall(self.database)

    def captures(self) -> list[Installed]:
        """The captures that the database has, made by this program or another."""
        if isinstance(self.database, HonkerDatabase):
            return installed_captures(self.database)
        return installed_postgres_captures(self.database)

    @property
    def _capture_class(self) -> type[Capture]:
        return Capture if isinstance(self.database, HonkerDatabase) else PostgresCapture

    def signal(
        self, name: str, *, durable: bool = False, local: bool = False, retention: Retention | None = None
    ) -> BusSignal:
        """A named blinker signal whose `send` publishes in the open transaction, and whose receivers are called after commit
        in every process whose bus runs.

        Arguments:
            name: the type of its events, and the stream's name when durable.
            durable, local, retention: as for `bridge`.

        The second time the same signal is returned. Raises ValueError for other options then.
        """
        with self._changing:
            known = self._signals.get(name)
            if known is None:
                known = self._signals[name] = BusSignal(self, name, durable=durable, local=local, retention=retention)
                if self.is_running:
                    self._listen([known])
            elif known.options != (durable, local, (retention or Retention()) if durable else None):
                raise ValueError(f"the signal {name} is there already, with other options")
            return known

    def target(self, *, durable: bool = False, stream: str = "events", local: bool = False) -> EventTarget:
        """The bus's event target for events of one kind: to publish and hear events that no model makes.

        Arguments:
            durable: a stream's events, for the bus's consumer; else ephemeral ones.
            stream: the durable stream's name.
            local: at once for listeners of this process, see `CompositeEventTarget`.

        Its listeners hear as long as they are added, whether the bus runs or not.
        """
        with self._changing:
            key = (durable, stream if durable else "", local)
            found = self._targets.get(key)
            if found is not None:
                return found
            if local:
                own = self._target_class.local_target(self.database, max_bytes=self.max_bytes, recorder=self.recorder)
                remote = self.target(durable=durable, stream=stream)
                found = CompositeEventTarget(own, remote, origin=lambda: self.origin)
            elif durable:
                found = self._target_class(
                    self.database,
                    "durable",
                    stream=stream,
                    consumer=self._the_consumer(),
                    max_bytes=self.max_bytes,
                    recorder=self.recorder,
                )
            else:
                found = self._target_class(self.database, max_bytes=self.max_bytes, recorder=self.recorder)
            self._targets[key] = found
            return found

    def _the_consumer(self) -> Consumer | None:
        if self._consumer is None and self._consumer_name is not None:
            self._consumer = Consumer(self._store, self._consumer_name, recorder=self.recorder, **self._consumer_options)
        return self._consumer

    @property
    def _heard(self) -> list[Bridge | BusSignal]:
        return [*self._bridges.values(), *self._signals.values()]

    def _add(self, bridge: Bridge) -> None:
        self._bridges[bridge.model] = bridge
        if self.is_running:
            self._listen([bridge])

    # Running

    def start(self) -> None:
        """Begin to call receivers: with all that commits after this returns. Nothing when the bus runs.

        Raises ValueError when receivers are connected to a durable bridge and the bus has no consumer name.
        """
        dispatcher, ended = self._store.dispatcher, self._ended
        if self._runs_in == os.getpid() and dispatcher.may_be_waited_for():
            ended.wait(_LONGEST_STOP)  # of another thread's stop(), which would take the receivers away again
        with self._changing:
            if self.is_running:
                return
            if self._running is not None:  # it ran before the fork of which this is the child
                self.stop()
                self._stopped.clear()
            self._pruner = Pruner(self._store, self._ephemeral_seconds, self._retentions)
            dispatcher.add_source(self._pruner)
            self._running, self._runs_in = dispatcher, os.getpid()
            try:
                self._listen(self._heard)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Call no more receivers; returns when they have had what was committed before, and have ended. Nothing when the bus
        does not run.

        Of durable streams, what receivers have not had within 5 seconds stays for the next start.

        In a receiver, and in the thread of an event loop, it does not wait for them.
        """
        with self._changing:
            dispatcher, self._running = self._running, None
            pruner, self._pruner = self._pruner, None
            self._stopped.set()
            if dispatcher is None:
                return
            ended = self._ended = threading.Event()
        try:
            dispatcher.flush(_BACKLOG)
            for heard in self._heard:
                heard.leave()
                heard.target.remove_listener(GAP, self._tell_of_gap)
            if pruner is not None:
                dispatcher.remove_source(pruner)
        finally:
            ended.set()

    def _listen(self, heard: Iterable[Bridge | BusSignal]) -> None:
        # A stream is read from its first listener on; what waits in it is not for some of them before the others are there.
        with self._store.dispatcher.holding_sources():
            for each in heard:
                if each.durable and self._consumer_name is None:
                    if _has_receivers(each):
                        raise ValueError(
                            "receivers of a durable bridge need a consumer name, by which they find their place again after "
                            "a restart: EventBus(db, consumer='shipping')"
                        )
                    continue
                each.target.add_listener(GAP, self._tell_of_gap)
                each.listen()

    def _retentions(self) -> dict[str, Retention]:
        return {each.stream_name: each.retention for each in self._heard if each.retention is not None}

    def _tell_of_gap(self, event: Event) -> None:
        self.missed.send(self, event=event)

    def _check(self) -> None:
        """Raise what has ended the dispatcher, if it has ended under a bus that runs."""
        dispatcher = self._running
        if dispatcher is None or dispatcher.is_running:
            return
        self.stop()
        if dispatcher.failure is not None:
            raise dispatcher.failure
        raise EngineClosedError("the engine was closed while the bus was running: stop the bus first")

    def __enter__(self) -> "EventBus":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> "EventBus":
        self.loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except BaseException:
            if not starting.done():  # cancelled, while the thread goes on to start it
                await asyncio.wait([starting])
            await self.__aexit__(None, None, None)
            raise
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
        """Run until the task is cancelled. Async receivers are awaited on this loop, others called in the bus's thread.

        Raises what ends the bus otherwise: a receiver's KeyboardInterrupt or SystemExit, EngineClosedError when the
        database's engine was closed.
        """
        async with self:
            while True:
                await asyncio.sleep(_LOOK)
                self._check()

    def run(self) -> None:
        """Run until Ctrl-C, SIGTERM (when called in the main thread) or `stop()`, then return.

        A receiver that runs at that moment is let finish. Raises as `serve` does.
        """
        self._stopped.clear()
        with _Terminating(self._stopped), self:
            dispatcher = self._running
            try:
                while not self._stopped.wait(_LOOK):
                    self._check()
            except KeyboardInterrupt:
                if self.is_running:
                    logger.info("stopped by Ctrl-C")
                else:
                    raise  # a receiver's own
        if dispatcher is not None:
            dispatcher.flush()  # stopped within a receiver: that is let finish too, with the transaction it runs in

    # Dead letters

    def dead_letters(self, consumer: str | None = None) -> list[DeadLetter]:
        """The events that receivers could not take, oldest first: of one consumer, or of all."""
        return self._store.dead_letters(consumer)

    def replay(self, letter: DeadLetter) -> None:
        """Call the receiver that failed on a dead letter again, here and now, in a transaction; delete the letter.

        Raises what the receiver raises, and the letter stays; ValueError when this bus is not its consumer, LookupError when
        the receiver is no longer connected.
        """
        if self._consumer_name != letter.consumer:
            raise ValueError(f"the dead letter is of consumer {letter.consumer!r}, which this bus is not")
        heard = [each for each in self._heard if each.durable and each.stream_name == letter.stream]
        replay(self._store, letter, lambda event: [listener for each in heard for listener in each.listeners_for(event)])

    def drop(self, letter: DeadLetter) -> None:
        """Delete a dead letter."""
        self._store.forget(letter)


def _store_and_target(database: Any) -> tuple[Store, Any]:
    """Where a database keeps its events, and the class of targets on it."""
    if isinstance(database, HonkerDatabase):
        return HonkerStore(database), HonkerEventTarget
    if isinstance(database, peewee.PostgresqlDatabase):
        from peewee_honker.servers.postgres import PostgresTarget, store_for

        return store_for(database), PostgresTarget
    raise TypeError(f"an EventBus needs a HonkerDatabase or a PostgresqlDatabase, not {type(database).__name__}")


def _names(channel: str, model: type[Any]) -> tuple[str, str]:
    """The types of the events of a model's saves and deletes."""
    table = model._meta.table_name
    return channel.format(table=table, operation="saved"), channel.format(table=table, operation="deleted")


def _has_receivers(heard: Bridge | BusSignal) -> bool:
    if isinstance(heard, BusSignal):
        return bool(heard.receivers)
    return bool(heard.saved.receivers or heard.deleted.receivers)


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
