"""Schemas for what is read, inserted and updated, made from a model.

    rule                   select                      insert                            update
    a key may be absent    never                       null allowed, or has a default    always
    null is allowed        if the column may be null   same                              same
    generated column       included                    left out                          left out

Keys come in the order of the columns. A default makes its key optional and is never put in: Peewee and the database do that.
A refinement changes one key's field; then the rules above are applied to it again, so that a refined key is as optional as
before.
"""

import inspect
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import peewee
from marshmallow import Schema, fields, missing

from ..errors import SchemaError
from .constraints import is_generated
from .convert import describe, field_for, has_default, model_fields, registrations
from .query import query_fields
from .rows import RowSchema

__all__ = ["Key", "Refinement", "create_insert_schema", "create_select_schema", "create_update_schema"]

#: A key of a schema: its name, or the Peewee field of that name.
Key: TypeAlias = "str | peewee.Field[Any]"
#: Changes the field that the column gave, or takes its place.
Refinement: TypeAlias = Callable[[Any], fields.Field[Any]] | fields.Field[Any] | type[fields.Field[Any]]

CACHED = 256  # schemas a model; a caller that makes a new lambda each time gets a new class, and the oldest one goes
_lock = threading.Lock()


class Unregistered(RowSchema):
    """Base of the schemas that are made here: not in marshmallow's registry, where names clash and nothing is ever freed."""

    class Meta:
        register = False


def create_select_schema(
    source: Any,
    *,
    refine: Mapping[Key, Refinement] | None = None,
    include: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    name: str | None = None,
) -> type[Schema]:
    """Give the schema of a model's rows, or of a query's, as they are read.

        OrderOut = create_select_schema(Order, exclude=[Order.secret])
        OrderOut().dump(Order.get_by_id(7))

    Arguments:
        source: a model, or `Model.select(...)`, whose schema has a key for each column: the name of the field, or its alias.
            It is for rows of `.dicts()`, `.objects()` and `.namedtuples()`. What a left join adds may be null.
        refine: by key, a function that gets the marshmallow field of the column and gives the one to use, or a marshmallow
            field that takes the place of all that the column says.
        include: only these keys. Default: all.
        exclude: all but these keys.
        name: the name of the class. Default: "OrderSelect" for a model called Order.

    Returns: a subclass of `marshmallow.Schema`; for a model the same class for the same arguments. It is not in
    marshmallow's registry of names, so that two of one name never clash.

    Raises SchemaError for a key that is not there, and for a field or a column that has no converter.
    """
    if isinstance(source, peewee.ModelSelect):
        made = query_fields(source, _replaced(refine))
        model: Any = source
        chosen = _chosen(f"the query of {model.model.__name__}", made, refine, include, exclude)
        return _schema(name or f"{model.model.__name__}Rows", {key: made[key] for key in chosen}, refine)
    return _cached("Select", source, refine, include, exclude, name)


def create_insert_schema(
    model: type[peewee.Model],
    *,
    refine: Mapping[Key, Refinement] | None = None,
    include: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    name: str | None = None,
) -> type[Schema]:
    """Give the schema of what is inserted: keys may be absent that may be null or have a default.

        OrderIn = create_insert_schema(Order)
        Order.create(**OrderIn().load(request.json))

    Arguments and what is returned and raised are those of `create_select_schema`; generated columns are left out.
    """
    return _cached("Insert", model, refine, include, exclude, name)


def create_update_schema(
    model: type[peewee.Model],
    *,
    refine: Mapping[Key, Refinement] | None = None,
    include: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    name: str | None = None,
) -> type[Schema]:
    """Give the schema of a change: every key may be absent, null only where the column may be null.

        OrderChange = create_update_schema(Order, exclude=["id"])
        Order.update(**OrderChange().load(request.json)).where(Order.id == 7).execute()

    Arguments and what is returned and raised are those of `create_select_schema`; generated columns are left out.
    """
    return _cached("Update", model, refine, include, exclude, name)


