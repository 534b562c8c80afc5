"""Models whose database is that of the context, and rows that stay in the database they are of."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

import peewee

from peewee_honker import signals
from peewee_honker.storage.binding import ContextDatabase
from peewee_honker.storage.errors import OtherDatabaseError

__all__ = ["ContextModel"]

Q = TypeVar("Q", bound=Any)

_reading: ContextVar[str | None] = ContextVar("peewee_honker.reading", default=None)
"""The file whose rows are being made into instances: a query may be run where another is in use."""


class ContextModel(signals.Model):
    """Base class of models whose class Meta names a `ContextDatabase`.

        class Order(ContextModel):
            class Meta:
                database = tenant_database

    A query runs on the database that was in use when it was made, wherever it is run. An instance is of the database that
    it was read from, or that was in use when it was made: to save or delete it, or to follow its relations, where another is
    in use raises OtherDatabaseError.
    """

    _home: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._home = _reading.get() or _place(type(self))

    def save(self, force_insert: bool = False, only: Any = None) -> int:
        """As `peewee.Model.save`. Raises OtherDatabaseError for a row of another database."""
        self._check_home()
        return super().save(force_insert, only)

    def delete_instance(self, recursive: bool = False, delete_nullable: bool = False) -> int:
        """As `peewee.Model.delete_instance`. Raises OtherDatabaseError for a row of another database."""
        self._check_home()
        return super().delete_instance(recursive, delete_nullable)

    def _check_home(self) -> None:
        here = _place(type(self))
        if self._home is None:
            self._home = here
        elif here != self._home:
            raise OtherDatabaseError(
                f"this {type(self).__name__} is of {self._home}, and {here or 'no database'} is in use: "
                "read it again there, or use its own database"
            )

    @classmethod
    def validate_model(cls) -> None:
        """Called by Peewee when the class is made: has the relations look whose they are."""
        super().validate_model()
        for key in cls._meta.refs:
            if type(vars(cls).get(key.name)) is peewee.ForeignKeyAccessor:
                setattr(cls, key.name, _HomeForeignKey(cls, key, key.name))
            if type(vars(key.rel_model).get(key.backref)) is peewee.BackrefAccessor:
                setattr(key.rel_model, key.backref, _HomeBackref(key))

    # Queries

    @classmethod
    def select(cls, *fields: Any) -> Any:
        return _bound(cls, _HomeSelect(cls, fields or cls._meta.sorted_fields, is_default=not fields))

    @classmethod
    def update(cls, __data: Mapping[Any, Any] | None = None, **update: Any) -> Any:
        return _bound(cls, super().update(__data, **update))

    @classmethod
    def insert(cls, __data: Any = None, **insert: Any) -> Any:
        return _bound(cls, super().insert(__data, **insert))

    @classmethod
    def insert_many(cls, rows: Any, fields: Any = None) -> Any:
        return _bound(cls, super().insert_many(rows, fields))

    @classmethod
    def insert_from(cls, query: Any, fields: Any) -> Any:
        return _bound(cls, super().insert_from(query, fields))

    @classmethod
    def raw(cls, sql: str, *params: Any) -> Any:
        return _bound(cls, _HomeRaw(cls, sql, params))

    @classmethod
    def delete(cls) -> Any:
        return _bound(cls, super().delete())


class _AtHome:
    """A query whose instances are of the database that it runs on."""

    def _get_model_cursor_wrapper(self, cursor: Any) -> Any:
        wrapper = super()._get_model_cursor_wrapper(cursor)  # type: ignore[misc]  # of Peewee's query beside it
        process, place = wrapper.process_row, str(self._database.database)  # type: ignore[attr-defined]  # likewise

        def at_home(row: Any) -> Any:
            token = _reading.set(place)
            try:
                return process(row)
            finally:
                _reading.reset(token)

        wrapper.process_row = at_home
        return wrapper


class _HomeSelect(_AtHome, peewee.ModelSelect):
    """`Model.select()`."""


class _HomeRaw(_AtHome, peewee.ModelRaw):
    """`Model.raw()`."""


class _HomeForeignKey(peewee.ForeignKeyAccessor):
    """Looks up the row that a row refers to in the row's own database."""

    def get_rel_instance(self, instance: Any) -> Any:
        if self.name not in instance.__rel__ and instance.__data__.get(self.name) is not None:
            instance._check_home()
        return super().get_rel_instance(instance)  # type: ignore[no-untyped-call]  # so in Peewee's stubs


class _HomeBackref(peewee.BackrefAccessor):
    """The rows that refer to a row, of the row's own database."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if isinstance(instance, ContextModel):
            instance._check_home()
        return super().__get__(instance, instance_type)  # type: ignore[no-untyped-call]  # so in Peewee's stubs


def _bound(model: Any, query: Q) -> Q:
    database = model._meta.database
    if isinstance(database, ContextDatabase):
        database = database.obj
    if database is not None:
        query.bind(database)
    return query


def _place(model: Any) -> str | None:
    """The file of the database that a model uses now, None when it uses none."""
    database = model._meta.database
    if isinstance(database, ContextDatabase):
        database = database.obj
    return None if database is None else str(database.database)
