"""The errors of storage."""

from collections.abc import Sequence
from typing import TypedDict

from peewee_honker.errors import HonkerError

__all__ = [
    "CycleError",
    "ModuleError",
    "NoDatabaseError",
    "OtherDatabaseError",
    "Problem",
    "StorageError",
    "ValidationFailed",
]


class Problem(TypedDict):
    """What is wrong with a value, and where: `path` is a JSON Pointer into it, `` for the value itself."""

    path: str
    message: str


class StorageError(HonkerError):
    """Base class of the errors of `peewee_honker.storage`."""


class NoDatabaseError(StorageError):
    """A stored model was used where no database is in use."""


class OtherDatabaseError(StorageError):
    """A row of one database was about to be written to another."""


class ValidationFailed(StorageError, ValueError):  # noqa: N818  (the name that says what happened)
    """A value is not what its schema says. Nothing has been written.

    `problems` is a list of `{path, message}`, never empty.
    """

    def __init__(self, what: str, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        told = "; ".join(f"{problem['path'] or '/'}: {problem['message']}" for problem in self.problems)
        super().__init__(f"{what}: {told}")


class CycleError(StorageError):
    """A graph that has to be acyclic has, or would get, a cycle. `cycle` names nodes on it, as far as known."""

    def __init__(self, message: str, cycle: Sequence[str] = ()) -> None:
        self.cycle = list(cycle)
        super().__init__(message)


class ModuleError(StorageError):
    """A module is not one, or cannot be installed over what is there."""
