"""A relay forwards a durable stream: in order, once where the target remembers, through crashes of either side."""

import logging
import random
import signal
import threading

import pytest

from peewee_honker import Event, ForwardConflictError, HonkerDatabase, Relay, Retention
from peewee_honker.events import (
    EventTarget,
    HonkerEventTarget,
    LocalEventTarget,
    SilentRecorder,
    consumer_places,
    dead_letters,
    forget_consumer,
    seek,
)
from peewee_honker.events.retention import prune_stream
from peewee_honker.events.stream import read_stream
from peewee_honker.events.target import Forwarded
from tests.support import outside


@pytest.fixture
def central(tmp_path):
    """Another file, to forward to."""
    database = HonkerDatabase(f"{tmp_path}/central.db")
    yield database
    database.close_engine()


@pytest.fixture
def target(central):
    return HonkerEventTarget(central, "durable", stream="central")


class Forgetful(EventTarget):
    """A target that remembers nothing, and that can be away."""

    def __init__(self):
        super().__init__(max_bytes=200)
        self.ids = []
        self.is_away = False

    def _dispatch(self, event):
        if self.is_away:
            raise ConnectionError("nobody answers")
        event.to_json(self.max_bytes)
        self.ids.append(event.id)


def publish(db, *ids, stream="orders", payload=None):
    source = HonkerEventTarget(db, "durable", stream=stream)
    with db.atomic():
        for id_ in ids:
            source.dispatch(Event("order.saved", str(id_), payload, origin="here", headers={"a": "b"}))


def arrived(central):
    return [event.id for event in read_stream(central.engine, "central", 0, 100_000)]


def test_events_arrive_in_order_as_they_were(db, central, target):
    publish(db, *range(10))
    with Relay(db, "orders", target) as relay:
        outside.until(lambda: len(arrived(central)) == 10)
        publish(db, *range(10, 1200))  # more than a batch
        publish(db, "rolled back", stream="another stream")
        assert relay.catch_up(outside.DEADLINE)
        assert relay.lag == 0
    there = read_stream(central.engine, "central", 0, 2000)
    assert [event.id for event in there] == [str(number) for number in range(1200)]
    here = read_stream(db.engine, "orders", 0, 2000)
    for one, other in zip(here, there, strict=True):
        assert (one.event_id, one.time, one.origin, one.headers) == (other.event_id, other.time, other.origin, other.headers)


def test_who_waits_for_a_relay_that_is_closed_waits_no_longer(db):
    class Away(LocalEventTarget):
        def forward(self, relay, events, after):
            raise ConnectionError("not there")

    publish(db, 1)
    told = []
    with Relay(db, "orders", Away()) as relay:
        waiting = threading.Thread(target=lambda: told.append(relay.catch_up(3600)))
        waiting.start()
        outside.until(lambda: relay.error)
    outside.until(lambda: told)
    waiting.join()
    assert told == [False]


def test_it_goes_on_where_it_stopped_and_the_place_is_a_consumers(db, central, target):
    publish(db, 1, 2)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
        assert relay.is_active
    [place] = consumer_places(db.engine)
    assert (place.consumer, place.stream, place.lag) == ("relay:orders", "orders", 0)
    publish(db, 3)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    assert arrived(central) == ["1", "2", "3"]


def test_what_the_target_has_is_not_sent_again_though_the_place_was_not_saved(db, central, target):
    publish(db, 1, 2, 3)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    seek(db, "relay:orders", "orders", 0)  # as a crash between the two leaves it
    publish(db, 4)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    assert arrived(central) == ["1", "2", "3", "4"]


def test_a_target_that_has_lost_events_gets_them_again(db, central, target):
    publish(db, 1, 2, 3)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    second = read_stream(db.engine, "orders", 0, 10)[1]
    with central.atomic():  # as its backup from some time ago
        central.execute_sql("DELETE FROM _honker_stream WHERE offset = 3")
        central.execute_sql("UPDATE _honker_peewee_forwarded SET offset = 2, event_id = ?", (second.event_id,))
    with Relay(db, "orders", target):
        outside.until(lambda: arrived(central) == ["1", "2", "3"])


def test_a_source_from_a_backup_goes_on_with_what_the_target_has_not(db, central, target, tmp_path, caplog):
    publish(db, 1, 2)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    db.execute_sql("VACUUM INTO ?", (f"{tmp_path}/backup.db",))
    publish(db, 3)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    restored = HonkerDatabase(f"{tmp_path}/backup.db")
    try:
        publish(restored, "4 after the backup", "5")
        with Relay(restored, "orders", target) as relay:
            assert relay.catch_up(outside.DEADLINE)
    finally:
        restored.close_engine()
    assert arrived(central) == ["1", "2", "3", "4 after the backup", "5"]
    assert "was of another file" in caplog.text


def test_while_the_target_is_away_events_wait(db, caplog):
    caplog.set_level(logging.INFO, "peewee_honker")
    target = Forgetful()
    target.is_away = True
    publish(db, 1, 2)
    with Relay(db, "orders", target) as relay:
        outside.until(lambda: relay.error is not None)
        publish(db, 3)
        assert relay.lag == 3
        assert not relay.catch_up(0.01)
        target.is_away = False
        assert relay.catch_up(outside.DEADLINE)
        assert target.ids == ["1", "2", "3"]
        outside.until(lambda: relay.error is None)
    assert caplog.text.count("ConnectionError: nobody answers") == 1  # once, however often it is tried


