"""What Peewee does on SQLite with Python functions, said in SQL.

Peewee registers `date_part`, `date_trunc` and `_pw_json_contains` on each sqlite3 connection. Honker's SQLite cannot call
into Python, so their meaning is written out: text operations for dates, `json_each` for JSON containment.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import peewee
from peewee import SQL, Cast, Expression, NodeList, fn

# Not in Peewee's stubs:
simple_date_time: Any = peewee.simple_date_time  # type: ignore[attr-defined]
SqliteJSONMethods: Any = peewee.SqliteJSONMethods  # type: ignore[attr-defined]

__all__ = ["HonkerJSONMethods", "extract_date", "truncate_date"]

# The value as 'YYYY-MM-DD HH:MM:SS'. Not by strftime, which would shift a value with a UTC offset.
_DATE_AND_TIME = (
    "CASE WHEN {x} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' "
    "THEN substr({x}, 1, 10) || ' ' || substr({x}, 12, 8) || substr('00:00:00', length(substr({x}, 12, 8)) + 1) "
    "WHEN {x} GLOB '[0-2][0-9]:[0-5][0-9]*' "
    "THEN '1900-01-01 ' || substr({x}, 1, 8) || substr('00:00:00', length(substr({x}, 1, 8)) + 1) END"
)
# Where a part stands in it, and what follows when it is cut off behind the part.
_PARTS = {
    "year": (1, 4, "-01-01 00:00:00"),
    "month": (6, 2, "-01 00:00:00"),
    "day": (9, 2, " 00:00:00"),
    "hour": (12, 2, ":00:00"),
    "minute": (15, 2, ":00"),
    "second": (18, 2, ""),
}


def extract_date(date_part: str, date_field: Any) -> Any:
    """The year, month, day, hour, minute or second of a date, time or datetime, as an integer.

    Takes what Peewee's fields store: 'YYYY-MM-DD HH:MM:SS[.ffffff][+HH:MM]', 'YYYY-MM-DD', 'HH:MM[:SS[.ffffff]]' (of
    1900-01-01, as in Peewee). Other text gives NULL, where Peewee's function raises. Raises ValueError for another part.
    """
    start, length, _ = _place(date_part)
    return Cast(_text(f"substr({_DATE_AND_TIME}, {start}, {length})", date_field), "INTEGER")


def truncate_date(date_part: str, date_field: Any) -> Any:
    """The date, time or datetime cut off behind its year, month, ..., second, as a datetime; see `extract_date`."""
    start, length, rest = _place(date_part)
    cut = _text(f"substr({_DATE_AND_TIME}, 1, {start + length - 1}) || '{rest}'", date_field)
    return fn.substr(cut, 1, 19, python_value=simple_date_time)


def _place(date_part: str) -> tuple[int, int, str]:
    try:
        return _PARTS[date_part]
    except KeyError:
        raise ValueError(f"no part {date_part!r} of a date: choose one of {', '.join(_PARTS)}") from None


def _text(template: str, expression: Any) -> NodeList:
    """The template with the expression in each place of {x}."""
    first, *others = template.split("{x}")
    nodes: list[Any] = [SQL(first)]
    for text in others:
        nodes += [NodeList((SQL("("), expression, SQL(")")), glue=""), SQL(text)]
    return NodeList(nodes, glue="")


class HonkerJSONMethods(SqliteJSONMethods):  # type: ignore[misc]  # Any, for want of stubs
    """Peewee's JSON methods for SQLite, with containment in SQL instead of a Python function."""

    def __init__(self, database: Any) -> None:
        # Not SqliteJSONMethods's own, which looks at the version of Python's sqlite3 module.
        super(SqliteJSONMethods, self).__init__(database)

    def contains(self, field: Any, keys: Any, value: Any) -> Expression:
        return _holds(self.extract(field, keys), json.loads(field._dumps(value)), _Containment.holds)

    def contained_by(self, field: Any, keys: Any, value: Any) -> Expression:
        return _holds(self.extract(field, keys), json.loads(field._dumps(value)), _Containment.held)


def _holds(document: Any, value: Any, condition: Callable[["_Containment", Any], str]) -> Expression:
    """The condition on the JSON in `document`, compared to 1; NULL when that is NULL or no JSON."""
    containment = _Containment()
    text = condition(containment, value)
    node = NodeList(
        (
            SQL("(SELECT CASE WHEN json_valid(d.v) THEN "),
            SQL(text, containment.parameters),
            SQL(" END FROM (SELECT json_type(v) AS type, CASE WHEN json_valid(v) THEN json_extract(v, '$') END AS value, v"),
            SQL(" FROM (SELECT "),
            document,
            SQL(" AS v)) AS d)"),
        ),
        glue="",
    )
    return Expression(node, peewee.OP.EQ, 1)


