"""Streams are kept within bounds, consumers can be put elsewhere, and who missed something is told."""

import datetime
import os
import threading
import time

import pytest

from peewee_honker import EventBus, Retention
from peewee_honker.events import (
    Event,
    Follower,
    HonkerEventTarget,
    consumer_places,
    forget_consumer,
    seek,
    streams,
)
from peewee_honker.events.retention import prune_stream
from tests.support import outside


@pytest.fixture
def stream(db):
    return HonkerEventTarget(db, "durable", stream="ticks")


def publish(target, *numbers):
    for number in numbers:
        target.dispatch(Event("tick", str(number)))


def grow_old(db, seconds, upto):
    db.execute_sql("UPDATE _honker_stream SET created_at = created_at - ? WHERE offset <= ?", (seconds, upto))


def kept(db):
    with_listener = []
    follower = Follower(db, "ticks", lambda event: with_listener.append(event.id), position="beginning")
    follower.poll()
    return with_listener


def consume(db, name, until=None, **options):
    """What a consumer hears until it has heard a certain id."""
    heard = []
    target = HonkerEventTarget(db, "durable", stream="ticks", consumer=name, **options)
    with target.holding():  # a consumer that begins between the two would have told of its gap already
        target.add_listener("tick", lambda event: heard.append(event.id))
        target.add_listener("__gap__", lambda event: heard.append(event.payload))
    try:
        if until is not None:
            outside.until(lambda: until in heard, f"{until} in {heard}")
    finally:
        target.close()
    return heard


def test_by_age(db, stream):
    publish(stream, *range(1, 11))
    grow_old(db, 100, upto=6)
    assert prune_stream(db.engine, "ticks", Retention(age=50)) == 6
    assert kept(db) == ["7", "8", "9", "10"]


def test_by_count_in_batches(db, stream):
    publish(stream, *range(1, 11))
    assert prune_stream(db.engine, "ticks", Retention(age=None, count=3), batch=4) == 4
    assert prune_stream(db.engine, "ticks", Retention(age=None, count=3), batch=4) == 3
    assert prune_stream(db.engine, "ticks", Retention(age=None, count=3), batch=4) == 0
    assert kept(db) == ["8", "9", "10"]


def test_never_what_a_consumer_still_needs(db, stream):
    consume(db, "slow")
    publish(stream, *range(1, 11))
    grow_old(db, 100, upto=10)
    assert prune_stream(db.engine, "ticks", Retention(age=50)) == 0
    assert consume(db, "slow", until="10") == [str(number) for number in range(1, 11)]
    assert prune_stream(db.engine, "ticks", Retention(age=50)) == 10


def test_once_every_consumer_has_passed(db, stream):
    publish(stream, 1)
    assert prune_stream(db.engine, "ticks", Retention(age=None)) == 0
    seek(db, "one", "ticks", "beginning", create=True)
    seek(db, "two", "ticks", "beginning", create=True)
    consume(db, "one", until="1")
    assert prune_stream(db.engine, "ticks", Retention(age=None)) == 0
    forget_consumer(db, "two")
    assert prune_stream(db.engine, "ticks", Retention(age=None)) == 1


def test_a_consumer_that_missed_events_is_told(db, stream):
    consume(db, "late")
    publish(stream, *range(1, 11))
    assert prune_stream(db.engine, "ticks", Retention(age=None, count=2, consumed=False)) == 8
    heard = consume(db, "late", until="10")
    assert heard == [{"channel": "ticks", "after": 0, "before": 9, "reason": "pruned"}, "9", "10"]


def test_a_new_consumer_from_the_beginning_has_missed_nothing(db, stream):
    publish(stream, *range(1, 11))
    prune_stream(db.engine, "ticks", Retention(age=None, count=2))
    assert consume(db, "new", until="10", start_at="beginning") == ["9", "10"]


def test_a_bus_tells_of_missed_events_by_its_signal(db, stream):
    bus = EventBus(db, consumer="late")
    ticks = bus.signal("ticks", durable=True)
    ticks.connect(lambda _: None, weak=False)
    missed = []
    bus.missed.connect(lambda _, event: missed.append(event.payload), weak=False)
    with bus:
        pass
    publish(stream, 1, 2, 3)
    prune_stream(db.engine, "ticks", Retention(age=None, count=1, consumed=False))
    with bus:
        outside.until(lambda: missed)
    assert missed[0]["before"] == 3


def test_notifications_that_were_deleted_unread_are_told_of(db, path):
    target = HonkerEventTarget(db)
    heard = []
    target.add_listener("tick", lambda event: heard.append(event.id))
    target.add_listener("__gap__", lambda event: heard.append(event.payload["reason"]))
    with db.atomic():
        target.dispatch(Event("tick", "1"))
        db.execute_sql("DELETE FROM _honker_notifications")
        target.dispatch(Event("tick", "2"))
    outside.until(lambda: "2" in heard)
    target.close()
    assert heard == ["they were deleted before they were read", "2"]


def test_the_bus_prunes_streams_while_it_runs(db, monkeypatch):
    monkeypatch.setattr("peewee_honker.events.retention._EVERY", 0.1)
    bus = EventBus(db)
    bus.signal("ticks", durable=True, retention=Retention(age=None, count=1))
    stream = HonkerEventTarget(db, "durable", stream="ticks")
    publish(stream, 1, 2, 3)
    with EventBus(db, ephemeral_seconds=2.0), bus:
        outside.until(lambda: kept(db) == ["3"])


