"""One id for the changes of one transaction, which the triggers of captured tables copy into their events.

Nothing in SQL tells a trigger in which transaction it runs, so the id is a row that is there only inside the transaction:
written before its first change, deleted before its commit. Other connections never see it, and SQLite itself keeps it from
being committed by whoever goes round the driver: it breaks a deferred foreign key.

A file without captures is looked at once a second, and pays nothing else.
"""

import functools
import json
import os
import socket
import time
import uuid
from typing import TYPE_CHECKING

from peewee_honker.driver.rows import Run

if TYPE_CHECKING:
    from peewee_honker.driver.engine import Engine

__all__ = ["CAPTURES", "TRANSACTION", "TransactionMark"]

CAPTURES = "_honker_peewee_captures"
TRANSACTION = "_honker_peewee_transaction"

_LOOK = 1.0  # seconds between two looks whether the file has captures
_HAS_TABLES = f"SELECT count(*) AS n FROM main.sqlite_master WHERE name IN ('{CAPTURES}', '{TRANSACTION}')"
_HAS_CAPTURES = f"SELECT count(*) AS n FROM main.{CAPTURES}"
_SET = f"INSERT OR IGNORE INTO main.{TRANSACTION} (number, event) VALUES (1, ?)"
_CLEAR = f"DELETE FROM main.{TRANSACTION}"


class TransactionMark:
    """The mark of a session's transactions. `run` is always the engine's writer, which the session holds."""

    __slots__ = ("_engine", "_event", "id", "is_due", "is_set")

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.forget()

    def forget(self) -> None:
        """The transaction has ended."""
        self.is_due = False  # before the next change
        self.is_set = False
        self.id: str | None = None

    def set(self, run: Run, origin: str | None = None) -> str | None:
        """Write the mark where the file has captures; gives the transaction's id, or None.

        Not while foreign keys are not enforced: nothing would keep a mark from being committed.
        """
        self.is_due = False
        if not self.has_captures(run) or not run("PRAGMA foreign_keys", ())[0]["foreign_keys"]:
            return None
        if self.id is None:
            self.id = str(uuid.uuid4())
            event = {"origin": _this_process(os.getpid()) if origin is None else origin, "transaction": self.id}
            self._event = json.dumps(event, ensure_ascii=False)[1:-1]
        try:
            run(_SET, (self._event,))
        except RuntimeError as error:
            if "no such table" not in str(error):
                raise
            self._engine.has_captures = (0.0, False)  # the transaction that had made it was rolled back
            return None
        self.is_set = True
        return self.id

    def clear(self, run: Run) -> None:
        """Delete the mark before the commit. When that fails, the next change sets it again, with the same id."""
        self.is_set = False
        self.is_due = True
        run(_CLEAR, ())

    def has_captures(self, run: Run) -> bool:
        """Whether the file has captures; what another process installs is noticed within a second."""
        until, known = self._engine.has_captures
        now = time.monotonic()
        if now >= until:
            known = run(_HAS_TABLES, ())[0]["n"] == 2 and run(_HAS_CAPTURES, ())[0]["n"] > 0
            self._engine.has_captures = (now + _LOOK, known)
        return known


@functools.lru_cache(1)
def _this_process(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"
