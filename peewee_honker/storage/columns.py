"""What all stored models have: a key, metadata, and when the row was made and last changed."""

import json
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import peewee
from peewee import SQL, Check, Default
from playhouse.fields import EnumField as _EnumField

from peewee_honker.events.event import new_event_id
from peewee_honker.sqlfunctions import HonkerJSONMethods
from peewee_honker.storage.context_model import ContextModel

__all__ = ["EnumField", "Flag", "JSONField", "StorageModel", "json_text", "now", "sql_text"]

# NaN and infinity are no JSON: SQLite's functions and other languages' readers refuse them.
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def json_text(value: Any) -> str:
    """A value as the JSON text that the tables hold. Raises ValueError or TypeError for what JSON cannot hold."""
    return _encode(value)


def now() -> int:
    """The time as the tables hold it: whole seconds since 1970."""
    return int(time.time())


def sql_text(value: str) -> str:
    """A text as a literal of SQL, for constraints, which take no parameters."""
    return "'" + value.replace("'", "''") + "'"


class JSONField(peewee.JSONField):
    """JSON as text in SQLite, on whatever database is in use; the column refuses what is not JSON.

    Peewee's own asks the database how, when the model is bound; here it is the same for all.
    """

    field_type = "TEXT"  # "JSON" would have the affinity of numbers, and turn the text of one into it

    def __init__(self, **options: Any) -> None:
        super().__init__(dumps=json_text, **options)

    def _db_hook(self, database: Any) -> None:
        self._helper = HonkerJSONMethods(None)
        self._wrap = json_text  # plain text and no call of SQL: so inserts are compiled once
        self._read = json.loads

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        super().bind(model, name, set_attribute)
        _add_check(self, f'"{self.column_name}" IS NULL OR json_valid("{self.column_name}")')

    def _compare(self, lhs: Any, eq_op: str, is_op: str, rhs: Any, as_text: bool) -> Any:
        if lhs is self and rhs is not None and not isinstance(rhs, peewee.Node):
            # As a finished value: text would be encoded once more, as what it is compared with is this field.
            return peewee.Expression(lhs, eq_op, peewee.Value(json_text(rhs), converter=False))
        return super()._compare(lhs, eq_op, is_op, rhs, as_text)  # type: ignore[misc]  # not in Peewee's stubs


class Flag(peewee.BooleanField):
    """True or False, held as 1 or 0; the column refuses other values."""

    field_type = "INTEGER"

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        super().bind(model, name, set_attribute)
        _add_check(self, f'"{self.column_name}" IN (0, 1)')


class EnumField(_EnumField):  # type: ignore[misc]  # Peewee's stubs leave the playhouse out
    """A member of a `StrEnum`, held as its value; the column refuses other values."""

    def __init__(self, enum_class: type[StrEnum], **options: Any) -> None:
        super().__init__(enum_class, **options)

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        super().bind(model, name, set_attribute)
        values = ", ".join(sql_text(member.value) for member in self.enum_class)
        _add_check(self, f'"{self.column_name}" IN ({values})')


def _add_check(field: Any, condition: str) -> None:
    """Add a CHECK once: a field that a subclass inherits is bound again."""
    check: Any = Check(condition)
    known = [constraint.sql for constraint in field.constraints or () if isinstance(constraint, SQL)]
    if check.sql not in known:
        field.constraints = [*(field.constraints or ()), check]


class StorageModel(ContextModel):
    """Base class of stored models: the common columns, and care for which database a row is of.

    - `id`: a UUIDv7 unless given.
    - `metadata`: any JSON object of the application's own.
    - `created_at`, `updated_at`: seconds since 1970. The second is set by `save()` and by `Model.update(...)` (so also by
      `bulk_update`) unless it is given; the update of an upsert (`on_conflict`) sets it only when told to.

    An instance is saved to and deleted from the database that was in use when it was made or
    read: OtherDatabaseError is raised otherwise.
    """

    id = peewee.TextField(primary_key=True, default=new_event_id)
    metadata = JSONField(default=dict, constraints=[Default("'{}'")])
    created_at = peewee.IntegerField(default=now, constraints=[SQL("DEFAULT (CAST(strftime('%s', 'now') AS INTEGER))")])
    updated_at = peewee.IntegerField(default=now, constraints=[SQL("DEFAULT (CAST(strftime('%s', 'now') AS INTEGER))")])

    _is_new: bool | None = None  # None: only the database knows

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "__no_default__" in kwargs:  # Peewee makes an instance of a row so
            self._is_new = False
        elif "id" not in kwargs and not args:
            self._is_new = True
        super().__init__(*args, **kwargs)

    # Writing one row

    def save(self, force_insert: bool = False, only: Any = None) -> int:
        """As `peewee.Model.save`, and sets `updated_at`. A new row needs no `force_insert`, though its key is there.

        Raises OtherDatabaseError for a row of another database.
        """
        self._check_home()
        insert: Any = force_insert or self._is_new
        if insert is None:
            insert = not type(self).select(SQL("1")).where(type(self).id == self.id).exists()
        if not insert and only is None:
            self.updated_at = now()
        elif not insert and "updated_at" not in {field if isinstance(field, str) else field.name for field in only}:
            self.updated_at = now()
            only = [*only, type(self).updated_at]
        rows = super().save(insert, only)
        self._is_new = False
        return rows

    @classmethod
    def update(cls, __data: Mapping[Any, Any] | None = None, **update: Any) -> Any:
        """As `peewee.Model.update`, and sets `updated_at` unless it is given."""
        data = {**(__data or {}), **update}
        if not any(key == "updated_at" or key is cls.updated_at for key in data):
            data["updated_at"] = now()
        return super().update(data)
