"""Functions compiled from a schema: the results of its dump and load in a fraction of their time.

    dump = compile_dump(create_select_schema(Order)())
    dump(order)

`compile_dump` and `compile_load` take schemas without hooks of their own (`pre_load`, `post_dump`, `validates` ...), for a
hook may do anything. The compiled code knows the common types; a value that it does not know at sight goes to the
schema itself, so that results and errors are marshmallow's.
"""

import datetime
import decimal
import enum
import math
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable
from typing import Any, cast

import peewee
from marshmallow import RAISE, Schema, ValidationError, fields, missing, validate

from peewee_honker.errors import HonkerError
from peewee_honker.schemas import strict
from peewee_honker.schemas.base import RowSchema
from peewee_honker.schemas.factory import create_select_schema

__all__ = ["HookedSchemaError", "compile_dump", "compile_load", "row_dumper"]

Dump = Callable[[Any], dict[str, Any]]
Load = Callable[[Any], dict[str, Any]]

_TYPES: dict[str, Any] = {
    "Decimal": decimal.Decimal,
    "Enum": enum.Enum,
    "UUID": uuid.UUID,
    "b64encode": b64encode,
    "date": datetime.date,
    "datetime": datetime.datetime,
    "is_utf8": strict.is_utf8,
    "time": datetime.time,
}
_ISO_TYPES: dict[type, str] = {strict.DateTime: "datetime", strict.Date: "date", strict.Time: "time"}
_DUMP_HOOKS = frozenset({"pre_dump", "post_dump"})
_LOAD_HOOKS = frozenset({"pre_load", "post_load", "validates", "validates_schema"})
_OVERRIDES = {"dump": ("dump", "_do_dump", "_serialize"), "load": ("load", "_do_load", "_deserialize", "_run_validator")}


class HookedSchemaError(HonkerError, TypeError):
    """A schema with hooks of its own was to be compiled."""


def row_dumper(model: type[peewee.Model], *, exclude: Iterable[str | peewee.Field] = ()) -> Dump:
    """A function that dumps an instance, or a `.dicts()` row, of a model as its select schema does.

    Fields that the instance has not loaded, and those in `exclude`, are left out of the result.
    """
    return compile_dump(create_select_schema(model, exclude=exclude)())


def compile_dump(schema: Schema) -> Dump:
    """A function of one object that gives what `schema.dump(object, many=False)` gives.

    Instances of models (for a schema of this package) and dicts are dumped by compiled code, other objects by the schema.
    Raises `HookedSchemaError` for a schema with pre_dump or post_dump.
    """
    _refuse_hooks(schema, _DUMP_HOOKS, "dump")
    names: dict[str, Any] = {
        "slow": lambda obj: schema.dump(obj, many=False),
        "attribute": schema.get_attribute,
        "missing": missing,
        "Model": peewee.Model,
        **_TYPES,
    }
    reading = type(schema).get_attribute
    if reading not in (RowSchema.get_attribute, Schema.get_attribute) or schema.dict_class is not dict:
        return cast("Dump", names["slow"])
    lines = ["def dump(obj):", "    if obj.__class__ is dict: get = obj.get"]
    if reading is RowSchema.get_attribute:
        lines.append("    elif isinstance(obj, Model): get = obj.__data__.get")
    lines += ["    else: return slow(obj)", "    out = {}"]
    for number, (name, field) in enumerate(schema.dump_fields.items()):
        key = field.data_key if field.data_key is not None else name
        source = field.attribute if field.attribute is not None else name
        known = None if "." in source or _is_altered(field, "serialize", "get_value") else _dumped(field)
        if known is None:
            names[f"field{number}"] = field
            lines.append(f"    v = field{number}.serialize({name!r}, obj, accessor=attribute)")
            lines.append(f"    if v is not missing: out[{key!r}] = v")
            continue
        lines.append(f"    v = get({source!r}, missing)")
        lines.append(f"    if v is missing:\n        if absent{number}(obj): return slow(obj)")
        has_default = field.dump_default is not missing
        names[f"absent{number}"] = _always if has_default else _finder(schema, source)
        same, test, expression = known
        if same:
            lines.append(f"    elif {same}: out[{key!r}] = v")
        if test:
            lines.append(f"    elif {test}: out[{key!r}] = {expression}")
        if same != "True":
            lines.append("    else: return slow(obj)")
    lines.append("    return out")
    return cast("Dump", _compiled(lines, names, "dump"))


def compile_load(schema: Schema) -> Load:
    """A function of one mapping that gives what `schema.load(mapping, many=False)` gives, and raises what it raises.

    Raises `HookedSchemaError` for a schema with pre_load, post_load, validates or validates_schema. What is not accepted at
    sight goes to the schema, which words the errors; a converter of your own is then called a second time.
    """
    _refuse_hooks(schema, _LOAD_HOOKS, "load")
    names: dict[str, Any] = {
        "slow": lambda data: schema.load(data, many=False),
        "missing": missing,
        "inf": math.inf,
        "ValidationError": ValidationError,
        **_TYPES,
    }
    targets = [field.attribute or name for name, field in schema.load_fields.items()]
    if schema.partial or schema.dict_class is not dict or schema.unknown != RAISE or any("." in one for one in targets):
        return cast("Load", names["slow"])
    lines = [
        "def load(data):",
        "    if data.__class__ is not dict: return slow(data)",
        "    out = {}",
        "    n = 0",
        "    try:",
    ]
    for number, (name, field) in enumerate(schema.load_fields.items()):
        key = field.data_key if field.data_key is not None else name
        test, expression = _loaded(field, number, key, names)
        put = f"out[{targets[number]!r}]"
        lines.append(f"        v = data.get({key!r}, missing)")
        if field.required or field.load_default is not missing:
            lines.append("        if v is missing: return slow(data)")
        else:
            lines.append("        if v is missing: pass")
        if not _is_altered(field, "deserialize"):
            lines.append(f"        elif v is None: {f'{put} = None; n += 1' if field.allow_none else 'return slow(data)'}")
        lines.append(f"        elif {test}: {put} = {expression}; n += 1")
        if test != "True":
            lines.append("        else: return slow(data)")
    lines += ["    except (ValidationError, ValueError): return slow(data)"]
    lines += ["    if n != len(data): return slow(data)", "    return out"]
    return cast("Load", _compiled(lines, names, "load"))


