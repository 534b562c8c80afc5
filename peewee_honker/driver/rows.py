"""Every column of a result, in order, under the name that sqlite3 would report.

Honker gives a row as a dict by column name: equal names collapse, an empty result names nothing, and the names come
fresh for every row. Three ways round it, all plain SQL:

- *Names*: `SELECT * FROM (SELECT NULL) LEFT JOIN (SELECT * FROM (<select>) LIMIT 0)` gives one row with every column's
  name and does not run the select. Asked once for a text. (SQLite renames a repeated `id` to `id:1`.)
- *Rows*: `WITH _pwh_rows(a, b) AS (<select>) SELECT * FROM _pwh_rows` gives every column a name of its own, of one
  letter, which CPython keeps as a shared object: 10,000 rows of five columns took 5.7 ms and 3.8 MB instead of 8.4 ms and
  6.4 MB, and sqlite3 5.2 ms. SQLite makes one query of the two.
- *Stale names*: Honker reads a statement's names before SQLite's first step, which is when SQLite finds that the schema
  has changed and prepares anew. Only the names behind a `*` can change; such a text carries the schema's version as a
  comment, so that a change makes it another text, and `refresh` has SQLite look at the schema before.
"""

import itertools
import re
import sqlite3
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from peewee_honker.driver.statement import Statement, Token, tokens

__all__ = ["Row", "Run", "Tuple", "as_tuples", "learn", "names_without_rows", "refresh", "select", "text_with_returning"]

Row = dict[str, Any]
Tuple = tuple[Any, ...]
Run = Callable[[str, Sequence[Any]], list[Row]]

# One-letter names, distinct for SQLite (which folds ASCII letters) and single objects in CPython (Latin-1).
_LETTERS = (
    string.ascii_lowercase
    + string.digits
    + "".join(sign for sign in string.punctuation if sign not in '"`[]')
    + "".join(map(chr, range(0xA1, 0x100)))
)
_SUFFIX = re.compile(r"(.*):\d+", re.DOTALL)


def as_tuples(rows: list[Row]) -> Iterator[Tuple]:
    """The rows as tuples; each dict is let go as soon as its tuple is made, so that memory does not hold both."""
    if len(rows) < 2:
        return iter([tuple(row.values()) for row in rows])
    rows.reverse()
    return map(tuple, map(dict.values, map(list.pop, itertools.repeat(rows, len(rows)))))


def select(run: Run, statement: Statement, parameters: Sequence[Any], version: str | None) -> list[Row]:
    """Run a statement that reads, after which `statement.columns` names its columns.

    `version` names the schema's state when the statement has a `*`, else it is None.
    """
    if statement.columns is None or version != statement.version:
        _learn(run, statement, parameters, version)
    if not statement.exact and statement.distinct:
        return _first_rows(run, statement, parameters)
    if statement.may_be_one_row and statement.distinct and len(parameters) > 1 and parameters[-2] == 1:
        return run(statement.body, parameters)  # one row: no wrapper pays, and the text is shorter to prepare
    return run(statement.text, parameters)


def learn(run: Run, statement: Statement, parameters: Sequence[Any]) -> tuple[str, ...]:
    """The names of the columns of a statement that reads, which is not run for it."""
    if statement.columns is None:
        _learn(run, statement, parameters, None)
    return statement.columns or ()


def _learn(run: Run, statement: Statement, parameters: Sequence[Any], version: str | None) -> None:
    mark = "" if version is None else f"/* schema {version} */"
    body = statement.body
    if statement.verb == "EXPLAIN":
        rows = run(statement.sql, parameters)
        statement.exact = True
        statement.columns = tuple(rows[0]) if rows else ()
        return
    try:
        if version is not None:
            refresh(run)
        names = _names(run, f"(\n{body}\n){mark}", parameters)
    except RuntimeError:
        run(statement.sql, parameters)  # the error, told of the user's own text
        raise
    columns = _without_suffixes(names)
    letters = ",".join(f'"{name}"' for name in _short_names(len(names)))
    statement.text = f"WITH _pwh_rows({letters}) AS (\n{body}\n{mark}) SELECT * FROM _pwh_rows"
    statement.distinct = len({name.lower() for name in columns}) == len(columns)
    statement.exact = False
    statement.version = version
    statement.columns = columns


def _names(run: Run, source: str, parameters: Sequence[Any]) -> tuple[str, ...]:
    question = f"SELECT * FROM (SELECT NULL AS _pwh_none) LEFT JOIN (SELECT * FROM {source} LIMIT 0)"
    return tuple(run(question, parameters)[0])[1:]


