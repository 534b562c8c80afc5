"""What a table in the file is like: its columns, and every way in which one row can stand in another's place.

`INSERT OR REPLACE` deletes the rows whose unique keys the new row takes, and runs no delete trigger for them unless the
writing connection asked for `recursive_triggers`. So the triggers have to know all unique keys: the rowid, the primary key,
unique constraints and indexes, also those over expressions or over a part of the rows.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import peewee

from peewee_honker.capture.forms import quoted

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["Table", "UniqueKey", "read_table"]

_ROWIDS = ("rowid", "_rowid_", "oid")
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^]]*\]|--[^\n]*|/\*.*?\*/|\w+|\s+|.""", re.DOTALL)
_AFFINITIES = (
    (("INT",), "INTEGER"),
    (("CHAR", "CLOB", "TEXT"), "TEXT"),
    (("BLOB",), "BLOB"),
    (("REAL", "FLOA", "DOUB"), "REAL"),
)
_ORDER = re.compile(r"\s+(?:ASC|DESC)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """What no two rows may have in common.

    - `terms`: the SQL of each part, over column names; with its collation where that is not BINARY.
    - `where`: the SQL that says which rows count, or None for all.
    - `plain`: whether every term is just a column, whose name (quoted) the term then is.
    """

    terms: tuple[tuple[str, str], ...]
    where: str | None = None
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the file: names (unquoted) of all its columns, one that can be written, what tells its rows apart, and its
    unique keys.

    `affinities` tells by name, in lower case, what a column makes of values: TEXT, INTEGER, REAL, NUMERIC, or BLOB, which is
    nothing. `alias` is the column that is the rowid, in lower case, or None. `defaults` has the SQL of those columns'
    defaults which `OR REPLACE` takes instead of NULL. `stored` are the columns that are not generated from others, where
    there are such.
    """

    name: str
    columns: tuple[str, ...]
    writable: str
    affinities: dict[str, str]
    alias: str | None
    defaults: dict[str, str]
    identity: tuple[str, ...]
    unique_keys: tuple[UniqueKey, ...]
    stored: tuple[str, ...]


def read_table(database: "HonkerDatabase", name: str, schema: str = "main") -> Table:
    """Describe a table of `database`.

    Raises `peewee.OperationalError` without one, ValueError for a view or a virtual table.
    """
    found = _pragma(database, schema, "table_list", name)
    row = next((row for row in found if row["schema"].lower() == schema.lower()), None)
    if row is None:
        raise peewee.OperationalError(f"no such table: {name}: create it before it is captured")
    if row["type"] != "table":
        raise ValueError(f"{name} is no ordinary table ({row['type']}): SQLite runs no triggers for its rows")
    info = [column for column in _pragma(database, schema, "table_xinfo", name) if column["hidden"] != 1]
    columns = tuple(column["name"] for column in info)
    indexes = _pragma(database, schema, "index_list", name)
    keys = [_unique_key(database, schema, index) for index in indexes if index["unique"]]
    by_place = sorted((column["pk"], column["name"]) for column in info if column["pk"])
    alias = None
    if row["wr"]:
        identity = tuple(quoted(column) for _place, column in by_place)
    else:
        rowid = next((rowid for rowid in _ROWIDS if rowid not in {column.lower() for column in columns}), None)
        if rowid is None:
            raise ValueError(f"the columns rowid, oid and _rowid_ of {name} hide what tells its rows apart")
        identity = (rowid,)
        keys.insert(0, UniqueKey(((rowid, "BINARY"),)))
        if by_place and not any(index["origin"] == "pk" for index in indexes):  # another primary key has an index
            alias = by_place[0][1].lower()
    affinities = {column["name"].lower(): _affinity(column["type"]) for column in info}
    defaults = {
        column["name"]: column["dflt_value"] for column in info if column["notnull"] and column["dflt_value"] is not None
    }
    writable = [column["name"] for column in info if not column["hidden"]]  # the others are generated
    stored = tuple(writable) if len(writable) < len(columns) else ()
    return Table(row["name"], columns, writable[0], affinities, alias, defaults, identity, tuple(keys), stored)


def _affinity(declared: str) -> str:
    """What SQLite makes of a column's type (datatype3.html, 3.1), and of ANY in a STRICT table."""
    declared = declared.upper()
    if declared in ("", "ANY"):
        return "BLOB"
    for parts, affinity in _AFFINITIES:
        if any(part in declared for part in parts):
            return affinity
    return "NUMERIC"


def _unique_key(database: "HonkerDatabase", schema: str, index: dict[str, Any]) -> UniqueKey:
    parts = [part for part in _pragma(database, schema, "index_xinfo", index["name"]) if part["key"]]
    if all(part["cid"] >= 0 for part in parts) and not index["partial"]:
        return UniqueKey(tuple((quoted(part["name"]), part["coll"]) for part in parts))
    cursor: Any = database.execute_sql(
        f"SELECT sql FROM {quoted(schema)}.sqlite_master WHERE type = 'index' AND name = ?", (index["name"],)
    )
    terms, where = _index_terms(cursor.fetchone()[0])
    return UniqueKey(
        tuple(
            (quoted(part["name"]) if part["cid"] >= 0 else f"({term})", part["coll"])
            for part, term in zip(parts, terms, strict=True)
        ),
        where,
        plain=False,
    )


def _index_terms(sql: str) -> tuple[list[str], str | None]:
    """The terms and the condition of a CREATE INDEX, as they are written; comments are left out."""
    tokens = [token for token in _TOKEN.findall(sql) if not token.startswith(("--", "/*"))]
    start = tokens.index("(")
    terms, depth = [""], 1
    place = start
    while depth:
        place += 1
        part = tokens[place]
        depth += (part == "(") - (part == ")")
        if part == "," and depth == 1:
            terms.append("")
        elif depth:
            terms[-1] += part
    rest = "".join(tokens[place + 1 :]).strip()
    return [_ORDER.sub("", term).strip() for term in terms], rest[len("WHERE") :].strip() if rest else None


def _pragma(database: "HonkerDatabase", schema: str, pragma: str, name: str) -> list[dict[str, Any]]:
    cursor: Any = database.execute_sql(f"PRAGMA {quoted(schema)}.{pragma}({quoted(name)})")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