# Positions


def test_a_consumer_begins_at_an_offset_or_a_time(db, stream):
    publish(stream, *range(1, 6))
    grow_old(db, 100, upto=3)
    assert consume(db, "by offset", until="5", start_at=2) == ["3", "4", "5"]
    a_minute_ago = datetime.datetime.now() - datetime.timedelta(seconds=60)
    assert consume(db, "by time", until="5", start_at=a_minute_ago) == ["4", "5"]
    with pytest.raises(ValueError, match="a position is"):
        consume(db, "nonsense", start_at="yesterday")


@pytest.mark.parametrize("position", [-1, 2**63, True, "yesterday"])
def test_a_consumer_is_put_at_no_place_that_there_cannot_be(db, stream, position):
    publish(stream, 1)
    with pytest.raises(ValueError, match="a position is"):
        seek(db, "billing", "ticks", position, create=True)
    assert consumer_places(db.engine) == []


def test_a_consumer_can_be_put_elsewhere_while_it_runs(db, stream):
    heard = []
    target = HonkerEventTarget(db, "durable", stream="ticks", consumer="again", start_at="beginning")
    target.add_listener("tick", lambda event: heard.append(event.id))
    publish(stream, 1, 2, 3)
    outside.until(lambda: len(heard) == 3)
    seek(db, "again", "ticks", 1)
    outside.until(lambda: len(heard) == 5)
    target.close()
    assert heard == ["1", "2", "3", "2", "3"]
    place = consumer_places(db.engine)[0]
    assert (place.offset, place.lag, place.active) == (3, 0, False)


def test_streams_and_places_are_listed(db, stream):
    consume(db, "shipping")
    publish(stream, 1, 2)
    (size,) = streams(db.engine)
    assert (size.name, size.events, size.first, size.last) == ("ticks", 2, 1, 2)
    (place,) = consumer_places(db.engine)
    assert (place.consumer, place.stream, place.lag) == ("shipping", "ticks", 2)
    assert abs(place.waiting_since - time.time()) < outside.DEADLINE


def test_a_follower_reads_on_from_an_offset_without_a_name(db, stream):
    publish(stream, 1, 2, 3)
    heard = []
    with Follower(db, "ticks", heard.append, position=1):
        publish(stream, 4)
        outside.until(lambda: len(heard) == 3)
    assert [event.id for event in heard] == ["2", "3", "4"]
    assert consumer_places(db.engine) == []


# The file


@pytest.mark.parametrize("how", ["replaced", "deleted"])
def test_a_bus_goes_on_when_its_file_is(db, path, how, caplog):
    bus = EventBus(db, consumer="c")
    ephemeral, durable = bus.signal("tick"), bus.signal("tock", durable=True)
    heard, missed = [], []
    for signal in (ephemeral, durable):
        signal.connect(heard.append, weak=False)
    bus.missed.connect(lambda _, event: missed.append(event.payload["reason"]), weak=False)
    publish = """
        import sys
        from peewee_honker import EventBus, HonkerDatabase
        bus = EventBus(HonkerDatabase(sys.argv[1]))
        bus.signal("tick").send("tick" + sys.argv[2])
        bus.signal("tock", durable=True).send("tock" + sys.argv[2])
    """
    with bus:
        ephemeral.send("1")
        outside.until(lambda: heard == ["1"])
        db.close()
        other = path + ".other"
        with outside.Script(publish, other, "0") as script:
            script.finish()
        for end in ("-wal", "-shm"):
            if os.path.exists(path + end):
                os.remove(path + end)
        if how == "replaced":
            os.replace(other, path)
        else:
            os.remove(path)
            outside.until(lambda: "is gone" in caplog.text)
            os.replace(other, path)
        outside.until(lambda: "the file was replaced" in missed)
        outside.until(lambda: "was replaced by another file" in caplog.text)
        with outside.Script(publish, path, "2") as script:
            script.finish()
        outside.until(lambda: len(heard) >= 3, str(heard))
    assert sorted(heard) == ["1", "tick2", "tock2"]


def test_a_receivers_keyboard_interrupt_ends_who_runs_the_bus(db):
    bus = EventBus(db)
    stop = bus.signal("stop")

    @stop.connect
    def hear(sender):
        raise KeyboardInterrupt

    def send():
        outside.until(lambda: bus.is_running)
        stop.send()
        db.close()

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        bus.run()
    sender.join()


def test_stop_gives_receivers_the_whole_backlog_that_they_can_take(db):
    stream = HonkerEventTarget(db, "durable", stream="tick")
    with db.atomic():
        for number in range(2000):  # several pages
            stream.dispatch(Event("tick", payload={"sender": number, "named": {}}))
    bus = EventBus(db, consumer="all", start_at="beginning")
    heard = []
    bus.signal("tick", durable=True).connect(heard.append, weak=False)
    bus.start()
    bus.stop()
    assert heard == list(range(2000))


def test_seeking_a_consumer_that_nobody_knows_is_refused(db):
    with pytest.raises(LookupError, match=r"no consumer shiping .* create=True"):
        seek(db, "shiping", "orders", "beginning")
    assert seek(db, "shipping", "orders", 7, create=True) == 7
    assert seek(db, "shipping", "orders", 5) == 5
