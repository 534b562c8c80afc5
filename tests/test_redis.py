"""RedisTarget on a real server: consumers, faults of the server, of the connection and of consumers, retention, relays."""

import dataclasses
import datetime
import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest

redis = pytest.importorskip("redis", reason="redis-py is not installed: the extra `redis`")

from peewee_honker import Event, ForwardConflictError, HonkerError, PayloadError, Relay, Retention
from peewee_honker.events import GAP, Consumer, HonkerEventTarget, SilentRecorder
from peewee_honker.events.stream import read_stream
from peewee_honker.events.target import Forwarded
from peewee_honker.servers.redis import RedisMemoryError, RedisStore, RedisTarget, RedisUnavailableError
from peewee_honker.signals import in_transaction
from tests.support import outside
from tests.support.cutting_proxy import CuttingProxy
from tests.support.errors import HARD_TO_WRITE

pytestmark = pytest.mark.services

BOTH = pytest.mark.parametrize("mode", ["ephemeral", "durable"])
STREAM = "peewee_honker:stream:events"


@pytest.fixture
def client(redis_url):
    """What another program sees."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as made:
        yield made


@pytest.fixture
def open_target(redis_url):
    """`open_target(mode)` gives a target; all are closed at the end."""
    targets = []

    def make(mode="durable", url=redis_url, **options):
        targets.append(RedisTarget(url, mode, **options))
        return targets[-1]

    yield make
    for each in targets:
        each.close()


@pytest.fixture
def hear(open_target):
    """`hear(mode)` gives a target with a listener, and the list of the ids that it has heard, with 'gap' for gaps."""

    def make(mode="durable", **options):
        if mode == "durable":
            options.setdefault("consumer", "test")
        made, heard = open_target(mode, **options), []
        made.add_listener(GAP, lambda _: heard.append("gap"))
        made.add_listener("*", lambda event: heard.append(event.id))
        return made, heard

    return make


@pytest.fixture
def proxy(redis_server):
    with CuttingProxy(redis_server.port) as made:
        yield made


def say(target, *ids):
    for id_ in ids:
        target.dispatch(Event("order.saved", str(id_), {"id": id_}))


def insist(target, event):
    """Publish an event, again and again until that succeeds; each time it may be there already."""

    def succeeds():
        try:
            return target.dispatch(event)
        except RedisUnavailableError:
            return False

    outside.until(succeeds, "publishing")


def threads():
    return [thread for thread in threading.enumerate() if "peewee-honker" in thread.name]


def once(ids):
    """Without what came again."""
    return list(dict.fromkeys(ids))


# The start


@BOTH
def test_the_absence_of_a_server_is_said_at_the_start(mode):
    target = RedisTarget("redis://somebody:secret@127.0.0.1:1/0", mode, consumer="a" if mode == "durable" else None)
    with pytest.raises(RedisUnavailableError, match=r"127\.0\.0\.1:1.*Is the server running") as caught:
        target.add_listener("*", print)
    assert isinstance(caught.value, HonkerError)
    assert "secret" not in str(caught.value) + repr(target.store.link)
    with pytest.raises(RedisUnavailableError):
        target.dispatch(Event("order.saved"))
    assert threads() == []


def test_a_wrong_password_is_said_at_the_start(client, redis_url):
    client.config_set("requirepass", "right")
    try:
        with pytest.raises(RedisUnavailableError, match=r"(?i)auth"), RedisTarget(redis_url) as target:
            target.add_listener("*", print)
        with RedisTarget(redis_url.replace("redis://", "redis://:right@")) as target:
            target.add_listener("*", print)
    finally:
        client.config_set("requirepass", "")


PUBLISHER = """
    import sys
    from peewee_honker import Event
    from peewee_honker.servers.redis import RedisTarget
    target = RedisTarget(*sys.argv[1:])
    number = 0
    while True:
        number += 1
        target.dispatch(Event("tick", str(number), number))
        print(number)
