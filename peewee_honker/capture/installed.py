"""What a file has of captures, installed by this program or another."""

import json
from dataclasses import dataclass
from typing import Any

from peewee_honker.capture.forms import literal, quoted
from peewee_honker.capture.plan import Parts
from peewee_honker.capture.triggers import names
from peewee_honker.database import HonkerDatabase
from peewee_honker.driver.mark import CAPTURES

__all__ = [
    "CAPTURES",
    "Installed",
    "drop",
    "has_newer_triggers",
    "has_table",
    "installed_captures",
    "rows",
    "tables_of",
    "there",
    "uninstall",
]


@dataclass(frozen=True, slots=True)
class Installed:
    """A capture as a file tells of it: its name, its table, what version made it, its options, and whether all that it
    consists of is there (a table that is dropped takes its triggers along)."""

    name: str
    table: str
    version: int
    options: dict[str, Any]
    complete: bool


def installed_captures(database: HonkerDatabase, schema: str = "main") -> list[Installed]:
    """The captures that a file knows of, by name."""
    if not has_table(database, schema, CAPTURES):
        return []
    found = rows(database, f"SELECT name, table_name, version, made, options FROM {quoted(schema)}.{CAPTURES} ORDER BY name")
    return [
        Installed(name, table, version, json.loads(options), len(there(database, schema, name)) == made)
        for name, table, version, made, options in found
    ]


def uninstall(name: str, database: HonkerDatabase, schema: str = "main") -> bool:
    """Remove a capture by its name, also one whose model is no longer. Returns whether there was anything."""
    if not has_table(database, schema, CAPTURES):
        return False
    with database.atomic():
        return drop(database, schema, name)


def drop(database: HonkerDatabase, schema: str, name: str) -> bool:
    """Drop what there is of a capture. Returns whether there was anything."""
    parts = there(database, schema, name)
    for kind, own in names(name):
        if (kind, own) in parts:
            database.execute_sql(f"DROP {kind} {quoted(schema)}.{quoted(own)}")
    cursor: Any = database.execute_sql(f"DELETE FROM {quoted(schema)}.{CAPTURES} WHERE name = ?", (name,))
    return bool(parts or cursor.rowcount)


def there(database: HonkerDatabase, schema: str, name: str) -> Parts:
    """What there is of a capture in a file: the SQL by type and name."""
    wanted = ", ".join(literal(own) for _kind, own in names(name))
    found = rows(database, f"SELECT type, name, sql FROM {quoted(schema)}.sqlite_master WHERE name IN ({wanted})")
    return {(kind, own): sql for kind, own, sql in found}


def has_table(database: HonkerDatabase, schema: str, name: str) -> bool:
    """Whether a schema has a table, also one of Honker's or ours."""
    return bool(rows(database, f"SELECT 1 FROM {quoted(schema)}.sqlite_master WHERE type = 'table' AND name = ?", name))


def rows(database: HonkerDatabase, sql: str, *values: Any) -> list[Any]:
    """All rows of a select."""
    cursor: Any = database.execute_sql(sql, values)
    return list(cursor.fetchall())


def tables_of(database: HonkerDatabase, schema: str, name: str) -> set[str]:
    """The tables, in lower case, that a capture's triggers are on now, also after a table was renamed."""
    wanted = ", ".join(literal(own) for _kind, own in names(name))
    found = f"SELECT lower(tbl_name) FROM {quoted(schema)}.sqlite_master WHERE type = 'trigger' AND name IN ({wanted})"
    return {table for (table,) in rows(database, found)}


def has_newer_triggers(database: HonkerDatabase, schema: str, name: str) -> bool:
    """Whether somebody else's trigger was made on a capture's table after the capture.

    SQLite runs the newest trigger first (it does not promise an order). If that one changes the row that it runs for, the
    capture would tell of this change before the one that caused it.
    """
    master = f"{quoted(schema)}.sqlite_master"
    wanted = ", ".join(literal(own) for _kind, own in names(name))
    ours = f"type = 'trigger' AND name IN ({wanted}) AND tbl_name NOT LIKE '\\_honker\\_peewee\\_%' ESCAPE '\\'"
    newer = (
        f"SELECT 1 FROM {master} AS theirs, (SELECT min(rowid) AS first, tbl_name FROM {master} WHERE {ours}) AS own "
        "WHERE theirs.type = 'trigger' AND lower(theirs.tbl_name) = lower(own.tbl_name) AND theirs.rowid > own.first "
        "AND theirs.name NOT LIKE '\\_honker\\_peewee\\_%' ESCAPE '\\' LIMIT 1"
    )
    return bool(rows(database, newer))
