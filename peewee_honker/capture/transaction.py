"""One id for the changes of one transaction.

Nothing in SQL tells a trigger in which transaction it runs: no function, and no value that a commit resets. So the id is a
row that the block below writes and deletes again. It is only ever there inside the transaction, and only its own
connection can see it: what other connections and programs write has no id, rather than a wrong one. SQLite itself keeps
the row from being committed: it breaks a deferred foreign key, so that a COMMIT in the middle of the block fails.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from peewee_honker.capture.plan import TRANSACTION
from peewee_honker.database import HonkerDatabase
from peewee_honker.errors import HonkerError
from peewee_honker.events import new_event_id

__all__ = ["TRANSACTION_TABLE", "transaction"]

TRANSACTION_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {{schema}}.{TRANSACTION} (number INTEGER PRIMARY KEY CHECK (number = 1), "
    f"event TEXT NOT NULL, nobody INTEGER NOT NULL DEFAULT 0 "
    f"REFERENCES {TRANSACTION} (number) DEFERRABLE INITIALLY DEFERRED)"
)
_BEGIN = f"INSERT INTO {TRANSACTION} (number, event) VALUES (1, ?)"
_END = f"DELETE FROM {TRANSACTION}"


@contextmanager
def transaction(database: HonkerDatabase, origin: str | None = None) -> Iterator[str]:
    """`database.atomic()` that gives captured changes an id and an origin.

        with transaction(db):
            order.save()
            Item.insert_many(items).execute()

    Arguments:
        database: whose changes; a capture has to be installed in it.
        origin: what the events say of who wrote; by default `host:pid`.

    Yields the id, which the events of the block carry as `transaction`. Guarantee: events with one id are of one
    transaction; none of another connection, program or transaction has it. Within `atomic()` it covers the block, and in a
    block of its own kind it is that block, with its id.

    Raises `HonkerError` when no capture is installed, and while foreign keys are not enforced, since then a COMMIT in the
    block could not be kept from leaving the id to others.
    """
    made = database.execute_sql("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (TRANSACTION,))
    if made.fetchone() is None:
        raise HonkerError("transaction() is for changes that are captured: install a Capture first")
    with database.atomic():
        outer = database.execute_sql(f"SELECT event FROM {TRANSACTION}").fetchone()
        if outer is not None:
            yield json.loads(f"{{{outer[0]}}}")["transaction"]
            return
        if not database.execute_sql("PRAGMA foreign_keys").fetchone()[0]:
            raise HonkerError("transaction() needs PRAGMA foreign_keys = 1, by which SQLite keeps its mark from others")
        id_ = new_event_id()
        event = {"origin": f"{socket.gethostname()}:{os.getpid()}" if origin is None else origin, "transaction": id_}
        database.write_beside(_BEGIN, (json.dumps(event, ensure_ascii=False)[1:-1],))
        yield id_
        database.write_beside(_END, ())
