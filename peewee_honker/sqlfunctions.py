"""What Peewee does on SQLite with functions written in Python, said in plain SQL.

Peewee registers `date_part`, `date_trunc` and `_pw_json_contains` on its sqlite3 connection; an engine that cannot call
into Python has none of them. Here are the same results as SQL: parts of dates, truncated dates, JSON containment. It
serves any `peewee.SqliteDatabase` and knows nothing of Honker.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from string import Formatter
from typing import Any, NamedTuple

import peewee
from peewee import SQL, Function, Node, NodeList, NotSupportedError, Value

__all__ = ["HonkerJSONMethods", "extract_date", "truncate_date"]

# Where in 'YYYY-MM-DD HH:MM:SS' a part starts, its length, and what follows it when the rest is cut off.
_PARTS = {
    "year": (1, 4, "-01-01 00:00:00"),
    "month": (6, 2, "-01 00:00:00"),
    "day": (9, 2, " 00:00:00"),
    "hour": (12, 2, ":00:00"),
    "minute": (15, 2, ":00"),
    "second": (18, 2, ""),
}

# The stored text as 'YYYY-MM-DD HH:MM:SS'. The fraction and the offset are cut off before `datetime` sees them: it
# would shift the time to UTC, and Peewee does not.
_MOMENT = (
    "datetime(CASE WHEN substr({value}, 5, 1) = '-' THEN substr({value}, 1, 19)"
    " WHEN substr({value}, 3, 1) = ':' THEN '1900-01-01 ' || substr({value}, 1, 8) END)"
)
# Always NULL. Peewee names a column that has no alias after the last word of its SQL: so that is the field, as with its
# own functions, and `Order.select(Order.placed.year)` gives rows with `.placed`.
_NAMED = "nullif({value}, {value})"


def extract_date(date_part: str, date_field: Any) -> Function:
    """The year, month, day, hour, minute or second of a date, time or datetime, as an integer.

    Arguments: the part's name, and a field, an expression or a value. What a DateTimeField, DateField or TimeField
    stores gives what Peewee's `date_part` gives: offsets are not applied, a time has the date 1900-01-01, NULL and ''
    give NULL. Text in no such form gives NULL, where Peewee raises an error or tries other spellings of ISO 8601; a
    day that its month lacks counts into the next month.
    Raises `ValueError` for another part.
    """
    start, length, _ = _part(date_part)
    number = f"CAST(substr({_MOMENT}, {start}, {length}) AS INTEGER)"
    return _named_after_field(number, date_field, _whole)


def truncate_date(date_part: str, date_field: Any) -> Function:
    """A date, time or datetime with all that is smaller than the part set to its least, as a datetime.

    Arguments, limits and errors as for `extract_date`; years before 1000 keep their four digits.
    """
    start, length, rest = _part(date_part)
    kept = f"substr({_MOMENT}, 1, {start + length - 1}) || '{rest}'"
    return _named_after_field(kept, date_field, _simple_date_time)


def _whole(value: Any) -> int | None:
    # Peewee's int() fails on a row whose date is NULL.
    return None if value is None else int(value)


def _part(name: str) -> tuple[int, int, str]:
    try:
        return _PARTS[name]
    except KeyError:
        raise ValueError(f"{name!r} is no part of a date: it must be one of {', '.join(_PARTS)}") from None


def _named_after_field(template: str, date_field: Any, python_value: Any) -> Function:
    value = date_field if isinstance(date_field, Node) else Value(date_field, converter=False)
    return Function("ifnull", (_fill(template, value), _fill(_NAMED, value)), python_value=python_value)


def _fill(template: str, value: Node) -> NodeList:
    """The SQL with `value` compiled, parameters and all, at each place where the template has `{value}`."""
    pieces: list[Node] = []
    for literal, name, _, _ in Formatter().parse(template):
        pieces.append(SQL(literal))
        if name:
            pieces.append(value)
    return NodeList(pieces, glue="")


# Peewee's type stubs leave out its JSON methods and this function.
_SqliteJSONMethods: Any = peewee.SqliteJSONMethods  # type: ignore[attr-defined]  # not in Peewee's stubs
_simple_date_time: Any = peewee.simple_date_time  # type: ignore[attr-defined]  # not in Peewee's stubs


class HonkerJSONMethods(_SqliteJSONMethods):  # type: ignore[misc]  # Any, for the same reason
    """Peewee's JSON for SQLite, with containment in SQL; it does not ask which SQLite Python has."""

    def __init__(self, database: Any) -> None:
        # Past SqliteJSONMethods' own, which refuses by the version of Python's sqlite3.
        super(_SqliteJSONMethods, self).__init__(database)

    def contains(self, field: Any, keys: tuple[Any, ...], value: Any) -> Node:
        """Whether the stored document contains `value` as PostgreSQL's `@>` has it; NULL for NULL or malformed JSON.

        A key that a stored object repeats counts each time. Raises `NotSupportedError` for an expression as value, and
        for what SQLite cannot compare exactly: an integer beyond 64 bits, a string with NUL, a value nested too deep
        for its parser (a chain of containers with one entry each may be deep; in `contained_by` it may not).
        """
        return _test(self.extract(field, keys), _given(field, value), _Unrolled.contains)

    def contained_by(self, field: Any, keys: tuple[Any, ...], value: Any) -> Node:
        """Whether `value` contains the stored document; otherwise as `contains`."""
        return _test(self.extract(field, keys), _given(field, value), _Unrolled.contained_by)


