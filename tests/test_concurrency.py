"""Many threads, several processes, forks and kills on one file."""

import os
import signal
import sys
import threading
import time

import pytest
from peewee import IntegerField, Model, OperationalError, TextField, fn

from peewee_honker import EngineClosedError
from tests.support import outside


class Counter(Model):
    name = TextField(unique=True)
    value = IntegerField(default=0)


@pytest.fixture(autouse=True)
def _tables(db):
    with db.bind_ctx([Counter]):
        db.create_tables([Counter])
        yield


# A process that takes the write lock with sqlite3 and keeps it until told
HOLDER = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    print("holding")
    sys.stdin.readline()
    connection.execute("COMMIT")
    print("released")
    connection.close()
"""


def run_in_threads(count, work):
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:  # told to the test below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(outside.DEADLINE * 3)
    assert not any(thread.is_alive() for thread in threads), "threads hang"
    assert errors == []


def test_threads_lose_no_update(db):
    Counter.create(name="all")

    def work(number):
        for step in range(60):
            with db.atomic():
                counter = Counter.get(name="all")
                counter.value += 1
                counter.save()
            Counter.create(name=f"{number}-{step}")
            assert Counter.select().where(Counter.name == f"{number}-{step}").count() == 1
            Counter.update(value=Counter.value + 1).where(Counter.name == "all").execute()
        db.close()

    run_in_threads(8, work)
    assert Counter.get(name="all").value == 8 * 60 * 2
    assert Counter.select().count() == 8 * 60 + 1


def test_processes_lose_no_update(db, path):
    Counter.create(name="all")
    code = """
        import sys
        from peewee import *
        from peewee_honker import HonkerDatabase
        db = HonkerDatabase(sys.argv[1], timeout=60)
        class Counter(db.Model):
            name = TextField(unique=True)
            value = IntegerField(default=0)
        for _ in range(100):
            with db.atomic():
                counter = Counter.get(name="all")
                counter.value += 1
                counter.save()
            Counter.update(value=Counter.value + 1).where(Counter.name == "all").execute()
        print("done")
    """
    with outside.Script(code, path) as one, outside.Script(code, path) as two:
        one.finish()
        two.finish()
    assert Counter.get(name="all").value == 400


def test_a_locked_database_is_waited_for_and_other_threads_run_on(db, path):
    db.timeout = 30
    ticks, done = [], threading.Event()

    def write():
        Counter.create(name="late")
        done.set()
        db.close()

    with outside.Script(HOLDER, path) as holder:
        assert holder.line() == "holding"
        writer = threading.Thread(target=write)
        writer.start()
        # This thread would stand still if the wait held the interpreter's lock.
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            ticks.append(db.execute_sql("SELECT COUNT(*) FROM counter").fetchone()[0])
        assert not done.is_set()
        holder.say("go")
        assert done.wait(outside.DEADLINE)
        writer.join()
    assert len(ticks) > 1000
    assert Counter.select().count() == 1


def test_opening_waits_for_a_foreign_lock_and_other_threads_run_on(db, path, open_database):
    db.close_engine()
    late = open_database(timeout=30)
    ticks, opened = [0], threading.Event()

    def connect():
        late.connect()
        opened.set()
        late.close()

    with outside.Script(HOLDER, path) as holder:
        assert holder.line() == "holding"
        opener = threading.Thread(target=connect)
        opener.start()
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            ticks[0] += 1
        assert not opened.is_set()
        holder.say("go")
        assert opened.wait(outside.DEADLINE)
        opener.join()
    assert ticks[0] > 100_000


@pytest.mark.parametrize("holder_is", ["a thread", "a process"])
def test_the_wait_for_the_writer_ends_with_database_is_locked(open_database, db, path, holder_is):
    impatient = open_database(timeout=0.2)
    release, held = threading.Event(), threading.Event()

    def hold():
        with db.atomic():
            held.set()
            release.wait(outside.DEADLINE)
        db.close()

    def check():
        with pytest.raises(OperationalError, match="database is locked"):
            impatient.execute_sql("INSERT INTO counter (name) VALUES ('x')")
        with pytest.raises(OperationalError, match="database is locked"), impatient.atomic():
            pass
        assert impatient.execute_sql("SELECT COUNT(*) FROM counter").fetchone() == (0,)

    if holder_is == "a thread":
        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(outside.DEADLINE)
        check()
        release.set()
        thread.join()
    else:
        with outside.Script(HOLDER, path) as holder:
            assert holder.line() == "holding"
            check()
    impatient.execute_sql("INSERT INTO counter (name, value) VALUES ('x', 0)")


def test_a_second_object_in_the_thread_of_a_transaction_is_told_why(db, open_database):
    other = open_database()
    with db.atomic(), pytest.raises(OperationalError, match="through another HonkerDatabase"):
        other.execute_sql("INSERT INTO counter (name) VALUES ('x')")


def test_a_thread_that_ends_within_a_transaction_gives_the_writer_back(db):
    def leave_open():
        db.begin()
        Counter.create(name="lost")

    run_in_threads(1, lambda _: leave_open())
    Counter.create(name="next")
    assert [counter.name for counter in Counter.select()] == ["next"]


def test_threads_share_a_memory_database(open_database):
    memory = open_database(":memory:")
    memory.execute_sql("CREATE TABLE t (a)")
    run_in_threads(6, lambda number: (memory.execute_sql("INSERT INTO t VALUES (?)", (number,)), memory.close()))
    assert memory.execute_sql("SELECT COUNT(*), MAX(a) FROM t").fetchone() == (6, 5)


# Fork


def in_child(work) -> None:
    """Run `work` in a forked child and fail when it fails."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@needs_fork
