"""What the database found wrong, in marshmallow's form.

A schema cannot see that a number is taken: only the database knows, when the row is written. `reported` turns its error
into the ValidationError that the sender already knows how to read.

    with reported(Order):
        Order.create(**OrderIn().load(data))     # ValidationError {"number": ["Is taken."]}
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import peewee
from marshmallow import ValidationError
from marshmallow.exceptions import SCHEMA

__all__ = ["reported", "validation_error"]

FAILED = re.compile(r"(?P<kind>UNIQUE|NOT NULL|CHECK|FOREIGN KEY) constraint failed(?:: (?P<what>.*))?")
MESSAGES = {"UNIQUE": "Is taken.", "NOT NULL": "Field may not be null."}
# PostgreSQL: the codes do not depend on the server's language, nor does the form of "Key (shop, place)=(a, 1) ...".
CODES = {"23505": "UNIQUE", "23502": "NOT NULL"}
KEY = re.compile(r"\((?P<columns>.+?)\)=\(")


def validation_error(error: peewee.IntegrityError, model: type[peewee.Model]) -> ValidationError | None:
    """Give an IntegrityError of SQLite or PostgreSQL as marshmallow's ValidationError; None for one that names no columns.

    Arguments:
        error: what Peewee raised.
        model: the model whose row was written.

    A broken UNIQUE or NOT NULL is reported at the names of its columns' fields. An index of several columns is reported at
    each of them; one on an expression, whose columns SQLite does not name, at "_schema". CHECK and FOREIGN KEY name none.
    """
    broken = _of_postgres(error) or _of_sqlite(error)
    if broken is None:
        return None
    kind, table, columns = broken
    message = MESSAGES[kind]
    state: Any = model
    if table not in (None, state._meta.table_name):
        return None  # a trigger wrote another table
    if columns is None:
        return ValidationError({SCHEMA: [message]})
    names = [state._meta.columns[column].name for column in columns if column in state._meta.columns]
    if len(names) > 1 and kind == "UNIQUE":
        message = f"Is taken: {', '.join(names)} together are there already."
    return ValidationError({name: [message] for name in names}) if names else None


def _of_sqlite(error: peewee.IntegrityError) -> tuple[str, str | None, list[str] | None] | None:
    """What is broken, in which table and columns; None for columns that are not told, and for what names none at all."""
    match = FAILED.search(str(error))
    if not match or match["kind"] not in MESSAGES or not match["what"]:
        return None
    if match["what"].startswith("index "):
        return match["kind"], None, None
    parts = [part.rpartition(".") for part in match["what"].split(", ")]
    tables = {table for table, _, _ in parts}
    return match["kind"], tables.pop(), [column for _, _, column in parts]


def _of_postgres(error: peewee.IntegrityError) -> tuple[str, str | None, list[str] | None] | None:
    """As `_of_sqlite`, of what the server tells beside the message."""
    told: Any = getattr(getattr(error, "orig", None), "diag", None)  # of psycopg, 2 or 3
    kind = CODES.get(told.sqlstate) if told is not None else None
    if kind is None:
        return None
    if kind == "NOT NULL":
        return kind, told.table_name, [told.column_name]
    match = KEY.search(told.message_detail or "")  # it is silent of rows that the user may not read
    columns = [column.strip('"') for column in match["columns"].split(", ")] if match else []
    return kind, told.table_name, None if not columns or (match and "(" in match["columns"]) else columns


@contextlib.contextmanager
def reported(model: type[peewee.Model]) -> Iterator[None]:
    """Run a block that writes rows of a model, and raise ValidationError for a constraint that it breaks.

    An IntegrityError that says nothing about columns goes on as it is. Inside `db.atomic()`, put the transaction inside
    this block: SQLite takes back the statement only, and PostgreSQL refuses all until the rollback.
    """
    try:
        yield
    except peewee.IntegrityError as error:
        found = validation_error(error, model)
        if found is None:
            raise
        raise found from error
