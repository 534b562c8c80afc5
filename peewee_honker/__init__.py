"""Peewee on Honker: a drop-in SqliteDatabase, and events that commit with the row and reach every process."""

from peewee_honker.bus import EventBus
from peewee_honker.database import HonkerDatabase
from peewee_honker.errors import (
    BufferFullError,
    EngineClosedError,
    ForwardConflictError,
    HonkerError,
    PayloadError,
    SchemaError,
    SharedFileError,
    TopicError,
)
from peewee_honker.events import Event, Retention
from peewee_honker.pages import walk
from peewee_honker.pool import PooledHonkerDatabase
from peewee_honker.relay import Relay
from peewee_honker.servers.connect import connect

__all__ = [
    "BufferFullError",
    "EngineClosedError",
    "Event",
    "EventBus",
    "ForwardConflictError",
    "HonkerDatabase",
    "HonkerError",
    "PayloadError",
    "PooledHonkerDatabase",
    "Relay",
    "Retention",
    "SchemaError",
    "SharedFileError",
    "TopicError",
    "connect",
    "walk",
]
__version__ = "0.1.0"
