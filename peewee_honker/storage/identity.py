"""Who there is: accounts, organizations and their members, API keys, and the log of what was done. Tables of `system.db`."""

from enum import StrEnum
from typing import Any

import peewee
from peewee import Check, Default

from peewee_honker.storage.binding import ContextDatabase
from peewee_honker.storage.columns import EnumField, Flag, JSONField, StorageModel

__all__ = [
    "IDENTITY_MODELS",
    "AccessLevel",
    "Account",
    "AccountStatus",
    "ApiKey",
    "AuditLog",
    "MemberLevel",
    "OrgMember",
    "Organization",
    "create_identity_tables",
    "system_database",
]

system_database = ContextDatabase("system")
"""What the identity models use."""

_SLUG = "length(slug) BETWEEN 1 AND 63 AND slug NOT GLOB '*[^a-z0-9-]*' AND slug NOT GLOB '-*' AND slug NOT GLOB '*-'"


class AccessLevel(StrEnum):
    """What an account is."""

    ADMIN = "admin"
    USER = "user"
    SERVICE = "service"


class AccountStatus(StrEnum):
    """Whether an account may be used."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"


class MemberLevel(StrEnum):
    """What a member may do in an organization, the most first."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"

    def covers(self, other: "MemberLevel") -> bool:
        """Whether who has this level has also the other."""
        levels = list(MemberLevel)
        return levels.index(self) <= levels.index(other)


class _HashField(peewee.TextField):
    """The hash of a secret: not the secret, but nothing that events have to tell."""

    is_secret = True


class _IdentityModel(StorageModel):
    class Meta:
        database = system_database


class Account(_IdentityModel):
    """Someone or something that acts. Back-references: `organizations` (that it owns), `memberships`, `api_keys`.

    The email is unique without regard to the case of ASCII letters.
    """

    email = peewee.TextField(
        collation="NOCASE", unique=True, constraints=[Check("length(email) > 2 AND instr(email, '@') > 1")]
    )
    name = peewee.TextField()
    access_level = EnumField(AccessLevel, default=AccessLevel.USER, constraints=[Default("'user'")])
    status = EnumField(AccountStatus, default=AccountStatus.ACTIVE, constraints=[Default("'active'")])

    class Meta:
        table_name = "accounts"


class Organization(_IdentityModel):
    """A tenant. Its slug is for URLs: a-z, 0-9 and `-`. Back-reference: `members`.

    An account that owns one is not deleted.
    """

    name = peewee.TextField(unique=True)
    slug = peewee.TextField(unique=True, constraints=[Check(_SLUG)])
    owner = peewee.ForeignKeyField(Account, backref="organizations", on_delete="RESTRICT")

    class Meta:
        table_name = "organizations"


class OrgMember(_IdentityModel):
    """An account in an organization, once."""

    org = peewee.ForeignKeyField(Organization, backref="members", on_delete="CASCADE", index=False)
    account = peewee.ForeignKeyField(Account, backref="memberships", on_delete="CASCADE")
    level = EnumField(MemberLevel, default=MemberLevel.MEMBER, constraints=[Default("'member'")])

    class Meta:
        table_name = "org_members"
        indexes = ((("org", "account"), True),)


class ApiKey(_IdentityModel):
    """A key of an account: the SHA-256 of its text, which is shown once. See `peewee_honker.storage.api_keys`.

    `rotated_to` is the key that has taken its place. Times are seconds since 1970.
    """

    key_hash = _HashField(unique=True, constraints=[Check("length(key_hash) = 64 AND key_hash NOT GLOB '*[^0-9a-f]*'")])
    owner = peewee.ForeignKeyField(Account, backref="api_keys", on_delete="CASCADE")
    name = peewee.TextField()
    enabled = Flag(default=True, constraints=[Default("1")])
    scopes = JSONField(default=list, constraints=[Default("'[]'")])
    expires_at = peewee.IntegerField(null=True)
    revoked_at = peewee.IntegerField(null=True)
    rotated_to = peewee.ForeignKeyField("self", null=True, backref="rotated_from", on_delete="SET NULL")
    last_used_at = peewee.IntegerField(null=True)

    class Meta:
        table_name = "api_keys"
        constraints = (
            Check("json_type(\"scopes\") = 'array'"),
            Check('"rotated_to_id" IS NULL OR "rotated_to_id" <> "id"'),
        )


class AuditLog(_IdentityModel):
    """What somebody did. A row is never changed and never deleted: triggers refuse it, whoever asks.

    It refers to nothing by foreign keys, so that it outlives what it tells of.
    """

    actor_type = peewee.TextField()
    actor_id = peewee.TextField()
    action = peewee.TextField(index=True)
    resource = peewee.TextField()
    org_id = peewee.TextField(null=True, index=True)
    details = JSONField(default=dict, constraints=[Default("'{}'")])

    class Meta:
        table_name = "audit_logs"
        without_rowid = True  # a rowid would be a second key, by which REPLACE takes a row away
        indexes = ((("actor_type", "actor_id"), False), (("resource", "created_at"), False))


IDENTITY_MODELS: tuple[type[StorageModel], ...] = (Account, Organization, OrgMember, ApiKey, AuditLog)
"""All of them, each after those it refers to."""

# REPLACE deletes without asking the delete trigger unless recursive_triggers is on, so a row whose key is there is refused.
_APPEND_ONLY = tuple(
    f"CREATE TRIGGER IF NOT EXISTS audit_logs_{name} BEFORE {when} ON audit_logs {condition} "
    "BEGIN SELECT RAISE(ABORT, 'audit_logs is append-only'); END"
    for name, when, condition in (
        ("no_update", "UPDATE", ""),
        ("no_delete", "DELETE", ""),
        ("no_replace", "INSERT", "WHEN EXISTS (SELECT 1 FROM audit_logs WHERE id = NEW.id)"),
    )
)


def create_identity_tables(database: Any) -> None:
    """Make the tables and triggers that are not there, in one transaction."""
    with system_database.use(database), database.atomic():
        database.create_tables([*IDENTITY_MODELS])
        for statement in _APPEND_ONLY:
            database.execute_sql(statement)