def _cached(
    kind: str,
    model: Any,
    refine: Mapping[Key, Refinement] | None,
    include: Iterable[Key] | None,
    exclude: Iterable[Key],
    name: str | None,
) -> type[Schema]:
    if not (inspect.isclass(model) and issubclass(model, peewee.Model)):
        raise SchemaError(
            f"{model!r} is no model: give a subclass of peewee.Model, or for a select schema Model.select(...)"
        )
    refinements = {_name(model, key): value for key, value in (refine or {}).items()}
    included = None if include is None else tuple(_name(model, key) for key in include)
    excluded = tuple(_name(model, key) for key in exclude)
    # The fields by identity: they compare as SQL. A model that got a field since, or a new converter, is made anew.
    state = (registrations(), *(id(field) for field in model_fields(model).values()))
    arguments = (kind, tuple(refinements.items()), included, excluded, name, state)
    with _lock:
        cache: dict[Any, type[Schema]] | None = vars(model).get("__schemas__")
        if cache is None:
            cache = {}
            setattr(model, "__schemas__", cache)  # noqa: B010 # kept with the model, and freed with it
        found = cache.get(arguments)
        if found is None:
            made = _fields(kind, model, refinements, included, excluded)
            found = _schema(name or f"{model.__name__}{kind}", made, refinements)
            if len(cache) >= CACHED:
                del cache[next(iter(cache))]
            cache[arguments] = found
    return found


def _fields(
    kind: str,
    model: type[peewee.Model],
    refine: Mapping[str, Refinement],
    include: Iterable[str] | None,
    exclude: Iterable[str],
) -> dict[str, fields.Field[Any]]:
    columns = {key: field for key, field in model_fields(model).items() if kind == "Select" or not is_generated(field)}
    replaced = _replaced(refine)
    made = {}
    for key in _chosen(f"the {kind.lower()} schema of {model.__name__}", columns, refine, include, exclude):
        field = columns[key]
        required = kind == "Select" or (kind == "Insert" and not (field.null or has_default(field)))
        made[key] = replaced.get(key) or field_for(field, required=required, dump_only=False)
        if kind == "Select" and made[key].load_only and key not in replaced:
            made[key].required = False  # so that a select schema loads what it dumps
    return made


def _schema(name: str, made: dict[str, fields.Field[Any]], refine: Mapping[Any, Refinement] | None) -> type[Schema]:
    by_name = {_bare(key): value for key, value in (refine or {}).items()}
    for key, base in made.items():
        change: Any = by_name.get(key)
        if change is None or _outright(change) is not None:
            continue
        # The rules first: a function may change the field that it gets, and give that one back.
        required, allow_none = base.required, base.allow_none
        refined = change(base)
        if not isinstance(refined, fields.Field):
            raise SchemaError(f"the refinement of {key!r} gave {refined!r}: it has to give a marshmallow field")
        refined.allow_none = allow_none
        refined.required = required and refined.load_default is missing
        made[key] = refined
    return type(name, (Unregistered,), {**made, "__module__": __name__})


def _chosen(
    what: str,
    columns: Mapping[str, Any],
    refine: Mapping[Any, Any] | None,
    include: Iterable[Any] | None,
    exclude: Iterable[Any],
) -> list[str]:
    """Give the keys of a schema in order, or raise SchemaError for a name that none of them has."""
    included = None if include is None else [_bare(key) for key in include]
    excluded = [_bare(key) for key in exclude]
    for option, names in (("include", included or ()), ("exclude", excluded)):
        for key in names:
            if key not in columns:
                raise SchemaError(f"{option}: {what} has no key {key!r}; it has {', '.join(columns)}")
    keys = [key for key in columns if (included is None or key in included) and key not in excluded]
    for key in map(_bare, refine or ()):
        if key not in keys:
            raise SchemaError(f"refine: {what} has no key {key!r}; it has {', '.join(keys)}")
    return keys


def _replaced(refine: Mapping[Any, Refinement] | None) -> dict[str, fields.Field[Any]]:
    outright = {_bare(key): _outright(value) for key, value in (refine or {}).items()}
    return {key: field for key, field in outright.items() if field is not None}


def _outright(value: Any) -> fields.Field[Any] | None:
    if isinstance(value, fields.Field):
        return value
    if inspect.isclass(value) and issubclass(value, fields.Field):
        return value()
    if not callable(value):
        raise SchemaError(f"a refinement is a function or a marshmallow field, not {value!r}")
    return None


def _name(model: Any, key: Any) -> str:
    """Give the name of a key of this model, or raise SchemaError for another model's field."""
    if isinstance(key, peewee.Field):
        bound: Any = key
        if model._meta.fields.get(getattr(key, "name", None)) is not bound:
            raise SchemaError(f"{describe(key)} is no field of {model.__name__}")
    return _bare(key)


def _bare(key: Any) -> str:
    if isinstance(key, peewee.Field):
        return str(key.name)
    if isinstance(key, peewee.Alias):
        return str(key.name)
    if not isinstance(key, str):
        raise SchemaError(f"{key!r} is no key: give a name or a Peewee field")
    return key
