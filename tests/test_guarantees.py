"""docs/guarantees.md, cell by cell: what happens to an event in each mode when something goes wrong."""

import re
import signal
from pathlib import Path

import pytest

from peewee_honker import Event, Retention
from peewee_honker.events import CompositeEventTarget, HonkerEventTarget, LocalEventTarget
from peewee_honker.events.retention import prune_stream
from tests.support import outside

PAGE = Path(__file__).parent.parent / "docs" / "guarantees.md"

HEAD = """
    import os, signal, sys
    from peewee import *
    from peewee_honker import Event, EventBus, HonkerDatabase
    from peewee_honker.events import CompositeEventTarget, HonkerEventTarget, LocalEventTarget
    from peewee_honker.signals import in_transaction
    db = HonkerDatabase(sys.argv[1], timeout=30)
    def make(mode):
        if mode == "local":
            return CompositeEventTarget(LocalEventTarget(db), HonkerEventTarget(db))
        durable = mode in ("durable", "transactional")
        return HonkerEventTarget(db, "durable", consumer="work", start_at="beginning") if durable else HonkerEventTarget(db)
    target = make(sys.argv[2])
"""
PUBLISHER = (
    HEAD
    + """
    with db.atomic():
        target.dispatch(Event("order.saved", "from the publisher"))
        print("written"); sys.stdin.readline()
    print("committed"); sys.stdin.readline()
"""
)
# Its work is a line in a file, or a row where that is part of the transaction. It is killed where it is told to be.
RECEIVER = (
    HEAD
    + """
    class Work(db.Model):
        order = TextField()
    db.create_tables([Work])
    where, notes = sys.argv[3:]
    def work(event):
        first = not os.path.exists(notes)
        if first and where == "before":
            open(notes, "a").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[2] == "transactional":
            Work.create(order=event.id)
        with open(notes, "a") as file:
            file.write(event.id + "\\n")
        if first and where == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.stdout.write(event.id + "\\n")
    if sys.argv[2] == "transactional":
        work = in_transaction(work)
    target.add_listener("order.saved", work)
    sys.stdout.write("ready\\n")  # at once, as print() of another thread may come between text and newline
    sys.stdin.readline(); target.close()
"""
)


@pytest.fixture
def listen(db):
    """`listen(mode)` gives the ids of the events that a listener in this process hears."""
    made = []

    def make(mode):
        heard = []
        if mode == "local":
            target = CompositeEventTarget(LocalEventTarget(db), HonkerEventTarget(db))
        elif mode == "durable":
            target = HonkerEventTarget(db, "durable", consumer="work")
        else:
            target = HonkerEventTarget(db)
        target.add_listener("order.saved", lambda event: heard.append(event.id))
        made.append(target)
        return target, heard

    yield make
    for target in made:
        target.close()


def kill(script):
    script.process.send_signal(signal.SIGKILL)
    script.process.wait()


MODES = pytest.mark.parametrize("mode", ["local", "ephemeral", "durable"])


@MODES
def test_publisher_killed_before_its_commit(listen, path, mode):
    target, heard = listen(mode)
    with outside.Script(PUBLISHER, path, mode) as publisher:
        assert publisher.line() == "written"
        kill(publisher)
    target.dispatch(Event("order.saved", "the next"))
    outside.until(lambda: heard)
    assert heard == ["the next"]


@MODES
def test_publisher_killed_after_its_commit(listen, path, mode):
    _, heard = listen(mode)
    with outside.Script(PUBLISHER, path, mode) as publisher:
        assert publisher.line() == "written"
        publisher.say("commit")
        assert publisher.line() == "committed"
        kill(publisher)
    outside.until(lambda: heard)
    assert heard == ["from the publisher"]


def receive_through_a_kill(db, path, mode, where, tmp_path):
    """Two events for a receiver that is killed once at its first and started again; the lines that it has noted."""
    notes = str(tmp_path / "notes")
    durable = mode in ("durable", "transactional")
    target = HonkerEventTarget(db, "durable" if durable else "ephemeral")
    with outside.Script(RECEIVER, path, mode, where, notes) as receiver:
        assert receiver.line() == "ready"
        target.dispatch(Event("order.saved", "1"))
        receiver.process.wait(outside.DEADLINE)
        assert receiver.process.returncode == -signal.SIGKILL
    db.execute_sql("DELETE FROM _honker_locks")  # the lease of who was killed would be waited for
    with outside.Script(RECEIVER, path, mode, where, notes) as receiver:
        while receiver.line() != "ready":  # what comes again may come first
            pass
        target.dispatch(Event("order.saved", "2"))
        while receiver.line() != "2":
            pass
        receiver.say("end")
        receiver.finish()
    return Path(notes).read_text().split()


def test_ephemeral_receiver_killed_before_its_work(db, path, tmp_path):
    assert receive_through_a_kill(db, path, "ephemeral", "before", tmp_path) == ["2"]


