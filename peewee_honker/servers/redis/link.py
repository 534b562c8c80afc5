"""Talking to a Redis server: commands of any thread, by connections of a pool of our own.

Commands are sent and answers read here, instead of by redis-py's client: it would send a command again whose answer was
lost, and an event would be there twice; and it would do more for each event than sending it.
"""

import weakref
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from peewee_honker.errors import HonkerError
from peewee_honker.servers.redis.scripts import Script

__all__ = ["Link", "RedisMemoryError", "RedisUnavailableError"]

_PATIENCE = 5.0  # seconds that an answer may take, unless the client or the URL says otherwise
# Where a server is and who asks. How answers are decoded and errors met is this module's to say.
_OF_THE_SERVER = frozenset(
    {
        "host", "port", "path", "db", "username", "password", "credential_provider", "client_name",
        "socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_keepalive_options", "socket_type",
    }
)  # fmt: skip


class RedisUnavailableError(HonkerError):
    """No server answers, it does not let us in, or the connection was lost before its answer. Of what was published then it
    is not known whether it is there: publishing the same event again is safe for receivers that know it by `event_id`."""


class RedisMemoryError(HonkerError):
    """The server is at its memory limit (`maxmemory`) and took nothing: the event was not published."""


class Link:
    """The way to one Redis server, for any thread; also in the child of a fork, by connections of its own.

    Arguments:
        where: a URL (`redis://`, `rediss://`, `unix://`), or a `redis.Redis`, of which it takes where the server is and who
            asks; not its connections.
    """

    def __init__(self, where: "str | redis.Redis") -> None:
        if isinstance(where, str):
            pool = _pool_of(where)
        elif isinstance(where, redis.Redis) and type(where.connection_pool) in _POOLS:
            pool = where.connection_pool
        else:
            raise TypeError(f"a URL or a redis.Redis of one server is needed, not {where!r}")
        given = {
            name: value for name, value in pool.connection_kwargs.items() if name in _OF_THE_SERVER or name.startswith("ssl")
        }
        for patience in ("socket_timeout", "socket_connect_timeout"):
            given[patience] = given.get(patience) or _PATIENCE
        self._pool = redis.ConnectionPool(
            connection_class=pool.connection_class,
            max_connections=2**31,  # one for each thread that sends at the moment; what is too many, the server says
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            **given,
        )
        # Of one that nobody closes, such as a publisher behind another target.
        weakref.finalize(self, self._pool.disconnect, inuse_connections=False)
        self.place = given.get("path") or f"{given.get('host', 'localhost')}:{given.get('port', 6379)}"
        self.patience: float = given["socket_timeout"]
        """Seconds that an answer may take."""

    def __repr__(self) -> str:
        return f"Redis at {self.place}"

    def call(self, *command: Any) -> Any:
        """Send one command and give its answer, with texts as bytes.

        Raises RedisUnavailableError, RedisMemoryError, and redis-py's ResponseError.
        """
        connection = self.connect()
        try:
            connection.send_command(*command)
            return connection.read_response(disable_decoding=True)
        except OutOfMemoryError as error:
            raise self.full(error) from error
        except ResponseError:
            raise
        except (RedisConnectionError, RedisTimeoutError) as error:
            connection.disconnect()
            raise self.lost(error) from error
        except BaseException:
            connection.disconnect()  # an answer may still come, which is not the next command's
            raise
        finally:
            self._pool.release(connection)

    def run(self, script: Script, keys: "tuple[str, ...] | list[str]", *arguments: Any) -> Any:
        """Run a script with keys and arguments and give its answer. Raises what `call` raises."""
        try:
            return self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            pass
        try:
            return self.call("EVAL", script.text, len(keys), *keys, *arguments)
        except ResponseError as error:
            if "compiling script" in str(error):  # its first line says what older ones do not know
                raise RedisUnavailableError(f"{self!r} is older than Redis 7, which is needed") from error
            raise

    def connect(self) -> Any:
        """A connection that is the caller's until `release`. Raises RedisUnavailableError."""
        try:
            return self._pool.get_connection()
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise RedisUnavailableError(
                f"no connection to {self!r}: {error}. Is the server running, and is the address right?"
            ) from error

    def release(self, connection: Any) -> None:
        """Give a connection back and close it: what was begun on it is not the next user's."""
        connection.disconnect()
        self._pool.release(connection)

    def lost(self, error: Exception) -> RedisUnavailableError:
        """What tells of the loss of a connection."""
        return RedisUnavailableError(f"the connection to {self!r} was lost: {error}")

    def full(self, error: Exception) -> RedisMemoryError:
        """What tells of a server that takes nothing more."""
        return RedisMemoryError(
            f"{self!r} is at its memory limit and took nothing ({error}): raise maxmemory, or let streams keep less "
            "(retention)"
        )

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._pool.disconnect(inuse_connections=False)


def _pool_of(url: str) -> redis.ConnectionPool:
    try:
        return redis.ConnectionPool.from_url(url)
    except ValueError:
        pass  # its text may have a piece of the password
    raise ValueError(
        "this is no URL of Redis (redis://user:password@host:6379/0): in a name or password, characters such as / ? # @ % "
        "are written as %2F and so on"
    )


_POOLS = (redis.ConnectionPool, redis.BlockingConnectionPool)
