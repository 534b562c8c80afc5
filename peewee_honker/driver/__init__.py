"""A DB-API face on Honker: connections and cursors that Peewee can drive. Nothing in here knows Peewee.

`Connection` is the DB-API face of a `Session` on the process's one `Engine` for a file, which owns Honker's handle.
`statement` reads SQL text, `rows` names every column, `parameters` checks values, `errors` gives Honker's errors the
classes that sqlite3 would raise, `guard` keeps sqlite3 off the file.
"""

from peewee_honker.driver.connection import Connection
from peewee_honker.driver.cursor import Cursor
from peewee_honker.driver.engine import Engine, engine_for, sqlite_version
from peewee_honker.driver.location import Location

__all__ = ["Connection", "Cursor", "Engine", "Location", "engine_for", "sqlite_version"]