def _given(field: Any, value: Any) -> Any:
    """The value as its JSON reads: tuples are lists, keys are strings, and the field's own `dumps` has had its say."""
    if isinstance(value, Node):
        raise NotSupportedError(
            "contains() and contained_by() take a Python value, not an expression: compare two columns in Python, over "
            "the rows"
        )
    return json.loads(field._dumps(value))


def _test(document: Node, value: Any, condition: Callable[["_Unrolled", Any], str]) -> Node:
    unrolled = _Unrolled()
    sql = condition(unrolled, value)
    # The document comes through a FROM without tables: so it is evaluated once, and no name in it can be taken for one
    # of json_each's columns.
    return NodeList(
        (
            SQL(f"(SELECT CASE WHEN json_valid(d.doc) THEN {sql} END FROM (SELECT", unrolled.parameters),
            document,
            SQL("AS doc) AS d)"),
        )
    )


class _Element(NamedTuple):
    """A JSON value in SQL: the expressions for its type and for its value as json_each gives them."""

    type: str
    value: str

    def items(self, container: str) -> str:
        # json_each fails on text that is no JSON, such as a string's value: the CASE keeps it from looking.
        return f"json_each(CASE {self.type} WHEN '{container}' THEN {self.value} END)"


_DOCUMENT = _Element("json_type(d.doc)", "d.doc")
_ATOMS = "('text', 'integer', 'real')"
_MOST_TABLES = 60  # SQLite joins up to 64
# SQLite's parser before 3.46 has a stack of 100 symbols. What a subquery in a subquery takes of it, and what is taken at
# most: the rest is for the query around.
_EXISTS, _NOT_EXISTS, _STACK = 10, 13, 56


