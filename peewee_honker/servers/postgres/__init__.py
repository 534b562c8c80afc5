"""Events in PostgreSQL: tables are the truth, LISTEN and NOTIFY the wake. Needs the extra `postgres` (psycopg 3)."""

try:
    import psycopg  # noqa: F401  (to say at once what is missing)
except ImportError as error:
    raise ImportError("events in PostgreSQL need psycopg 3: pip install 'peewee-honker[postgres]'") from error

from peewee_honker.servers.postgres.link import PostgresUnavailableError
from peewee_honker.servers.postgres.local import PostgresLocalTarget
from peewee_honker.servers.postgres.store import PostgresStore, store_for
from peewee_honker.servers.postgres.target import PostgresTarget

__all__ = ["PostgresLocalTarget", "PostgresStore", "PostgresTarget", "PostgresUnavailableError", "store_for"]