"""


@BOTH
def test_listeners_that_come_while_others_publish_miss_nothing(open_target, redis_url, mode):
    """What is sent after add_listener has returned is heard, without a hole, however the two fall together."""
    with outside.Script(PUBLISHER, redis_url, mode) as publisher:
        last = int(publisher.line())
        for turn in range(8):
            target = open_target(mode, **({"consumer": f"c{turn}"} if mode == "durable" else {}))
            heard = []
            target.add_listener("tick", lambda event, heard=heard: heard.append(event.payload))
            goal = last + 40
            while last < goal:
                last = int(publisher.line())
            outside.until(lambda heard=heard, last=last: heard and heard[-1] >= last)
            target.close()
            assert heard == list(range(heard[0], heard[-1] + 1))


@BOTH
def test_a_target_has_one_thread_and_one_connection_that_listens_whatever_the_number_of_topics(client, open_target, mode):
    before = {each["id"] for each in client.client_list()}
    target = open_target(mode, consumer="c" if mode == "durable" else None)
    heard = []
    for number in range(500):
        target.add_listener(f"type{number}.*:a*", lambda event: heard.append(event.topic))
    target.dispatch(Event("type17.x", "abc"))
    outside.until(lambda: heard)
    assert len(threads()) == 1
    # And one for each thread that sends.
    assert len([each for each in client.client_list() if each["id"] not in before]) <= 3
    target.close()
    assert threads() == []
    outside.until(lambda: {each["id"] for each in client.client_list()} <= before)


def test_a_target_takes_where_the_server_is_from_a_client_and_leaves_its_connections_alone(client, redis_url):
    for given in (client, redis.Redis.from_url(redis_url, protocol=3, db=3)):
        with RedisTarget(given, "durable", consumer="test") as target:
            heard = []
            target.add_listener("*", lambda event, heard=heard: heard.append(event.payload))
            say(target, "ä")
            outside.until(lambda heard=heard: heard == [{"id": "ä"}])
        assert given.ping()
        assert given.exists(STREAM)
        given.close()
    with pytest.raises(TypeError, match=r"a URL or a redis\.Redis"):
        RedisTarget(17)


def test_what_cannot_be_is_refused_at_once(redis_url, open_target):
    with pytest.raises(ValueError, match="ends with ':'"):
        RedisTarget(redis_url, prefix="shop")
    with pytest.raises(ValueError, match="only a durable target"):
        RedisTarget(redis_url, consumer="a")
    with pytest.raises(ValueError, match="needs a consumer's name"):
        open_target("durable").add_listener("*", print)
    with pytest.raises(ValueError, match="no transaction with your database"):
        open_target("durable", consumer="a").add_listener("*", in_transaction(lambda _: None))
    with pytest.raises(ValueError, match="a position is"):
        open_target("durable", consumer="a", start_at=-1).add_listener("*", print)


def test_many_threads_publish_at_once(open_target, client):
    target, ready, failed = open_target(), threading.Barrier(150), []

    def publish():
        ready.wait()
        try:
            say(target, 1, 2, 3)
        except HonkerError as error:
            failed.append(error)

    publishers = [threading.Thread(target=publish) for _ in range(150)]
    for thread in publishers:
        thread.start()
    for thread in publishers:
        thread.join()
    assert failed == []
    assert client.xlen(STREAM) == 450


def test_a_program_that_closes_nothing_ends_without_a_word(redis_url):
    code = """
        import sys
        from peewee_honker import Event
        from peewee_honker.servers.redis import RedisTarget
        for mode in ("ephemeral", "durable"):
            target = RedisTarget(sys.argv[1], mode, consumer="c" if mode == "durable" else None)
            target.add_listener("*", print)
            target.dispatch(Event("order.saved"))
    """
    with outside.Script(code, redis_url) as script:
        _, errors = script.process.communicate(timeout=outside.DEADLINE)
    assert (script.process.returncode, errors) == (0, "")


# Ephemeral


def test_prefixes_keep_targets_apart(hear):
    _, heard = hear("ephemeral", prefix="shop:")
    other, other_heard = hear("ephemeral", prefix="shop:eu:")
    strange, strange_heard = hear("ephemeral", prefix="s[h]*:")
    say(other, "eu")
    say(strange, "strange")
    outside.until(lambda: other_heard and strange_heard)
    assert (heard, other_heard, strange_heard) == ([], ["eu"], ["strange"])


def test_what_another_program_publishes_is_an_event_of_its_channels_type(client, open_target):
    target, heard = open_target("ephemeral"), []
    target.add_listener("report.ready", lambda event: heard.append((event.type, event.payload)))
    for text in ('{"pages": 3}', "no JSON"):
        client.publish("peewee_honker:report.ready", text)
    outside.until(lambda: len(heard) == 2)
    assert heard == [("report.ready", {"pages": 3}), ("report.ready", "no JSON")]


def test_who_lost_the_connection_is_told_of_a_gap_and_hears_what_comes_next(hear, proxy):
    target, heard = hear("ephemeral", url=f"redis://127.0.0.1:{proxy.port}")
    say(target, "1")
    outside.until(lambda: heard == ["1"])
    proxy.cut()
    outside.until(lambda: heard == ["1", "gap"])
    say(target, "2")
    outside.until(lambda: heard == ["1", "gap", "2"])


# Consumers


def test_a_consumer_of_a_new_name_begins_where_it_is_told(open_target, client):
    target = open_target()
    say(target, "1", "2")
    outside.until(lambda: client.time() > (int(client.xinfo_stream(STREAM)["last-generated-id"][:10]), 999_999))
    seconds, micro = client.time()
    time_between = datetime.datetime.fromtimestamp(seconds + micro / 1e6)
    outside.until(lambda: client.time()[0] > seconds)
    say(target, "3")
    second = target.store.read_page("events", 0, 10)[0][1]
    for name, start_at, expected in (
        ("a", "beginning", ["1", "2", "3", "4"]),
        ("b", second, ["3", "4"]),
        ("c", time_between, ["3", "4"]),
        ("d", "now", ["4"]),
    ):
        heard = []
        reader = open_target(consumer=name, start_at=start_at)
        reader.add_listener("*", lambda event, heard=heard: heard.append(event.id))
        if name == "a":
            outside.until(lambda heard=heard: len(heard) == 3)
            say(target, "4")
        elif name == "d":
            heard.clear()
            say(target, "4")
        outside.until(lambda heard=heard: "4" in heard)
        reader.close()
        assert heard[: len(expected)] == expected


def test_one_consumer_reads_two_streams(open_target, redis_url):
    heard = []
    consumer = Consumer(RedisStore(redis_url), "test")
    for stream in ("one", "other"):
        consumer.listen(stream, lambda _: [lambda event: heard.append(event.id)])
    for stream in ("one", "other"):
        say(open_target(stream=stream), *(f"{stream} {number}" for number in range(400)))  # more than a page
    outside.until(lambda: len(heard) == 800)
    for stream in ("one", "other"):
        assert [id_ for id_ in heard if id_.startswith(f"{stream} ")] == [f"{stream} {number}" for number in range(400)]
        consumer.leave(stream)


def test_a_consumer_goes_on_where_it_was_and_can_be_put_elsewhere(hear, open_target):
    target, heard = hear()
    say(target, *range(700))  # more than two pages
    outside.until(lambda: len(heard) == 700)
    target.close()
    say(target, "later")
    again, heard = hear()
    outside.until(lambda: heard == ["later"])
    store = again.store
    outside.until(lambda: store.place("test", "events") == store.offset_of("events", "now"))
    assert store.lag("events", store.place("test", "events")) == 0
    assert store.lag("events", 0) == 701
    store.seek("test", "events", store.read_page("events", 0, 1000)[0][698])
    outside.until(lambda: heard == ["later", "699", "later"])
    with pytest.raises(LookupError, match="no consumer other"):
        store.seek("other", "events", "now")
    store.seek("other", "events", "now", create=True)
    assert store.place("other", "events") == store.offset_of("events", "now")
    store.forget_consumer("other", "events")
    store.forget_consumer("other", "no such stream")
    assert store.place("other", "events") is None


def test_the_lag_of_many_is_estimated(open_target, client):
    store = open_target().store
    for second in range(100):
        with client.pipeline() as pipeline:
            for number in range(50):
                pipeline.xadd(STREAM, {"event": "{}"}, id=f"{1_700_000_000_000 + second * 1000}-{number}")
            pipeline.execute()
    offsets = store.read_page("events", 0, 5000)[0]
    assert store.lag("events", offsets[3500]) == 5000 - 3501
    assert 3000 < store.lag("events", offsets[1500]) < 4000
    assert 4500 < store.lag("events", 0) <= 5000


def test_a_receiver_that_fails_is_called_again_then_the_event_is_a_dead_letter(open_target):
    told = []

    class Recorder(SilentRecorder):
        def retried(self, type_):
            told.append("retried")

        def dead(self, type_):
            told.append("dead")

    target = open_target(consumer="test", attempts=3, backoff=0.01, recorder=Recorder())
    calls, fine = [], []

    def broken(event):
        calls.append(event.id)
        if event.id in ("bad", "worse") and not fine:
            raise ValueError("cannot ship")

    target.add_listener("order.saved", broken)
    say(target, "1", "bad", "2", "worse", "3")
    outside.until(lambda: calls and calls[-1] == "3")
    assert calls == ["1", "bad", "bad", "bad", "2", "worse", "worse", "worse", "3"]
    letter, other = target.dead_letters()
    assert (letter.event.id, letter.attempts, letter.stream, letter.consumer) == ("bad", 3, "events", "test")
    assert "cannot ship" in letter.error
    assert "in broken" in letter.traceback
    assert letter.event.offset == letter.offset
    assert told == ["retried", "retried", "dead"] * 2
    with pytest.raises(ValueError, match="cannot ship"):
        target.replay(letter)
    assert target.dead_letters() == [letter, other]
    fine.append(True)
    target.replay(letter)
    assert calls[-1] == "bad"
    with pytest.raises(LookupError, match="is gone"):
        target.replay(letter)
    assert target.drop(other)
    assert not target.drop(other)
    assert open_target().dead_letters() == []


CONSUMER = """
    import sys, time
    from peewee_honker.servers.redis import RedisTarget
    target = RedisTarget(sys.argv[1], "durable", consumer="workers", start_at="beginning")
    def hear(event):
        sys.stdout.write(event.id + "\\n")
        if event.id == sys.argv[2]:
            time.sleep(1000)
    target.add_listener("*", hear)
    sys.stdout.write("ready\\n")
    sys.stdin.read()
    target.close()
