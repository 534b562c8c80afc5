"""Fields for the rows that a row points to, and for those that point to it.

A foreign key is its key by default (`convert.foreign_key`). `Related` is the key too, and looks the row up when it is
loaded; `Nested` is the row itself, both ways.
"""

from collections.abc import Mapping
from typing import Any

import marshmallow
import peewee
from marshmallow import ValidationError, fields

from ..errors import SchemaError
from .convert import field_for, has_default

__all__ = ["Nested", "Related", "related_model"]


def related_model(model: Any, name: str) -> tuple[type[peewee.Model], Any, bool]:
    """Say where a name of a model leads: the other model, the foreign key between them, and whether to many rows.

    The foreign key is None for a many-to-many field.

    Raises SchemaError for a name that is neither a foreign key, a back-reference nor a many-to-many field.
    """
    meta = model._meta
    field = meta.fields.get(name)
    if isinstance(field, peewee.ForeignKeyField):
        return field.rel_model, field, False
    for key, other in meta.backrefs.items():
        if key.backref == name:
            return other, key, True
    if name in meta.manytomany:
        return meta.manytomany[name].rel_model, None, True
    known = [*(key.name for key in meta.refs), *(key.backref for key in meta.backrefs), *meta.manytomany]
    raise SchemaError(f"{model.__name__} has no relation {name!r}; it has {', '.join(known) or 'none'}")


class Related(fields.Field[Any]):
    """The key of a related row, which is looked up when it is loaded.

        author = Related()          # 7
        author = Related("email")   # "ada@example.org", by another column
        shop = Related("country", "number")  # {"country": "IS", "number": 3}

    Arguments:
        columns: the names of fields of the related model that say which row it is. Default: what the foreign key holds.

    Loads an instance of the related model, or raises ValidationError when there is no such row. A transient schema asks no
    database: it gives an instance with these columns only. Each row costs a query; the plain key that a schema has without
    this field costs none, and the database checks it.
    """

    default_error_messages = {"unknown": "There is no {model} with {what}."}  # noqa: RUF012 # marshmallow's

    def __init__(self, *columns: str, **options: Any) -> None:
        super().__init__(**options)
        self.columns = columns

    def _bind_to_schema(self, field_name: str, parent: Any) -> None:
        super()._bind_to_schema(field_name, parent)
        model = getattr(getattr(parent, "opts", None), "model", None)
        if model is None:
            raise SchemaError(f"Related {field_name!r} needs a ModelSchema around it, whose model it is a relation of")
        self.model, key, many = related_model(model, self.attribute or field_name)
        if many:
            raise SchemaError(f"Related {field_name!r}: {model.__name__} has many of them; use Nested(..., only=[...])")
        meta: Any = self.model
        unknown = [name for name in self.columns if name not in meta._meta.fields]
        if unknown:
            names = ", ".join(map(repr, unknown))
            raise SchemaError(f"Related {field_name!r}: {self.model.__name__} has no field {names}")
        self.by = {name: field_for(meta._meta.fields[name]) for name in self.columns or (key.rel_field.name,)}
        self.key = key
        self.plain = field_for(key)

    def get_value(self, obj: Any, attr: str, accessor: Any = None, default: Any = marshmallow.missing) -> Any:
        """Give the related row, or its key where that is all that is asked for."""
        if self.columns:
            return super().get_value(obj, attr, accessor, default)
        return self.plain.get_value(obj, attr, accessor, default)

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if value is None:
            return None
        if not self.columns:
            return self.plain._serialize(value, attr, obj, **kwargs)
        dumped = {name: field.serialize(name, value) for name, field in self.by.items()}
        return dumped if len(self.columns) > 1 else dumped[self.columns[0]]

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, self.model):
            return value
        if len(self.by) == 1:
            value = {next(iter(self.by)): value}
        elif not isinstance(value, Mapping):
            raise ValidationError(f"An object with {', '.join(self.by)} is needed.")
        found, errors = {}, {}
        for name, field in self.by.items():
            try:
                found[name] = field.deserialize(value.get(name, marshmallow.missing))
            except ValidationError as error:
                errors[name] = error.messages
        if errors:
            raise ValidationError(errors if len(self.by) > 1 else next(iter(errors.values())))
        root: Any = self.parent
        if root.is_transient:
            return self.model(**found)
        row = self.model.get_or_none(**found)
        if row is None:
            what = ", ".join(f"{name} {value!r}" for name, value in found.items())
            raise self.make_error("unknown", model=self.model.__name__, what=what)
        return row


class Nested(fields.Nested):
    """The related row itself, by a schema of its own; for a back-reference a list of them.

        author = Nested(AuthorSchema)
        lines = Nested(LineSchema, exclude=["order"])

    Arguments are those of marshmallow's Nested. Inside a ModelSchema `many`, `required` and `allow_none` follow from the
    relation unless they are given. When a list of back-references is loaded into an instance, each of its rows points to
    that instance; saving them is left to you.

    To dump N rows asks for N related rows one by one unless the query has joined or prefetched them.
    """

    def __init__(self, nested: Any, **options: Any) -> None:
        self.given = set(options)
        super().__init__(nested, **options)

    def _bind_to_schema(self, field_name: str, parent: Any) -> None:
        super()._bind_to_schema(field_name, parent)
        model = getattr(getattr(parent, "opts", None), "model", None)
        if model is None:
            return
        try:
            _, key, many = related_model(model, self.attribute or field_name)
        except SchemaError:
            return  # a property of the class that gives rows, or rows in JSON
        if "many" not in self.given:
            self.many = many
        if many:
            return
        if "allow_none" not in self.given:
            self.allow_none = bool(key.null)
        if "required" not in self.given:
            self.required = not (key.null or has_default(key)) and self.load_default is marshmallow.missing
