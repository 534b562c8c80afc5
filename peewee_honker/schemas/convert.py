"""From a Peewee field to a marshmallow field.

`field_for(Order.total)` finds the converter of the field's class, or of the nearest of its base classes, and gives it what
every field has in common: whether the key is required, whether null is allowed, choices, constraints, the description. A
type that nobody converts is an error that names the field; nothing turns into "anything goes" in silence.
"""

import enum
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import marshmallow
import peewee
from marshmallow import fields, validate

from ..errors import SchemaError
from . import strict
from .constraints import checks, fits, has_server_default, is_generated

__all__ = [
    "Converter",
    "converts",
    "describe",
    "field_for",
    "fields_for_model",
    "has_default",
    "model_fields",
    "registrations",
]

#: Gets the Peewee field and the options for the marshmallow field, which it may add to.
Converter = Callable[..., fields.Field[Any]]
C = TypeVar("C", bound=Converter)

# By class, or by "module.Class" for those of playhouse, whose modules ask for drivers when they are imported.
_converters: dict[type | str, Converter] = {}
_registered = 0


def converts(*types: type | str) -> Callable[[C], C]:
    """Register a function as the converter of a field's class, and of its subclasses that have none of their own.

        @converts(MoneyField)
        def money(field, **options):
            return marshmallow.fields.Decimal(places=2, as_string=True, **options)

    Arguments:
        types: classes of Peewee fields, or their names as "module.Class".

    The function gets the Peewee field, and as keywords the options of the marshmallow field: `required`, `allow_none`,
    `validate` (a list), `metadata`, and what the caller of `field_for` asked for. The last registration of a class counts.
    """

    def register(function: C) -> C:
        global _registered
        for kind in types:
            _converters[kind] = function
        _registered += 1
        converter_for.cache_clear()
        return function

    return register


def registrations() -> int:
    """How often a converter has been registered: what was made before may be out of date."""
    return _registered


@functools.cache
def converter_for(kind: type) -> Converter | None:
    """Give the converter of a field's class: its own, or that of the first class of its MRO that has one."""
    for base in kind.__mro__:
        found = _converters.get(base) or _converters.get(f"{base.__module__}.{base.__qualname__}")
        if found:
            return found
    return None


def field_for(field: Any, **overrides: Any) -> Any:
    """Give the marshmallow field for a field of a Peewee model.

    Arguments:
        field: a field of a model, `Order.total`.
        overrides: options of the marshmallow field. `validate` and `metadata` are added to what the Peewee field says, other
            options take its place.

    Returns: a strict marshmallow field. It is required unless the column may be null or has a default; the default itself
    stays with Peewee and the database. `metadata` has `title` (verbose_name) and `description` (help_text).

    Raises SchemaError for a field of a type that has no converter, or that is refused.
    """
    if isinstance(field, peewee.DeferredForeignKey):
        raise SchemaError(f"{describe(field)} points to {field.rel_model_name!r}, which is not defined yet: define it first")
    if not isinstance(field, peewee.Field):
        raise SchemaError(f"{field!r} is no Peewee field")
    made = _make(field, _options(field, overrides))
    if not made.dump_only:
        made.validators.extend(check for check in checks(field) if fits(check, made, field))
    return made


def fields_for_model(
    model: type[peewee.Model], only: Iterable[str] | None = None, exclude: Iterable[str] = ()
) -> dict[str, fields.Field[Any]]:
    """Give the marshmallow fields of a model by name, in the order of its columns.

    Arguments:
        model: a Peewee model.
        only, exclude: names of fields, to convert some of them.
    """
    names = model_fields(model)
    chosen = set(names) if only is None else set(only)
    left_out = set(exclude)
    unknown = sorted((chosen | left_out) - set(names))
    if unknown:
        raise SchemaError(f"{model.__name__} has no field {', '.join(map(repr, unknown))}: it has {', '.join(names)}")
    return {name: field_for(field) for name, field in names.items() if name in chosen and name not in left_out}


def model_fields(model: type[peewee.Model]) -> dict[str, "peewee.Field[Any]"]:
    """Give the fields of a model that have a column, by name, in the order of the columns."""
    state: Any = model
    for name, value in vars(model).items():
        if isinstance(value, peewee.DeferredForeignKey) and name not in state._meta.fields:
            raise SchemaError(f"{model.__name__}.{name} points to {value.rel_model_name!r}, which is not defined yet")
    return {field.name: field for field in state._meta.sorted_fields if not isinstance(field, peewee.MetaField)}