"""


def test_a_killed_consumers_work_is_taken_over_before_what_is_new(open_target, redis_url):
    """One of two processes is active; it is killed at an event, which the other does first, within seconds."""
    target = open_target()
    say(target, "1", "2", "stuck", "3")
    with outside.Script(CONSUMER, redis_url, "stuck") as first:
        assert first.line() == "ready"
        assert [first.line(), first.line(), first.line()] == ["1", "2", "stuck"]
        with outside.Script(CONSUMER, redis_url, "") as second:
            assert second.line() == "ready"
            first.process.send_signal(signal.SIGKILL)
            say(target, "4")
            got = [second.line()]
            while got[-1] != "4":
                got.append(second.line())
    assert got[-3:] == ["stuck", "3", "4"]
    assert got in (["stuck", "3", "4"], ["2", "stuck", "3", "4"], ["1", "2", "stuck", "3", "4"])  # by what was saved


def test_of_two_consumers_of_one_name_one_hears_and_the_other_follows_when_it_stops(hear):
    target, one = hear()
    other, two = hear()
    say(target, *range(20))
    outside.until(lambda: len(one) + len(two) == 20)
    assert [] in (one, two)
    (target if one else other).close()
    say(target, "next")
    outside.until(lambda: (two if one else one) == ["next"])


def test_one_that_lost_its_lease_unawares_saves_nothing_after_another_has_taken_it(open_target, client):
    first, second = open_target().store, open_target().store
    first.make_place("c", "s", 0)
    assert first.lead("c", "one", 6)
    assert not second.lead("c", "two", 6)
    assert first.keep_leading("c", "one", 6)
    with pytest.raises(HonkerError, match="taken over"), first.atomic():
        assert first.is_leader("c", "one")
        assert first.save_place("c", "s", 0, 5)
        client.delete("peewee_honker:lease:c")
        assert second.lead("c", "two", 6)  # in this moment
    assert first.place("c", "s") == 0
    with first.atomic():
        assert not first.is_leader("c", "one")
    assert not first.keep_leading("c", "one", 6)
    first.stop_leading("c", "one")  # not its any more
    with second.atomic():
        assert second.is_leader("c", "two")
        assert not second.save_place("c", "s", 3, 5)
        assert second.save_place("c", "s", 0, 5)
    assert first.place("c", "s") == 5


def test_what_another_program_adds_to_the_stream_is_heard(client, open_target):
    target, heard = open_target(consumer="test"), []
    target.add_listener("*", lambda event: heard.append((event.type, event.payload)))
    client.xadd(STREAM, {"customer": "Ada", "total": "9"})
    client.xadd(STREAM, {"event": "no JSON"})
    client.xadd(STREAM, {"event": "1,2"})
    client.xadd(STREAM, {"event": b"\xff"})
    target.dispatch(Event("order.saved", "", "last"))
    outside.until(lambda: ("order.saved", "last") in heard)
    assert heard[:3] == [("events", {"customer": "Ada", "total": "9"}), ("events", "no JSON"), ("events", "1,2")]
    assert len(heard) == 5


def test_offsets_have_room_while_the_servers_clock_is_behind(client, hear):
    target, heard = hear()
    ahead = int(time.time() * 1000) + 3_600_000
    client.xadd(STREAM, {"event": Event("order.saved", "0").to_json()}, id=f"{ahead}-999999")
    say(target, "1", "2")
    target.forward("relay", [Event("order.saved", str(number), offset=number) for number in (3, 4)], None)
    outside.until(lambda: len(heard) == 5)
    assert heard == ["0", "1", "2", "3", "4"]
    assert [id_ for id_, _ in client.xrange(STREAM)][2:] == [f"{ahead + 1}-{number}" for number in (1, 2, 3)]
    assert max(target.store.read_page("events", 0, 10)[0]) < 2**63


def test_a_fork_has_connections_of_its_own(hear, redis_url):
    target, heard = hear()
    say(target, "parent")
    outside.until(lambda: heard == ["parent"])
    child = os.fork()
    if not child:
        code = 1
        try:
            say(target, "child")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    say(target, "parent again")
    outside.until(lambda: len(heard) == 3)
    assert heard == ["parent", "child", "parent again"]


# Faults of the server and of the connection


def test_nothing_is_lost_when_the_server_is_killed_and_comes_back(hear, redis_server, caplog):
    target, heard = hear()
    expected = []
    for turn in range(3):
        say(target, f"{turn} before")
        redis_server.end(signal.SIGKILL)
        with pytest.raises(RedisUnavailableError):
            say(target, "refused")
        redis_server.start()
        say(target, f"{turn} after")
        expected += [f"{turn} before", f"{turn} after"]
    outside.until(lambda: heard and heard[-1] == "2 after")
    assert once(heard) == expected
    assert "connected to Redis" in caplog.text
    assert target.dead_letters() == []


def test_an_ephemeral_listener_hears_again_when_the_server_is_back(hear, redis_server):
    target, heard = hear("ephemeral")
    redis_server.end(signal.SIGKILL)
    with pytest.raises(RedisUnavailableError):
        say(target, "refused")
    redis_server.start()
    outside.until(lambda: heard == ["gap"])
    say(target, "1")
    outside.until(lambda: heard == ["gap", "1"])


def test_a_listener_that_went_while_the_server_was_away_hears_when_it_comes_back(hear, redis_server):
    target, heard = hear()
    say(target, "1")
    outside.until(lambda: heard == ["1"])
    redis_server.end(signal.SIGKILL)
    target.close()
    redis_server.start()
    target.add_listener("*", lambda event: heard.append(event.id))
    say(target, "2")
    outside.until(lambda: heard[-1] == "2")


def test_a_receiver_that_fails_with_the_server_is_called_again_until_it_is_back(open_target, redis_server):
    """Failures that come with a lost connection are not counted as the receiver's."""
    target, other = open_target(consumer="test", attempts=1), open_target(stream="other")
    heard = []

    def pass_on(event):
        if event.id == "first" and not heard:
            redis_server.end(signal.SIGKILL)
            heard.append("server killed")
        say(other, event.id)
        heard.append(event.id)

    target.add_listener("*", pass_on)
    say(target, "first", "second")
    outside.until(lambda: heard == ["server killed"])
    redis_server.start()
    outside.until(lambda: heard == ["server killed", "first", "second"])
    assert target.dead_letters() == []


