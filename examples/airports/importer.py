"""Writes the airports, in transactions of which some are rolled back on purpose.

Nothing here publishes: `Airport.create` does, because models.py has bridged the model.
"""

import collections
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from models import Airport, Country, db

TRANSACTION = 200  # airports

Row = dict[str, Any]


class UndoError(Exception):
    """Raised on purpose, to have a block rolled back."""


@dataclass
class Imported:
    """What the importer did, to hold against what the receivers heard."""

    by_country: collections.Counter[str] = field(default_factory=collections.Counter)
    committed_at: dict[str, int] = field(default_factory=dict)
    """For the last airport of each transaction, `time.time_ns()` right after the commit."""
    undone: set[str] = field(default_factory=set)
    """The keys of the rows that were written and rolled back."""


def import_airports(rows: list[Row], after_each: Callable[[int], None]) -> Imported:
    """Write the rows; `after_each` is told after each transaction how many it had."""
    db.create_tables([Country, Airport])
    # One query, which sends no signals: nobody is told of countries.
    Country.insert_many([{"code": code} for code in sorted({row["country"] for row in rows})]).execute()

    done = Imported()
    for number, start in enumerate(range(0, len(rows), TRANSACTION)):
        batch = rows[start : start + TRANSACTION]
        if number % 5 == 0:  # first a whole transaction that fails
            with contextlib.suppress(UndoError), db.atomic():
                write_in_vain(batch[:50], done)
        with db.atomic():
            if number % 7 == 0:  # a savepoint that fails, within the transaction that commits
                with contextlib.suppress(UndoError), db.atomic():
                    write_in_vain(batch[:1], done)
            for row in batch:
                Airport.create(**row)
        done.committed_at[batch[-1]["icao"]] = time.time_ns()
        done.by_country.update(row["country"] for row in batch)
        after_each(len(batch))
    return done


def write_in_vain(rows: list[Row], done: Imported) -> None:
    """Write rows under keys of their own, by which a receiver's word of them would be noticed, and fail."""
    for row in rows:
        key = f"undone {len(done.undone)}"
        Airport.create(**{**row, "icao": key})
        done.undone.add(key)
    raise UndoError