def test_an_event_that_the_target_refuses_is_a_dead_letter_and_the_others_go_on(db):
    target, dead = Forgetful(), []

    class Recorder(SilentRecorder):
        def dead(self, type_):
            dead.append(type_)

    publish(db, 1)
    publish(db, "too long", payload="x" * 300)
    publish(db, 2)
    with Relay(db, "orders", target, recorder=Recorder()) as relay:
        assert relay.catch_up(outside.DEADLINE)
    assert target.ids == ["1", "2"]
    [letter] = dead_letters(db)
    assert (letter.consumer, letter.event.id, letter.receiver) == ("relay:orders", "too long", "relay")
    assert "PayloadError" in letter.error
    assert dead == ["order.saved"]


def test_what_the_target_has_refused_is_one_dead_letter_however_often_the_relay_starts(db, central):
    target = HonkerEventTarget(central, "durable", stream="central", max_bytes=1000)
    publish(db, 1)
    publish(db, "too long", payload="x" * 1000)
    for number in (1, 2):
        with Relay(db, "orders", target) as relay:
            outside.until(lambda relay=relay: relay.is_active and relay.lag == 0, "the relay")
            publish(db, f"too long {number}", payload="x" * 1000)  # behind what comes again
            assert relay.catch_up(outside.DEADLINE)
    assert arrived(central) == ["1"]
    assert [letter.event.id for letter in dead_letters(db)] == ["too long", "too long 1", "too long 2"]


def test_retention_waits_for_a_relay_and_what_was_pruned_all_the_same_is_counted(db, central, target, caplog):
    publish(db, 1, 2, 3)
    relay = Relay(db, "orders", target)
    relay.start()
    assert relay.catch_up(outside.DEADLINE)
    relay.close()
    publish(db, 4, 5)
    assert prune_stream(db.engine, "orders", Retention(age=None)) == 3  # what it has not passed stays
    assert prune_stream(db.engine, "orders", Retention(age=None, count=1, consumed=False)) == 1
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
        assert relay.missed == 1
    assert arrived(central) == ["1", "2", "3", "5"]
    assert "pruned before they were forwarded" in caplog.text


def test_a_relay_can_begin_now_and_be_forgotten(db, central, target):
    publish(db, "before")
    with Relay(db, "orders", target, start_at="now", name="edge") as relay:
        publish(db, "after")
        assert relay.catch_up(outside.DEADLINE)
    assert arrived(central) == ["after"]
    forget_consumer(db, "edge")
    assert consumer_places(db.engine) == []


def test_events_are_left_out_by_a_relay_of_another_name(db, central, target):
    publish(db, 1, 2)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    publish(db, 3, 4, 5)
    forget_consumer(db, relay.name)
    with Relay(db, "orders", target, name="orders-again", start_at=4) as relay:
        assert relay.catch_up(outside.DEADLINE)
    assert arrived(central) == ["1", "2", "5"]


def test_of_two_relays_of_one_name_one_works_and_the_other_follows(db, path, central, target):
    publish(db, 1)
    with Relay(db, "orders", target) as first:
        outside.until(lambda: first.is_active)
        with Relay(HonkerDatabase(path), "orders", target) as second:
            assert first.catch_up(outside.DEADLINE)
            assert not second.is_active
            first.close()
            publish(db, 2)
            outside.until(lambda: second.is_active)
            assert second.catch_up(outside.DEADLINE)
    assert arrived(central) == ["1", "2"]


def test_who_comes_with_old_events_is_refused_by_the_target(central, target):
    events = [Event("order.saved", str(number), offset=number) for number in (1, 2)]
    target.forward("edge", events, None)
    known = Forwarded(2, events[-1].event_id)
    assert target.forwarded("edge") == known
    for after in (None, Forwarded(1, events[0].event_id), Forwarded(2, "another event")):
        with pytest.raises(ForwardConflictError, match="edge"):
            target.forward("edge", events, after)
    target.forward("edge", [Event("order.saved", "3", offset=7)], known)
    assert arrived(central) == ["1", "2", "3"]
    assert HonkerEventTarget(central).forwarded("edge") is None  # ephemeral: nothing is remembered


def test_arguments_and_states_that_cannot_be_are_refused(db, target):
    with pytest.raises(ValueError, match="one event"):
        Relay(db, "orders", target, batch=0)
    with pytest.raises(ValueError, match="position"):
        Relay(db, "orders", target, start_at="later")
    relay = Relay(db, "orders", target)
    relay.close()  # nothing
    with relay, pytest.raises(RuntimeError, match="runs already"):
        relay.start()
    with relay:  # again
        assert relay.catch_up(outside.DEADLINE)


RELAY = """
    import sys
    from peewee_honker import HonkerDatabase, Relay
    from peewee_honker.events import HonkerEventTarget
    target = HonkerEventTarget(HonkerDatabase(sys.argv[2], timeout=30), "durable", stream="central")
    with Relay(HonkerDatabase(sys.argv[1], timeout=30), "orders", target, batch=7):
        print("ready")
        sys.stdin.readline()
"""


def test_killed_at_any_point_each_event_is_there_once(db, path, central, tmp_path):
    seed = random.randrange(1000)
    chance = random.Random(seed)
    sent = 0
    for _ in range(3):
        with outside.Script(RELAY, path, f"{tmp_path}/central.db") as relay:
            relay.line()
            for _ in range(chance.randrange(1, 8)):
                publish(db, *range(sent, sent + 20))
                sent += 20
            goal = chance.randrange(sent)
            outside.until(lambda goal=goal: len(arrived(central)) > goal, f"seed {seed}")
            relay.process.send_signal(signal.SIGKILL)
    with Relay(db, "orders", HonkerEventTarget(central, "durable", stream="central")):
        outside.until(lambda: len(arrived(central)) >= sent)
    assert arrived(central) == [str(number) for number in range(sent)], f"seed {seed}"
