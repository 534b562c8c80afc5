"""The id that the changes of one transaction share, asked for.

Every transaction of a `HonkerDatabase` in which a captured table changes has one, see `peewee_honker.driver.mark`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peewee_honker.database import HonkerDatabase
from peewee_honker.driver.mark import TRANSACTION
from peewee_honker.errors import HonkerError

__all__ = ["TRANSACTION_TABLE", "transaction"]

# Without a rowid, so that the mark is not what last_insert_rowid() tells of.
TRANSACTION_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {{schema}}.{TRANSACTION} (number INTEGER PRIMARY KEY CHECK (number = 1), "
    f"event TEXT NOT NULL, nobody INTEGER NOT NULL DEFAULT 0 "
    f"REFERENCES {TRANSACTION} (number) DEFERRABLE INITIALLY DEFERRED) WITHOUT ROWID"
)


@contextmanager
def transaction(database: HonkerDatabase, origin: str | None = None) -> Iterator[str]:
    """`database.atomic()` that tells the id of its transaction, and gives its captured changes an origin.

        with transaction(db) as number:
            order.save()
            Item.insert_many(items).execute()

    Arguments:
        database: whose changes; a capture has to be installed in it.
        origin: what the events say of who wrote; by default `host:pid`. A transaction that has changed something before has
            its origin.

    Yields the id, which the events of the whole transaction carry as `transaction`. Guarantee: events with one id are of one
    transaction; none of another connection, program or transaction has it.

    Raises `HonkerError` when no capture is installed, and while foreign keys are not enforced, since then a COMMIT that goes
    round the driver could leave the id to others.
    """
    with database.atomic():
        connection: Any = database._state.conn
        id_: str | None = connection.mark_transaction(origin)
        if id_ is None:
            if database.execute_sql("PRAGMA foreign_keys").fetchone()[0]:
                raise HonkerError("transaction() is for changes that are captured: install a Capture first")
            raise HonkerError("transaction() needs PRAGMA foreign_keys = 1, by which SQLite keeps its mark from others")
        yield id_
