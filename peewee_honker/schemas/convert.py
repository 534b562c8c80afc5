"""A marshmallow field for each Peewee field.

`field_for(Order, "total")` makes one, `fields_for_model(Order)` all of a model. `@converts(MyField)` teaches a field class
of your own; a class without a converter takes the nearest one along its MRO.
"""

from collections.abc import Callable, Iterable
from enum import Enum, EnumMeta
from typing import Any, TypeVar

import peewee
from marshmallow import fields, missing, validate

from peewee_honker.schemas import strict
from peewee_honker.schemas.constraints import checks_of, has_server_default, is_generated
from peewee_honker.schemas.errors import UnknownFieldError

__all__ = ["Converter", "base_field", "converts", "field_for", "fields_for_model", "has_default", "model_fields"]

Converter = Callable[[Any], fields.Field[Any]]
_C = TypeVar("_C", bound=Converter)

_BIGGEST = 2**63 - 1
_converters: dict[type, Converter] = {}


def converts(*field_classes: type[peewee.Field]) -> Callable[[_C], _C]:
    """Decorate a function that takes a Peewee field of these classes, or of their subclasses, and gives a marshmallow field.

    The function decides the type alone: choices, CHECKs, null, presence, help_text and verbose_name are added to what it
    returns. A later registration of the same class replaces the earlier one.
    """

    def register(converter: _C) -> _C:
        for field_class in field_classes:
            _converters[field_class] = converter
        return converter

    return register


def base_field(field: peewee.Field) -> fields.Field[Any]:
    """The marshmallow field for values of a Peewee field: its type, choices and CHECKs, its title and description.

    Neither null nor absence is decided here. Raises `UnknownFieldError`, which names the field, for a field class that
    nothing converts.
    """
    if isinstance(field, peewee.FieldAlias):
        field = field.field
    made = _converter_of(field)(field)
    if field.choices and not isinstance(made, strict.EnumValue):
        made.validators.append(validate.OneOf(_choices(field.choices)))
    if not isinstance(field, peewee.ForeignKeyField):
        made.validators.extend(checks_of(field))
    if field.verbose_name:
        made.metadata = {**made.metadata, "title": str(field.verbose_name)}
    if field.help_text:
        made.metadata = {**made.metadata, "description": str(field.help_text)}
    return made


def field_for(model: type[peewee.Model], name: str | peewee.Field, **options: Any) -> fields.Field[Any]:
    """The marshmallow field for a model's field, with the rules for input: it may be absent if the database or Peewee
    fills it, it may be null if the column may, and a generated column is dump_only.

    `options` replace what was derived: `required`, `allow_none`, `load_default`, `dump_default`, `data_key`, `attribute`,
    `load_only`, `dump_only`, `format` and so on; `validate` and `metadata` are added to what the model says.
    """
    field = _field_of(model, name)
    made = base_field(field)
    made.allow_none = bool(field.null)
    made.required = not (field.null or has_default(field) or is_generated(field))
    made.dump_only = is_generated(field)
    _set_options(made, options, f"{model.__name__}.{field.name}")
    return made


def fields_for_model(
    model: type[peewee.Model],
    *,
    fields: Iterable[str | peewee.Field] | None = None,
    exclude: Iterable[str | peewee.Field] = (),
    use_id_keys: bool = False,
) -> dict[str, fields.Field[Any]]:
    """marshmallow fields by key, in column order, for a model or for those `fields` of it that are not in `exclude`.

    With `use_id_keys` a foreign key's key is its object_id_name (`customer_id`) rather than its field name.
    """
    chosen = None if fields is None else {_field_of(model, one).name for one in fields}
    left_out = {_field_of(model, one).name for one in exclude}
    found = {}
    for field in model_fields(model):
        if field.name in left_out or (chosen is not None and field.name not in chosen):
            continue
        made = field_for(model, field)
        key = field.name
        if use_id_keys and isinstance(field, peewee.ForeignKeyField):
            key, made.attribute = field.object_id_name, field.name
        found[key] = made
    return found


def model_fields(model: type[peewee.Model]) -> list[peewee.Field]:
    """The fields of a model that are columns, in column order."""
    return [field for field in model._meta.sorted_fields if not isinstance(field, peewee.MetaField)]


def has_default(field: peewee.Field) -> bool:
    """Whether an INSERT may leave the column out, although it may not be null."""
    return field.default is not None or bool(field.auto_increment) or has_server_default(field)


def _field_of(model: type[peewee.Model], name: str | peewee.Field) -> peewee.Field:
    if isinstance(name, peewee.Field):
        name = str(name.name)
    found: peewee.Field | None = model._meta.combined.get(name)
    if found is None:
        by_id_name = {field.object_id_name: field for field in model._meta.refs}
        found = by_id_name.get(name)
    if found is None or isinstance(found, peewee.MetaField):
        known = ", ".join(field.name for field in model_fields(model))
        raise ValueError(f"{model.__name__} has no field {name!r}; it has {known}")
    return found


