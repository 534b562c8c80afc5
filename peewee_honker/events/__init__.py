"""Events, and how they get from a commit to those who listen, in every process on the file."""

from peewee_honker.events.composite import CompositeEventTarget
from peewee_honker.events.consumer import Consumer
from peewee_honker.events.dead_letter import DeadLetter, dead_letters
from peewee_honker.events.event import GAP, Event, new_event_id
from peewee_honker.events.honker import Follower, HonkerEventTarget
from peewee_honker.events.metrics import LoggingRecorder, Recorder, SilentRecorder
from peewee_honker.events.pubsub import PubSub, Subscription, create_pubsub
from peewee_honker.events.retention import Retention
from peewee_honker.events.stream import Position, consumer_places, forget_consumer, seek, streams
from peewee_honker.events.target import EventTarget, LocalEventTarget

__all__ = [
    "GAP",
    "CompositeEventTarget",
    "Consumer",
    "DeadLetter",
    "Event",
    "EventTarget",
    "Follower",
    "HonkerEventTarget",
    "LocalEventTarget",
    "LoggingRecorder",
    "Position",
    "PubSub",
    "Recorder",
    "Retention",
    "SilentRecorder",
    "Subscription",
    "consumer_places",
    "create_pubsub",
    "dead_letters",
    "forget_consumer",
    "new_event_id",
    "seek",
    "streams",
]
