"""The database file that a command is about: found, checked, opened, closed."""

import argparse
import contextlib
import os
from collections.abc import Iterator

from peewee_honker.cli.screen import CommandError
from peewee_honker.database import HonkerDatabase

__all__ = ["VARIABLE", "database_path", "opened"]

VARIABLE = "PEEWEE_HONKER_DATABASE"
"""The environment variable that names the file when no option does."""

_MAGIC = b"SQLite format 3\0"


def database_path(arguments: argparse.Namespace) -> str:
    """The path that the options or the environment name. Raises CommandError when there is none, or no database there.

    Looks without SQLite: opening a file through Honker makes its tables, which nobody asked for who has mistyped a name.
    """
    path = getattr(arguments, "database", None) or os.environ.get(VARIABLE)
    if not path:
        raise CommandError(f"which database? Say --database FILE, or set {VARIABLE}", 2)
    if os.path.isdir(path):
        raise CommandError(f"{path} is a directory, not a database file")
    if not os.path.exists(path):
        raise CommandError(f"{path} does not exist")
    try:
        with open(path, "rb") as file:
            header = file.read(20)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    if not header.startswith(_MAGIC):
        raise CommandError(f"{path} is not a SQLite database" if header else f"{path} is empty")
    if header[18:20] != b"\2\2":
        raise CommandError(
            f"{path} is a SQLite database that Honker has not been used on (its journal is not a WAL): open it with "
            "HonkerDatabase first"
        )
    return os.fspath(path)


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[HonkerDatabase]:
    """The database, closed with its engine at the end."""
    database = HonkerDatabase(database_path(arguments))
    try:
        yield database
    finally:
        database.close_engine()