def has_default(field: "peewee.Field[Any]") -> bool:
    """Whether Peewee or the database has a value for the column when none is given; an integer auto key counts."""
    return bool(field.default is not None or field.auto_increment or has_server_default(field))


def describe(field: Any) -> str:
    """Give the name by which an error calls a field."""
    model = getattr(field, "model", None)
    name = getattr(field, "name", None)
    return f"{model.__name__}.{name}" if model is not None and name else f"a {type(field).__name__}"


def _make(field: Any, options: dict[str, Any]) -> fields.Field[Any]:
    kind: Any = type(field)
    converter = converter_for(kind)
    if converter is None:
        raise SchemaError(
            f"{describe(field)} is a {type(field).__name__}, which no converter is registered for: "
            f"write one with @converts({type(field).__name__}), or leave the field out"
        )
    made = converter(field, **options)
    if not isinstance(made, fields.Field):
        raise SchemaError(f"the converter of {type(field).__name__} gave {made!r} for {describe(field)}: not a field")
    return made


def _options(field: Any, overrides: dict[str, Any]) -> dict[str, Any]:
    metadata = {"title": field.verbose_name, "description": field.help_text}
    options: dict[str, Any] = {
        "allow_none": bool(field.null),
        "validate": [*_choices(field), *strict.validators(overrides.get("validate"))],
        "metadata": {key: value for key, value in metadata.items() if value} | overrides.get("metadata", {}),
    }
    if is_generated(field):
        options["dump_only"] = True
    else:
        options["required"] = not (field.null or has_default(field))
    options |= {key: value for key, value in overrides.items() if key not in ("validate", "metadata")}
    if options.get("load_default", marshmallow.missing) is not marshmallow.missing and "required" not in overrides:
        options["required"] = False
    return options


def _choices(field: Any) -> list[validate.OneOf]:
    """Read `choices`: pairs of a value and a label, plain values, or an Enum."""
    if not field.choices or hasattr(field, "enum_class"):
        return []
    values, labels = [], []
    for choice in field.choices:
        if isinstance(choice, enum.Enum):
            value, label = choice.value, choice.name
        elif isinstance(choice, (tuple, list)) and len(choice) == 2:
            value, label = choice
        else:
            value = label = choice
        values.append(value.value if isinstance(value, enum.Enum) else value)
        labels.append(str(label))
    return [validate.OneOf(values, labels)]


def _plain(kind: Callable[..., fields.Field[Any]], **fixed: Any) -> Converter:
    def convert(_: Any, **options: Any) -> fields.Field[Any]:
        return kind(**(fixed | options))

    return convert


converts(peewee.IntegerField)(_plain(strict.Integer))
converts(peewee.BigIntegerField, peewee.BigAutoField)(_plain(strict.Integer, bounds=strict.INT64))
converts(peewee.SmallIntegerField)(_plain(strict.Integer, bounds=strict.INT16))
converts(peewee.BitField)(_plain(strict.Integer, bounds=(0, strict.INT64[1])))
converts(peewee.FloatField)(_plain(strict.Float))
converts(peewee.BooleanField)(_plain(strict.Boolean))
converts(peewee.TextField)(_plain(strict.Text))
converts(peewee.UUIDField, peewee.BinaryUUIDField)(_plain(strict.UUID))
converts(peewee.IPField)(_plain(strict.IPv4))
converts(peewee.BlobField)(_plain(strict.Blob))
converts(peewee.JSONField, "playhouse.sqlite_ext.JSONField")(_plain(strict.Json))
converts("playhouse.postgres_ext.JSONField", "playhouse.mysql_ext.JSONField")(_plain(strict.Json))
converts("playhouse.postgres_ext.IntervalField")(_plain(fields.TimeDelta))
converts("playhouse.postgres_ext.TSVectorField", "playhouse.sqlite_ext.SearchField")(_plain(strict.Text))


@converts(peewee.CharField)
def char(field: "peewee.CharField[Any]", **options: Any) -> fields.Field[Any]:
    if field.max_length:
        options["validate"] = [validate.Length(max=field.max_length), *options.get("validate", ())]
    return strict.Text(**options)


