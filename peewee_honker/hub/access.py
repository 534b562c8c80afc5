"""Who is at the other end of a connection, and what they may do."""

import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from peewee_honker.operations.spec import Identity
from peewee_honker.storage.api_keys import ApiKeys
from peewee_honker.storage.identity import ApiKey, Organization, OrgMember, system_database

__all__ = [
    "PUBLISH",
    "SERVE",
    "SUBSCRIBE",
    "ApiKeyAuthentication",
    "Authenticate",
    "Authorize",
    "Handshake",
    "Peer",
    "anyone",
    "by_scopes",
    "is_authorized",
]

logger = logging.getLogger("peewee_honker.hub")

SUBSCRIBE, PUBLISH, SERVE = "subscribe", "publish", "serve"
"""What is asked of `authorize`: to hear a topic, to publish an event, to register operations of a spoke."""

SCOPES = {SUBSCRIBE: "events:read", PUBLISH: "events:write", SERVE: "operations:serve"}
"""The scope that each needs by default."""

_ORGANIZATION_HEADER = "X-Tenant"
"""The header of the handshake that names an organization, by id or slug, for a key whose owner is in several."""


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is connected.

    - `identity`: with which its calls are executed.
    - `tenant`: the organization's id. It hears, publishes, calls and finds nothing of others; None is those without one.
    - `is_valid`: asked now and then in a thread; False ends the connection.
    """

    identity: Identity
    tenant: str | None = None
    is_valid: Callable[[], bool] = field(default=_always, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Handshake:
    """The HTTP request that opens a connection: its headers by lower-case name, path, and where it is from."""

    headers: Mapping[str, str] = field(repr=False)
    path: str
    remote: str

    @property
    def bearer(self) -> str | None:
        """The key of `Authorization: Bearer ...`."""
        kind, _, text = self.headers.get("authorization", "").partition(" ")
        return text.strip() if kind.lower() == "bearer" and text.strip() else None


Authenticate = Callable[[Handshake], Peer | None]
"""Says who it is, or None to refuse. Called in a thread."""
Authorize = Callable[[Peer, str, str], bool]
"""`authorize(peer, action, topic)`: whether a peer may `subscribe` to a topic, `publish` an event of one, or `serve`
operations as the spoke of that name. Beside it tenants are kept apart, whatever it says. What it raises is logged, and is a
no. Called in the event loop: quick."""


def by_scopes(peer: Peer, action: str, _topic: str) -> bool:
    """The default: `events:read` to subscribe, `events:write` to publish, `operations:serve` to register operations."""
    return SCOPES[action] in peer.identity.scopes


def is_authorized(authorize: Authorize, peer: Peer, action: str, topic: str) -> bool:
    """What a rule says. One that fails has not allowed it, and harms no other connection."""
    try:
        return authorize(peer, action, topic)
    except Exception:
        logger.exception("the rule that is asked whether %s may %s %s failed: refused", peer.identity.id, action, topic)
        return False


def anyone(_handshake: Handshake) -> Peer:
    """Admits everybody with all rights, for tests and for a hub that only this machine can reach."""
    return Peer(Identity("anyone", tuple(SCOPES.values())))


class ApiKeyAuthentication:
    """Admits who has an API key of the system database, as `Authorization: Bearer ...`.

    Arguments:
        keys: the keys.

    The tenant is the organization of the key's owner; of several, the one that the header `X-Tenant` names (id or slug).
    Whoever is in none, or names one they are not in, is refused. The identity is the owner's id with the key's scopes, and
    `resources` says the organization and the level in it: `{"org:<id>": ("member",)}`. The key and the membership are looked
    at again as long as the connection lasts.
    """

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    def __call__(self, handshake: Handshake) -> Peer | None:
        """Who it is, or None."""
        text = handshake.bearer
        wanted = handshake.headers.get(_ORGANIZATION_HEADER.lower())
        found = None if text is None else self._look(text, wanted)
        if text is None or found is None:
            return None
        key, tenant, level = found

        def is_valid() -> bool:
            now = self._look(text, tenant)
            if now is None or not hmac.compare_digest(now[0].key_hash, key.key_hash):
                return False
            return bool(now[0].scopes == key.scopes and now[2] == level)  # else the identity would say what no longer is

        identity = Identity(str(key.owner.id), tuple(map(str, key.scopes)), {f"org:{tenant}": (str(level),)})
        return Peer(identity, tenant, is_valid)

    def _look(self, text: str, wanted: str | None) -> tuple[Any, str, Any] | None:
        """The key, its tenant, and the owner's level there."""
        database = self._keys.database
        was_closed = database.is_closed()
        try:
            key: Any = self._keys.verify(text)
            if key is None:
                return None
            with system_database.use(database):
                memberships = _memberships(key, wanted)
            if len(memberships) != 1:
                logger.info("API key %s names none of its owner's organizations, or has to name one", key.id)
                return None
            return key, str(memberships[0].org_id), memberships[0].level
        finally:
            if was_closed and not database.is_closed():
                database.close()


def _memberships(key: ApiKey, wanted: str | None) -> list[Any]:
    query: Any = OrgMember.select().where(OrgMember.account == key.owner)
    if wanted is not None:
        query = query.join(Organization).where((Organization.id == wanted) | (Organization.slug == wanted))
    return list(query.limit(2))
