"""Events in Redis: pub/sub for the moment, streams for what is kept. Needs the extra `redis` (redis-py)."""

try:
    import redis  # noqa: F401  (to say at once what is missing)
except ImportError as error:
    raise ImportError("events in Redis need redis-py: pip install 'peewee-honker[redis]'") from error

from peewee_honker.servers.redis.link import RedisMemoryError, RedisUnavailableError
from peewee_honker.servers.redis.store import RedisStore
from peewee_honker.servers.redis.target import RedisTarget

__all__ = ["RedisMemoryError", "RedisStore", "RedisTarget", "RedisUnavailableError"]
