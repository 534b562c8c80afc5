"""Fields for what a model is related to: `Related` by key or column, `Nested` with a schema of its own."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import peewee
from marshmallow import ValidationError, fields, missing

from peewee_honker.schemas.convert import base_field

if TYPE_CHECKING:
    from marshmallow import Schema

__all__ = ["Nested", "Related"]


def _related(obj: Any, attribute: str) -> Any:
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
        self.column: peewee.Field = model._meta.fields[column] if column else model._meta.get_primary_keys()[0]
        self.inner = base_field(self.column)

    def get_value(self, obj: Any, attr: str, accessor: Callable[..., Any] | None = None, default: Any = missing) -> Any:
        name = attr if self.attribute is None else self.attribute
        if isinstance(obj, peewee.Model):
            field = obj._meta.fields.get(name)
            if isinstance(field, peewee.ForeignKeyField) and field.rel_field is self.column:
                return obj.__data__.get(name, default)
        found = _related(obj, name)
        return default if found is missing else found

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, peewee.Model):
            value = value.__data__.get(self.column.name)
        return self.inner._serialize(value, attr, obj, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        key = self.inner.deserialize(value, attr, data, **kwargs)
        if getattr(self.root, "transient", False):
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
    loads: an instance, from a `ModelSchema`; saving it is the caller's (`save_loaded` does it). `transient` and an
    explicit `partial` are handed on.
    """

    def get_value(self, obj: Any, attr: str, accessor: Callable[..., Any] | None = None, default: Any = missing) -> Any:
        found = _related(obj, attr if self.attribute is None else self.attribute)
        return default if found is missing else found

    def _load(self, value: Any, partial: bool | Iterable[str] | None = None) -> Any:
        schema: Schema = self.schema
        if not hasattr(schema, "transient"):
            return super()._load(value, partial)  # type: ignore[arg-type]  # marshmallow wants a sequence
        try:
            return schema.load(value, unknown=self.unknown, partial=partial, transient=_transient(self))  # type: ignore[call-arg, arg-type]  # a ModelSchema's
        except ValidationError as error:
            raise ValidationError(error.messages, valid_data=error.valid_data) from error


def _transient(field: fields.Field[Any]) -> bool | None:
    return getattr(field.root, "transient", None)
