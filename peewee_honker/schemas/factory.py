"""Schemas made by a call: one for what a table gives, one for what it takes as a new row, one for a change.

| rule | select | insert | update |
|---|---|---|---|
| key may be absent | never | if the column may be null or has a default | always |
| null allowed | if the column may be null | same | same |
| generated column | included | left out | left out |

A default only makes its key optional: it is the model, or the database, that fills it in.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import peewee
from marshmallow import fields, missing

from peewee_honker.schemas.base import RowSchema
from peewee_honker.schemas.constraints import is_generated
from peewee_honker.schemas.convert import base_field, has_default, model_fields
from peewee_honker.schemas.query import query_fields

__all__ = ["Key", "Refinement", "also", "create_insert_schema", "create_select_schema", "create_update_schema"]

Key = str | peewee.Field
Refinement = fields.Field[Any] | Callable[[Any], fields.Field[Any]]
_Kind = Literal["Select", "Insert", "Update"]
_Refined = tuple[tuple[str, Refinement], ...]
_Keys = tuple[str, ...]


def create_select_schema(
    source: type[peewee.Model] | peewee.ModelSelect,
    *,
    refine: Mapping[Any, Refinement] | None = None,
    include: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    name: str | None = None,
) -> type[RowSchema]:
    """A schema class for rows of a model, or of a query with columns of its own: every key is there.

    `include` and `exclude` choose among the keys, as names or as Peewee fields. `refine` maps keys to functions, which
    take the derived marshmallow field and return the one to use (null and presence are still the column's), or to
    marshmallow fields, which replace it in every respect. `name` names the class.

    Equal arguments give the same class. Raises `ValueError` for a key that does not exist, and `UnknownFieldError` for a
    field or column that no marshmallow field is known for.
    """
    if isinstance(source, type):
        return _from_model("Select", source, refine, include, exclude, name)
    return _from_query(source, refine, include, exclude, name)


def create_insert_schema(
    model: type[peewee.Model],
    *,
    refine: Mapping[Any, Refinement] | None = None,
    include: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    name: str | None = None,
) -> type[RowSchema]:
    """A schema class for a new row. Keys that may be null or have a default are optional, generated columns left out.

    The arguments are those of `create_select_schema`. What it loads fits `Model.create(**loaded)`: values that it accepts,
    the database accepts, keys that are taken or missing elsewhere aside.
    """
    return _from_model("Insert", model, refine, include, exclude, name)


def create_update_schema(
    model: type[peewee.Model],
    *,
    refine: Mapping[Any, Refinement] | None = None,
    include: Iterable[Key] | None = None,
    exclude: Iterable[Key] = (),
    name: str | None = None,
) -> type[RowSchema]:
    """A schema class for a change: every key is optional, generated columns are left out.

    The arguments are those of `create_select_schema`. What it loads fits `Model.update(**loaded)`.
    """
    return _from_model("Update", model, refine, include, exclude, name)


def also(*validators: Callable[[Any], Any]) -> Callable[[fields.Field[Any]], fields.Field[Any]]:
    """A refinement that adds validators to what the model says: `refine={"total": also(validate.Range(min=1))}`."""

    def add(field: fields.Field[Any]) -> fields.Field[Any]:
        field.validators.extend(validators)
        return field

    return add


def _from_model(
    kind: _Kind,
    model: type[peewee.Model],
    refine: Mapping[Any, Refinement] | None,
    include: Iterable[Key] | None,
    exclude: Iterable[Key],
    name: str | None,
) -> type[RowSchema]:
    identities = tuple(id(field) for field in model._meta.sorted_fields)  # a model may still get fields
    return _cached(
        kind,
        model,
        identities,
        tuple((_key(key), refinement) for key, refinement in (refine or {}).items()),
        None if include is None else tuple(map(_key, include)),
        tuple(map(_key, exclude)),
        name,
    )


@lru_cache(maxsize=512)
def _cached(
    kind: _Kind,
    model: type[peewee.Model],
    _identities: tuple[int, ...],
    refine: _Refined,
    include: _Keys | None,
    exclude: _Keys,
    name: str | None,
) -> type[RowSchema]:
    known = model_fields(model)
    offered = [field for field in known if kind == "Select" or not is_generated(field)]
    owner = f"{kind.lower()} schema of {model.__name__}"
    chosen = _choose([field.name for field in offered], refine, include, exclude, owner)
    refinements = dict(refine)
    made = {}
    for field in offered:
        if field.name in chosen:
            absent = kind == "Update" or (kind == "Insert" and (field.null or has_default(field)))
            made[field.name] = _refined(
                partial(base_field, field),
                refinements.get(field.name),
                null=bool(field.null),
                absent=absent,
                name=f"{model.__name__}.{field.name}",
            )
    return _schema_class(name or f"{model.__name__}{kind}", made, f"A row of {model.__name__}: {kind.lower()}.")


def _from_query(
    query: peewee.ModelSelect,
    refine: Mapping[Any, Refinement] | None,
    include: Iterable[Key] | None,
    exclude: Iterable[Key],
    name: str | None,
) -> type[RowSchema]:
    refinements = {_key(key): refinement for key, refinement in (refine or {}).items()}
    left_out = tuple(map(_key, exclude))
    given = {key for key, refinement in refinements.items() if isinstance(refinement, fields.Field)}
    columns = dict(query_fields(query, known={*given, *left_out}))
    chosen = _choose(
        list(columns),
        tuple(refinements.items()),
        None if include is None else tuple(map(_key, include)),
        left_out,
        f"query of {query.model.__name__}",
    )
    made = {
        key: _refined(partial(_same, field), refinements.get(key), null=null, absent=False, name=key)
        for key, (field, null) in columns.items()
        if key in chosen
    }
    return _schema_class(name or f"{query.model.__name__}Row", made, f"A row of a query of {query.model.__name__}.")


def _choose(keys: list[str], refine: _Refined, include: _Keys | None, exclude: _Keys, owner: str) -> set[str]:
    for option, named in (("refine", [key for key, _ in refine]), ("include", include or ()), ("exclude", exclude)):
        if unknown := [key for key in named if key not in keys]:
            raise ValueError(f"{option} names {unknown[0]!r}, which the {owner} does not have: {', '.join(keys)}")
    chosen = set(keys if include is None else include) - set(exclude)
    if unused := [key for key, _ in refine if key not in chosen]:
        raise ValueError(f"refine names {unused[0]!r}, which include and exclude leave out of the {owner}")
    return chosen


def _refined(
    make: Callable[[], fields.Field[Any]], refinement: Refinement | None, *, null: bool, absent: bool, name: str
) -> fields.Field[Any]:
    """The base field, then the user's refinement, then null, then optional."""
    if isinstance(refinement, fields.Field):
        return refinement
    field = make()
    if refinement is not None:
        field = refinement(field)
        if not isinstance(field, fields.Field):
            raise TypeError(f"refine of {name} returned {field!r}: it has to return the marshmallow field to use")
    field.allow_none = null
    field.required = not absent and field.load_default is missing
    return field


def _same(field: fields.Field[Any]) -> fields.Field[Any]:
    return field


def _key(key: Key) -> str:
    return str(key.name) if isinstance(key, peewee.Field) else key


def _schema_class(name: str, made: dict[str, fields.Field[Any]], doc: str) -> type[RowSchema]:
    return type(name, (RowSchema,), {"__doc__": doc, "__module__": __name__, **made})
