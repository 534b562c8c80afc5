"""Which database the stored models use: one for each context, so that a thread or a task works on its own.

The models of storage are defined once, and the same tables lie in many files. Peewee's `bind` and `bind_ctx` change the
model class itself, for all threads at once. Here the class has a `ContextDatabase`, which stands for the database that the
running thread or asyncio task has in use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import peewee

from peewee_honker.storage.errors import NoDatabaseError

__all__ = ["ContextDatabase", "graph_database"]


class ContextDatabase(peewee.DatabaseProxy):
    """Stands for the database in use: the context's own, else the default, else an error.

        with graph_database.use(db):
            Node.select()

    Arguments:
        name: is named in errors.

    What is in use is a context variable: `use` in one thread or asyncio task is not seen in another, and a task has what
    was in use where it was made. A new thread begins with the default; `asyncio.to_thread` takes the context along.
    """

    __slots__ = ("_callbacks", "_default", "_in_use", "_name")

    def __init__(self, name: str) -> None:
        put = object.__setattr__  # Peewee's proxy refuses other attributes
        put(self, "_name", name)
        put(self, "_in_use", ContextVar(f"peewee_honker.{name}", default=None))
        put(self, "_default", None)
        put(self, "_callbacks", [])

    @property
    def obj(self) -> Any:
        """The database in use, or None."""
        found = self._in_use.get()
        return self._default if found is None else found

    @property
    def current(self) -> Any:
        """The database in use. Raises NoDatabaseError when there is none."""
        found = self.obj
        if found is None:
            raise NoDatabaseError(f"no {self._name} database is in use: `with {self._name}_database.use(db): ...`")
        return found

    @contextmanager
    def use(self, database: Any) -> Iterator[Any]:
        """Use a database in this context, until the end of the block. Gives the database."""
        token = self._in_use.set(database)
        try:
            yield database
        finally:
            self._in_use.reset(token)

    def initialize(self, obj: Any) -> None:
        """Use a database wherever a context has none of its own: for a program with one database. None: no default.

        A program with tenants has no default, so that a forgotten `use` is an error.
        """
        object.__setattr__(self, "_default", obj)
        for callback in self._callbacks:
            callback(obj)

    def atomic(self, *args: Any, **kwargs: Any) -> Any:
        """A transaction of the database in use now."""
        return self.current.atomic(*args, **kwargs)

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        """As `Database.transaction`, of the database in use now."""
        return self.current.transaction(*args, **kwargs)

    def savepoint(self, *args: Any, **kwargs: Any) -> Any:
        """As `Database.savepoint`, of the database in use now."""
        return self.current.savepoint(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.current, name)


graph_database = ContextDatabase("graph")
"""What the metagraph's models use."""
