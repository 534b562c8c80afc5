"""Where a database lies: the argument of `HonkerDatabase`, read as sqlite3.connect reads it."""

import os
import sqlite3
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from peewee_honker.driver.errors import operational

__all__ = ["Location"]

_NOT_WRITABLE = (
    "attempt to write a readonly database: {name} cannot be written, and Honker writes its tables when it opens a file. "
    "Use peewee.SqliteDatabase to read it, or make the file and its directory writable."
)


@dataclass(frozen=True, slots=True)
class Location:
    """A file, or a private database that is gone when it is closed.

    - `path`: the file's real path; None for a private database.
    - `name`: what the user wrote, for messages.
    - `must_exist`: refuse to make the file (`mode=rw`, `mode=ro`).
    - `read_only`: connections refuse to write (`mode=ro`); Honker itself still writes its own tables.
    """

    path: str | None
    name: str
    must_exist: bool = False
    read_only: bool = False

    @classmethod
    def of(cls, database: str | bytes | os.PathLike[str], uri: bool = False) -> "Location":
        """Read a path, `:memory:` or, when `uri` is true, a `file:` URI.

        Raises `sqlite3.OperationalError` for a malformed URI and `sqlite3.NotSupportedError` for a URI parameter that
        Honker has no way to honour.
        """
        name = os.fsdecode(database)
        if uri and name.startswith("file:"):
            return cls._of_uri(name)
        if name in (":memory:", ""):
            return cls(None, name)
        return cls(os.path.realpath(name), name)

    @classmethod
    def _of_uri(cls, name: str) -> "Location":
        parts = urlsplit(name)
        if parts.netloc not in ("", "localhost"):
            raise operational(f"invalid uri authority: {parts.netloc}")
        path = unquote(parts.path)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        mode = options.pop("mode", "rwc")
        cache = options.pop("cache", "private")
        if mode not in ("ro", "rw", "rwc", "memory"):
            raise operational(f"no such access mode: {mode}")
        if options:
            refused = ", ".join(sorted(options))
            raise sqlite3.NotSupportedError(f"{name}: Honker cannot honour the URI parameters {refused}. Leave them out.")
        if mode == "memory" or path in (":memory:", ""):
            if cache == "shared":
                raise sqlite3.NotSupportedError(
                    f"{name}: a memory database shared by name cannot be had. Share one HonkerDatabase(':memory:') "
                    "object, which all threads see alike, or use a file."
                )
            return cls(None, name)
        return cls(os.path.realpath(path), name, must_exist=mode in ("rw", "ro"), read_only=mode == "ro")

    def check(self) -> None:
        """Raise `sqlite3.OperationalError` when the file cannot be opened for writing, saying why."""
        if self.path is None:
            return
        if os.path.isdir(self.path):
            raise operational(f"unable to open database file: {self.name} is a directory", "SQLITE_CANTOPEN")
        folder = os.path.dirname(self.path)
        if os.path.exists(self.path):
            if not os.access(self.path, os.W_OK) or not os.access(folder, os.W_OK):
                raise operational(_NOT_WRITABLE.format(name=self.name), "SQLITE_READONLY")
        elif self.must_exist:
            raise operational(f"unable to open database file: {self.name} does not exist", "SQLITE_CANTOPEN")
        elif not os.path.isdir(folder):
            raise operational(f"unable to open database file: no directory {folder}", "SQLITE_CANTOPEN")
        elif not os.access(folder, os.W_OK):
            raise operational(f"unable to open database file: {folder} is not writable", "SQLITE_CANTOPEN")