def test_a_connection_cut_in_the_middle_of_a_message_loses_nothing(hear, open_target, proxy):
    seed = random.randrange(10_000)
    chance = random.Random(seed)
    url = f"redis://127.0.0.1:{proxy.port}"
    reader, heard = hear(url=url)
    writer = open_target(url=url)
    events = [Event("order.saved", str(number), "x" * chance.randrange(2000)) for number in range(300)]
    for number, event in enumerate(events):
        if number % 10 == 3:
            proxy.cut_after(chance.randrange(1, 4000), chance.choice(["requests", "answers"]))
        insist(writer, event)
    outside.until(lambda: heard and heard[-1] == "299", f"seed {seed}")
    assert once(heard) == [event.id for event in events], f"seed {seed}"
    assert proxy.cuts >= 10
    assert reader.dead_letters() == []


def test_a_server_that_cannot_be_reached_for_a_while_is_waited_for(hear, open_target, proxy, redis_url, caplog):
    _, heard = hear(url=f"redis://127.0.0.1:{proxy.port}")
    proxy.refuse()
    say(open_target(), "1", "2")
    outside.until(lambda: "no events for now" in caplog.text)
    assert heard == []
    proxy.accept()
    outside.until(lambda: heard == ["1", "2"])


@BOTH
def test_at_the_memory_limit_the_publisher_is_told_and_consumers_go_on(hear, client, mode):
    target, heard = hear(mode)
    say(target, "1")
    outside.until(lambda: heard == ["1"])
    client.config_set("maxmemory", "1mb")
    client.config_set("maxmemory-policy", "noeviction")
    try:
        if mode == "ephemeral":  # messages take no room
            say(target, "2")
        else:
            with pytest.raises(RedisMemoryError, match="memory limit") as caught:
                say(target, "2")
            assert isinstance(caught.value, HonkerError)
            with pytest.raises(RedisMemoryError):
                target.forward("relay", [Event("order.saved", "3", offset=1)], None)
            target.close()
            store = target.store
            assert store.place("test", "events") == store.offset_of("events", "now")  # it was saved all the same
            target.add_listener("*", lambda event: heard.append(event.id))
            outside.until(lambda: client.exists("peewee_honker:lease:test"))
            client.config_set("maxmemory", "0")
            say(target, "2")
        outside.until(lambda: heard == ["1", "2"])
    finally:
        client.config_set("maxmemory", "0")


