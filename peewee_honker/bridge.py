"""A model's bridge to the bus: what its writes publish, and the blinker signals that tell of it after commit."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import blinker

from peewee_honker import signals
from peewee_honker.events import Event, EventTarget, Retention
from peewee_honker.events.event import check_type
from peewee_honker.events.listener import Listener, Outcome, call
from peewee_honker.events.payload import check_payload, is_secret, json_value, key_text, row_payload
from peewee_honker.signals import in_transaction, is_in_transaction

if TYPE_CHECKING:
    from peewee_honker.bus import EventBus

__all__ = ["Bridge", "Operation", "PayloadSchema"]

Operation = Literal["insert", "update", "delete"]
logger = logging.getLogger("peewee_honker.bus")

OPERATIONS: tuple[Operation, ...] = ("insert", "update", "delete")

_MOST_INSTANCES = 10_000  # that wait for their event's delivery


class PayloadSchema(Protocol):
    """What turns an instance into a payload: a marshmallow schema, or something else with a `dump`."""

    def dump(self, obj: Any) -> Any:
        """The instance as JSON values."""


class Bridge:
    """What a model's writes publish, and who hears of them. Made by `EventBus.bridge` and `EventBus.capture`.

    - `saved`, `deleted`: blinker signals. A receiver is called as `receiver(model, event=event)` after commit, in the
      bus's thread; `event.payload` is the row by field name, `event.id` its key, `event.operation` insert, update or
      delete. One that raises is logged, and the others are still called.
    """

    def __init__(
        self,
        bus: "EventBus",
        model: type[Any],
        *,
        names: tuple[str, str],
        durable: bool,
        local: bool = False,
        exclude: Iterable[str] = (),
        operations: Iterable[Operation] = OPERATIONS,
        payload: PayloadSchema | Callable[[Any], Any] | None = None,
        changes: bool = False,
        instance: bool = False,
        retention: Retention | None = None,
        stream: str | None = None,
    ) -> None:
        unknown = [name for name in exclude if name not in model._meta.fields]
        if unknown:
            raise ValueError(f"{model.__name__} has no field {unknown[0]!r} to exclude")
        others = [operation for operation in operations if operation not in OPERATIONS]
        if others:
            raise ValueError(f"an operation is one of insert, update and delete, not {others[0]!r}")
        self.model = model
        self.saved = blinker.Signal(f"A {model.__name__} was saved, and committed.")
        self.deleted = blinker.Signal(f"A {model.__name__} was deleted, and that committed.")
        self.type_saved, self.type_deleted = (check_type(name) for name in names)
        self.durable = durable
        self.stream_name = stream or model._meta.table_name
        self.retention = (retention or Retention()) if durable else None
        self._bus = bus
        self._exclude = frozenset(exclude) | {field.name for field in model._meta.sorted_fields if is_secret(field)}
        self._operations = frozenset(operations)
        self._payload = payload
        dump: Any = getattr(payload, "dump", payload)
        self._schema: Callable[[Any], Any] | None = dump
        self._changes = changes
        self._is_captured: bool | None = None  # whether triggers tell of the table's changes; None until looked up
        self._instances: OrderedDict[str, Any] | None = OrderedDict() if instance else None
        self._before: dict[int, dict[str, Any] | None] = {}  # by instance: its row before the save that is under way
        self.options = (
            *(self._exclude, self._operations, durable, local, *names),
            *(payload, changes, instance, self.retention, self.stream_name),
        )
        self.target: EventTarget = bus.target(durable=durable, stream=self.stream_name, local=local)
        self._listeners = {
            self.type_saved: _Heard(self, self.saved),
            self.type_deleted: _Heard(self, self.deleted),
        }

    # On the way out

    def publish(self) -> None:
        """Connect to the model's signals."""
        if self._operations & {"insert", "update"}:
            signals.pre_save.connect(self._check, sender=self.model, weak=False)
            signals.post_save.connect(self._on_save, sender=self.model, weak=False)
            if self._changes:
                signals.pre_save.connect(self._note_row, sender=self.model, weak=False)
        if "delete" in self._operations:
            signals.post_delete.connect(self._on_delete, sender=self.model, weak=False)

    def unpublish(self) -> None:
        """Publish the model's writes no longer."""
        signals.pre_save.disconnect(self._check, sender=self.model)
        signals.pre_save.disconnect(self._note_row, sender=self.model)
        signals.post_save.disconnect(self._on_save, sender=self.model)
        signals.post_delete.disconnect(self._on_delete, sender=self.model)

    def _check(self, sender: type[signals.Model], instance: signals.Model, created: bool) -> None:
        """Refuse what cannot travel before the write is sent, so that the open transaction can go on."""
        if self._schema is not None:
            Event(self.type_saved, "", self._schema(instance)).to_json(self._bus.max_bytes)
        elif check_payload(instance, self._exclude) * 6 > self._bus.max_bytes - 1024:  # 6: "\u0000", the longest escape
            Event(self.type_saved, key_text(instance), row_payload(instance, self._exclude)).to_json(self._bus.max_bytes)

    @in_transaction
    def _note_row(self, sender: type[signals.Model], instance: signals.Model, created: bool) -> None:
        self._before[id(instance)] = None if created else self._row_of(instance)

    @in_transaction
    def _on_save(self, sender: type[signals.Model], instance: signals.Model, created: bool) -> None:
        before = self._before.pop(id(instance), None) if self._changes else None
        operation: Operation = "insert" if created else "update"
        if not instance.__rows__ or operation not in self._operations:
            return
        changes = None
        if self._changes and not created:
            old, new = before or {}, self._row_of(instance) or {}
            changes = {name: [old.get(name), value] for name, value in new.items() if old.get(name) != value}
        self._publish(self.type_saved, instance, operation, changes)

    @in_transaction
    def _on_delete(self, sender: type[signals.Model], instance: signals.Model) -> None:
        if instance.__rows__:
            self._publish(self.type_deleted, instance, "delete", None)

    def _look_for_capture(self) -> bool:
        """Whether the file has triggers that publish what this bridge would: then each change is told once, by them."""
        types = [self.type_saved, self.type_deleted]
        for capture in self._bus.captures():
            options = capture.options
            same = (options["types"], options["durable"]) == (types, self.durable)
            if same and capture.complete and capture.table == self.model._meta.table_name:
                logger.info("%s is captured by triggers, so its bridge does not publish by itself", self.model.__name__)
                return True
        return False

    def _row_of(self, instance: signals.Model) -> dict[str, Any] | None:
        """The instance's row as it is in the database, in the form of a payload."""
        model: Any = type(instance)
        this: Any = instance
        row: dict[str, Any] | None = model.select().where(this._pk_expr()).dicts().first()
        if row is None:
            return None
        return {name: json_value(value, model, name) for name, value in row.items() if name not in self._exclude}

    def _publish(self, type_: str, instance: signals.Model, operation: Operation, changes: Mapping[str, Any] | None) -> None:
        if self._is_captured is None:
            self._is_captured = self._look_for_capture()
        if self._is_captured:
            return
        payload = row_payload(instance, self._exclude) if self._schema is None else self._schema(instance)
        event = Event(type_, key_text(instance), payload, None, None, self._bus.origin, operation, changes)
        if self._instances is not None and self._bus.is_running:
            self._instances[event.event_id] = instance
            if len(self._instances) > _MOST_INSTANCES:  # of what was rolled back
                self._instances.popitem(last=False)
        self.target.dispatch(event)

    # On the way in

    def load(self, event: Event) -> Any:
        """An event's payload as Python values, checked: what the bridge's marshmallow schema, or else the model's select
        schema, loads from it. Raises marshmallow's ValidationError when the payload is not of that form."""
        from peewee_honker.schemas import create_select_schema  # marshmallow takes its time to import

        load: Any = getattr(self._payload, "load", None)
        if load is None:
            load = create_select_schema(self.model, exclude=sorted(self._exclude))().load
        return load(event.payload)

    def listen(self) -> None:
        """Call the receivers from now on."""
        for type_, listener in self._listeners.items():
            self.target.add_listener(type_, listener)

    def leave(self) -> None:
        """Call them no more."""
        for type_, listener in self._listeners.items():
            self.target.remove_listener(type_, listener)

    def listeners_for(self, event: Event) -> list[Listener]:
        """Who is to be called with an event of this bridge."""
        heard = self._listeners.get(event.type)
        return [] if heard is None else heard.listeners_for(event)

    def take_instance(self, event: Event) -> dict[str, Any]:
        """The keyword argument for an event's instance, where the bridge was asked for it: None in other processes."""
        if self._instances is None:
            return {}
        return {"instance": self._instances.pop(event.event_id, None)}

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where coroutine functions run."""
        return self._bus.loop


class _Heard:
    """The listener that stands for a blinker signal's receivers."""

    def __init__(self, bridge: Bridge, signal: blinker.Signal) -> None:
        self._bridge = bridge
        self._signal = signal

    def __call__(self, event: Event) -> None:
        for listener in self.listeners_for(event):
            listener(event)

    def listeners_for(self, event: Event) -> list[Listener]:
        """The signal's receivers, each ready to be called with the event."""
        instance = self._bridge.take_instance(event)
        if self._signal.is_muted:
            return []
        return [Receiving(receiver, self._bridge, instance) for receiver in self._signal.receivers_for(self._bridge.model)]


class Receiving:
    """A bridge's receiver ready to be called with an event."""

    def __init__(self, receiver: Callable[..., Any], bridge: Bridge, named: dict[str, Any]) -> None:
        self.func = receiver
        self._bridge = bridge
        self._named = named
        if is_in_transaction(receiver):
            in_transaction(self)

    def __call__(self, event: Event) -> Outcome | None:
        return call(self.func, self._bridge.model, event=event, loop=self._bridge.loop, **self._named)
