"""The errors of peewee_honker that neither Peewee nor sqlite3 has a name for.

What SQLite itself reports reaches the user as Peewee's own exceptions (`peewee.IntegrityError`, ...), as with
`SqliteDatabase`. The classes here are for what only this package can get wrong.
"""

__all__ = [
    "BufferFullError",
    "EngineClosedError",
    "HonkerError",
    "PayloadError",
    "SchemaError",
    "SharedFileError",
    "TopicError",
]


class HonkerError(Exception):
    """Base class of the errors that peewee_honker adds to Peewee's."""


class SharedFileError(HonkerError):
    """A second SQLite handle on an engine's file, in one process.

    Two SQLite libraries in one process ignore each other's file locks, and a close in one deletes the write-ahead log
    under the other: committed data is lost without a word. So the second open is refused.
    """


class EngineClosedError(HonkerError):
    """An engine was used after it was closed, or by a process that may not use it (a child after `fork`)."""


class PayloadError(HonkerError, ValueError):
    """A payload cannot travel: it has no form in JSON, or is larger than the limit. Nothing has been written."""


class TopicError(HonkerError, ValueError):
    """An event's type or a listener's topic is not one: empty, reserved, or with characters that mean something."""


class ForwardConflictError(HonkerError):
    """A target has other events of a relay than the relay believed: another process runs one of that name. The relay looks
    again."""


class BufferFullError(HonkerError):
    """Items came faster than their consumer took them, and its buffer was told to fail rather than to wait or to drop.

    Raised to the consumer, after the items that were still there. The way out is in the message: a larger buffer, or
    another `when_full`.
    """


class SchemaError(HonkerError, ValueError):
    """No schema can be made: a field of a type nobody converts, a key that is not there, an option that says nothing."""