def _first_rows(run: Run, statement: Statement, parameters: Sequence[Any]) -> list[Row]:
    """The rows of the text as it is, whose keys are the names that SQLite reports: so far they are as the text writes them,
    where SQLite says `id` for `rowid` and `name` for `NAME`."""
    # In front: behind the last expression it would be part of its name.
    mark = "" if statement.version is None else f"/* schema {statement.version} */ "
    rows = run(mark + statement.sql, parameters)
    columns = statement.columns or ()
    if rows:
        names = tuple(rows[0])
        if len(names) < len(columns):  # two are one to SQLite
            statement.distinct = False
            return run(statement.text, parameters)
        statement.columns = names
        statement.exact = True
    return rows


def refresh(run: Run, schemas: Sequence[str] = ("main",)) -> None:
    """Make the connection behind `run` notice a changed schema before the next statement is prepared."""
    for schema in schemas:
        run(f'SELECT 1 FROM "{schema}".sqlite_master LIMIT 1', ())


def _short_names(count: int) -> list[str]:
    if count <= len(_LETTERS):
        return list(_LETTERS[:count])
    return [f"c{number}" for number in range(count)]


def _without_suffixes(names: Sequence[str]) -> tuple[str, ...]:
    """The names before SQLite made them distinct: `id`, `id:1` were `id`, `id`."""
    found: list[str] = []
    seen: set[str] = set()
    for name in names:
        suffixed = _SUFFIX.fullmatch(name)
        if suffixed and suffixed[1].lower() in seen:
            name = suffixed[1]
        found.append(name)
        seen.add(name.lower())
    return tuple(found)


def text_with_returning(statement: Statement) -> str:
    """The text to send for a statement with RETURNING, whose columns are given names of their own if two are equal."""
    if statement.columns is None:
        _learn_returning(statement)
    return statement.text


def names_without_rows(run: Run, statement: Statement) -> tuple[str, ...]:
    """The names of what a statement with RETURNING would return, when it returned nothing."""
    items = _returned_items(statement.body)
    if [item[-1].text for item in items] == ["*"]:
        return _names(run, _table_of(statement.body), ())
    return tuple(_name_of(statement.body, item) for item in items)


def _learn_returning(statement: Statement) -> None:
    items = _returned_items(statement.body)
    stars = sum(item[-1].text == "*" for item in items)
    statement.columns = ()
    if not items or (stars and len(items) == 1):
        return
    if stars:
        raise sqlite3.NotSupportedError(
            "RETURNING with * beside other columns: Honker gives rows by name, and equal names would be lost. "
            "Name the columns instead."
        )
    names = [_name_of(statement.body, item) for item in items]
    known = {name.lower() for name in names}
    if len(known) == len(names) and not known & {"rowid", "oid", "_rowid_"}:  # which SQLite may name otherwise
        return
    pieces = []
    position = 0
    for item, letter in zip(items, _short_names(len(items)), strict=True):
        pieces.append(f'{statement.body[position : _end_of_expression(item)]} AS "{letter}"')
        position = item[-1].end
    statement.text = "".join(pieces) + statement.body[position:]
    statement.columns = tuple(names)


def _table_of(sql: str) -> str:
    """The table that a statement changes, as the text writes it."""
    verbs = {"INSERT", "REPLACE", "UPDATE", "DELETE"}
    skipped = {"OR", "ABORT", "ROLLBACK", "REPLACE", "FAIL", "IGNORE", "INTO", "FROM"}
    outer = iter([token for token in tokens(sql) if token.depth == 0])
    for token in outer:
        if token.kind == "word" and token.text.upper() in verbs:
            break
    name = next(token for token in outer if token.text.upper() not in skipped)
    dot = next(outer, None)
    last = next(outer, name) if dot is not None and dot.text == "." else name
    return sql[name.start : last.end]


def _returned_items(sql: str) -> list[list[Token]]:
    """The tokens of each expression after the last RETURNING that stands outside parentheses."""
    items: list[list[Token]] = []
    for token in tokens(sql):
        if token.depth == 0 and token.kind == "word" and token.text.upper() == "RETURNING":
            items = [[]]
        elif items and token.depth == 0 and token.text == ",":
            items.append([])
        elif items:
            items[-1].append(token)
    return [item for item in items if item]


def _end_of_expression(item: list[Token]) -> int:
    if len(item) > 2 and item[-2].text.upper() == "AS":
        return item[-3].end
    return item[-1].end


def _name_of(sql: str, item: list[Token]) -> str:
    """The name that SQLite gives a returned expression: its alias, its column's name, or its own text."""
    last = item[-1]
    is_alias = len(item) > 2 and item[-2].text.upper() == "AS"
    is_column = last.kind in ("word", "name") and (len(item) == 1 or item[-2].text == ".")
    if is_alias or is_column:
        return _unquoted(last.text)
    return sql[item[0].start : last.end]


def _unquoted(name: str) -> str:
    if name[0] == "[":
        return name[1:-1]
    if name[0] in "\"'`":
        return name[1:-1].replace(name[0] * 2, name[0])
    return name