def _converter_of(field: peewee.Field) -> Converter:
    for one in type(field).__mro__:
        if (found := _converters.get(one) or _BY_NAME.get(f"{one.__module__}.{one.__name__}")) is not None:
            return found
    raise UnknownFieldError(
        f"{_name(field)} is a {type(field).__name__}, which has no marshmallow field: "
        f"register one with @converts({type(field).__name__}), or leave the field out"
    )


def _name(field: peewee.Field) -> str:
    return f"{field.model.__name__}.{field.name}"


def _choices(choices: Any) -> list[Any]:
    """The values of a field's choices, which are (value, label) pairs, plain values, or an enumeration."""
    if isinstance(choices, EnumMeta):
        return [member.value for member in choices]  # type: ignore[var-annotated]  # members of any enumeration
    values = (choice[0] if isinstance(choice, (tuple, list)) else choice for choice in choices)
    return [value.value if isinstance(value, Enum) else value for value in values]


def _set_options(made: fields.Field[Any], options: dict[str, Any], name: str) -> None:
    for option, value in options.items():
        if option == "validate":
            made.validators.extend([value] if callable(value) else value)
        elif option == "metadata":
            made.metadata = {**made.metadata, **value}
        elif option == "error_messages":
            made.error_messages.update(value)
        elif hasattr(made, option):
            setattr(made, option, value)
        else:
            raise TypeError(f"the field {name} ({type(made).__name__}) has no option {option!r}")
    if made.load_default is not missing:
        made.required = False
        made.allow_none = made.allow_none or ("allow_none" not in options and made.load_default is None)


@converts(peewee.DecimalField)
def _decimal(field: peewee.DecimalField) -> fields.Field[Any]:
    return strict.Decimal(digits=field.max_digits, places=field.decimal_places, rounds=field.auto_round)


@converts(peewee.CharField)
def _short_text(field: peewee.CharField) -> fields.Field[Any]:
    return strict.Text(max_length=field.max_length)


@converts(peewee.ForeignKeyField)
def _foreign_key(field: peewee.ForeignKeyField) -> fields.Field[Any]:
    return base_field(field.rel_field)


@converts(peewee.DeferredForeignKey)
def _deferred(field: peewee.DeferredForeignKey) -> fields.Field[Any]:
    raise UnknownFieldError(
        f"{_name(field)} refers to the model {field.rel_model_name!r}, which is not defined yet: define it before the schema"
    )


def _enum(field: Any) -> fields.Field[Any]:
    return strict.EnumValue(field.enum_class)


def _array(field: Any) -> fields.Field[Any]:
    made = base_field(field._ArrayField__field)  # Peewee gives the inner field no public name
    for _ in range(field.dimensions):
        made = fields.List(made)
    return made


def _pickle(field: peewee.Field) -> fields.Field[Any]:
    raise UnknownFieldError(
        f"{_name(field)} is a PickleField, whose values have no form in JSON, and whose input would run code: "
        "leave the field out"
    )


_converters.update(
    {
        peewee.IntegerField: lambda _: strict.Integer(),
        peewee.SmallIntegerField: lambda _: strict.Integer(minimum=-(2**15), maximum=2**15 - 1),
        peewee.BigIntegerField: lambda _: strict.Integer(minimum=-(2**63), maximum=_BIGGEST),
        peewee.BigAutoField: lambda _: strict.Integer(minimum=-(2**63), maximum=_BIGGEST),
        peewee.BitField: lambda _: strict.Integer(minimum=0, maximum=_BIGGEST),
        peewee.BooleanField: lambda _: strict.Boolean(),
        peewee.FloatField: lambda _: strict.Float(),
        peewee.TextField: lambda _: strict.Text(),
        peewee.DateTimeField: lambda _: strict.DateTime(),
        peewee.TimestampField: lambda _: strict.DateTime(),
        peewee.DateField: lambda _: strict.Date(),
        peewee.TimeField: lambda _: strict.Time(),
        peewee.UUIDField: lambda _: strict.UUID(),
        peewee.BinaryUUIDField: lambda _: strict.UUID(),
        peewee.BlobField: lambda _: strict.Base64(),
        peewee.IPField: lambda _: strict.IPv4(),
        peewee.JSONField: lambda _: strict.JSON(),
        peewee.BareField: lambda _: strict.Scalar(),
        peewee.AnyField: lambda _: strict.Scalar(),
    }
)

# Classes of Peewee's playhouse by name: importing them all would cost every user, and some need a driver.
_BY_NAME: dict[str, Converter] = {
    "playhouse.fields.EnumFieldMixin": _enum,
    "playhouse.fields.PickleField": _pickle,
    "playhouse.sqlite_ext.JSONField": lambda _: strict.JSON(),
    "playhouse.sqlite_ext.SearchField": lambda _: strict.Text(),
    "playhouse.postgres_ext.ArrayField": _array,
    "playhouse.postgres_ext.HStoreField": lambda _: fields.Dict(keys=strict.Text(), values=strict.Text(allow_none=True)),
    "playhouse.postgres_ext.JSONField": lambda _: strict.JSON(),
    "playhouse.postgres_ext.IntervalField": lambda _: fields.TimeDelta(),
}
