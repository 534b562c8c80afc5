"""A relay from a file to PostgreSQL: each event is there once, through crashes of either side."""

import random
import signal

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: the extra `postgres`")

from peewee_honker import Event, ForwardConflictError, PayloadError, Relay
from peewee_honker.events import HonkerEventTarget, dead_letters, seek
from peewee_honker.events.target import Forwarded
from peewee_honker.servers.postgres import PostgresTarget
from tests.support import outside

pytestmark = pytest.mark.services

RELAY = """
    import sys
    from peewee_honker import HonkerDatabase, Relay, connect
    target = connect(sys.argv[2], "durable", stream="central")
    with Relay(HonkerDatabase(sys.argv[1], timeout=30), "orders", target, batch=7):
        print("ready")
        sys.stdin.readline()
"""


@pytest.fixture
def target(pg):
    with PostgresTarget(pg, "durable", stream="central") as target:
        yield target


def publish(db, *ids):
    source = HonkerEventTarget(db, "durable", stream="orders")
    with db.atomic():
        for id_ in ids:
            source.dispatch(Event("order.saved", str(id_), {"number": id_}))


def arrived(pg):
    rows = pg.execute_sql("""SELECT payload::json->>'id' FROM peewee_honker.stream ORDER BY "offset" """)
    return [id_ for (id_,) in rows]


def test_events_arrive_in_order_and_once_though_the_place_was_not_saved(db, pg, target):
    publish(db, *range(1200))
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    seek(db, "relay:orders", "orders", 3)  # as a crash between the two leaves it
    publish(db, 1200)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    assert arrived(pg) == [str(number) for number in range(1201)]


def test_who_comes_with_old_events_is_refused(pg, target):
    events = [Event("order.saved", str(number), offset=number) for number in (1, 2)]
    target.forward("edge", events, None)
    known = Forwarded(2, events[-1].event_id)
    assert target.forwarded("edge") == known
    for after in (None, Forwarded(1, events[0].event_id)):
        with pytest.raises(ForwardConflictError, match="edge"):
            target.forward("edge", events, after)
    target.forward("edge", [Event("order.saved", "3", offset=7)], known)
    assert arrived(pg) == ["1", "2", "3"]


def test_what_postgresql_cannot_hold_is_a_dead_letter_and_the_others_go_on(db, pg, target):
    publish(db, 1, "a\0b", 2)
    with db.atomic():
        HonkerEventTarget(db, "durable", stream="orders").dispatch(Event("order.saved", "3", event_id="a\0b"))
    publish(db, 4)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    assert arrived(pg) == ["1", "2", "4"]
    assert [letter.event.id for letter in dead_letters(db)] == ["a\0b", "3"]
    with pytest.raises(PayloadError, match="NUL"), pg.atomic():
        target.dispatch(Event("order.saved", "a\0b"))


def test_the_server_may_crash_and_the_relay_be_killed_and_each_event_is_there_once(
    db, path, pg, target, postgres_server, postgres_url
):
    seed = random.randrange(1000)
    chance = random.Random(seed)
    sent = 0
    target.forward("none", [Event("order.saved", "first", offset=1)], None)  # which makes the tables
    with outside.Script(RELAY, path, postgres_url) as relay:
        relay.line()
        for turn in range(3):
            goal = sent + chance.randrange(1, 60)
            publish(db, *range(sent, sent + 60))
            sent += 60
            outside.until(lambda goal=goal: len(arrived(pg)) >= goal, f"seed {seed}")
            if turn < 2:
                pg.close()
                postgres_server.end(signal.SIGKILL)
                postgres_server.start()
        relay.process.send_signal(signal.SIGKILL)
    publish(db, sent)
    with Relay(db, "orders", target):
        outside.until(lambda: len(arrived(pg)) >= sent + 2)
    assert arrived(pg) == ["first", *[str(number) for number in range(sent + 1)]], f"seed {seed}"
