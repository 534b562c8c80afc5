"""Identity: what the tables refuse, keys that may and may not be used, and an audit log that nobody changes."""

import json
import logging
import subprocess
import sys

import peewee
import pytest

from peewee_honker import EventBus
from peewee_honker.events import HonkerEventTarget
from peewee_honker.storage import row_schemas
from peewee_honker.storage.api_keys import ApiKeyError, ApiKeys, key_hash
from peewee_honker.storage.columns import now
from peewee_honker.storage.databases import create_system_database
from peewee_honker.storage.identity import (
    IDENTITY_MODELS,
    AccessLevel,
    Account,
    AccountStatus,
    ApiKey,
    AuditLog,
    MemberLevel,
    Organization,
    OrgMember,
    system_database,
)
from tests.support import outside


@pytest.fixture
def system(path):
    db = create_system_database(path)
    with system_database.use(db):
        yield db
    db.close_engine()


@pytest.fixture
def ada(system):
    return Account.create(email="ada@example.org", name="Ada", access_level=AccessLevel.ADMIN)


@pytest.fixture
def org(ada):
    org = Organization.create(name="Engines", slug="engines", owner=ada)
    OrgMember.create(org=org, account=ada, level=MemberLevel.OWNER)
    return org


@pytest.fixture
def keys(system):
    return ApiKeys(system)


WITH_ROWID = (
    "INSERT OR REPLACE INTO audit_logs (rowid, id, actor_type, actor_id, action, resource) "
    "VALUES (1, 'x', 'a', 'b', 'c', 'd')"
)


