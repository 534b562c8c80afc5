"""A pool of connections for HonkerDatabase, and its URLs.

All connections to a file share one engine, so a pool saves little here; it is for applications that are written for
`playhouse.pool.PooledSqliteDatabase`.
"""

from typing import Any

from playhouse.db_url import register_database
from playhouse.pool import _PooledSqliteDatabase

from peewee_honker.database import HonkerDatabase

__all__ = ["PooledHonkerDatabase"]


class PooledHonkerDatabase(_PooledSqliteDatabase, HonkerDatabase):  # type: ignore[misc]  # playhouse has no types
    """`HonkerDatabase` with playhouse's pool: `max_connections`, `stale_timeout`, `timeout` as there."""

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(database, *args, **kwargs)


register_database(HonkerDatabase, "honker")
register_database(PooledHonkerDatabase, "honker+pool")