class _Containment:
    """Writes PostgreSQL's containment between a JSON document in SQL and a value known in Python.

    An object holds another when it has each of its keys with a value that holds the other's; an array when some
    element holds each of the other's; a scalar holds its equal. At the top an array also holds a scalar among its
    elements. `True` is not 1; 1 is 1.0.

    The SQL nests as deep as the value, and SQLite's parser has a stack of 100: values deeper than `DEEPEST` are refused.
    """

    DEEPEST = 6

    def __init__(self) -> None:
        self.parameters: list[Any] = []
        self._aliases = 0

    def holds(self, value: Any) -> str:
        """Whether the document `d` holds `value`."""
        if isinstance(value, (dict, list)):
            return self._holds("d", value, 1)
        return f"({self._equal('d', value)} OR {self._some('d', 'array', lambda e: self._equal(e, value))})"

    def held(self, value: Any) -> str:
        """Whether `value` holds the document `d`."""
        conditions = [self._held("d", value, 1)]
        if isinstance(value, list):
            conditions += [self._equal("d", item) for item in value if not isinstance(item, (dict, list))]
        return f"({' OR '.join(conditions)})"

    def _holds(self, node: str, value: Any, depth: int) -> str:
        """Whether `node` (an alias with columns type and value) holds `value`, not at the top."""
        self._check(depth)
        if isinstance(value, dict):
            found = [
                self._some(node, "object", partial(self._entry_holds, key=k, value=v, depth=depth + 1))
                for k, v in value.items()
            ]
            return " AND ".join([f"{node}.type = 'object'", *found])
        if isinstance(value, list):
            found = [self._some(node, "array", partial(self._holds, value=v, depth=depth + 1)) for v in value]
            return " AND ".join([f"{node}.type = 'array'", *found])
        return self._equal(node, value)

    def _entry_holds(self, node: str, key: str, value: Any, depth: int) -> str:
        return f"{self._key(node, key)} AND {self._holds(node, value, depth)}"

    def _held(self, node: str, value: Any, depth: int) -> str:
        """Whether `value` holds `node`, not at the top."""
        self._check(depth)
        if isinstance(value, dict):
            fits = self._none(
                node,
                "object",
                lambda e: [f"{self._key(e, k)} AND {self._held(e, v, depth + 1)}" for k, v in value.items()],
            )
            return f"{node}.type = 'object' AND {fits}"
        if isinstance(value, list):
            fits = self._none(node, "array", lambda e: [self._held(e, v, depth + 1) for v in value])
            return f"{node}.type = 'array' AND {fits}"
        return self._equal(node, value)

    def _some(self, node: str, of_type: str, condition: Callable[[str], str]) -> str:
        """Whether `node` is of the type and one of its elements meets the condition."""
        alias = self._alias()
        return f"EXISTS (SELECT 1 FROM {self._elements(node, of_type)} AS {alias} WHERE {condition(alias)})"

    def _none(self, node: str, of_type: str, conditions: Callable[[str], list[str]]) -> str:
        """Whether no element of `node` fails all the conditions."""
        alias = self._alias()
        fails = " AND ".join(f"NOT ({condition})" for condition in conditions(alias)) or "1"
        return f"NOT EXISTS (SELECT 1 FROM {self._elements(node, of_type)} AS {alias} WHERE {fails})"

    def _elements(self, node: str, of_type: str) -> str:
        # Of a node of another type there are none, and json_each would refuse a plain text.
        source = "d.v" if node == "d" else f"{node}.value"
        return f"json_each(CASE {node}.type WHEN '{of_type}' THEN {source} END)"

    def _alias(self) -> str:
        self._aliases += 1
        return f"e{self._aliases}"

    def _check(self, depth: int) -> None:
        if depth > self.DEEPEST:
            raise peewee.NotSupportedError(
                f"a JSON value nested more than {self.DEEPEST} deep cannot be compared inside SQLite: "
                "ask for its outer part and compare the rest in Python"
            )

    def _key(self, node: str, key: str) -> str:
        return f"{node}.key = {self._bound(key)}"

    def _equal(self, node: str, scalar: Any) -> str:
        if scalar is None:
            return f"{node}.type = 'null'"
        if isinstance(scalar, bool):
            return f"{node}.type = '{str(scalar).lower()}'"
        if isinstance(scalar, str):
            return f"({node}.type = 'text' AND {node}.value = {self._bound(scalar)})"
        if isinstance(scalar, int) and not -(2**63) <= scalar < 2**63:
            scalar = float(scalar)  # what SQLite reads such a number as
        return f"({node}.type IN ('integer', 'real') AND {node}.value = {self._bound(scalar)})"

    def _bound(self, value: Any) -> str:
        self.parameters.append(value)
        return "?"