class _Unrolled:
    """The comparison with one Python value, unrolled to a condition over json_each.

    `parameters` are the condition's, in the order of its text: what writes a `?` appends its parameter at once.
    """

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self._numbers = itertools.count(1)
        self._stack = 0

    def contains(self, value: Any) -> str:
        """That the document contains the value."""
        if isinstance(value, dict | list):
            return self._has(_DOCUMENT, value)
        # Only at the top does an array contain a bare scalar; json_each gives a scalar as its own element.
        name, item = self._next()
        found = f"EXISTS (SELECT 1 FROM json_each(d.doc) AS {name} WHERE {self._is(item, value)})"
        return f"json_type(d.doc) <> 'object' AND {found}"

    def contained_by(self, value: Any) -> str:
        """That the value contains the document."""
        if isinstance(value, dict):
            return self._within(_DOCUMENT, value)
        name, item = self._next()
        if isinstance(value, list):
            return (
                f"json_type(d.doc) <> 'object' AND NOT EXISTS (SELECT 1 FROM json_each(d.doc) AS {name} "
                f"WHERE NOT ({self._among(item, value)}))"
            )
        found = f"EXISTS (SELECT 1 FROM json_each(d.doc) AS {name} WHERE {self._is(item, value)})"
        return f"json_type(d.doc) NOT IN ('array', 'object') AND {found}"

    def _has(self, element: _Element, value: Any) -> str:
        if not isinstance(value, dict | list):
            return self._is(element, value)
        container = "object" if isinstance(value, dict) else "array"
        entries = value.items() if isinstance(value, dict) else ((None, item) for item in value)
        return _join([f"{element.type} = '{container}'", *(self._has_entry(element, *entry) for entry in entries)], "AND")

    def _has_entry(self, element: _Element, key: str | None, value: Any) -> str:
        tables, conditions = [], []
        # What holds a single entry is one more table in this subquery instead of a subquery in it.
        while True:
            name, item = self._next()
            tables.append(f"{element.items('array' if key is None else 'object')} AS {name}")
            if key is not None:
                conditions.append(f"{name}.key = {self._parameter(key)}")
            if not isinstance(value, dict | list) or len(value) != 1 or len(tables) == _MOST_TABLES:
                break
            element = item
            key, value = next(iter(value.items())) if isinstance(value, dict) else (None, value[0])
        with self._deeper(_EXISTS):
            conditions.append(self._has(item, value))
        return f"EXISTS (SELECT 1 FROM {', '.join(tables)} WHERE {' AND '.join(conditions)})"

    def _within(self, element: _Element, value: Any) -> str:
        if not isinstance(value, dict | list):
            return self._is(element, value)
        container = "object" if isinstance(value, dict) else "array"
        name, item = self._next()
        with self._deeper(_NOT_EXISTS):
            if isinstance(value, list):
                allowed = self._among(item, value)
            else:
                allowed = _join(
                    [f"{name}.key = {self._parameter(key)} AND {self._within(item, v)}" for key, v in value.items()],
                    "OR",
                )
        return (
            f"{element.type} = '{container}' AND NOT EXISTS (SELECT 1 FROM {element.items(container)} AS {name} "
            f"WHERE NOT ({allowed}))"
        )

    def _among(self, element: _Element, values: list[Any]) -> str:
        """That one of the values contains the element: strings and numbers by one look-up, the others one by one."""
        others: list[Any] = []
        atoms: list[Any] = []
        for value in values:
            (atoms if isinstance(value, str | int | float) and not isinstance(value, bool) else others).append(value)
        conditions = [self._within(element, value) for value in others]
        if atoms:
            texts = ",".join(_atom_json(value) for value in atoms)
            found = f"IN (SELECT value FROM json_each({self._parameter(f'[{texts}]')}))"
            conditions.append(f"{element.type} IN {_ATOMS} AND {element.value} {found}")
        return _join(conditions, "OR")

    def _is(self, element: _Element, value: Any) -> str:
        if value is None or isinstance(value, bool):
            return f"{element.type} = '{json.dumps(value)}'"
        text = _atom_json(value)
        if isinstance(value, float):
            # As JSON, so that SQLite reads it as it reads the document: its reading of 17 digits is not always Python's.
            return f"{element.type} IN {_ATOMS} AND {element.value} = json_extract({self._parameter(text)}, '$')"
        return f"{element.type} IN {_ATOMS} AND {element.value} = {self._parameter(value)}"

    def _next(self) -> tuple[str, _Element]:
        name = f"j{next(self._numbers)}"
        return name, _Element(f"{name}.type", f"{name}.value")

    def _parameter(self, value: Any) -> str:
        self.parameters.append(value)
        return "?"

    @contextmanager
    def _deeper(self, symbols: int) -> Iterator[None]:
        self._stack += symbols
        if self._stack > _STACK:
            raise NotSupportedError(
                "the JSON value is nested too deep for SQLite's parser: ask for a part of it by field[key] or "
                "field.path(...), or compare in Python, over the rows"
            )
        yield
        self._stack -= symbols


def _atom_json(value: str | float) -> str:
    """A string or number as JSON that SQLite reads to the same value. Raises `NotSupportedError` where it would not."""
    if isinstance(value, str):
        if "\0" in value:
            raise NotSupportedError("SQLite cannot compare a JSON string with NUL in it: compare in Python, over the rows")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise NotSupportedError(
                f"SQLite reads {value} in JSON as a float, since it takes more than 64 bits: store it as a string, or "
                "compare in Python, over the rows"
            )
    elif math.isinf(value):
        return "9e999" if value > 0 else "-9e999"
    elif math.isnan(value):
        return "null"  # equals nothing, as NaN
    return json.dumps(value)


def _join(conditions: list[str], word: str) -> str:
    """The conditions joined by AND or OR, in halves when there are many: SQLite limits the depth of an expression."""
    if len(conditions) <= 100:
        return f" {word} ".join(conditions) or "0"
    half = len(conditions) // 2
    return f"({_join(conditions[:half], word)}) {word} ({_join(conditions[half:], word)})"
