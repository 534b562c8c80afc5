"""What can be wrong with a model's fields, and what a database says, in marshmallow's form."""

import re
from collections.abc import Iterable

import peewee
from marshmallow import ValidationError

from peewee_honker.errors import HonkerError

__all__ = ["UnknownFieldError", "integrity_errors"]


class UnknownFieldError(HonkerError, TypeError):
    """A Peewee field that no marshmallow field is known for."""


# What SQLite, PostgreSQL and MySQL say, and the group that lists the columns.
_UNIQUE = (
    re.compile(r"UNIQUE constraint failed: (?P<columns>.+)"),
    re.compile(r"duplicate key value .*?Key \((?P<columns>[^)]+)\)", re.DOTALL),
)
_NULL = (
    re.compile(r"NOT NULL constraint failed: (?P<columns>.+)"),
    re.compile(r"null value in column \"(?P<columns>[^\"]+)\""),
    re.compile(r"Column '(?P<columns>[^']+)' cannot be null"),
)
_REFERENCE = (
    re.compile(r"is not present in table.*?Key \((?P<columns>[^)]+)\)|Key \((?P<keys>[^)]+)\)=.*not present", re.DOTALL),
)


def integrity_errors(error: peewee.IntegrityError, model: type[peewee.Model]) -> ValidationError:
    """The marshmallow error, by key, for what a database refused.

    `{"email": ["Already taken."]}` for a unique column; a unique index of several columns has its message under each of
    them. What names no column of the model (a CHECK, a foreign key in SQLite) comes under `_schema`. Use it as
    `raise integrity_errors(error, Order) from error`.
    """
    text = "\n".join(str(argument) for argument in error.args)
    for patterns, message in ((_UNIQUE, "Already taken."), (_NULL, "Field may not be null."), (_REFERENCE, "Not found.")):
        for pattern in patterns:
            if found := pattern.search(text):
                columns = next(group for group in found.groups() if group)
                if keys := list(_keys(columns.splitlines()[0].split(","), model)):
                    if len(keys) > 1:
                        message = f"Already taken together: {', '.join(keys)}."
                    return ValidationError({key: [message] for key in keys})
    message = "Refers to something that does not exist." if "FOREIGN KEY" in text.upper() else text
    if found := re.search(r"CHECK constraint failed: (.+)", text):
        message = f"Does not hold: {found[1]}."
    return ValidationError({"_schema": [message]})


def _keys(columns: Iterable[str], model: type[peewee.Model]) -> Iterable[str]:
    for column in columns:
        name = column.strip().rpartition(".")[2].strip('"`')
        if (field := model._meta.columns.get(name)) is not None:
            yield field.name