def test_a_stream_that_the_server_has_lost_is_told_of_and_what_comes_next_is_heard(hear, client):
    target, heard = hear()
    say(target, "1")
    outside.until(lambda: heard == ["1"])
    outside.until(lambda: target.store.place("test", "events") == target.store.offset_of("events", "now"))
    client.flushall()
    say(target, "2")
    outside.until(lambda: "2" in heard and "gap" in heard)
    say(target, "3")
    outside.until(lambda: "3" in heard)
    assert once([id_ for id_ in heard if id_ != "gap"]) == ["1", "2", "3"]


def test_a_consumer_that_is_forgotten_while_it_runs_takes_nothing_from_others(hear, open_target, client):
    target, heard = hear(consumer="forgotten")
    slow, heard_slowly, go_on = open_target(consumer="slow"), [], threading.Event()

    def take(event):
        heard_slowly.append(event.id)
        if event.id == "0":
            go_on.wait(outside.DEADLINE)

    slow.add_listener(GAP, lambda _: heard_slowly.append("gap"))
    slow.add_listener("*", take)
    ids = [str(number) for number in range(500)]  # more than a page
    say(target, *ids)
    outside.until(lambda: heard == ids)
    outside.until(lambda: target.store.place("forgotten", "events") == target.store.offset_of("events", "now"))
    open_target().store.forget_consumer("forgotten", "events")
    outside.until(lambda: open_target().store.place("forgotten", "events") is not None)  # it is there again
    assert slow.store.pruned_offset("events") == 0
    go_on.set()
    outside.until(lambda: len(heard_slowly) >= 500)
    assert (once(heard_slowly), heard) == (ids, ids)


