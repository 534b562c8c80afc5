"""A channel: publish into the transaction that is open, listen after commit."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from peewee_honker.events.event import Event

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase
    from peewee_honker.events.dispatcher import Dispatcher

__all__ = ["Channel", "Listener"]

logger = logging.getLogger("peewee_honker.events")

Listener = Callable[[Event], None]

_INSERT = "INSERT INTO _honker_notifications (channel, payload) VALUES (?, ?)"


class Channel:
    """An ephemeral Honker channel of one database.

    Guarantee: an event is a row of Honker's notification table, written in the same transaction as what it tells of; it
    is heard after commit, in commit order, at most once by each process that listens then, and never after a rollback.
    """

    __slots__ = ("database", "name")

    def __init__(self, database: "HonkerDatabase", name: str) -> None:
        self.database = database
        self.name = name

    def publish(self, event: Event) -> None:
        """Write the event, in this thread's open transaction or alone. Raises as `Event.to_json` does, before writing."""
        self.database.write_beside(_INSERT, (self.name, event.to_json()))

    def listen(self, dispatcher: "Dispatcher", listener: Listener) -> None:
        """Call `listener` with each event from now on, in the dispatcher's thread."""
        dispatcher.add(self.name, listener)
