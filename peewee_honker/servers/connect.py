"""`connect`: the event target that a URL names."""

import importlib
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from peewee_honker.events import EventTarget, HonkerEventTarget

__all__ = ["connect"]

_ON_SERVERS = {
    "redis": ("redis", "RedisTarget"),
    "rediss": ("redis", "RedisTarget"),
    "nats": ("nats", "NatsTarget"),
    "tls": ("nats", "NatsTarget"),
    "postgresql": ("postgres", "PostgresTarget"),
    "postgres": ("postgres", "PostgresTarget"),
}


def connect(url: str, mode: Literal["ephemeral", "durable"] = "ephemeral", **options: Any) -> EventTarget:
    """The event target that a URL names, so that where events go is a matter of configuration.

        target = connect(os.environ["EVENTS"], "durable", stream="orders", consumer="billing")

    | URL | target |
    |---|---|
    | `honker:///app.db`, `honker:////var/lib/app.db` | `HonkerEventTarget`, on a file: a relative path, an absolute one |
    | `redis://host:6379/0`, `rediss://...` (TLS) | `RedisTarget` |
    | `nats://host:4222`, `tls://...` | `NatsTarget` |
    | `postgresql://user@host/name` | `PostgresTarget` |

    Arguments:
        url: may hold a user's name and a password, which are not logged.
        mode: `ephemeral` or `durable`.
        options: of the target: stream, consumer, start_at, attempts, backoff, prefix, max_bytes, recorder.

    A target on a server needs the extra of its name, and connects when it is first used. Close the target, or use it in a
    `with` block. Raises ValueError for a URL that names no target, ImportError where its extra is not installed.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "honker":
        return HonkerEventTarget(_path(url), mode, **options)
    if not separator or scheme not in _ON_SERVERS:
        known = ", ".join(f"{name}://" for name in ("honker", *_ON_SERVERS))
        raise ValueError(f"a target's URL begins with one of {known}, not with {scheme if separator else 'none of them'}")
    module, name = _ON_SERVERS[scheme]
    target: EventTarget = getattr(importlib.import_module(f"peewee_honker.servers.{module}"), name)(url, mode, **options)
    return target


def _path(url: str) -> str:
    """As in other tools' URLs of files, `///` begins a relative path and `////` an absolute one."""
    parts = urlsplit(url)
    path = unquote(parts.path.removeprefix("/"))
    if parts.netloc or parts.query or parts.fragment or not path:
        raise ValueError("a file's URL is honker:///app.db, or honker:////var/lib/app.db with an absolute path")
    return path