def _always(_obj: Any) -> bool:
    return True


def _finder(schema: Schema, source: str) -> Callable[[Any], bool]:
    """Whether an object has a value that is not among its stored ones."""
    return lambda obj: schema.get_attribute(obj, source, missing) is not missing


def _is_altered(field: fields.Field[Any], *names: str) -> bool:
    """Whether a field class has one of these methods of its own, or other things happen around them."""
    return not field._CHECK_ATTRIBUTE or any(getattr(type(field), name) is not getattr(fields.Field, name) for name in names)


def _dumped(field: fields.Field[Any]) -> tuple[str, str, str] | None:
    """When a value is dumped as it is; when it is converted, and how. None for a field that is not known."""
    kind = type(field)
    if kind in (strict.Integer, strict.Boolean, strict.JSON, strict.IPv4):
        return "True", "", ""
    if kind is strict.Float:
        return "v is None or v.__class__ is float or v.__class__ is int", "", ""
    if kind is strict.Text:
        return "v is None or v.__class__ is str", "", ""
    if kind is strict.EnumValue:
        return "v is None", "isinstance(v, Enum)", "v.value"
    if kind is strict.Decimal:
        return "v is None", "v.__class__ is Decimal", "format(v, 'f')"
    if kind is strict.UUID:
        return "v is None", "v.__class__ is UUID", "str(v)"
    if kind is strict.Base64:
        return "v is None", "v.__class__ is bytes", "b64encode(v).decode()"
    if isinstance(field, (strict.DateTime, strict.Date, strict.Time)) and field.is_iso():
        name = _ISO_TYPES.get(kind)
        if name is not None:
            return "v is None or v.__class__ is str", f"v.__class__ is {name}", "v.isoformat()"
    return None


def _loaded(field: fields.Field[Any], number: int, key: str, names: dict[str, Any]) -> tuple[str, str]:
    """When a value is accepted at sight, and what it becomes."""
    name = f"field{number}"
    names[name] = field
    known = None if field.pre_load or field.post_load or _is_altered(field, "deserialize") else _known(field, name, names)
    if known is None:
        return "True", f"{name}.deserialize(v, {key!r}, data)"
    test, expression = known
    for place, validator in enumerate(field.validators):
        if type(validator) is validate.Range and expression == "v":
            test += _range(validator, f"{name}_{place}", names)
        else:
            names[f"{name}_validate"] = field._validate
            names["validated"] = _validated
            return test, f"validated({name}_validate, {expression})"
    return test, expression


def _known(field: fields.Field[Any], name: str, names: dict[str, Any]) -> tuple[str, str] | None:
    kind = type(field)
    if isinstance(field, strict.Integer) and kind is strict.Integer:
        return f"v.__class__ is int and {field.minimum} <= v <= {field.maximum}", "v"
    if kind is strict.Boolean:
        return "(v is True or v is False)", "v"
    if kind is strict.Float:
        return "v.__class__ is float and -inf < v < inf", "v"
    if isinstance(field, strict.Text) and kind is strict.Text:
        short = "" if field.max_length is None else f" and len(v) <= {field.max_length}"
        return f"v.__class__ is str{short} and (v.isascii() or is_utf8(v))", "v"
    if isinstance(field, strict.Decimal) and kind is strict.Decimal:
        names[f"{name}_matches"] = field.matches
        return f"v.__class__ is str and {name}_matches(v)", "Decimal(v)"
    if isinstance(field, (strict.DateTime, strict.Date, strict.Time)) and field.is_iso():
        read = _ISO_TYPES.get(kind)
        if read is not None:
            names[f"{name}_matches"] = field.matches
            return f"v.__class__ is str and {name}_matches(v)", f"{read}.fromisoformat(v)"
    return None


def _range(validator: validate.Range, name: str, names: dict[str, Any]) -> str:
    text = ""
    if validator.min is not None:
        names[f"{name}_min"] = validator.min
        text += f" and v {'>=' if validator.min_inclusive else '>'} {name}_min"
    if validator.max is not None:
        names[f"{name}_max"] = validator.max
        text += f" and v {'<=' if validator.max_inclusive else '<'} {name}_max"
    return text


def _validated(check: Callable[[Any], None], value: Any) -> Any:
    check(value)
    return value


def _compiled(lines: list[str], names: dict[str, Any], name: str) -> Any:
    # Only reprs of names and numbers stand in the text; values and functions come by `names`.
    exec("\n".join(lines), names)  # noqa: S102  # as dataclasses does: the point of this module
    return names[name]


def _refuse_hooks(schema: Schema, hooks: frozenset[str], direction: str) -> None:
    found = [name for hook in hooks for name, *_ in schema._hooks.get(hook, ())]
    found += [name for name in _OVERRIDES[direction] if getattr(type(schema), name, None) is not getattr(Schema, name, None)]
    if found:
        raise HookedSchemaError(
            f"{type(schema).__name__} has a {direction} of its own ({', '.join(sorted(found))}), which cannot be compiled: "
            f"use schema.{direction}()"
        )
