"""Events within one process that belong to transactions of PostgreSQL."""

from functools import partial
from typing import Any

import peewee

from peewee_honker.errors import HonkerError
from peewee_honker.events.event import Event
from peewee_honker.events.target import LocalEventTarget
from peewee_honker.servers.postgres.store import store_for

__all__ = ["PostgresLocalTarget"]


class PostgresLocalTarget(LocalEventTarget):
    """Events within this process: at once after the commit, in the thread that has committed.

    Guarantee: as LocalEventTarget's, but for the order between threads: PostgreSQL commits many transactions at once, so
    events of several threads are heard in the order in which their commits returned. Transactions are those of `atomic()`.
    """

    def __init__(self, database: peewee.PostgresqlDatabase | None = None, **options: Any) -> None:
        super().__init__(None, **options)
        self._postgres: Any = database
        if database is not None:
            store_for(database)

    def _dispatch(self, event: Event) -> None:
        event = Event.from_json(event.to_json(self.max_bytes), event.type)
        if self._postgres is None or not self._postgres.in_transaction():
            self._hand_over(event)
            return
        try:
            self._postgres.after_commit(partial(self._hand_over, event))
        except ValueError as error:
            raise HonkerError("in manual_commit() nobody knows of the commit: local events need db.atomic()") from error

    def _hand_over(self, event: Event) -> None:
        self._queue.append(event)
        self._drain()
