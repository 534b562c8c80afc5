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


def validation_error(error: peewee.IntegrityError, model: type[peewee.Model]) -> ValidationError | None:
    """Give an IntegrityError of SQLite as marshmallow's ValidationError, or None for one that names no columns.

    Arguments:
        error: what Peewee raised.
        model: the model whose row was written.

    A broken UNIQUE or NOT NULL is reported at the names of its columns' fields. An index of several columns is reported at
    each of them; one on an expression, whose columns SQLite does not name, at "_schema". CHECK and FOREIGN KEY name none.
    """
    match = FAILED.search(str(error))
    if not match or match["kind"] not in MESSAGES or not match["what"]:
        return None
    message = MESSAGES[match["kind"]]
    if match["what"].startswith("index "):
        return ValidationError({SCHEMA: [message]})
    state: Any = model
    columns = [part.rpartition(".") for part in match["what"].split(", ")]
    if any(table != state._meta.table_name for table, _, _ in columns):
        return None  # a trigger wrote another table
    names = [state._meta.columns[column].name for _, _, column in columns if column in state._meta.columns]
    if len(names) > 1 and match["kind"] == "UNIQUE":
        message = f"Is taken: {', '.join(names)} together are there already."
    return ValidationError({name: [message] for name in names}) if names else None


@contextlib.contextmanager
def reported(model: type[peewee.Model]) -> Iterator[None]:
    """Run a block that writes rows of a model, and raise ValidationError for a constraint that it breaks.

    An IntegrityError that says nothing about columns goes on as it is. Inside `db.atomic()`, put the transaction inside
    this block: SQLite takes back the statement only.
    """
    try:
        yield
    except peewee.IntegrityError as error:
        found = validation_error(error, model)
        if found is None:
            raise
        raise found from error