def refused(path, sql):
    """What SQLite says to another program's statement."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA foreign_keys = ON')\n"
        "try: c.execute(sys.argv[2]); c.commit(); print('taken')\n"
        "except sqlite3.Error as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path, sql], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("INSERT INTO accounts (id, email, name) VALUES ('x', 'ADA@example.org', 'x')", "UNIQUE"),
        ("INSERT INTO accounts (id, email, name) VALUES ('x', 'no address', 'x')", "CHECK"),
        ("UPDATE accounts SET access_level = 'root'", "CHECK"),
        ("UPDATE accounts SET status = NULL", "NOT NULL"),
        ("DELETE FROM accounts", "FOREIGN KEY"),
        ("UPDATE organizations SET slug = 'Engines'", "CHECK"),
        ("UPDATE organizations SET slug = 'a b'", "CHECK"),
        ("UPDATE organizations SET slug = '-a'", "CHECK"),
        ("UPDATE organizations SET owner_id = 'nobody'", "FOREIGN KEY"),
        ("UPDATE org_members SET level = 'guest'", "CHECK"),
        ("INSERT INTO org_members (id, org_id, account_id) SELECT 'x', org_id, account_id FROM org_members", "UNIQUE"),
        ("INSERT INTO api_keys (id, key_hash, owner_id, name) SELECT 'x', 'abc', id, 'x' FROM accounts", "CHECK"),
        ("UPDATE api_keys SET enabled = 2", "CHECK"),
        ("UPDATE api_keys SET scopes = '{}'", "CHECK"),
        ("UPDATE api_keys SET scopes = 'x'", "CHECK"),
        ("UPDATE api_keys SET rotated_to_id = id", "CHECK"),
        ("UPDATE audit_logs SET action = 'nothing'", "append-only"),
        ("DELETE FROM audit_logs", "append-only"),
        ("INSERT OR REPLACE INTO audit_logs SELECT * FROM audit_logs", "append-only"),
        ("UPDATE OR REPLACE audit_logs SET id = 'x'", "append-only"),
        (WITH_ROWID, "no column named rowid"),
    ],
)
def test_another_programs_row_that_breaks_a_constraint_is_refused(path, ada, org, keys, sql, error):
    keys.create(ada, "a", actor=ada)
    assert error in refused(path, sql)


def test_a_members_rows_and_keys_go_with_the_account_and_the_log_stays(path, ada, org, keys):
    eve = Account.create(email="eve@example.org", name="Eve")
    OrgMember.create(org=org, account=eve)
    keys.create(eve, "hers", actor=ada)
    assert [member.account.name for member in org.members] == ["Ada", "Eve"]
    assert eve.memberships.count() == eve.api_keys.count() == 1
    eve.delete_instance()
    assert outside.rows(path, "SELECT (SELECT count(*) FROM org_members), (SELECT count(*) FROM api_keys)") == [[1, 0]]
    assert AuditLog.select().count() == 1


def test_levels_cover_those_below():
    assert MemberLevel.OWNER.covers(MemberLevel.MEMBER)
    assert MemberLevel.ADMIN.covers(MemberLevel.ADMIN)
    assert not MemberLevel.MEMBER.covers(MemberLevel.ADMIN)


@pytest.mark.parametrize("model", IDENTITY_MODELS)
def test_every_model_has_schemas(system, model):
    schemas = row_schemas(model)
    assert "created_at" in schemas.select().fields
    assert "created_at" not in schemas.insert().fields


# Keys


def test_a_key_is_shown_once_and_only_its_hash_is_kept(path, ada, keys, caplog):
    caplog.set_level(logging.DEBUG)
    made = keys.create(ada, "build", scopes=["b", "a", "a"], actor=ada)
    assert len(made.text) == 36
    assert made.text.startswith("phk_")
    assert made.text.isascii()
    assert made.text.removeprefix("phk_").isalnum()
    assert made.row.key_hash == key_hash(made.text)
    assert made.row.scopes == ["a", "b"]
    found = keys.verify(made.text)
    assert (found.id, found.owner.name) == (made.row.id, "Ada")
    with open(path, "rb") as file, open(f"{path}-wal", "rb") as wal:
        assert made.text.encode() not in file.read() + wal.read()
    assert made.text not in f"{made!r} {caplog.text}"


@pytest.mark.parametrize("text", ["", "phk_", "phk_" + "a" * 32, "x" * 5000, "\ud800", None, 7])
def test_what_is_no_key_is_not_verified(ada, keys, text):
    keys.create(ada, "build", actor=ada)
    assert keys.verify(text) is None


def test_a_key_that_may_not_be_used_now_is_not_verified(ada, keys):
    made = keys.create(ada, "build", actor=ada, expires_at=now() + 1000)

    def changed(**values):
        ApiKey.update(**values).execute()
        return keys.verify(made.text) is not None

    assert changed()
    assert not changed(expires_at=now())
    assert changed(expires_at=now() + 1000)
    keys.disable(made.row, actor=ada)
    assert keys.verify(made.text) is None
    keys.enable(made.row.id, actor=ada)
    assert keys.verify(made.text)
    for status in (AccountStatus.SUSPENDED, AccountStatus.DEACTIVATED):
        Account.update(status=status).execute()
        assert keys.verify(made.text) is None
    Account.update(status=AccountStatus.ACTIVE).execute()
    keys.revoke(made.row, actor=ada)
    assert keys.verify(made.text) is None
    for change in (keys.revoke, keys.enable, keys.rotate):
        with pytest.raises(ApiKeyError, match="revoked"):
            change(made.row, actor=ada)
    with pytest.raises(ApiKeyError, match="there is no key"):
        keys.revoke("nothing", actor=ada)


def test_the_last_use_is_noted_once_a_minute(ada, keys):
    made = keys.create(ada, "build", actor=ada)
    assert keys.verify(made.text).last_used_at is not None
    ApiKey.update(last_used_at=now() - 10).execute()
    first = ApiKey.get().last_used_at
    assert keys.verify(made.text).last_used_at == first
    ApiKey.update(last_used_at=now() - 100).execute()
    assert keys.verify(made.text).last_used_at > now() - 50


def test_a_rotated_key_gives_way_at_once_or_after_an_overlap(ada, keys):
    first = keys.create(ada, "build", scopes=["a"], actor=ada)
    second = keys.rotate(first.row, actor=ada)
    assert keys.verify(first.text) is None
    assert keys.verify(second.text).scopes == ["a"]
    third = keys.rotate(second.row, actor=ada, overlap=1000)
    assert keys.verify(second.text)
    assert keys.verify(third.text)
    ApiKey.update(expires_at=now()).where(ApiKey.id == second.row.id).execute()
    assert keys.verify(second.text) is None
    assert ApiKey.get_by_id(first.row.id).rotated_to == second.row
    with pytest.raises(ApiKeyError, match="rotated already"):
        keys.rotate(second.row, actor=ada)


def test_a_key_that_may_not_be_used_is_not_rotated_into_one_that_may(ada, keys):
    disabled = keys.create(ada, "build", actor=ada)
    keys.disable(disabled.row, actor=ada)
    with pytest.raises(ApiKeyError, match="disabled: enable it first"):
        keys.rotate(disabled.row, actor=ada)
    expired = keys.create(ada, "build", actor=ada, expires_at=now() - 1)
    with pytest.raises(ApiKeyError, match="has expired"):
        keys.rotate(expired.row, actor=ada)
    assert ApiKey.select().count() == 2


def test_scopes_that_are_one_text_are_refused(ada, keys):
    with pytest.raises(TypeError, match="scopes is a list"):
        keys.create(ada, "build", scopes="orders:read", actor=ada)


def test_bridges_tell_of_each_change_without_hashes(system, path, ada, keys):
    bus = EventBus(system)
    bus.bridge(Account)
    bus.bridge(ApiKey)
    Account.create(email="eve@example.org", name="Eve")
    made = keys.create(ada, "build", actor=ada)
    told = [json.loads(text) for (text,) in outside.rows(path, "SELECT payload FROM _honker_notifications ORDER BY id")]
    assert [event["type"] for event in told] == ["accounts.saved", "api_keys.saved"]
    assert told[0]["payload"]["status"] == "active"
    assert made.row.key_hash not in json.dumps(told)


def test_of_two_processes_that_rotate_a_key_one_does(path, ada, keys):
    made = keys.create(ada, "build", actor=ada)
    code = """
        import sys
        from peewee_honker.storage.api_keys import ApiKeyError, ApiKeys
        from peewee_honker.storage.databases import create_system_database
        db = create_system_database(sys.argv[1])
        print("ready"); sys.stdin.readline()
        try:
            ApiKeys(db).rotate(sys.argv[2], actor=("service", "test")); print("rotated")
        except ApiKeyError as error:
            print("refused")
        db.close_engine()
    """
    with outside.Script(code, path, made.row.id) as one, outside.Script(code, path, made.row.id) as other:
        for script in (one, other):
            assert script.line() == "ready"
        for script in (one, other):
            script.say("go")
        assert sorted([one.line(), other.line()]) == ["refused", "rotated"]
        one.finish()
        other.finish()
    assert ApiKey.select().count() == 2


def test_every_change_is_in_the_log_and_told_in_its_transaction(system, path, ada):
    keys = ApiKeys(system, events=HonkerEventTarget(system, "durable", stream="identity"))
    made = keys.create(ada, "build", scopes=["a"], actor=ada)
    keys.disable(made.row, actor=("service", "cron"))
    keys.disable(made.row, actor=("service", "cron"))  # which changes nothing
    keys.enable(made.row, actor=ada)
    second = keys.rotate(made.row, actor=ada)
    keys.revoke(second.row, actor=ada)
    with pytest.raises(RuntimeError), system.atomic():
        keys.create(ada, "undone", actor=ada)
        raise RuntimeError
    actions = [f"api_key.{name}" for name in ("created", "disabled", "enabled", "rotated", "revoked")]
    assert outside.rows(path, "SELECT action FROM audit_logs ORDER BY id") == [[action] for action in actions]
    assert outside.rows(path, "SELECT DISTINCT actor_type, actor_id FROM audit_logs ORDER BY 1") == [
        ["account", ada.id],
        ["service", "cron"],
    ]
    events = [json.loads(text) for (text,) in outside.rows(path, "SELECT payload FROM _honker_stream ORDER BY offset")]
    assert [event["type"] for event in events] == actions
    assert made.row.key_hash not in json.dumps(events)
    assert made.text not in json.dumps(events)
    assert AuditLog.get(AuditLog.action == "api_key.rotated").details["rotated_to"] == second.row.id


def test_the_log_refuses_through_peewee_too(ada, keys):
    keys.create(ada, "build", actor=ada)
    row = AuditLog.get()
    row.action = "nothing"
    for change in (row.save, row.delete_instance, AuditLog.update(action="x").execute, AuditLog.delete().execute):
        with pytest.raises(peewee.IntegrityError, match="append-only"):
            change()


def test_events_of_another_database_are_refused(system, open_database, tmp_path):
    other = open_database(str(tmp_path / "other.db"))
    with pytest.raises(ValueError, match="another database"):
        ApiKeys(system, events=HonkerEventTarget(other))