def test_what_cannot_travel_is_refused_before_anything_is_sent(open_target, client):
    for mode in ("ephemeral", "durable"):
        target = open_target(mode, max_bytes=300)
        for payload in ("x" * 300, float("nan"), object(), "half of an emoji: \ud83d"):
            with pytest.raises(PayloadError):
                target.dispatch(Event("order.saved", "", payload))
            with pytest.raises(PayloadError):
                events = [Event("order.saved", "1", offset=1), Event("order.saved", "2", payload, offset=2)]
                target.forward("relay", events, None)
    assert not client.exists(STREAM)


# Retention


def test_what_is_pruned_before_it_was_read_is_told_of_by_a_gap(open_target):
    writer, gaps, heard = open_target(), [], []
    store = writer.store
    store.make_place("late", "events", "beginning")
    say(writer, *range(10))
    assert not store.prune_stream("events", Retention(age=None, count=3))
    assert len(store.read_page("events", 0, 100)[0]) == 10  # `late` needs them
    assert not store.prune_stream("events", Retention(age=None, consumed=False))
    assert len(store.read_page("events", 0, 100)[0]) == 10
    store.prune_stream("events", Retention(age=None, count=3, consumed=False))
    reader = open_target(consumer="late")
    reader.add_listener(GAP, lambda event: gaps.append(event.payload) or heard.append("gap"))
    reader.add_listener("*", lambda event: heard.append(event.id))
    outside.until(lambda: len(heard) == 4)
    say(writer, "10")
    outside.until(lambda: len(heard) == 5)
    assert heard == ["gap", "7", "8", "9", "10"]
    (gap,) = gaps
    assert (gap["channel"], gap["after"], gap["reason"]) == ("events", 0, "pruned")
    assert gap["before"] <= store.read_page("events", 0, 1)[0][0]


@pytest.mark.parametrize("left", [0, 3])
def test_what_another_program_trims_is_told_of_by_a_gap_too(open_target, hear, client, left):
    writer = open_target()
    writer.store.make_place("test", "events", "beginning")
    say(writer, *range(10))
    client.xtrim(STREAM, maxlen=left, approximate=False)
    _, heard = hear()
    outside.until(lambda: len(heard) == left + 1)
    say(writer, "10")
    outside.until(lambda: heard[-1] == "10")
    assert heard == ["gap", *[str(number) for number in range(10 - left, 11)]]


def test_what_is_trimmed_while_a_consumer_works_is_told_of_in_its_place(open_target, hear, client):
    writer, going_on = open_target(), threading.Event()
    target, heard = open_target(consumer="test"), []

    def hold(event):
        heard.append(event.id)
        if event.id == "0":
            going_on.wait(outside.DEADLINE)

    target.add_listener(GAP, lambda _: heard.append("gap"))
    target.add_listener("*", hold)
    say(writer, "0")
    outside.until(lambda: heard == ["0"])
    say(writer, *range(1, 1000))  # the next page at most is on its way already
    client.xtrim(STREAM, maxlen=1, approximate=False)
    going_on.set()
    outside.until(lambda: heard[-1] == "999")
    assert heard.count("gap") == 1
    before = heard[: heard.index("gap")]
    assert before == [str(number) for number in range(len(before))]
    assert heard[heard.index("gap") :] == ["gap", "999"]


def test_what_a_consumer_has_passed_is_pruned_without_a_gap(open_target, hear):
    target, heard = hear(retention=Retention(age=None))
    say(target, *range(250))
    outside.until(lambda: len(heard) == 250)
    store = target.store

    def nothing_is_left():
        target._pruner._next = 0  # as if the next minute had come, for the thread that consumes
        return store.read_page("events", 0, 1000)[0] == []

    outside.until(nothing_is_left)
    say(target, "250")
    outside.until(lambda: heard[-1] == "250")
    target.close()
    _, heard = hear()
    say(target, "251")
    outside.until(lambda: "251" in heard)
    assert heard == ["251"]


