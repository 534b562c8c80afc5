"""Functions that dump and load as a schema does, in a fraction of the time.

For each key of a schema a line of Python is written that does what marshmallow does for the usual value; the lines are
compiled once. They only decide the clear cases. Whenever a value is not the usual one, is missing or wrong, the whole object
goes through the schema itself, so results and errors are marshmallow's, always.
"""

import datetime
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import marshmallow
import peewee
from marshmallow import Schema, ValidationError, decorators, fields, validate

from ..errors import SchemaError
from . import strict
from .constraints import Exactly
from .convert import Reference
from .rows import RowSchema, reads_plainly

__all__ = ["compile_dump", "compile_load"]

ISO = (None, "iso", "iso8601")
DUMP_HOOKS = (decorators.PRE_DUMP, decorators.POST_DUMP)
LOAD_HOOKS = (decorators.PRE_LOAD, decorators.POST_LOAD, decorators.VALIDATES, decorators.VALIDATES_SCHEMA)
# What a schema or a field may not have of its own, by what is compiled.
DUMPING = ("dump", "_serialize", "get_attribute"), ("serialize", "get_value")
LOADING = ("load", "_do_load", "_deserialize"), ("deserialize", "_validate", "_validate_missing", "_validate_all")


def compile_dump(schema: Any) -> Callable[..., Any]:
    """Give a function that dumps as `schema.dump` does: `dump(obj, many=None)`.

        dump = compile_dump(create_select_schema(Order))
        dump(Order.select().dicts(), many=True)

    Arguments:
        schema: a schema, class or instance. What is changed in its fields later is not seen.

    It is quick for dicts and for instances of models; other objects go through the schema.

    Raises SchemaError for a schema with hooks, or with fields that have a way of their own.
    """
    one = _instance(schema, DUMP_HOOKS, *DUMPING)

    class ByClass(dict[Any, Callable[[Any], Any]]):
        def __missing__(self, kind: Any) -> Callable[[Any], Any]:
            if issubclass(kind, peewee.Model) and _plain_model(one, kind):
                self[kind] = _dump_function(one, kind)
            else:
                self[kind] = functools.partial(one.dump, many=False)
            return self[kind]

    by_class = ByClass({dict: _dump_function(one, None)})

    def dump(obj: Any, *, many: bool | None = None) -> Any:
        if (one.many if many is None else many) and obj is not None:
            return [by_class[item.__class__](item) for item in obj]
        return by_class[obj.__class__](obj)

    return dump


def compile_load(schema: Any) -> Callable[..., Any]:
    """Give a function that loads as `schema.load` does: `load(data, many=None)`.

        load = compile_load(create_insert_schema(Order))
        Order.create(**load(request.json))

    Arguments and what is raised are those of `compile_dump`; the function raises ValidationError as the schema does.
    """
    one = _instance(schema, LOAD_HOOKS, *LOADING)
    quick = _load_function(one)

    def load(data: Any, *, many: bool | None = None) -> Any:
        try:
            if not (one.many if many is None else many):
                return quick(data)
            if type(data) is list:
                return [quick(item) for item in data]
        except (_Unclear, ValidationError, ValueError):
            pass
        return one.load(data, many=many)

    return load


class _Unclear(Exception):  # noqa: N818 # a signal inside this module
    """The compiled function leaves this object to the schema."""


def _instance(schema: Any, hooks: tuple[str, ...], own: tuple[str, ...], of_fields: tuple[str, ...]) -> Any:
    """Give the schema's instance, or raise SchemaError where compiled lines would not do what the schema does."""
    one: Any = schema() if inspect.isclass(schema) else schema
    name = type(one).__name__
    if any(one._hooks.get(hook) for hook in hooks):
        raise SchemaError(f"{name} has hooks or validators of its own: use the schema itself")
    plain = (*(getattr(Schema, method) for method in own), RowSchema.get_attribute)
    if any(getattr(type(one), method) not in plain for method in own) or one.dict_class is not dict:
        raise SchemaError(f"{name} dumps or loads in a way of its own: use the schema itself")
    for key, field in one.fields.items():
        changed = [method for method in of_fields if _method(field, method) is not getattr(fields.Field, method)]
        if changed and not (changed == ["get_value"] and isinstance(field, Reference)):
            raise SchemaError(f"{name}.{key} is a {type(field).__name__}, which has a way of its own: use the schema itself")
        if "." in (field.attribute or key) or not field._CHECK_ATTRIBUTE:
            raise SchemaError(f"{name}.{key} is not read from one attribute: use the schema itself")
    return one


