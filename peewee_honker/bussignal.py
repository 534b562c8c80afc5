"""Named blinker signals that reach every process: `bus.signal("report.ready")`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import blinker

from peewee_honker.events import Event, EventTarget, Retention
from peewee_honker.events.event import check_type
from peewee_honker.events.listener import Listener, Outcome, ended
from peewee_honker.signals import in_transaction, is_in_transaction

if TYPE_CHECKING:
    from peewee_honker.bus import EventBus

__all__ = ["BusSignal"]


class BusSignal(blinker.NamedSignal):
    """A blinker signal whose `send` publishes, and whose receivers are called after commit, in every process.

    All that blinker's signals can works: `connect`, `connect_via`, `connected_to`, `muted`, weak receivers,
    `has_receivers_for`, `send_async`. What differs, since the receivers are elsewhere and later:

    - the sender is None or a text, and the keyword arguments are JSON values;
    - `send` calls nobody: it writes the event, in the transaction that is open, and gives an empty list;
    - while the signal is muted in a process, nothing is sent there, and nothing that comes is heard.
    """

    def __init__(self, bus: "EventBus", name: str, *, durable: bool, local: bool, retention: Retention | None) -> None:
        super().__init__(check_type(name), f"{name}, on the bus.")
        self.durable = durable
        self.stream_name = name
        self.retention = (retention or Retention()) if durable else None
        self.options = (durable, local, self.retention)
        self._bus = bus
        self._heard = _Heard(self)
        self.target: EventTarget = bus.target(durable=durable, stream=name, local=local)

    def send(self, sender: str | None = None, /, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Publish, in the open transaction or alone. Gives an empty list.

        Raises TypeError for a sender that is not text, PayloadError for arguments that JSON cannot hold.
        """
        if sender is not None and not isinstance(sender, str):
            raise TypeError(f"the sender of a signal on the bus travels to other processes: text or None, not {sender!r}")
        if not self.is_muted:
            payload = {"sender": sender, "named": named}
            self.target.dispatch(Event(self.name, sender or "", payload, origin=self._bus.origin))
        return []

    async def send_async(self, sender: str | None = None, /, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """As `send`, for symmetry with blinker: receivers that are coroutine functions need no other way of sending."""
        return self.send(sender, **named)

    def listen(self) -> None:
        """Call the receivers from now on."""
        self.target.add_listener(self.name, self._heard)

    def leave(self) -> None:
        """Call them no more."""
        self.target.remove_listener(self.name, self._heard)

    def listeners_for(self, event: Event) -> list[Listener]:
        """Who is to be called with an event of this signal."""
        payload = event.payload
        if self.is_muted or event.type != self.name or not isinstance(payload, dict):
            return []
        if not isinstance(payload.get("named"), dict) or "sender" not in payload:  # of another program
            return []
        return [_Receiving(receiver, self._bus) for receiver in self.receivers_for(payload["sender"])]


class _Heard:
    """The listener that stands for the signal's receivers."""

    def __init__(self, signal: BusSignal) -> None:
        self._signal = signal

    def __call__(self, event: Event) -> None:
        for listener in self.listeners_for(event):
            listener(event)

    def listeners_for(self, event: Event) -> list[Listener]:
        """The signal's receivers, each ready to be called with the event."""
        return self._signal.listeners_for(event)


class _Receiving:
    """A receiver ready to be called with what was sent."""

    def __init__(self, receiver: Callable[..., Any], bus: "EventBus") -> None:
        self.func = receiver
        self._bus = bus
        if is_in_transaction(receiver):
            in_transaction(self)

    def __call__(self, event: Event) -> Outcome | None:
        # Not by call(), whose own arguments' names may be among those that were sent.
        return ended(self.func, self.func(event.payload["sender"], **event.payload["named"]), self._bus.loop)
