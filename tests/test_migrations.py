"""Migrations of one file and of all tenants: the API, and the command in a process of its own."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from peewee import Model, TextField

from peewee_honker.capture import Capture, installed_captures
from peewee_honker.storage.migrations import MigrationError, migrate, migrate_tenants, migration_status, revert
from peewee_honker.storage.tenants import Tenants
from tests.support import outside

FIRST = """
from peewee import *

def up(migrator, db):
    class Note(db.Model):
        text = TextField()
    db.create_tables([Note])
    Note.create(text="first")

def down(migrator, db):
    db.execute_sql("DROP TABLE note")
"""
SECOND = """
from peewee import *

def up(migrator, db):
    migrator.migrate(migrator.add_column("note", "stars", IntegerField(default=0)))

def down(migrator, db):
    migrator.migrate(migrator.drop_column("note", "stars"))
"""
FAILING = """
def up(migrator, db):
    db.execute_sql("UPDATE note SET text = 'half'")
    if "tenant-b" in db.database or "one.db" in db.database:
        raise RuntimeError("not this one")
"""


@pytest.fixture
def scripts(tmp_path):
    directory = tmp_path / "migrations"
    directory.mkdir()
    (directory / "0001_notes.py").write_text(FIRST)
    (directory / "0002_stars.py").write_text(SECOND)
    return directory


def command(*arguments):
    """Run `peewee-honker migrate`; gives the exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "peewee_honker", "migrate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=outside.DEADLINE,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    return done.returncode, done.stdout + done.stderr


def events(path):
    found = outside.rows(str(path), "SELECT payload FROM _honker_stream WHERE topic = 'migrations' ORDER BY offset")
    return [(json.loads(text)["type"], json.loads(text)["id"]) for (text,) in found]


def names(path, table="note"):
    return [name for (name,) in outside.rows(str(path), f"SELECT name FROM pragma_table_info('{table}')")]


def test_migrations_are_applied_and_reverted_with_their_events(db, path, scripts):
    assert migrate(db, scripts, dry_run=True) == ["0001_notes", "0002_stars"]
    assert migrate(db, scripts, to="0001_notes") == ["0001_notes"]
    assert names(path) == ["id", "text"]
    assert migrate(db, scripts) == ["0002_stars"]
    assert migrate(db, scripts) == []
    assert names(path) == ["id", "text", "stars"]
    assert all(row.applied for row in migration_status(db, scripts))
    assert revert(db, scripts, dry_run=True) == ["0002_stars"]
    assert revert(db, scripts) == ["0002_stars"]
    assert revert(db, scripts, to="0001_notes") == ["0001_notes"]
    assert names(path) == []
    assert events(path) == [
        ("migration.applied", "0001_notes"),
        ("migration.applied", "0002_stars"),
        ("migration.reverted", "0002_stars"),
        ("migration.reverted", "0001_notes"),
    ]


ANEW = """
from peewee import *

def up(migrator, db):
    migrator.migrate(migrator.alter_column_type("note", "text", CharField()))
    migrator.migrate(migrator.add_not_null("note", "stars"))
"""


def test_a_capture_is_kept_by_migrations_that_make_its_table_anew(db, scripts, caplog):
    class Note(Model):
        text = TextField()

    migrate(db, scripts)
    with db.bind_ctx([Note]):
        Capture(Note).install()
        (scripts / "0003_anew.py").write_text(ANEW)
        with caplog.at_level(logging.INFO, "peewee_honker.capture"):
            assert migrate(db, scripts) == ["0003_anew"]
        assert "capture note put back on table note" in caplog.text
        assert [found.complete for found in installed_captures(db)] == [True]
        db.execute_sql("DELETE FROM _honker_notifications")
        db.execute_sql("INSERT INTO note (text, stars) VALUES ('heard', 1)")
        (text,) = db.execute_sql("SELECT payload FROM _honker_notifications").fetchone()
        assert json.loads(text)["payload"]["text"] == "heard"
        assert Capture(Note).is_current()