@converts(peewee.DecimalField)
def decimals(field: "peewee.DecimalField[Any]", **options: Any) -> fields.Field[Any]:
    places = None if field.auto_round else field.decimal_places
    options["validate"] = [strict.Digits(field.max_digits, places), *options.get("validate", ())]
    return strict.Decimal(**({"fill": field.decimal_places} | options))


@converts(peewee.DateTimeField, peewee.DateField, peewee.TimeField)
def temporal(field: Any, **options: Any) -> fields.Field[Any]:
    kinds = {peewee.DateTimeField: strict.DateTime, peewee.DateField: strict.Date, peewee.TimeField: strict.Time}
    base = next(base for base in type(field).__mro__ if base in kinds)
    if list(field.formats) != list(type(field).formats):
        options.setdefault("also", field.formats)
    return kinds[base](**options)


@converts(peewee.TimestampField)
def timestamp(field: "peewee.TimestampField[Any]", **options: Any) -> fields.Field[Any]:
    return strict.Timestamp(utc=field.utc, **options)


@converts("playhouse.fields.EnumField", "playhouse.fields.IntEnumField")
def enumeration(field: Any, **options: Any) -> fields.Field[Any]:
    by_value = strict.Integer if isinstance(field, peewee.IntegerField) else strict.Text
    return fields.Enum(field.enum_class, by_value=by_value, **options)


@converts("playhouse.postgres_ext.ArrayField")
def array(field: Any, **options: Any) -> fields.Field[Any]:
    inner: Any = field._ArrayField__field  # peewee has no public name for it
    made = _make(inner, {"allow_none": True})
    for _ in range(field.dimensions - 1):
        made = fields.List(made)
    return fields.List(made, **options)


@converts("playhouse.postgres_ext.HStoreField")
def hstore(_: Any, **options: Any) -> fields.Field[Any]:
    return fields.Dict(keys=strict.Text(), values=strict.Text(allow_none=True), **options)


@converts("playhouse.fields.PickleField", "playhouse.fields.CompressedField")
def refused(field: Any, **_: Any) -> fields.Field[Any]:
    reason = (
        "pickled data must not come from outside" if type(field).__name__ == "PickleField" else "its data has no one form"
    )
    raise SchemaError(
        f"{describe(field)} is a {type(field).__name__}: {reason}. Leave it out, or register a converter for it"
    )


@converts(peewee.ForeignKeyField)
def foreign_key(field: Any, **options: Any) -> fields.Field[Any]:
    """Give the field of the key that the reference holds, which is read without a query for the row behind it."""
    made = _make(field.rel_field, options)
    if not isinstance(made, Reference):  # as it is when the key is a foreign key itself
        kind: Any = type(made)
        made.__class__ = _key_of(kind)
    made.reference = field  # type: ignore[attr-defined]  # what _key_of adds
    return made


class Reference(fields.Field[Any]):
    """What a field of a foreign key does when it is dumped: it finds the key in a model, a dict or a named tuple."""

    reference: Any

    def get_value(
        self, obj: Any, attr: str, accessor: Callable[..., Any] | None = None, default: Any = marshmallow.missing
    ) -> Any:
        """Give the key of the row that `obj` points to."""
        field = self.reference
        value = default
        read = accessor or marshmallow.utils.get_value
        if isinstance(obj, peewee.Model):
            state: Any = obj
            value = state.__data__.get(field.name, default)
            if value is default:
                value = state.__rel__.get(field.name, default)
        else:
            value = read(obj, self.attribute or attr, default)
            if value is default:
                value = read(obj, field.name, default)
            if value is default:
                value = read(obj, field.object_id_name, default)
        while isinstance(value, peewee.Model):
            while not isinstance(value, field.rel_model):  # a key that is a foreign key itself, held as its row
                field = field.rel_field
            held: Any = value
            value = held.__data__.get(field.rel_field.name)
        return value


@functools.cache
def _key_of(kind: type[fields.Field[Any]]) -> Any:
    """Give the class of a field for keys of this kind: what knows the kind (apispec among them) knows it too."""
    return type(f"{kind.__name__}Reference", (Reference, kind), {"__doc__": f"A {kind.__name__}: another row's key."})
