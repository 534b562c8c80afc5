"""Events in PostgreSQL: tables are the truth, LISTEN and NOTIFY the wake. Needs the extra `postgres` (psycopg 3)."""

from peewee_honker.servers.postgres.link import PostgresUnavailableError
from peewee_honker.servers.postgres.local import PostgresLocalTarget
from peewee_honker.servers.postgres.store import PostgresStore, store_for
from peewee_honker.servers.postgres.target import PostgresTarget

__all__ = ["PostgresLocalTarget", "PostgresStore", "PostgresTarget", "PostgresUnavailableError", "store_for"]
