"""PostgresTarget on a real server: order, size, faults of the server, of the connection and of consumers."""

import itertools
import os
import signal
import threading
import time

import peewee
import pytest

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: the extra `postgres`")

from peewee_honker import Event, HonkerError, Retention
from peewee_honker.events import GAP
from peewee_honker.events.retention import Pruner
from peewee_honker.servers.postgres import PostgresTarget, PostgresUnavailableError, store_for
from peewee_honker.signals import in_transaction
from tests.support import outside
from tests.support.errors import HARD_TO_WRITE

pytestmark = pytest.mark.services

BOTH = pytest.mark.parametrize("mode", ["ephemeral", "durable"])


@pytest.fixture
def hear(pg):
    """`hear(mode)` gives a target with a listener, and the list of the ids that it has heard."""
    targets = []

    def make(mode="durable", **options):
        if mode == "durable":
            options.setdefault("consumer", "test")
        made = PostgresTarget(pg, mode, **options)
        targets.append(made)
        heard = []
        made.add_listener("*", lambda event: heard.append(event.id))
        return made, heard

    yield make
    for each in targets:
        each.close()


def say(target, *ids):
    for id_ in ids:
        target.dispatch(Event("order.saved", id_, {"id": id_}))


def backends(server, url):
    """The pids of the connections to the test's database."""
    name = url.split("/")[3].split("?")[0]
    return [pid for (pid,) in server.sql(f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'")]


def cut(server, url):
    """End every connection to the test's database."""
    for pid in backends(server, url):
        server.sql(f"SELECT pg_terminate_backend({pid})")


# Order


@BOTH
def test_a_transaction_that_took_its_number_first_and_commits_last_is_not_missed(pg, hear, postgres_url, mode):
    """A reader of `id > last` on plain sequence numbers would miss the slow one's."""
    target, heard = hear(mode)
    with psycopg.connect(postgres_url) as slow, psycopg.connect(postgres_url) as fast:
        into = "INSERT INTO peewee_honker.outbox (stream, name, payload) VALUES (%s, %s, %s)"
        stream = "events" if mode == "durable" else None
        for connection, id_ in ((slow, "slow"), (fast, "fast")):
            name = id_ if mode == "durable" else "order.saved"
            connection.execute(into, (stream, name, Event("order.saved", id_).to_json()))
        fast.commit()
        outside.until(lambda: heard == ["fast"])
        say(target, "later")
        outside.until(lambda: heard == ["fast", "later"])
        slow.commit()
        outside.until(lambda: len(heard) == 3)
    assert heard == ["fast", "later", "slow"]


def test_offsets_are_seen_in_their_order_while_many_transactions_commit_at_once(pg, postgres_url):
    """Whoever sees an offset sees all the lower ones: nothing comes in behind a reader."""
    store, done, seen, holes = store_for(pg), threading.Event(), [], []
    store.prepare()

    def publish(number):
        with psycopg.connect(postgres_url) as connection:
            for turn in range(40):
                connection.execute(
                    "INSERT INTO peewee_honker.outbox (stream, name, payload) VALUES ('s', '', %s)",
                    (f"{number * 100 + turn}",),
                )
                if turn % 3 == 0:
                    connection.execute("SELECT pg_sleep(0.002)")
                (connection.rollback if turn % 7 == 6 else connection.commit)()

    def read():
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            while not done.is_set():
                seen.append([row[0] for row in connection.execute('SELECT "offset" FROM peewee_honker.stream')])

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=publish, args=(number,)) for number in range(6)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    for earlier, later in itertools.pairwise(seen):
        last = max(earlier, default=0)
        holes += sorted({offset for offset in later if offset <= last} - set(earlier))
    assert holes == []
    assert len(seen) > 1
    assert len(store.read_page("s", 0, 1000)[0]) == 6 * 35
    assert pg.execute_sql("SELECT count(*) FROM peewee_honker.outbox").fetchone() == (0,)


def test_publishers_do_not_wait_for_each_others_transactions(pg, hear, postgres_url):
    target, heard = hear()
    with psycopg.connect(postgres_url) as other:
        other.execute("INSERT INTO peewee_honker.outbox (stream, name, payload) VALUES ('events', 'a', '{}')")
        pg.execute_sql("SET lock_timeout = '1s'")
        say(target, "b")  # raises if it waited
        outside.until(lambda: heard == ["b"])


# Size


@BOTH
def test_a_payload_longer_than_a_notification_may_be_arrives_whole(hear, mode):
    target, _ = hear(mode)
    heard = []
    target.add_listener("large", lambda event: heard.append(event.payload))
    target.dispatch(Event("large", "", "ä" * 200_000))
    outside.until(lambda: heard)
    assert heard == ["ä" * 200_000]


# Faults


@BOTH
def test_nothing_is_lost_when_the_connection_is_cut(pg, hear, postgres_server, postgres_url, mode):
    target, heard = hear(mode)
    expected = []
    for turn in range(5):
        say(target, f"{turn} before")
        cut(postgres_server, postgres_url)
        with pytest.raises(peewee.PeeweeException):  # the publisher's connection too: Peewee tells, and is connected anew
            say(target, f"{turn} lost")
        pg.close()
        say(target, f"{turn} after")
        expected += [f"{turn} before", f"{turn} after"]
    outside.until(lambda: heard and heard[-1] == "4 after")
    if mode == "durable":  # at least once
        assert list(dict.fromkeys(heard)) == expected
    else:
        assert heard == expected


@BOTH
def test_nothing_is_lost_when_the_server_crashes_and_comes_back(pg, hear, postgres_server, mode, caplog):
    target, heard = hear(mode)
    say(target, "1")
    outside.until(lambda: heard == ["1"])
    postgres_server.end(signal.SIGKILL)
    pg.close()
    outside.until(lambda: "no events for now" in caplog.text)
    with pytest.raises((peewee.OperationalError, HonkerError)):
        say(target, "lost")
    postgres_server.start()
    say(target, "2", "3")
    outside.until(lambda: "3" in heard)
    assert list(dict.fromkeys(heard)) == ["1", "2", "3"]


def test_a_missed_notification_delays_an_event_and_loses_none(pg, hear):
    target, heard = hear()
    body = pg.execute_sql("SELECT prosrc FROM pg_proc WHERE proname = 'place_event'").fetchone()[0]
    silent = body.replace("PERFORM pg_notify", "-- PERFORM pg_notify")
    pg.execute_sql(
        f"CREATE OR REPLACE FUNCTION peewee_honker.place_event() RETURNS trigger LANGUAGE plpgsql AS $${silent}$$"
    )
    say(target, "1", "2")
    outside.until(lambda: heard == ["1", "2"])


def test_a_cut_in_the_middle_of_a_transactional_receiver_neither_loses_nor_doubles_its_work(
    pg, postgres_server, postgres_url
):
    pg.execute_sql("CREATE TABLE done (id text)")
    target = PostgresTarget(pg, "durable", consumer="test")
    cuts = []

    @in_transaction
    def work(event):
        pg.execute_sql("INSERT INTO done VALUES (%s)", (event.id,))
        if len(cuts) < 3:
            cuts.append(event.id)
            cut(postgres_server, postgres_url)

    publisher = peewee.PostgresqlDatabase(postgres_url, prefer_psycopg3=True)
    try:
        target.add_listener("*", work)
        for number in range(20):
            try:
                say(PostgresTarget(publisher, "durable"), str(number))
            except (peewee.PeeweeException, HonkerError):
                publisher.close()
                say(PostgresTarget(publisher, "durable"), str(number))
        pg.close()

        def all_done():
            return postgres_server.sql("SELECT count(DISTINCT id) FROM done", publisher_name(postgres_url)) == [(20,)]

        outside.until(all_done)
    finally:
        target.close()
        publisher.close()
    rows = postgres_server.sql("SELECT id FROM done", publisher_name(postgres_url))
    assert len(cuts) == 3
    published = postgres_server.sql('SELECT key FROM peewee_honker.stream ORDER BY "offset"', publisher_name(postgres_url))
    assert sorted(rows) == sorted(published)  # each event's work once, as often as it was published
    assert store_for(pg).dead_letters() == []  # a lost connection is no failure of a receiver


def publisher_name(url):
    return url.split("/")[3].split("?")[0]


def test_a_receiver_whose_connection_is_always_lost_does_not_hold_the_stream_for_ever(pg, monkeypatch):
    """As `idle_in_transaction_session_timeout` may do to one that takes too long."""
    monkeypatch.setattr("peewee_honker.events.consumer._PAUSE", 0.01)
    done = []

    @in_transaction
    def work(event):
        if event.id == "slow":
            pg.execute_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        done.append(event.id)

    with PostgresTarget(pg, "durable", consumer="test", attempts=2, backoff=0.01) as target:
        target.add_listener("*", work)
        say(target, "slow", "next")
        outside.until(lambda: done == ["next"])
    (letter,) = store_for(pg).dead_letters()
    assert letter.event.id == "slow"


def our_threads():
    return {thread for thread in threading.enumerate() if "peewee-honker" in thread.name}


def test_the_absence_of_a_server_is_said_at_the_start():
    before = our_threads()
    target = PostgresTarget("postgresql://somebody:secret@/shop?host=/nowhere")
    with pytest.raises(PostgresUnavailableError, match=r"/nowhere.*'shop'.*Is the server running") as caught:
        target.add_listener("*", print)
    assert isinstance(caught.value, HonkerError)
    assert "secret" not in str(caught.value)
    with pytest.raises(PostgresUnavailableError):
        target.dispatch(Event("order.saved"))
    assert our_threads() <= before


def test_threads_and_connections_end_with_the_last_listener(pg, hear, postgres_server, postgres_url):
    before = our_threads()
    target, heard = hear()
    say(target, "1")
    outside.until(lambda: heard)
    target.close()
    pg.close()
    assert our_threads() <= before
    outside.until(lambda: backends(postgres_server, postgres_url) == [])


# Consumers

CONSUMER = """
    import sys, time
    import peewee
    from peewee_honker import Event
    from peewee_honker.servers.postgres import PostgresTarget
    from peewee_honker.signals import in_transaction
    db = peewee.PostgresqlDatabase(sys.argv[1], prefer_psycopg3=True)
    target = PostgresTarget(db, "durable", consumer="workers", start_at="beginning")
    def hear(event):
        print(event.id)
        if event.id == "stick":
            time.sleep(1000)
    @in_transaction
    def work(event):
        db.execute_sql("INSERT INTO done VALUES (%s)", (event.id,))
        if event.id == "stick":
            time.sleep(1000)
    target.add_listener("*", work if sys.argv[2] == "in transaction" else hear)
    print("ready")
    sys.stdin.read()
    target.close()
"""


def test_a_killed_consumers_place_is_taken_by_the_next_which_goes_on_where_it_was(pg, postgres_url):
    target = PostgresTarget(pg, "durable")
    with (
        outside.Script(CONSUMER, postgres_url, "outside") as first,
        outside.Script(CONSUMER, postgres_url, "outside") as second,
    ):
        assert first.line() == second.line() == "ready"
        say(target, "1", "2")
        active = read_either(first, second)
        assert active.line() == "2"
        newest = store_for(pg).offset_of("events", "now")
        outside.until(lambda: store_for(pg).place("workers", "events") == newest)
        active.process.send_signal(signal.SIGKILL)
        say(target, "3")
        follower = second if active is first else first
        assert follower.line() == "3"


def read_either(*scripts):
    """Which of the scripts prints first."""
    import select

    ready, _, _ = select.select([script.process.stdout for script in scripts], [], [], outside.DEADLINE)
    found = next(script for script in scripts if script.process.stdout in ready)
    found.line()
    return found


def test_a_consumer_killed_within_its_transaction_leaves_nothing_and_the_next_does_it_once(pg, postgres_url):
    pg.execute_sql("CREATE TABLE done (id text)")
    target = PostgresTarget(pg, "durable")
    say(target, "1", "stick", "2")
    with outside.Script(CONSUMER, postgres_url, "in transaction") as first:
        assert first.line() == "ready"
        outside.until(lambda: pg.execute_sql("SELECT count(*) FROM done").fetchone() == (1,))
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    pg.execute_sql("UPDATE peewee_honker.stream SET payload = replace(payload, '\"stick\"', '\"free\"')")
    with outside.Script(CONSUMER, postgres_url, "in transaction") as second:
        assert second.line() == "ready"
        outside.until(lambda: pg.execute_sql("SELECT count(*) FROM done").fetchone() == (3,))
        second.finish()
    assert pg.execute_sql("SELECT id FROM done").fetchall() == [("1",), ("free",), ("2",)]


def test_one_that_lost_its_lock_unawares_commits_nothing_after_another_has_taken_it(pg, open_postgres):
    """The session that holds the advisory lock is cut, and another takes over, while a receiver still works."""
    pg.execute_sql("CREATE TABLE done (who text)")
    store, other = store_for(pg), store_for(open_postgres())
    store.make_place("c", "s", 0)
    store.link.hold()
    other.link.hold()
    try:
        assert store.lead("c", "one", 6)
        assert not other.lead("c", "two", 6)
        store.link.query("SELECT 1")
        other.link.query("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        outside.until(lambda: other.lead("c", "two", 6))
        with pytest.raises(RuntimeError, match="not the leader"), pg.atomic():
            pg.execute_sql("INSERT INTO done VALUES ('one')")
            if not store.is_leader("c", "one"):
                raise RuntimeError("not the leader")
        with pg.atomic():
            assert not store.is_leader("c", "one")
        with other.atomic():
            assert other.is_leader("c", "two")
    finally:
        store.link.let_go()
        other.link.let_go()


def test_two_consumers_of_one_name_in_one_process_share_a_connection_and_not_the_lead(pg):
    store = store_for(pg)
    store.prepare()
    store.link.hold()
    try:
        assert store.lead("c", "one", 6)
        assert not store.lead("c", "two", 6)
        store.stop_leading("c", "one")
        assert store.lead("c", "two", 6)
    finally:
        store.link.let_go()


def test_a_receiver_that_fails_is_called_again_then_the_event_is_a_dead_letter(pg, hear):
    target, _heard = hear(attempts=3, backoff=0.01)
    calls = []

    def broken(event):
        calls.append(event.id)
        if event.id == "bad":
            raise ValueError("cannot \0 ship")

    target.add_listener("order.saved", broken)
    say(target, "1", "bad", "2")
    outside.until(lambda: calls and calls[-1] == "2")
    assert calls == ["1", "bad", "bad", "bad", "2"]
    (letter,) = store_for(pg).dead_letters("test")
    assert (letter.event.id, letter.attempts, letter.stream) == ("bad", 3, "events")
    assert "cannot" in letter.error
    with pytest.raises(ValueError, match="cannot"):
        target.consumer.replay(letter)
    assert store_for(pg).forget(letter)
    assert store_for(pg).dead_letters() == []


def test_a_consumer_of_a_new_name_begins_where_it_is_told(pg):
    target = PostgresTarget(pg, "durable")
    say(target, "1", "2", "3")
    second = store_for(pg).read_page("events", 0, 10)[0][1]
    for name, start_at, expected in (
        ("a", "beginning", ["1", "2", "3", "4"]),
        ("b", second, ["3", "4"]),
        ("c", "now", ["4"]),
    ):
        heard = []
        with PostgresTarget(pg, "durable", consumer=name, start_at=start_at) as reader:
            reader.add_listener("*", lambda event, heard=heard: heard.append(event.id))
            if name == "a":
                outside.until(lambda heard=heard: len(heard) == 3)
                say(target, "4")
            elif name == "c":
                say(target, "4")
            outside.until(lambda heard=heard: "4" in heard)
        assert heard[: len(expected)] == expected
    with pytest.raises(ValueError, match="a position is"):
        PostgresTarget(pg, "durable", consumer="d", start_at=-1).add_listener("*", print)


# Retention


def test_what_is_pruned_before_it_was_read_is_told_of_by_a_gap(pg):
    writer, store = PostgresTarget(pg, "durable"), store_for(pg)
    reader = PostgresTarget(pg, "durable", consumer="late", start_at="beginning")
    store.make_place("late", "events", "beginning")
    say(writer, *map(str, range(10)))
    assert not store.prune_stream("events", Retention(age=None, count=3))
    assert len(store.read_page("events", 0, 100)[0]) == 10  # `late` needs them
    store.prune_stream("events", Retention(age=None, count=3, consumed=False))
    heard, gaps = [], []
    reader.add_listener(GAP, lambda event: gaps.append(event.payload))
    reader.add_listener("*", lambda event: heard.append(event.id))
    outside.until(lambda: len(heard) == 3)
    reader.close()
    assert heard == ["7", "8", "9"]
    assert gaps == [{"channel": "events", "after": 0, "before": 8, "reason": "pruned"}]


def test_retention_by_age_and_by_what_consumers_have_passed(pg):
    writer, store = PostgresTarget(pg, "durable"), store_for(pg)
    say(writer, *map(str, range(1200)))
    pg.execute_sql("UPDATE peewee_honker.stream SET created_at = created_at - interval '1 day' WHERE key::int < 600")
    assert not store.prune_stream("events", Retention(age=2 * 24 * 3600.0))
    pruner = Pruner(store, 600, lambda: {"events": Retention(age=3600.0)})
    pruner._next = 0
    pruner.poll()
    pruner.poll()
    offsets, events = store.read_page("events", 0, 2000)
    assert [event.id for event in events] == [str(number) for number in range(600, 1200)]
    store.seek("c", "events", offsets[99], create=True)
    while store.prune_stream("events", Retention(age=None)):
        pass
    assert len(store.read_page("events", 0, 2000)[0]) == 500


def test_ephemeral_events_are_kept_for_those_who_are_late_and_no_longer(pg):
    target, store = PostgresTarget(pg), store_for(pg)
    say(target, "1", "2", "3")
    assert not store.prune_notifications(600)
    assert len(store.notifications_behind(0, 10)) == 3
    store.prune_notifications(-1)
    assert store.notifications_behind(0, 10) == []
    assert store.pruned_offset("") == 3


def test_a_listener_that_was_away_too_long_is_told_of_the_gap(pg, hear, postgres_server, caplog):
    target, heard = hear("ephemeral")
    gaps = []
    target.add_listener(GAP, lambda event: gaps.append(event.payload["reason"]))
    say(target, "1")
    outside.until(lambda: heard == ["1"])
    postgres_server.end()
    pg.close()
    outside.until(lambda: "no events for now" in caplog.text)
    # All that was published and pruned in the meantime, by processes that were quicker to come back.
    link = target._store.link
    connect, link._connected = link._connected, _fail
    postgres_server.start()
    say(target, "2")
    pg.execute_sql("DELETE FROM peewee_honker.notifications")
    pg.execute_sql("INSERT INTO peewee_honker.pruned VALUES ('', 1000)")
    link._connected = connect
    outside.until(lambda: gaps)
    assert gaps == ["they were deleted before they were read"]


def _fail():
    raise PostgresUnavailableError("kept away")


# Others


def test_a_fork_has_a_connection_of_its_own(pg, hear):
    target, heard = hear()
    say(target, "parent")
    outside.until(lambda: heard == ["parent"])
    pg.close()
    child = os.fork()
    if not child:
        code = 1
        try:
            with PostgresTarget(pg, "durable") as own:
                say(own, "child")
                pg.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    say(target, "parent again")
    outside.until(lambda: len(heard) == 3)
    assert heard == ["parent", "child", "parent again"]


def test_many_processes_may_make_the_tables_at_once(postgres_url):
    code = """
        import sys
        from peewee_honker import Event
        from peewee_honker.servers.postgres import PostgresTarget
        with PostgresTarget(sys.argv[1], "durable") as target:
            target.dispatch(Event("order.saved"))
    """
    scripts = [outside.Script(code, postgres_url) for _ in range(3)]
    for script in scripts:
        with script:
            script.finish()


def test_an_idle_bus_asks_the_server_a_few_times_a_second_at_most(pg, hear):
    _, heard = hear()
    store = store_for(pg)
    asked = []
    query = store.link.query
    store.link.query = lambda *arguments: asked.append(arguments[0]) or query(*arguments)
    began = time.monotonic()
    outside.until(lambda: time.monotonic() - began > 2.0)
    del store.link.query
    assert heard == []
    assert 1 <= len(asked) < 20


@pytest.mark.parametrize("error", HARD_TO_WRITE)
def test_an_error_that_cannot_be_written_as_it_is_does_not_stop_its_stream(pg, hear, error):
    heard = []

    def fails(event):
        heard.append(event.id)
        raise error

    target, _heard = hear(attempts=1)
    target.add_listener("order.saved", fails)
    say(target, "1", "2")
    outside.until(lambda: len(store_for(pg).dead_letters("test")) == 2)
    assert heard == ["1", "2"]
    assert all(letter.error and "fails" in letter.traceback for letter in store_for(pg).dead_letters("test"))
