"""Events, and how they get from a commit to those who listen, in every process on the file."""

from peewee_honker.events.channel import Channel
from peewee_honker.events.dispatcher import Dispatcher, dispatcher_for
from peewee_honker.events.event import Event, new_event_id

__all__ = ["Channel", "Dispatcher", "Event", "dispatcher_for", "new_event_id"]
