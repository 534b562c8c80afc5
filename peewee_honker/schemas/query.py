"""The keys of a query's rows, and a field for each.

A column of a model keeps its field; an alias gives it another key. Of functions, those are known whose type SQL fixes
(COUNT, AVG, LENGTH, ...) or takes from a column (MIN, MAX, SUM, COALESCE). For anything else the caller says what it is:
nothing is guessed.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import peewee
from marshmallow import fields

from ..errors import SchemaError
from . import strict
from .convert import field_for

__all__ = ["query_fields"]

COUNTS = {"count", "row_number", "rank", "dense_rank", "ntile"}
WHOLE = {"length", "instr", "unicode", "changes", "sign"}
REAL = {"avg", "total", "percent_rank", "cume_dist"}
TEXT = {
    "lower",
    "upper",
    "trim",
    "ltrim",
    "rtrim",
    "substr",
    "substring",
    "replace",
    "group_concat",
    "hex",
    "printf",
    "format",
}
TEXT |= {"date", "time", "datetime", "strftime", "concat", "typeof", "quote"}
SAME = {"min", "max", "first_value", "last_value", "nth_value", "lag", "lead", "abs"}
CAST = {"integer": strict.Integer, "bigint": strict.Integer, "text": strict.Text, "real": strict.Float}


def query_fields(query: Any, given: Mapping[str, fields.Field[Any]]) -> dict[str, fields.Field[Any]]:
    """Give the marshmallow fields of a select's columns, by key, in their order.

    Arguments:
        query: `Model.select(...)`.
        given: fields that the caller gives outright, by key.
    """
    outer = set(_outer(query))
    made: dict[str, fields.Field[Any]] = {}
    for column in _columns(query):
        key = _key(column)
        if key in made:
            raise SchemaError(f"the query has two columns {key!r}: give one of them an alias")
        found = given.get(key) or _field(column, outer)
        if found is None:
            raise SchemaError(
                f"the query's column {key!r} is an expression of an unknown type: say it with refine={{{key!r}: a field}}"
            )
        made[key] = found
    return made


def _columns(query: Any) -> Iterator[Any]:
    for column in query._returning:
        if isinstance(column, peewee.CompositeKey):
            yield from (column.model._meta.fields[name] for name in column.field_names)
        else:
            yield column


def _key(column: Any) -> str:
    if isinstance(column, (peewee.Field, peewee.Alias)):
        return str(column.name)
    raise SchemaError(f"a column of the query has no name: {column!r}. Give it one with .alias(...)")


def _outer(query: Any) -> Iterator[Any]:
    """Yield the sources whose columns may be null in a row because a join found nothing for them."""
    for source, joins in query._joins.items():
        for destination, _, _, kind in joins:
            if "FULL" in kind or "RIGHT" in kind:
                yield from (query.model, source)
            if "FULL" in kind or "LEFT" in kind:
                yield destination


def _field(node: Any, outer: set[Any]) -> fields.Field[Any] | None:
    """Give the field of a column, or None for one whose type is not known."""
    while isinstance(node, peewee.Alias):
        node = node.node
    if isinstance(node, peewee.NodeList) and node.nodes and isinstance(node.nodes[0], peewee.Function):
        node = node.nodes[0]  # a window function
    if isinstance(node, peewee.FieldAlias):
        return _column(node.field, nullable=node.source in outer)
    if isinstance(node, peewee.Field):
        return _column(node, nullable=node.model in outer)
    if isinstance(node, peewee.Function):
        return _function(node, outer)
    if isinstance(node, peewee.Cast):
        cast: Any = node
        kind = CAST.get(str(cast._cast).lower())
        return None if kind is None else _plain(kind)
    return None


def _column(field: Any, nullable: bool) -> fields.Field[Any]:
    options: dict[str, Any] = {"allow_none": True} if nullable or field.null else {}
    made: fields.Field[Any] = field_for(field, required=True, dump_only=False, **options)
    return made


def _plain(kind: Callable[..., fields.Field[Any]], allow_none: bool = True) -> fields.Field[Any]:
    bounds = {"bounds": strict.INT64} if kind is strict.Integer else {}
    return kind(required=True, allow_none=allow_none, **bounds)


def _function(node: Any, outer: set[Any]) -> fields.Field[Any] | None:
    name = str(node.name).lower()
    if name in COUNTS:
        return _plain(strict.Integer, allow_none=False)
    for names, kind in ((WHOLE, strict.Integer), (REAL, strict.Float), (TEXT, strict.Text)):
        if name in names:
            return _plain(kind, allow_none=name != "total")
    first = node.arguments[0] if node.arguments else None
    if not isinstance(first, peewee.Node):
        return None
    base = _field(first, outer)
    if base is None:
        return None
    if name == "sum":
        whole = isinstance(base, fields.Integer)
        return _plain(strict.Integer if whole else strict.Float) if isinstance(base, fields.Number) else None
    if name in SAME:
        base.allow_none = True
        return base
    if name in ("coalesce", "ifnull"):
        rest = node.arguments[1:]
        base.allow_none = base.allow_none and not any(
            not isinstance(value, peewee.Node) and value is not None for value in rest
        )
        return base
    return None
