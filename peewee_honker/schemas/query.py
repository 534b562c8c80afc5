"""The marshmallow fields for the columns of a query."""

from collections.abc import Callable, Container, Iterator
from typing import Any

import peewee
from marshmallow import fields

from peewee_honker.schemas import strict
from peewee_honker.schemas.convert import base_field
from peewee_honker.schemas.errors import UnknownFieldError

__all__ = ["query_fields"]

_Made = tuple[fields.Field[Any], bool]  # a field, and whether it may be null

_INTEGERS = frozenset({"count", "length", "char_length", "octet_length", "row_number", "rank", "dense_rank", "unicode"})
_TEXTS = frozenset({"lower", "upper", "trim", "ltrim", "rtrim", "substr", "substring", "replace", "concat", "group_concat",
                    "string_agg", "hex", "strftime", "date", "time", "datetime", "typeof"})  # fmt: skip
_NUMBERS = frozenset({"avg", "total"})
_LIKE_ARGUMENT = frozenset({"min", "max", "sum", "abs", "coalesce", "ifnull", "nullif", "first_value", "last_value", "lag",
                            "lead"})  # fmt: skip
_NEVER_NULL = frozenset({"count", "total", "row_number", "rank", "dense_rank", "typeof"})
_CASTS: dict[str, Callable[[], fields.Field[Any]]] = {
    "int": strict.Integer,
    "integer": strict.Integer,
    "bigint": lambda: strict.Integer(minimum=-(2**63), maximum=2**63 - 1),
    "text": strict.Text,
    "varchar": strict.Text,
    "real": strict.Float,
    "float": strict.Float,
    "double": strict.Float,
    "blob": strict.Base64,
}


def query_fields(query: Any, known: Container[str] = ()) -> Iterator[tuple[str, _Made]]:
    """Each column of a query: its key in the rows, its field, and whether it may be null.

    Columns of the optional side of an outer join may be null. Raises `UnknownFieldError` for a column whose type cannot be
    seen, unless its key is in `known`; `ValueError` for a key that two columns have.
    """
    optional = _optional_sources(query)
    seen: set[str] = set()
    for column in query._returning:
        key, node = _key(column), column.unwrap()
        if key in seen:
            raise ValueError(f"two columns of the query are named {key!r}: give one of them an alias()")
        seen.add(key)
        if (made := _field(node, optional)) is not None:
            yield key, made
        elif key in known:
            yield key, (strict.JSON(), True)
        else:
            raise UnknownFieldError(
                f"the type of the column {key!r} cannot be seen from the query: "
                f"cast it, or give its field with refine={{{key!r}: fields.…}}"
            )


def _key(column: Any) -> str:
    if column.is_alias():
        return str(column._alias)
    if isinstance(column, peewee.Field):
        return str(column.name)
    raise ValueError(f"a column of the query that is no field needs an alias(): {column!r}")


def _field(node: Any, optional: set[int]) -> _Made | None:
    if isinstance(node, peewee.Field):
        return base_field(node), bool(node.null) or id(node.model) in optional
    if isinstance(node, peewee.Cast):
        kind = node._cast  # type: ignore[attr-defined]  # Peewee keeps it there, as SQL
        made = _CASTS.get(str(kind.sql if isinstance(kind, peewee.SQL) else kind).lower())
        return None if made is None else (made(), True)
    if isinstance(node, peewee.Function):
        return _of_function(node, optional)
    if isinstance(node, peewee.Window):
        return None
    if isinstance(node, peewee.Value):
        return _of_value(node.value)
    return None


def _of_function(node: peewee.Function, optional: set[int]) -> _Made | None:
    name = str(node.name).lower()
    nullable = name not in _NEVER_NULL
    if name in _INTEGERS:
        return strict.Integer(), nullable
    if name in _TEXTS:
        return strict.Text(), nullable
    if name in _NUMBERS:
        return strict.Float(), nullable
    if name not in _LIKE_ARGUMENT or not node.arguments:
        return None
    arguments = [
        _field(argument.unwrap(), optional) if isinstance(argument, peewee.Node) else _of_value(argument)
        for argument in node.arguments
    ]
    if arguments[0] is None:
        return None
    made = arguments[0][0]
    made.validators = []  # CHECKs and choices of the column need not hold for a sum of it
    if isinstance(made, strict.Integer):
        made = strict.Integer(minimum=-(2**63), maximum=2**63 - 1)
    if isinstance(made, strict.Decimal) and name == "sum":
        made = strict.Float()  # Peewee leaves a sum as the database gives it
    if name in ("coalesce", "ifnull"):
        nullable = all(argument is None or argument[1] for argument in arguments)
    return made, nullable


def _of_value(value: Any) -> _Made | None:
    if isinstance(value, bool):
        return strict.Boolean(), False
    if isinstance(value, int):
        return strict.Integer(), False
    if isinstance(value, float):
        return strict.Float(), False
    if isinstance(value, str):
        return strict.Text(), False
    return None


def _optional_sources(query: Any) -> set[int]:
    """The ids of the models and aliases whose columns an outer join may leave empty."""
    found: set[int] = set()

    def walk(source: Any, optional: bool) -> None:
        if isinstance(source, peewee.Join):
            kind = str(source.join_type).upper()
            walk(source.lhs, optional or "RIGHT" in kind or "FULL" in kind)
            walk(source.rhs, optional or "LEFT" in kind or "FULL" in kind)
        elif optional:
            found.add(id(source))

    for source in query._from_list or ():
        walk(source, False)
    return found
