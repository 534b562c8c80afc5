"""Events, and how they get from a commit to those who listen, in every process on the file."""

from peewee_honker.events.channel import Channel
from peewee_honker.events.consumer import Consumer, Receiver, StartAt
from peewee_honker.events.dead_letter import DeadLetter, dead_letters
from peewee_honker.events.dispatcher import Dispatcher, dispatcher_for
from peewee_honker.events.event import Event, new_event_id
from peewee_honker.events.stream import Stream

__all__ = [
    "Channel",
    "Consumer",
    "DeadLetter",
    "Dispatcher",
    "Event",
    "Receiver",
    "StartAt",
    "Stream",
    "dead_letters",
    "dispatcher_for",
    "new_event_id",
]