def _method(field: Any, name: str) -> Any:
    return inspect.getattr_static(type(field), name)


def _kind(field: Any) -> type:
    """Give the class that says how values are written and read; a reference is what its key is."""
    return type(field).__bases__[1] if isinstance(field, Reference) else type(field)


def _plain_model(schema: Any, model: Any) -> bool:
    """Whether all keys are plain columns of the model, so that an instance holds them in `__data__`."""
    if not reads_plainly(model):
        return False
    for key, field in schema.dump_fields.items():
        reference = isinstance(field, Reference)
        accessor = inspect.getattr_static(model, field.reference.name if reference else field.attribute or key, None)
        if type(accessor) is not peewee.FieldAccessor and not (reference and type(accessor) is peewee.ForeignKeyAccessor):
            return False
    return True


class _Code:
    """Lines of a function, and the objects that they name."""

    def __init__(self, first: str) -> None:
        self.lines = [first]
        self.names: dict[str, Any] = {"MISSING": marshmallow.missing, "Unclear": _Unclear, "Model": peewee.Model}

    def name(self, value: Any) -> str:
        """Give a name for an object; no text of the schema ever becomes code."""
        found = f"n{len(self.names)}"
        self.names[found] = value
        return found

    def add(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def function(self) -> Any:
        exec(compile("\n".join(self.lines), "<peewee_honker.schemas.compiled>", "exec"), self.names)  # noqa: S102
        return self.names["run"]


WRITTEN_AS_IS: dict[Any, str] = {
    strict.Integer: "int",
    strict.Float: "float",
    strict.Text: "str",
    strict.IPv4: "str",
    strict.Boolean: "bool",
}
WRITTEN_ISO: dict[Any, Any] = {
    strict.DateTime: datetime.datetime,
    strict.Date: datetime.date,
    strict.Time: datetime.time,
}


def _dump_function(schema: Any, model: Any) -> Callable[[Any], Any]:
    code = _Code("def run(obj):")
    slow = code.name(functools.partial(schema.dump, many=False))
    code.add(1, "data = obj.__data__" if model is not None else "data = obj")
    parts = []
    for number, (key, field) in enumerate(schema.dump_fields.items()):
        value = f"v{number}"
        attribute = field.attribute or key
        source = field.reference.name if model is not None and isinstance(field, Reference) else attribute
        code.add(1, f"{value} = data.get({code.name(source)}, MISSING)")
        # A column that was not loaded is left out; of a reference the row behind it may be there instead.
        related = f" or isinstance({value}, Model)" if isinstance(field, Reference) else ""
        code.add(1, f"if {value} is MISSING{related}: return {slow}(obj)")
        parts.append(f"{code.name(field.data_key or key)}: {_written(code, field, attribute, value)}")
    code.add(1, f"return {{{', '.join(parts)}}}")
    return code.function()  # type: ignore[no-any-return]  # made just now


def _written(code: _Code, field: Any, attribute: str, value: str) -> str:
    kind = _kind(field)
    through = f"{code.name(field._serialize)}({value}, {code.name(attribute)}, obj)"
    if kind in WRITTEN_AS_IS:
        return f"{value} if {value} is None or type({value}) is {WRITTEN_AS_IS[kind]} else {through}"
    if kind in WRITTEN_ISO and field.format in ISO:
        return f"{value}.isoformat() if type({value}) is {code.name(WRITTEN_ISO[kind])} else {through}"
    return through


def _load_function(schema: Any) -> Callable[[Any], Any]:
    if schema.partial not in (None, True, False):
        raise SchemaError(f"{type(schema).__name__} names the keys that may be absent (partial): use the schema itself")
    code = _Code("def run(data):")
    code.add(1, "if type(data) is not dict: raise Unclear")
    code.add(1, "known = 0")
    code.add(1, "out = {}")
    for key, field in schema.load_fields.items():
        sent = field.data_key if field.data_key is not None else key
        code.add(1, f"v = data.get({code.name(sent)}, MISSING)")
        may_be_absent = schema.partial is True or (not field.required and field.load_default is marshmallow.missing)
        code.add(1, "if v is not MISSING:")
        code.add(2, "known += 1")
        _read(code, schema, field, sent)
        code.add(2, f"out[{code.name(field.attribute or key)}] = v")
        if not may_be_absent:
            code.add(1, "else: raise Unclear")
    if schema.unknown != marshmallow.EXCLUDE:
        code.add(1, "if known != len(data): raise Unclear")
    code.add(1, "return out")
    return code.function()  # type: ignore[no-any-return]  # made just now


def _read(code: _Code, schema: Any, field: Any, sent: str) -> None:
    """Write the lines that load the value `v` of one key, or leave the object to the schema."""
    hooked = getattr(field, "pre_load", ()) or getattr(field, "post_load", ())  # marshmallow 4.0 does not have them
    condition = None if hooked else _clear(code, field)
    if condition is None:
        partial = {} if schema.partial is None else {"partial": schema.partial}
        code.add(2, f"v = {code.name(functools.partial(field.deserialize, **partial))}(v, {code.name(sent)}, data)")
        return
    code.add(2, "if v is not None:" if field.allow_none else "if v is None: raise Unclear")
    depth = 3 if field.allow_none else 2
    test, conversion = condition
    code.add(depth, f"if {test}:")
    code.add(depth + 1, conversion or "pass")
    code.add(depth, f"else: v = {code.name(field._deserialize)}(v, {code.name(sent)}, data)")
    for check in field.validators:
        code.add(depth, _checked(code, check))


def _clear(code: _Code, field: Any) -> tuple[str, str] | None:
    """Give the test of the usual value of a field, and the line that makes the loaded value of it; None for other fields."""
    kind = _kind(field)
    if kind is strict.Integer:
        return "type(v) is int", ""
    if kind is strict.Float:
        return f"type(v) is float and -{code.name(math.inf)} < v < {code.name(math.inf)}", ""
    if kind is strict.Boolean:
        return "v is True or v is False", ""
    if kind is strict.Text:
        return "type(v) is str and v.isascii()", ""
    if kind in WRITTEN_ISO and field.format in ISO:
        read = code.name(WRITTEN_ISO[kind].fromisoformat)
        return f"type(v) is str and {code.name(field.iso.fullmatch)}(v)", f"v = {read}(v)"
    return None


def _checked(code: _Code, check: Any) -> str:
    """Write the line for one validator. Those of marshmallow's whose meaning is plain are written out, others are called."""
    tests = []
    if type(check) is validate.Range:
        if check.min is not None:
            tests.append(f"v {'<' if check.min_inclusive else '<='} {code.name(check.min)}")
        if check.max is not None:
            tests.append(f"v {'>' if check.max_inclusive else '>='} {code.name(check.max)}")
    elif type(check) is validate.Length and check.equal is None:
        if check.min is not None:
            tests.append(f"len(v) < {code.name(check.min)}")
        if check.max is not None:
            tests.append(f"len(v) > {code.name(check.max)}")
    elif type(check) in (validate.OneOf, Exactly):
        tests.append(f"v not in {code.name(check.choices)}")
    else:
        return f"{code.name(check)}(v)"
    return f"if {' or '.join(tests)}: raise Unclear" if tests else "pass"
