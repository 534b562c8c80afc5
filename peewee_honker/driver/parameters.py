"""Values on their way into SQLite, checked and adapted as sqlite3 does it.

Honker turns what it does not know into something else in silence (an int beyond 64 bits becomes a float), refuses
types that sqlite3 takes (`bytearray`, whatever has an adapter), and can hang on an object whose `__index__` runs
Python. So only exact builtins go through: None, int, float, str, bytes, bool.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from peewee_honker.driver.statement import Statement

__all__ = ["Parameters", "bind"]

Parameters = Sequence[Any] | Mapping[str, Any]

_AS_THEY_ARE = frozenset({str, float, bytes, type(None), bool})
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE, https://docs.python.org/3/c-api/typeobj.html
_LOW, _HIGH = -(2**63), 2**63 - 1


def bind(statement: Statement, parameters: Parameters) -> Sequence[Any]:
    """The values to send for `parameters`, by position.

    Raises what sqlite3 raises: `OverflowError` for an int beyond 64 bits, `UnicodeEncodeError` for a lone surrogate,
    `sqlite3.ProgrammingError` for a type without an adapter, a missing name, or parameters that are no sequence.
    """
    given = type(parameters)
    values: Any = parameters if given is tuple or given is list else _in_order(statement, parameters)
    for value in values:
        kind = type(value)
        if kind is int:
            if not _LOW <= value <= _HIGH:
                encodable(values[: values.index(value)])  # what stands before it is refused first
                raise OverflowError("Python int too large to convert to SQLite INTEGER")
        elif kind not in _AS_THEY_ARE:
            return [_adapt(value, position) for position, value in enumerate(values, 1)]
    return values  # type: ignore[no-any-return]  # a tuple or a list: Any spares the hot path a cast


def encodable(parameters: Sequence[Any]) -> None:
    """Raise `UnicodeEncodeError` for the first text that is not encodable as UTF-8 (Honker says TypeError)."""
    for value in parameters:
        if type(value) is str:
            value.encode()


def _in_order(statement: Statement, parameters: Parameters) -> Sequence[Any]:
    if isinstance(parameters, Mapping):
        return [_named(parameters, name, position) for position, name in enumerate(statement.placeholders, 1)]
    if isinstance(parameters, (tuple, list)):
        return list(parameters)
    if hasattr(parameters, "__getitem__") and hasattr(parameters, "__len__"):
        return [parameters[position] for position in range(len(parameters))]
    raise sqlite3.ProgrammingError("parameters are of unsupported type")


def _named(parameters: Mapping[str, Any], name: str, position: int) -> Any:
    if name == "?":
        raise sqlite3.ProgrammingError(
            f"Binding {position} has no name, but you supplied a dictionary (which has only names)."
        )
    try:
        return parameters[name[1:]]
    except LookupError:
        shown = f":{name[1:]}"
        raise sqlite3.ProgrammingError(f"You did not supply a value for binding parameter {shown}.") from None


def _adapt(value: Any, position: int) -> Any:
    kind = type(value)
    if kind not in (int, float, str, bytearray):  # sqlite3 asks no adapter for these
        value = sqlite3.adapt(value, sqlite3.PrepareProtocol, value)
        kind = type(value)
    if kind is str:
        value.encode()  # raises for a lone surrogate
    if kind in _AS_THEY_ARE:
        return value
    if isinstance(value, int):
        number = int.__index__(value)
        if not _LOW <= number <= _HIGH:
            raise OverflowError("Python int too large to convert to SQLite INTEGER")
        return number
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    try:
        return bytes(memoryview(value))
    except TypeError:
        # As CPython names types in C: those written in Python without their module.
        in_python = kind.__module__ == "builtins" or kind.__flags__ & _HEAP_TYPE
        name = kind.__name__ if in_python else f"{kind.__module__}.{kind.__qualname__}"
        raise sqlite3.ProgrammingError(f"Error binding parameter {position}: type '{name}' is not supported") from None