def test_retention_by_age_and_by_count(open_target, client):
    store = open_target().store
    now = int(time.time() * 1000)
    for number in range(250):
        age = 3_600_000 * (number < 120)
        client.xadd(STREAM, {"event": Event("order.saved", str(number)).to_json()}, id=f"{now - age}-{number}")
    assert not store.prune_stream("events", Retention(age=7200))
    assert store.prune_stream("events", Retention(age=1800))  # a batch
    assert not store.prune_stream("events", Retention(age=1800))
    ids = [event.id for event in store.read_page("events", 0, 1000)[1]]
    assert ids == [str(number) for number in range(120, 250)]
    while store.prune_stream("events", Retention(age=None, count=7)):
        pass
    assert client.xlen(STREAM) == 7
    assert not store.prune_stream("no stream", Retention(age=0))


def test_who_only_publishes_keeps_the_stream_within_its_bounds(open_target, client):
    target = open_target(retention=Retention(age=None, count=10, consumed=False))

    def publish():
        say(target, *range(20))
        return client.xlen(STREAM) <= 30

    outside.until(publish)
    say(open_target(retention=None), *range(50))
    assert client.xlen(STREAM) >= 50


# Relays


def test_who_comes_with_old_events_is_refused(open_target, client):
    target = open_target()
    assert target.forwarded("edge") is None
    events = [Event("order.saved", str(number), offset=number) for number in (1, 2)]
    target.forward("edge", events, None)
    known = Forwarded(2, events[-1].event_id)
    assert target.forwarded("edge") == known
    for after in (None, Forwarded(1, events[0].event_id), Forwarded(2, "another event")):
        with pytest.raises(ForwardConflictError, match="edge"):
            target.forward("edge", events, after)
    target.forward("edge", [Event("order.saved", "3", offset=7)], known)
    assert arrived(target) == ["1", "2", "3"]
    assert open_target("ephemeral").forwarded("edge") is None  # nothing is remembered


def arrived(target):
    return [event.id for event in target.store.read_page("events", 0, 100_000)[1]]


RELAY = """
    import sys
    from peewee_honker import HonkerDatabase, Relay
    from peewee_honker.servers.redis import RedisTarget
    with Relay(HonkerDatabase(sys.argv[1], timeout=30), "orders", RedisTarget(sys.argv[2], "durable"), batch=7):
        print("ready")
        sys.stdin.readline()
"""


def test_relayed_events_are_there_once_though_relay_and_server_are_killed(db, path, open_target, redis_server, redis_url):
    seed = random.randrange(1000)
    chance = random.Random(seed)
    target, source = open_target(), HonkerEventTarget(db, "durable", stream="orders")
    sent = 0
    for turn in range(4):
        with outside.Script(RELAY, path, redis_url) as relay:
            relay.line()
            with db.atomic():
                for _ in range(chance.randrange(50, 150)):
                    source.dispatch(Event("order.saved", str(sent)))
                    sent += 1
            goal = chance.randrange(sent - 40, sent)
            outside.until(lambda goal=goal: len(arrived(target)) > goal, f"seed {seed}")
            if turn % 2:
                redis_server.end(signal.SIGKILL)
                redis_server.start()
            else:
                relay.process.send_signal(signal.SIGKILL)
                relay.process.wait()
        db.execute_sql("DELETE FROM _honker_locks")  # the lease of who was killed would be waited for
    with Relay(db, "orders", target):
        outside.until(lambda: len(arrived(target)) >= sent, f"seed {seed}")
    assert arrived(target) == [str(number) for number in range(sent)], f"seed {seed}"


def test_a_relay_through_a_connection_that_is_cut_brings_each_event_once(db, open_target, proxy):
    seed = random.randrange(1000)
    chance = random.Random(seed)
    source = HonkerEventTarget(db, "durable", stream="orders")
    target = open_target(url=f"redis://127.0.0.1:{proxy.port}")
    with db.atomic():
        for number in range(400):
            source.dispatch(Event("order.saved", str(number), "x" * 100))
    with Relay(db, "orders", target, batch=20) as relay:
        for _ in range(5):
            proxy.cut_after(chance.randrange(1, 9000), chance.choice(["requests", "answers"]))
            cuts = proxy.cuts
            outside.until(lambda cuts=cuts: proxy.cuts > cuts or relay.lag == 0)
        assert relay.catch_up(outside.DEADLINE)
    assert arrived(open_target()) == [str(number) for number in range(400)], f"seed {seed}"


def test_a_relay_takes_a_stream_from_redis_into_a_file(db, open_target):
    """The way back."""
    target = open_target()
    say(target, *range(700))
    back = HonkerEventTarget(db, "durable", stream="back", consumer="test", start_at="beginning")
    heard = []
    back.add_listener("*", lambda event: heard.append(event.id))
    try:
        with Relay(target.store, "events", back) as relay:
            assert relay.catch_up(outside.DEADLINE)
            say(target, "last")
            outside.until(lambda: heard and heard[-1] == "last")
        assert heard == [*map(str, range(700)), "last"]
    finally:
        back.close()


# Operations


