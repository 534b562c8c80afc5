"""API keys: made, verified, rotated, revoked; each change with its row in the audit log, in one transaction."""

import hashlib
import hmac
import logging
import secrets
import string
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peewee_honker.events import Event, EventTarget
from peewee_honker.storage.columns import now
from peewee_honker.storage.errors import StorageError
from peewee_honker.storage.identity import Account, AccountStatus, ApiKey, AuditLog, system_database

__all__ = ["ApiKeyError", "ApiKeys", "NewKey", "key_hash"]

logger = logging.getLogger("peewee_honker.storage")

_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 32  # of 62 characters each: 190 bits
_USE_NOTED = 60  # seconds between two notes of a key's last use


class ApiKeyError(StorageError):
    """A key cannot be changed so: it is revoked, rotated or not there."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: its row, and its text, which is not shown again."""

    row: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"NewKey({self.row.id}, ***)"


def key_hash(text: str) -> str:
    """What is stored of a key: its SHA-256. A slow hash is for passwords; a key has 190 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ApiKeys:
    """The API keys of a system database.

        keys = ApiKeys(db)
        made = keys.create(account, "build server", scopes=["orders:read"], actor=admin)
        print(made.text)                    # once
        row = keys.verify(text)             # None unless it may be used now

    Arguments:
        database: a HonkerDatabase with the identity tables, see `create_system_database`.
        prefix: what keys begin with, so that one that leaked is recognized.
        events: an event target on the same database; hears `api_key.created`, `.rotated`, `.revoked`, `.enabled` and
            `.disabled`, in the change's transaction, without the key or its hash.

    Every change writes a row of the audit log in its transaction. `actor` is who makes it: an account, or `(type, id)`.
    """

    def __init__(self, database: Any, *, prefix: str = "phk_", events: EventTarget | None = None) -> None:
        if getattr(events, "database", database) is not database:
            raise ValueError("the event target is on another database: its events would not commit with the keys")
        self.database = database
        self.prefix = prefix
        self.events = events

    def create(
        self, owner: Account, name: str, *, actor: Any, scopes: Iterable[str] = (), expires_at: int | None = None
    ) -> NewKey:
        """Make a key for an account. `expires_at`: seconds since 1970, None for never. Raises TypeError for scopes that are
        one text."""
        if isinstance(scopes, str):  # whose letters would be scopes
            raise TypeError("scopes is a list of texts, also when it is one: scopes=['orders:read']")
        with self._writing():
            made = self._make(owner.id, name, sorted(set(scopes)), expires_at)
            self._note("created", made.row, actor, {"name": name, "scopes": made.row.scopes, "expires_at": expires_at})
            return made

    def verify(self, text: str) -> ApiKey | None:
        """The row of a key that may be used now; else None, and nothing says why: unknown, disabled, expired, revoked, or of
        an account that is not active.

        The key is looked up by its hash, and the hash compared in constant time: how long an answer takes says nothing of
        how much of a guess was right. Its last use is noted once a minute at most.
        """
        if not isinstance(text, str) or len(text) > 1000:
            return None
        wanted, at = key_hash(text), now()
        with system_database.use(self.database):
            row: Any = ApiKey.select(ApiKey, Account).join(Account).where(ApiKey.key_hash == wanted).first()
            found = row is not None and hmac.compare_digest(row.key_hash, wanted)
            if not (found and row.enabled and row.revoked_at is None and row.owner.status is AccountStatus.ACTIVE):
                return None
            if row.expires_at is not None and row.expires_at <= at:
                return None
            if row.last_used_at is None or row.last_used_at <= at - _USE_NOTED:
                ApiKey.update(last_used_at=at, updated_at=ApiKey.updated_at).where(ApiKey.id == row.id).execute()
                row.last_used_at = at
            return row  # type: ignore[no-any-return]  # Peewee's rows are not typed

    def rotate(self, key: ApiKey | str, *, actor: Any, overlap: int = 0) -> NewKey:
        """Make a key that takes the place of another, with its name, scopes and expiry.

        Arguments:
            key: the row, or its id.
            overlap: seconds for which the old key may still be used; 0 revokes it now.

        A key is rotated once: of two that try at a time, one gets ApiKeyError. It is raised too for a key that may not be
        used now: the successor of a disabled one could be used, that of a revoked or expired one never.
        """
        with self._writing():
            row = self._usable(key)
            made = self._make(row.owner_id, row.name, row.scopes, row.expires_at)
            row.rotated_to = made.row
            if overlap > 0:
                row.expires_at = min(now() + overlap, row.expires_at or now() + overlap)
            else:
                row.revoked_at = now()
            row.save()
            self._note("rotated", row, actor, {"rotated_to": made.row.id, "overlap": overlap})
            return made

    def revoke(self, key: ApiKey | str, *, actor: Any) -> None:
        """End a key for ever. Raises ApiKeyError for one that is revoked."""
        with self._writing():
            row = self._found(key)
            if row.revoked_at is not None:
                raise ApiKeyError(f"the key {row.id} is revoked already")
            row.revoked_at = now()
            row.save()
            self._note("revoked", row, actor, {})

    def enable(self, key: ApiKey | str, *, actor: Any) -> None:
        """Let a disabled key be used again; nothing for one that is enabled."""
        self._switch(key, True, actor)

    def disable(self, key: ApiKey | str, *, actor: Any) -> None:
        """Let a key not be used until it is enabled again; nothing for one that is disabled."""
        self._switch(key, False, actor)

    def _switch(self, key: ApiKey | str, enabled: bool, actor: Any) -> None:
        with self._writing():
            row = self._found(key)
            if row.revoked_at is not None:
                raise ApiKeyError(f"the key {row.id} is revoked, for ever: make another")
            if row.enabled != enabled:
                row.enabled = enabled
                row.save()
                self._note("enabled" if enabled else "disabled", row, actor, {})

    # One change

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with system_database.use(self.database), self.database.atomic():
            yield

    def _make(self, owner: str, name: str, scopes: list[str], expires_at: int | None) -> NewKey:
        text = self.prefix + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
        row = ApiKey.create(owner=owner, name=name, scopes=scopes, expires_at=expires_at, key_hash=key_hash(text))
        return NewKey(row, text)

    def _found(self, key: ApiKey | str) -> Any:
        """The row as it is now, in the transaction that holds the write lock."""
        id_ = key.id if isinstance(key, ApiKey) else key
        row = ApiKey.get_or_none(ApiKey.id == id_)
        if row is None:
            raise ApiKeyError(f"there is no key {id_}")
        return row

    def _usable(self, key: ApiKey | str) -> Any:
        row = self._found(key)
        if row.revoked_at is not None or row.rotated_to_id is not None:
            what = "rotated" if row.rotated_to_id is not None else "revoked"
            raise ApiKeyError(f"the key {row.id} is {what} already")
        if not row.enabled:
            raise ApiKeyError(f"the key {row.id} is disabled: enable it first")
        if row.expires_at is not None and row.expires_at <= now():
            raise ApiKeyError(f"the key {row.id} has expired: make another")
        return row

    def _note(self, action: str, row: Any, actor: Any, details: dict[str, Any]) -> None:
        kind, id_ = ("account", actor.id) if isinstance(actor, Account) else actor
        AuditLog.create(
            actor_type=kind, actor_id=id_, action=f"api_key.{action}", resource=f"api_key:{row.id}", details=details
        )
        if self.events is not None:
            payload = {"id": row.id, "owner_id": row.owner_id, "name": row.name, **details}
            self.events.dispatch(Event(f"api_key.{action}", row.id, payload))
        logger.info("API key %s %s by %s %s", row.id, action, kind, id_)
