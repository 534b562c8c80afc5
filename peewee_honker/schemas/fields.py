"""Fields for what a model is related to: `Related` by key or column, `Nested` with a schema of its own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import peewee
from marshmallow import fields, missing

from peewee_honker.schemas.convert import base_field

__all__ = ["Nested", "Related", "related", "transient_loading"]

_transient: ContextVar[bool] = ContextVar("transient", default=False)


@contextmanager
def transient_loading(transient: bool) -> Iterator[bool]:
    """Whether loads in the block leave the database alone; what is nested in a transient load is transient too."""
    token = _transient.set(transient or _transient.get())
    try:
        yield _transient.get()
    finally:
        _transient.reset(token)


def related(obj: Any, attribute: str) -> Any:
    """What a relation leads to: an instance, None, or the rows of a back-reference."""
    if isinstance(obj, Mapping):
        return obj.get(attribute, missing)
    found = getattr(obj, attribute, missing)
    return list(found) if isinstance(found, peewee.SelectBase) else found


class Related(fields.Field[Any]):
    """A related row by one of its columns: the key that refers to it, or `column`, such as a customer's email.

    Loading looks the row up and gives its instance; a value that no row has is an error of the field. Dumping reads the
    related instance, which queries unless it was joined or prefetched; the default column of a foreign key does not.
    Wrap it in `fields.List` for a back-reference or a many-to-many relation.
    """

    default_error_messages = {"not_found": "There is no {model} whose {column} is {value!r}."}  # noqa: RUF012  # as marshmallow declares it

    def __init__(self, model: type[peewee.Model], column: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.model = model
        key = model._meta.primary_key
        if column is None and (key is False or isinstance(key, peewee.CompositeKey)):
            raise ValueError(f"{model.__name__} has no primary key of one column: name one with Related(..., column=)")
        name: Any = column or key.name  # type: ignore[union-attr]  # False is refused above
        self.column: peewee.Field = model._meta.fields[name]
        self.inner = base_field(self.column)

    def get_value(self, obj: Any, attr: str, accessor: Callable[..., Any] | None = None, default: Any = missing) -> Any:
        name = attr if self.attribute is None else self.attribute
        if isinstance(obj, peewee.Model):
            field = obj._meta.fields.get(name)
            if isinstance(field, peewee.ForeignKeyField) and field.rel_field is self.column:
                return obj.__data__.get(name, default)
        found = related(obj, name)
        return default if found is missing else found

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, peewee.Model):
            value = value.__data__.get(self.column.name)
        return self.inner._serialize(value, attr, obj, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        key = self.inner.deserialize(value, attr, data, **kwargs)
        if _transient.get():
            return self.model(**{self.column.name: key})
        found = self.model.get_or_none(self.column == key)
        if found is None:
            raise self.make_error("not_found", model=self.model.__name__, column=self.column.name, value=value)
        return found

    def json_schema(self) -> dict[str, Any]:
        found: dict[str, Any] = self.inner.json_schema()  # type: ignore[attr-defined]  # every field of `strict` has it
        return found


class Nested(fields.Nested):
    """A related row, or with `many=True` the rows of a back-reference, by a schema of its own.

    Dumping follows the relation, which queries unless it was joined or prefetched. Loading gives what the nested schema
    loads: an instance, from a `ModelSchema`; saving it is the caller's (`save_loaded` does it).
    """

    def get_value(self, obj: Any, attr: str, accessor: Callable[..., Any] | None = None, default: Any = missing) -> Any:
        found = related(obj, attr if self.attribute is None else self.attribute)
        return default if found is missing else found
