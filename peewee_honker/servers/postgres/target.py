"""`PostgresTarget`: events through PostgreSQL's tables, heard in every process that is connected to it."""

from typing import Literal

import peewee
import psycopg
from psycopg.conninfo import conninfo_to_dict

from peewee_honker.events.consumer import Consumer
from peewee_honker.events.database_target import DatabaseTarget
from peewee_honker.events.event import MAX_BYTES
from peewee_honker.events.metrics import Recorder
from peewee_honker.events.stream import Position
from peewee_honker.servers.postgres.local import PostgresLocalTarget
from peewee_honker.servers.postgres.store import store_for

__all__ = ["PostgresTarget"]


class PostgresTarget(DatabaseTarget):
    """Events in tables of a PostgreSQL database, written in the transaction that is open, heard after the commit.

    Arguments:
        database: Peewee's PostgresqlDatabase, whose transactions the events belong to; or a URL
            `postgresql://user@host/name`, for a database of the target's own (`target.database`).
        mode, stream, prefix, consumer, start_at, attempts, backoff: as of `HonkerEventTarget`.
        listen: a URL to listen at, past a pooler, see `PostgresStore`.

    Guarantee: as HonkerEventTarget's: commit order, ephemeral at most once, durable at least once for each consumer and
    exactly once for receivers marked with `in_transaction` that write to this database. NOTIFY only wakes: payloads may be
    as long as `max_bytes`, and what commits while the connection is lost is heard when it is back; ephemeral events too,
    as long as they are kept.

    Raises PostgresUnavailableError, at the first listener or dispatch, when no server answers.
    """

    local_target = PostgresLocalTarget

    def __init__(
        self,
        database: peewee.PostgresqlDatabase | str,
        mode: Literal["ephemeral", "durable"] = "ephemeral",
        *,
        stream: str = "events",
        prefix: str = "",
        consumer: str | Consumer | None = None,
        start_at: Position = "now",
        attempts: int = 5,
        backoff: float = 0.2,
        max_bytes: int = MAX_BYTES,
        recorder: Recorder | None = None,
        listen: str | None = None,
    ) -> None:
        is_owner = isinstance(database, str)
        super().__init__(
            store_for(_opened(database) if isinstance(database, str) else database, listen=listen),
            mode,
            stream=stream,
            prefix=prefix,
            consumer=consumer,
            start_at=start_at,
            attempts=attempts,
            backoff=backoff,
            max_bytes=max_bytes,
            recorder=recorder,
        )
        self._is_owner = is_owner


def _opened(url: str) -> peewee.PostgresqlDatabase:
    url = "postgresql" + url.removeprefix("postgres") if url.startswith("postgres://") else url
    try:
        conninfo_to_dict(url)
        is_readable = True
    except psycopg.ProgrammingError:  # its text may have a piece of the password
        is_readable = False
    if not is_readable:
        raise ValueError(
            "this is no URL of PostgreSQL (postgresql://user:password@host:5432/name): in a name or password, characters "
            "such as / ? # @ % are written as %2F and so on"
        )
    return peewee.PostgresqlDatabase(url, prefer_psycopg3=True)