def test_what_a_file_cannot_hold_does_not_hold_up_a_relay(db, client, open_target):
    target = open_target()
    say(target, "1")
    cut = Event("order.saved", "2", "cut in two: \ud83d")
    whole = json.loads(dataclasses.replace(cut, payload="").to_json())
    client.xadd(STREAM, {"event": json.dumps({**whole, "payload": cut.payload})})  # as JavaScript writes it
    say(target, "3")
    central = HonkerEventTarget(db, "durable", stream="central")
    with Relay(target.store, "events", central, name="back") as relay:
        assert relay.catch_up(outside.DEADLINE)
    assert [event.id for event in read_stream(db.engine, "central", 0, 10)] == ["1", "3"]
    assert [(letter.consumer, letter.event) for letter in target.store.dead_letters()] == [
        ("back", dataclasses.replace(cut, offset=target.store.dead_letters()[0].offset))
    ]


def test_the_rights_that_the_page_names_suffice(client, redis_url):
    client.acl_setuser(
        "shop",
        enabled=True,
        passwords=["+pw"],
        keys=["peewee_honker:*"],
        channels=["peewee_honker:*"],
        categories=["+@stream", "+@read", "+@hash", "+@string", "+@scripting", "+@pubsub", "+@connection", "-@dangerous"],
        commands=["+pexpire", "+del", "+time"],
    )
    try:
        url = redis_url.replace("redis://", "redis://shop:pw@")
        for mode in ("ephemeral", "durable"):
            heard = []
            with RedisTarget(url, mode, consumer="test" if mode == "durable" else None, attempts=1) as target:

                def work(event, heard=heard):
                    heard.append(event.id)
                    raise ValueError("no")

                target.add_listener("*", work)
                say(target, "1", "2")
                outside.until(lambda heard=heard: len(heard) == 2)
                if mode == "durable":
                    outside.until(lambda target=target: len(target.dead_letters()) == 2)
                    target.forward("relay", [Event("order.saved", "3", offset=1)], None)
                    target.store.prune_stream("events", Retention(age=None, count=0))
    finally:
        client.acl_deluser("shop")


def test_a_server_that_takes_no_script_is_told_of_and_not_asked_again_at_once(client, redis_url, caplog):
    client.acl_setuser(
        "shop", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-script|load"]
    )
    try:
        with RedisTarget(redis_url.replace("redis://", "redis://shop:pw@"), "durable", consumer="test") as target:
            heard = []
            target.add_listener("*", lambda event: heard.append(event.id))
            client.script_flush()
            say(target, 1)
            outside.until(lambda: "script|load" in caplog.text)
            client.acl_setuser("shop", commands=["+script|load"])
            outside.until(lambda: heard == ["1"])
    finally:
        client.acl_deluser("shop")


def test_an_idle_target_asks_the_server_a_few_times_a_second_at_most(hear, client):
    hear()

    def asked():
        """Of what the target sends; the client's own INFO is not counted."""
        return sum(
            stat["calls"]
            for name, stat in client.info("commandstats").items()
            if name in ("cmdstat_evalsha", "cmdstat_xread")
        )

    before, began = asked(), time.monotonic()
    outside.until(lambda: time.monotonic() - began > 2.0)
    assert asked() - before < 20


def test_a_consumer_that_pauses_is_not_woken_by_what_waits(open_target):
    """Its receiver is to be tried again later, or another process is active, and events have come."""
    target, second, tried, polls = open_target(consumer="c", backoff=30), open_target(consumer="c"), [], []

    def broken(event):
        tried.append(event.id)
        raise ValueError("no")

    for each in (target, second):
        poll = each.consumer.poll
        each.consumer.poll = lambda poll=poll: polls.append(1) or poll()
        each.add_listener("*", broken)
        outside.until(lambda: polls)
    say(target, 1)
    outside.until(lambda: tried)
    say(target, 2)
    polls.clear()
    began = time.monotonic()
    outside.until(lambda: time.monotonic() - began > 2.5)  # longer than the server waits before it answers
    assert tried == ["1"]
    assert len(polls) < 25


PAGE = Path(__file__).parent.parent / "docs" / "redis.md"


def test_the_example_of_the_page_runs(redis_url):
    first, *_ = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    with outside.Script(first.replace("redis://localhost:6379/0", redis_url) + "\nmain()\n") as script:
        assert script.line() == "ship to Ada"


def test_every_test_that_the_page_names_is_there():
    there = {
        name for file in Path(__file__).parent.glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert named
    assert named <= there


@pytest.mark.parametrize("error", HARD_TO_WRITE)
def test_an_error_that_cannot_be_written_as_it_is_does_not_stop_its_stream(open_target, error):
    heard = []

    def fails(event):
        heard.append(event.id)
        raise error

    target = open_target(consumer="test", attempts=1)
    target.add_listener("*", fails)
    say(target, "1", "2")
    outside.until(lambda: len(target.store.dead_letters("test")) == 2)
    assert heard == ["1", "2"]
    assert all(letter.error and "fails" in letter.traceback for letter in target.store.dead_letters("test"))
