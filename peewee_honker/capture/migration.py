"""Captures while tables are created and changed."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import peewee

from peewee_honker.capture.capture import Capture
from peewee_honker.capture.forms import quoted
from peewee_honker.capture.installed import CAPTURES, drop, has_table, installed_captures, rows, there
from peewee_honker.capture.triggers import names
from peewee_honker.database import HonkerDatabase

if TYPE_CHECKING:
    from peewee_honker.capture.plan import Parts

__all__ = ["create_tables", "kept", "suspended"]

logger = logging.getLogger("peewee_honker.capture")


def create_tables(captures: Iterable[Capture], database: HonkerDatabase | None = None, **options: Any) -> None:
    """Create the tables of the captures' models where they are missing, and install the captures, as one transaction.

    Arguments:
        captures: the captures.
        database: where; by default each model's database.
        options: for `Database.create_tables`.
    """
    by_database: dict[HonkerDatabase, list[Capture]] = {}
    for capture in captures:
        by_database.setdefault(capture.database(database), []).append(capture)
    for target, theirs in by_database.items():
        with target.atomic(), target.bind_ctx([capture.model for capture in theirs]):
            target.create_tables([capture.model for capture in theirs], **options)
            for capture in theirs:
                capture.install(target)


@contextmanager
def suspended(captures: Iterable[Capture], database: HonkerDatabase | None = None) -> Iterator[None]:
    """Take captures away while a migration changes their tables, and install them behind it.

        with db.atomic(), suspended([orders]):
            migrate(migrator.drop_column("order", "note"))

    SQLite refuses to drop a column that a trigger uses, and a table that is made anew loses its triggers. What is written
    meanwhile is no event; in a transaction nothing can be, by others.

    Arguments:
        captures: of the models as they are to be.
        database: where; by default each model's database.

    At the block's end the captures are installed. When the block raises, what was there is put back as it was; where that
    cannot be, since the table has changed, it is logged.
    """
    kept = [_Kept(capture.database(database), capture) for capture in captures]
    for former in kept:
        former.take_away()
    try:
        yield
    except BaseException:
        for former in kept:
            former.put_back()
        raise
    for former in kept:
        former.capture.install(former.database)


@contextmanager
def kept(database: HonkerDatabase) -> Iterator[None]:
    """Put the triggers back that the block has taken along with a table that it made anew under the same name.

    They are those of before: `Capture.install` makes them anew where the table's columns have changed. Where they no longer
    fit the table, the capture stays incomplete until then, and a warning says so. Of the database's own file, not of
    attached ones.
    """
    before = {known.name: there(database, "main", known.name) for known in installed_captures(database) if known.complete}
    yield
    for known in installed_captures(database):
        if known.complete or known.name not in before or not has_table(database, "main", known.table):
            continue
        try:
            with database.atomic():
                left = there(database, "main", known.name)
                for what in reversed(
                    [what for what in names(known.name) if what in before[known.name] and what not in left]
                ):
                    database.execute_sql(before[known.name][what])
                for sql in ("INSERT INTO {} DEFAULT VALUES", "DELETE FROM {}"):  # have SQLite compile them
                    database.execute_sql(f"EXPLAIN {sql.format(quoted(known.table))}")
            logger.info("capture %s put back on table %s, which was made anew", known.name, known.table)
        except peewee.PeeweeException as error:
            logger.warning("capture %s is lost until it is installed again: table %s %s", known.name, known.table, error)


class _Kept:
    """What a file has of a capture, as SQL."""

    def __init__(self, database: HonkerDatabase, capture: Capture) -> None:
        self.database = database
        self.capture = capture
        self._parts: Parts = {}
        self._record: list[tuple[Any, ...]] = []

    def take_away(self) -> None:
        schema, name = self.capture.schema, self.capture.name
        if not has_table(self.database, schema, CAPTURES):
            return
        with self.database.atomic():
            self._parts = there(self.database, schema, name)
            self._record = rows(self.database, f"SELECT * FROM {quoted(schema)}.{CAPTURES} WHERE name = ?", name)
            drop(self.database, schema, name)

    def put_back(self) -> None:
        schema, name = self.capture.schema, self.capture.name
        if not self._parts:
            return
        try:
            with self.database.atomic():
                if there(self.database, schema, name):  # the transaction around it brings it back, or has
                    return
                for what in reversed([what for what in names(name) if what in self._parts]):
                    text = self._parts[what].split(None, 2)[2]
                    self.database.execute_sql(f"CREATE {what[0]} {quoted(schema)}.{text}")
                for record in self._record:
                    places = ", ".join("?" * len(record))
                    self.database.execute_sql(f"INSERT INTO {quoted(schema)}.{CAPTURES} VALUES ({places})", record)
        except peewee.PeeweeException:
            logger.exception("capture %s cannot be put back after a migration that failed", name)