def test_ephemeral_receiver_killed_after_its_work(db, path, tmp_path):
    assert receive_through_a_kill(db, path, "ephemeral", "after", tmp_path) == ["1", "2"]


def test_durable_receiver_killed_before_its_work(db, path, tmp_path):
    assert receive_through_a_kill(db, path, "durable", "before", tmp_path) == ["1", "2"]


def test_durable_receiver_killed_after_its_work(db, path, tmp_path):
    assert receive_through_a_kill(db, path, "durable", "after", tmp_path) == ["1", "1", "2"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_transactional_receiver_killed(db, path, tmp_path, where):
    receive_through_a_kill(db, path, "transactional", where, tmp_path)
    assert outside.rows(path, 'SELECT "order" FROM work ORDER BY id') == [["1"], ["2"]]


def test_ephemeral_receiver_is_away(listen):
    target, heard = listen("ephemeral")
    target.close()
    target.dispatch(Event("order.saved", "while away"))
    target.add_listener("order.saved", lambda event: heard.append(event.id))
    target.dispatch(Event("order.saved", "back"))
    outside.until(lambda: heard)
    assert heard == ["back"]


def test_durable_receiver_is_away(listen):
    target, heard = listen("durable")
    target.close()
    target.dispatch(Event("order.saved", "while away"))
    target.add_listener("order.saved", lambda event: heard.append(event.id))
    target.dispatch(Event("order.saved", "back"))
    outside.until(lambda: len(heard) == 2)
    assert heard == ["while away", "back"]


def test_ephemeral_events_deleted_before_they_were_read(db, listen):
    target, heard = listen("ephemeral")
    target.add_listener("__gap__", lambda _: heard.append("gap"))
    with db.atomic():
        target.dispatch(Event("order.saved", "1"))
        db.execute_sql("DELETE FROM _honker_notifications")
        target.dispatch(Event("order.saved", "2"))
    outside.until(lambda: "2" in heard)
    assert heard == ["gap", "2"]


def test_durable_events_deleted_before_they_were_read(db, listen):
    target, heard = listen("durable")
    target.close()
    for id_ in "123":
        target.dispatch(Event("order.saved", id_))
    prune_stream(db.engine, "events", Retention(age=None, count=1, consumed=False))
    with target.holding():
        target.add_listener("__gap__", lambda _: heard.append("gap"))
        target.add_listener("order.saved", lambda event: heard.append(event.id))
    outside.until(lambda: "3" in heard)
    assert heard == ["gap", "3"]


def test_ephemeral_two_receivers(listen):
    (target, one), (_, two) = listen("ephemeral"), listen("ephemeral")
    target.dispatch(Event("order.saved", "1"))
    outside.until(lambda: one and two)
    assert (one, two) == (["1"], ["1"])


def test_durable_two_receivers_of_one_name(db, listen):
    (target, one), (_, two) = listen("durable"), listen("durable")
    for number in range(20):
        target.dispatch(Event("order.saved", str(number)))
    outside.until(lambda: len(one) + len(two) == 20)
    assert [] in (one, two)


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_clock_jumps(db, listen, seconds):
    """What a clock that has jumped writes: rows that are younger or older than their neighbours."""
    for mode, table in (("ephemeral", "notifications"), ("durable", "stream")):
        target, heard = listen(mode)
        with db.atomic():
            for id_ in "123":
                target.dispatch(Event("order.saved", id_))
                if id_ == "2":
                    db.execute_sql(f"UPDATE _honker_{table} SET created_at = created_at + ?", (seconds,))
        outside.until(lambda heard=heard: len(heard) == 3)
        assert heard == ["1", "2", "3"]


def test_clock_jumps_over_a_lease(db, path):
    """A lease that a jump has ended early is taken by another; both together do each event's work once."""
    scripts = [outside.Script(RECEIVER, path, "transactional", "never", path + ".notes") for _ in range(2)]
    target = HonkerEventTarget(db, "durable")
    with scripts[0] as one, scripts[1] as two:
        assert (one.line(), two.line()) == ("ready", "ready")
        for number in range(30):
            target.dispatch(Event("order.saved", str(number)))
            if number % 10 == 5:
                outside.until(lambda: db.execute_sql("SELECT count(*) FROM _honker_locks").fetchone()[0])
                db.execute_sql("UPDATE _honker_locks SET expires_at = 0")
        outside.until(lambda: db.execute_sql("SELECT count(*) FROM work").fetchone()[0] >= 30, "the work")
    done = [int(number) for (number,) in outside.rows(path, 'SELECT "order" FROM work ORDER BY id')]
    assert done == list(range(30))


def test_every_cell_of_the_page_has_its_test():
    source = Path(__file__).parent
    there = {name for file in source.glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert named
    assert named <= there
