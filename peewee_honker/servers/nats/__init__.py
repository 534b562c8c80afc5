"""Events through NATS: plain subjects for ephemeral ones, JetStream for durable ones. Needs the extra `nats` (nats-py)."""

try:
    import nats  # noqa: F401  (to say at once what is missing)
except ImportError as error:
    raise ImportError("events through NATS need nats-py: pip install 'peewee-honker[nats]'") from error

from peewee_honker.servers.nats.jetstream import NatsFullError, StreamLimits
from peewee_honker.servers.nats.link import NatsError, NatsUnavailableError
from peewee_honker.servers.nats.store import NatsStore
from peewee_honker.servers.nats.target import NatsTarget

__all__ = ["NatsError", "NatsFullError", "NatsStore", "NatsTarget", "NatsUnavailableError", "StreamLimits"]
