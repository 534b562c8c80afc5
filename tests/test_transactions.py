"""Transactions by any spelling, savepoints, callbacks after commit, locks."""

import threading

import pytest
from peewee import IntegrityError, Model, NotSupportedError, OperationalError, TextField

from tests.support import outside


class Note(Model):
    text = TextField(unique=True)


@pytest.fixture(autouse=True)
def _tables(db):
    with db.bind_ctx([Note]):
        db.create_tables([Note])
        yield


def texts() -> list[str]:
    return [note.text for note in Note.select().order_by(Note.id)]


@pytest.mark.parametrize(
    "begin", ["BEGIN", "begin immediate", "BEGIN EXCLUSIVE TRANSACTION;", "/* x */ Begin Deferred -- y"]
)
@pytest.mark.parametrize(("end", "kept"), [("COMMIT", True), ("end transaction;", True), ("Rollback", False)])
def test_transactions_by_any_spelling(db, path, begin, end, kept):
    db.execute_sql(begin)
    assert db.connection().in_transaction
    db.execute_sql("INSERT INTO note (text) VALUES ('a')")
    assert outside.rows(path, "SELECT COUNT(*) FROM note") == [[0]]
    db.execute_sql(end)
    assert not db.connection().in_transaction
    assert outside.rows(path, "SELECT COUNT(*) FROM note") == [[int(kept)]]


def test_savepoints_by_any_spelling(db):
    db.execute_sql("savepoint one")  # outside a transaction it begins one
    Note.create(text="a")
    db.execute_sql("SAVEPOINT two")
    Note.create(text="b")
    db.execute_sql("rollback transaction to savepoint two")
    db.execute_sql("RELEASE two")
    assert db.connection().in_transaction
    db.execute_sql("Release Savepoint one")
    assert not db.connection().in_transaction
    assert texts() == ["a"]


def test_errors_of_transactions_are_sqlites(db):
    for sql, text in [
        ("COMMIT", "cannot commit - no transaction is active"),
        ("ROLLBACK", "cannot rollback - no transaction is active"),
        ("RELEASE x", "no such savepoint: x"),
    ]:
        with pytest.raises(OperationalError, match=text):
            db.execute_sql(sql)
    with db.atomic(), pytest.raises(OperationalError, match="within a transaction"):
        db.execute_sql("BEGIN")
    Note.create(text="after")
    assert texts() == ["after"]


def test_nested_atomic_blocks(db):
    with db.atomic():
        Note.create(text="a")
        with pytest.raises(ZeroDivisionError), db.atomic():
            Note.create(text="b")
            _ = 1 / 0
        with db.atomic() as inner:
            Note.create(text="c")
            inner.rollback()
            Note.create(text="d")
    assert texts() == ["a", "d"]


def test_manual_commit_and_sessions(db):
    with db.manual_commit():
        db.begin()
        Note.create(text="a")
        db.rollback()
        db.begin()
        Note.create(text="b")
        db.commit()
    db.session_start()
    Note.create(text="c")
    assert db.session_rollback()
    db.session_start()
    Note.create(text="d")
    assert db.session_commit()
    assert texts() == ["b", "d"]


def test_with_database_and_decorators(db):
    with db:
        Note.create(text="a")

    @db.atomic()
    def add(text: str) -> None:
        Note.create(text=text)

    @db.connection_context()
    def add_in_context(text: str) -> None:
        Note.create(text=text)

    db.close()
    add_in_context("b")
    assert db.is_closed()
    add("c")
    assert texts() == ["a", "b", "c"]


def test_an_error_that_ends_the_transaction_leaves_the_database_usable(db):
    Note.create(text="taken")
    with pytest.raises(OperationalError, match="cannot rollback"), db.atomic():
        Note.create(text="lost")
        db.execute_sql("INSERT OR ROLLBACK INTO note (text) VALUES ('taken')")
    with pytest.raises(IntegrityError):
        db.execute_sql("INSERT OR ROLLBACK INTO note (text) VALUES ('taken')")
    Note.create(text="next")
    assert texts() == ["taken", "next"]


def test_a_commit_that_fails_can_be_mended(db):
    db.execute_sql("CREATE TABLE child (note INTEGER REFERENCES note (id) DEFERRABLE INITIALLY DEFERRED)")
    db.begin()
    db.execute_sql("INSERT INTO child VALUES (7)")
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        db.commit()
    db.execute_sql("INSERT INTO note (id, text) VALUES (7, 'parent')")
    db.commit()
    assert texts() == ["parent"]


# After commit


def test_after_commit_runs_once_after_the_outermost_commit(db, path):
    seen = []
    with db.atomic():
        Note.create(text="a")
        with db.atomic():
            db.after_commit(lambda: seen.append(outside.rows(path, "SELECT COUNT(*) FROM note")))
        assert seen == []
    assert seen == [[[1]]]
    db.after_commit(lambda: seen.append("at once"))
    assert seen[1:] == ["at once"]


def test_after_commit_of_a_rolled_back_savepoint_is_dropped(db):
    seen = []
    with db.atomic():
        db.after_commit(lambda: seen.append("outer"))
        with pytest.raises(ZeroDivisionError), db.atomic():
            db.after_commit(lambda: seen.append("inner"))
            _ = 1 / 0
        with db.savepoint() as point:
            db.after_commit(lambda: seen.append("undone by hand"))
            point.rollback()
    assert seen == ["outer"]


def test_an_after_commit_that_raises_neither_stops_the_others_nor_undoes(db, caplog):
    seen = []

    def fail() -> None:
        raise RuntimeError("broken callback")

    with db.atomic():
        Note.create(text="kept")
        db.after_commit(fail)
        db.after_commit(lambda: seen.append("next"))
    assert seen == ["next"]
    assert texts() == ["kept"]
    assert "broken callback" in caplog.text


# Pragmas


def test_connection_pragmas_hold_for_reads_and_writes_of_all_threads(open_database):
    db = open_database(pragmas={"cache_size": -1234, "case_sensitive_like": 1})
    seen = []

    def look() -> None:
        seen.append((db.pragma("cache_size"), db.execute_sql("SELECT 'A' LIKE 'a'").fetchone()))
        with db.atomic():
            seen.append((db.pragma("cache_size"), db.execute_sql("SELECT 'A' LIKE 'a'").fetchone()))
        db.close()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(-1234, (0,))] * 8


def test_a_pragma_set_by_hand_ends_with_the_last_connection(db):
    assert db.foreign_keys == 1
    db.foreign_keys = 0
    assert db.foreign_keys == 0
    db.close()
    assert db.foreign_keys == 1


def test_pragmas_of_the_file_and_those_that_cannot_be_had(db, path):
    db.user_version = 7
    assert outside.rows(path, "PRAGMA user_version") == [[7]]
    assert db.journal_mode == "wal"
    with pytest.raises(NotSupportedError, match="WAL"):
        db.journal_mode = "delete"
    with pytest.raises(NotSupportedError, match="locking_mode"):
        db.pragma("locking_mode", "exclusive")
    db.timeout = 2
    assert db.pragma("busy_timeout") == 2000
    db.pragma("query_only", 1)
    with pytest.raises(OperationalError, match="readonly"):
        Note.create(text="x")