def test_a_capture_that_no_longer_fits_its_table_is_said_to_be_lost(db, scripts, caplog):
    class Note(Model):
        text = TextField()

    migrate(db, scripts)
    with db.bind_ctx([Note]):
        Capture(Note).install()
        (scripts / "0003_other.py").write_text(
            "def up(migrator, db):\n"
            '    db.execute_sql("DROP TABLE note")\n'
            '    db.execute_sql("CREATE TABLE note (word TEXT)")\n'
        )
        with caplog.at_level(logging.WARNING, "peewee_honker.capture"):
            migrate(db, scripts)
        assert "capture note is lost until it is installed again" in caplog.text
        db.execute_sql("INSERT INTO note VALUES ('still writable')")


def test_one_that_fails_leaves_nothing_and_those_before_stay(db, path, scripts):
    (scripts / "0003_fails.py").write_text(FAILING.replace("one.db", "test.db"))
    with pytest.raises(RuntimeError, match="not this one"):
        migrate(db, scripts)
    assert outside.rows(path, "SELECT text FROM note") == [["first"]]
    assert [row.name for row in migration_status(db, scripts) if row.applied] == ["0001_notes", "0002_stars"]
    assert len(events(path)) == 2
    assert db.pragma("foreign_keys") == 1


def test_what_is_not_there_is_named(db, scripts, tmp_path):
    with pytest.raises(MigrationError, match="there is no migration 0009"):
        migrate(db, scripts, to="0009")
    with pytest.raises(MigrationError, match="0001_notes"):
        revert(db, scripts, to="0001_notes")
    with pytest.raises(MigrationError, match="no directory"):
        migrate(db, tmp_path / "nowhere")
    (scripts / "0003_empty.py").write_text("")
    with pytest.raises(MigrationError, match=r"0003_empty does not define up"):
        migrate(db, scripts)


def test_two_processes_apply_each_migration_once(path, scripts):
    for number in range(3, 12):
        (scripts / f"{number:04}_row.py").write_text(
            "def up(migrator, db):\n    db.execute_sql(\"INSERT INTO note (text, stars) VALUES ('x', 1)\")\n"
        )
    code = """
        import sys
        from peewee_honker import HonkerDatabase
        from peewee_honker.storage.migrations import migrate
        db = HonkerDatabase(sys.argv[1], timeout=20)
        print("ready"); sys.stdin.readline()
        print(len(migrate(db, sys.argv[2])))
        db.close_engine()
    """
    with outside.Script(code, path, str(scripts)) as one, outside.Script(code, path, str(scripts)) as other:
        for script in (one, other):
            assert script.line() == "ready"
        for script in (one, other):
            script.say("go")
        assert int(one.line()) + int(other.line()) == 11
        one.finish()
        other.finish()
    assert outside.rows(path, "SELECT count(*) FROM note") == [[10]]
    assert len(events(path)) == 11


# Tenants


@pytest.fixture
def tenants(tmp_path):
    with Tenants(tmp_path / "tenants", most_open=2) as tenants:
        for name in ("a", "b", "c"):
            tenants.create(name)
        yield tenants


def test_all_tenants_are_migrated_and_one_that_fails_does_not_stop_the_others(tenants, scripts):
    (scripts / "0003_fails.py").write_text(FAILING)
    results = {result.org_id: result for result in migrate_tenants(tenants, scripts)}
    assert results["a"].names == results["c"].names == ["0001_notes", "0002_stars", "0003_fails"]
    assert results["b"].names == ["0001_notes", "0002_stars"]
    assert str(results["b"].error) == "not this one"
    assert outside.rows(str(tenants.path("b")), "SELECT text FROM note") == [["first"]]
    again = list(migrate_tenants(tenants, scripts, fail_fast=True))
    assert [(result.org_id, result.names) for result in again] == [("a", []), ("b", [])]