def test_parent_and_child_both_go_on_after_a_fork(db, path):
    Counter.create(name="before")

    def child():
        assert Counter.select().count() == 1
        for number in range(20):
            Counter.create(name=f"child {number}")

    in_child(child)
    for number in range(20):
        Counter.create(name=f"parent {number}")
    in_child(lambda: Counter.create(name="second child"))
    assert Counter.select().count() == 42
    assert outside.rows(path, "SELECT COUNT(*) FROM counter") == [[42]]


@needs_fork
def test_a_fork_while_threads_work(db):
    stop = threading.Event()
    written = []

    def work():
        while not stop.is_set():
            written.append(Counter.create(name=f"thread {len(written)}"))
            assert Counter.select(fn.COUNT(Counter.id)).scalar() >= len(written)
        db.close()

    thread = threading.Thread(target=work)
    thread.start()
    for number in range(10):
        in_child(lambda number=number: Counter.create(name=f"child {number}"))
    stop.set()
    thread.join()
    assert Counter.select().count() == len(written) + 10


@needs_fork
def test_a_fork_within_a_transaction_leaves_it_to_the_parent(db):
    def child():
        with pytest.raises((EngineClosedError, OperationalError)):
            Counter.create(name="child")

    with db.atomic():
        Counter.create(name="parent")
        in_child(child)
    assert [counter.name for counter in Counter.select()] == ["parent"]


# Kill


def test_a_killed_writer_leaves_what_it_committed_and_nothing_else(db, path):
    code = """
        import sys
        from peewee import *
        from peewee_honker import HonkerDatabase
        db = HonkerDatabase(sys.argv[1])
        class Counter(db.Model):
            name = TextField(unique=True)
            value = IntegerField(default=0)
        for number in range(10**6):
            with db.atomic():
                Counter.create(name=f"{number} a")
                Counter.create(name=f"{number} b")
            print(number)
    """
    for _ in range(5):
        Counter.delete().execute()
        with outside.Script(code, path) as writer:
            said = [int(writer.line()) for _ in range(20)]
            writer.process.send_signal(signal.SIGKILL)
            writer.process.wait()
        names = {counter.name for counter in Counter.select()}
        assert {f"{number} {half}" for number in said for half in "ab"} <= names
        assert len(names) % 2 == 0
        Counter.create(name="the lock is free")
        assert outside.rows(path, "PRAGMA integrity_check") == [["ok"]]


def test_ctrl_c_in_a_wait_for_the_writer_leaves_it_usable(path, db):
    code = """
        import sys
        from peewee import *
        from peewee_honker import HonkerDatabase
        db = HonkerDatabase(sys.argv[1], timeout=60)
        try:
            db.connect()
            print("connected")
            sys.stdin.readline()
            print("waiting")
            db.execute_sql("INSERT INTO counter (name, value) VALUES ('interrupted', 0)")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        sys.stdin.readline()
        db.execute_sql("INSERT INTO counter (name, value) VALUES ('after', 0)")
        print("done")
    """
    with outside.Script(code, path) as waiting:
        assert waiting.line() == "connected"
        with db.atomic():
            Counter.create(name="holder")
            waiting.say("write")
            assert waiting.line() == "waiting"
            waiting.process.send_signal(signal.SIGINT)
            assert waiting.line() == "interrupted"
        waiting.say("go on")
        assert waiting.line() == "done"
        waiting.finish()
    assert [counter.name for counter in Counter.select()] == ["holder", "after"]


INTERRUPTED = """
    import sys
    from peewee import *
    from peewee_honker import HonkerDatabase
    db = HonkerDatabase(sys.argv[1])
    class Counter(db.Model):
        name = TextField(unique=True)
        value = IntegerField(default=0)
    def interrupt(frame, event, argument):
        # Ctrl-C that comes while Honker runs the statement is raised as soon as the call returns.
        code = frame.f_code
        if event == "return" and code.co_name == "write" and frame.f_locals.get("sql", "").startswith(sys.argv[2]):
            sys.setprofile(None)
            raise KeyboardInterrupt
    told = []
    try:
        sys.setprofile(interrupt)
        with db.atomic():
            Counter.create(name="interrupted")
            db.at_commit(lambda: told.append("interrupted"))
            if sys.argv[2] == "ROLLBACK":
                raise ValueError("roll it back")
    except KeyboardInterrupt:
        sys.setprofile(None)
        print("interrupted")
    assert not db.in_transaction()
    assert not db.connection().in_transaction
    with db.atomic():
        Counter.create(name="next")
    print(*told, flush=True)
    with db.atomic():
        Counter.create(name="last")
    db.close()
"""


@pytest.mark.parametrize(("statement", "kept"), [("BEGIN", False), ("COMMIT", True), ("ROLLBACK", False)])
def test_ctrl_c_as_a_statement_returns_leaves_the_database_as_sqlite_has_it(db, path, statement, kept):
    with outside.Script(INTERRUPTED, path, statement) as interrupted:
        assert interrupted.line() == "interrupted"
        assert interrupted.line() == ("interrupted" if kept else "")
        interrupted.finish()
    names = [name for (name,) in outside.rows(path, "SELECT name FROM counter ORDER BY id")]
    assert names == (["interrupted"] if kept else []) + ["next", "last"]