def test_a_new_tenant_is_made_by_the_migrations_or_not_at_all(tmp_path, scripts):
    with Tenants(tmp_path / "tenants", provision=lambda db: migrate(db, scripts)) as tenants:
        tenants.create("a")
        assert names(tenants.path("a")) == ["id", "text", "stars"]
        (scripts / "0003_fails.py").write_text("def up(migrator, db):\n    raise RuntimeError('no')\n")
        with pytest.raises(RuntimeError):
            tenants.create("b")
        assert tenants.ids() == ["a"]
        assert [entry.name for entry in tenants.directory.iterdir()] == ["tenant-a.db"]


# The command


def test_the_command_makes_migrates_and_reverts_a_file(tmp_path, scripts):
    file = tmp_path / "one.db"
    here = ("--database", file, "--directory", scripts)
    assert command("up", *here) == (1, f"peewee-honker: {file} does not exist\n")
    assert command("up", *here, "--create", "--dry-run") == (
        0,
        "would be applied: 0001_notes\nwould be applied: 0002_stars\n",
    )
    assert command("up", *here, "--to", "0001_notes") == (0, "applied: 0001_notes\n")
    code, told = command("status", *here)
    assert code == 0
    assert [line.split()[0] for line in told.splitlines()] == ["migration", "0001_notes", "0002_stars"]
    assert "pending" in told
    assert command("up", *here) == (0, "applied: 0002_stars\n")
    assert command("up", *here) == (0, "nothing to do\n")
    assert command("down", *here) == (0, "reverted: 0002_stars\n")
    assert command("up", *here, "--to", "x")[0] == 1
    code, told = command("create", "more stars", "--directory", scripts)
    assert (code, Path(told.strip()).name) == (0, "0003_more_stars.py")
    (scripts / "0003_more_stars.py").write_text(FAILING)
    assert command("up", *here) == (1, "peewee-honker: RuntimeError: not this one\n")


def test_the_command_migrates_all_tenants_and_reports(tenants, scripts):
    here = ("--tenants", tenants.directory, "--directory", scripts)
    (scripts / "0003_fails.py").write_text(FAILING)
    code, told = command("up", *here)
    assert code == 1
    assert "b: RuntimeError: not this one" in told
    assert told.splitlines()[-1] == "3 tenants: 2 migrated, 0 up to date, 1 failed"
    (scripts / "0003_fails.py").write_text("def up(migrator, db):\n    pass\n\ndef down(migrator, db):\n    pass\n")
    assert command("up", *here) == (0, "b: applied: 0003_fails\n3 tenants: 1 migrated, 2 up to date, 0 failed\n")
    code, told = command("status", *here)
    assert len(told.splitlines()) == 10
    assert command("down", *here)[1] == "".join(f"{name}: reverted: 0003_fails\n" for name in "abc")
    assert command("up", *here, "--database", "x")[0] == 2


def test_what_was_killed_in_the_middle_goes_on(tmp_path, scripts):
    (scripts / "0003_slow.py").write_text(
        "import os, signal\n"
        "def up(migrator, db):\n"
        "    db.execute_sql(\"UPDATE note SET text = 'half'\")\n"
        "    if 'tenant-t3' in db.database and os.environ.get('KILL'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    directory = tmp_path / "tenants"
    with Tenants(directory) as tenants:
        for number in range(6):
            tenants.create(f"t{number}")
    os.environ["KILL"] = "1"
    try:
        code, _ = command("up", "--tenants", directory, "--directory", scripts)
    finally:
        del os.environ["KILL"]
    assert code == -signal.SIGKILL
    assert outside.rows(str(directory / "tenant-t3.db"), "SELECT text FROM note") == [["first"]]
    code, told = command("up", "--tenants", directory, "--directory", scripts)
    assert (code, told.splitlines()[-1]) == (0, "6 tenants: 3 migrated, 3 up to date, 0 failed")
    assert len(events(directory / "tenant-t3.db")) == 3
