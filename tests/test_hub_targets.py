"""The two ends of a WebSocket: what is heard after a cut, a crash, a stop; who is too slow, too loud or nobody."""

import json
import random
import signal
import socket
import threading
import time

import pytest

pytest.importorskip("websockets", reason="websockets is not installed: the extra `hub`")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from peewee_honker import Event, HonkerDatabase, PayloadError, Relay, Retention
from peewee_honker.events import HonkerEventTarget
from peewee_honker.events.retention import prune_stream
from peewee_honker.events.stream import read_stream
from peewee_honker.hub import HubConnectionError, HubRefusedError, WebSocketClientTarget, WebSocketServerTarget, anyone
from tests.support import outside
from tests.support.hub import SERVER, Raw, certificate, client
from tests.support.laws import examples
from tests.support.outside import until


@pytest.fixture
def serve(db):
    """`serve(...)` starts a server of everybody on the test's file; all are stopped at the end."""
    made = []

    def start(database=db, **options):
        server = WebSocketServerTarget(database, **{"authenticate": anyone, **options})
        server.start()
        made.append(server)
        return server

    yield start
    for each in made:
        each.close()


@pytest.fixture
def server(serve):
    return serve()


def say(target, *ids, type_="tick", payload=None):
    for id_ in ids:
        target.dispatch(Event(type_, str(id_), payload))


def cut(server):
    """Cut all connections, as a network does."""
    cut_ones = list(server.subscribers)
    for subscriber in cut_ones:
        server.loop.soon(subscriber.socket.transport.abort)
    until(lambda: not server.subscribers & set(cut_ones))


class Heard(list):
    """The ids that a listener has heard."""

    def hear(self, event):
        self.append(event.id)


# Going on after something


def test_what_was_missed_while_the_connection_was_cut_is_heard_in_order_and_once(server):
    heard = Heard()
    with client(server.url) as target:
        target.add_listener("tick", heard.hear)
        for turn in range(5):
            say(server, *range(turn * 100, turn * 100 + 50))
            cut(server)
            say(server, *range(turn * 100 + 50, turn * 100 + 100))
        until(lambda: len(heard) >= 500)
    assert heard == [str(number) for number in range(500)]


def test_a_client_goes_on_behind_an_offset_that_was_kept(server):
    heard = Heard()
    with client(server.url) as target:
        target.add_listener("tick", heard.hear)
        say(server, 1, 2)
        until(lambda: len(heard) == 2)
        place = target.place
    say(server, 3, 4)
    heard.clear()
    target = WebSocketClientTarget(server.url, after=place)
    target.add_listener("tick", heard.hear)  # before it is connected
    with target:
        until(lambda: len(heard) == 2)
        say(server, 5)
        until(lambda: len(heard) == 3)
    assert heard == ["3", "4", "5"]


def test_what_was_deleted_before_it_was_heard_is_told_as_a_gap(db, server):
    gaps, heard = [], Heard()
    say(server, *range(10))
    prune_stream(db.engine, "hub", Retention(age=None, count=3, consumed=False))
    target = WebSocketClientTarget(server.url, after=2)
    target.add_listener("__gap__", gaps.append)
    target.add_listener("tick", heard.hear)
    with target:
        until(lambda: len(heard) == 3)
    assert heard == ["7", "8", "9"]
    [gap] = gaps
    assert (gap.payload["after"], gap.payload["before"]) == (2, 8)


def test_what_is_deleted_while_it_is_caught_up_is_told_as_a_gap(db, server):
    with db.atomic():
        say(server, *range(1, 4001), payload="x" * 5000)
    until(lambda: server.position == 4000)
    with Raw(server.url, max_queue=1) as raw:
        raw.ask("__subscribe", {"topics": ["tick"], "after": [0, None]})
        [subscriber] = server.subscribers
        until(lambda: subscriber.outbox.size > 64_000)  # the connection is full: it goes on when this one reads
        prune_stream(db.engine, "hub", Retention(age=None, count=100, consumed=False), batch=4000)
        heard, gaps = [], []
        while (message := raw.hear("tick", "__gap__", "__position"))["type"] != "__position":
            if message["type"] == "tick":
                heard.append(message["offset"])
            else:
                gaps += range(message["payload"]["after"] + 1, message["payload"]["before"])
    assert len(gaps) > 1000
    assert heard[-100:] == list(range(3901, 4001))
    assert sorted(heard + gaps) == list(range(1, 4001))


def test_a_hub_that_was_restored_from_a_backup_is_told_as_a_gap_and_heard_on(tmp_path, serve):
    first = HonkerDatabase(str(tmp_path / "first.db"))
    gaps, heard = [], Heard()
    server = serve(first)
    target = WebSocketClientTarget(server.url)
    target.add_listener("__gap__", gaps.append)
    target.add_listener("tick", heard.hear)
    with target:
        target.wait_connected(outside.DEADLINE)
        say(server, 1)
        until(lambda: heard == ["1"])
        first.execute_sql("VACUUM INTO ?", (str(tmp_path / "second.db"),))
        say(server, 2, 3)
        until(lambda: len(heard) == 3)
        port = server.port
        server.close()
        first.close_engine()
        second = HonkerDatabase(str(tmp_path / "second.db"))
        say(HonkerEventTarget(second, "durable", stream="hub"), "other 2")
        server = serve(second, port=port)
        until(lambda: gaps)
        say(server, "other 3")
        until(lambda: "other 3" in heard)
        server.close()
    second.close_engine()
    assert heard == ["1", "2", "3", "other 3"]
    assert gaps[0].payload["before"] is None


def test_a_hub_whose_file_was_replaced_is_told_as_a_gap_and_heard_on(tmp_path, serve):
    database = HonkerDatabase(str(tmp_path / "hub.db"))
    gaps, heard, here = [], Heard(), Heard()
    server = serve(database)
    server.add_listener("tick", here.hear)
    with client(server.url) as target:
        target.add_listener("__gap__", gaps.append)
        target.add_listener("tick", heard.hear)
        say(server, *range(20))
        until(lambda: len(heard) == len(here) == 20)
        other = HonkerDatabase(str(tmp_path / "other.db"))
        other.close_engine() if other.honker else None
        (tmp_path / "other.db").replace(tmp_path / "hub.db")
        until(lambda: gaps)
        database.close()
        say(server, "new")
        until(lambda: "new" in heard and "new" in here)
        server.close()
    database.close_engine()


def test_a_hub_that_is_killed_again_and_again_loses_nothing(path, tmp_path):
    """What was acknowledged is heard by all, in order; a relay's events are there once."""
    seed = random.randrange(1000)
    chance = random.Random(seed)
    source = HonkerDatabase(str(tmp_path / "spoke.db"))
    outgoing = HonkerEventTarget(source, "durable", stream="up")
    heard, port, sent, target = Heard(), "0", 0, None
    for _ in range(2):
        with outside.Script(SERVER, path, port, "20") as hub:
            port = hub.line()
            if target is None:
                target = WebSocketClientTarget(f"ws://127.0.0.1:{port}")
                target.start()
                target.wait_connected(outside.DEADLINE)
                target.add_listener("tick", heard.hear)
                relay = Relay(source, "up", target, batch=7)
                relay.start()
            with source.atomic():
                say(outgoing, *range(sent, sent + 60))
            sent += 60
            goal = chance.randrange(sent - 60, sent)
            until(lambda goal=goal: len(heard) > goal, f"seed {seed}")
            hub.process.send_signal(signal.SIGKILL)
            hub.process.wait()
            with pytest.raises(HubConnectionError):
                target.dispatch(Event("tock"))
    with outside.Script(SERVER, path, port, "20"):
        until(lambda: len(heard) >= sent, f"seed {seed}")
        assert relay.catch_up(outside.DEADLINE)
        relay.close()
        target.close()
    source.close_engine()
    assert heard == [str(number) for number in range(sent)], f"seed {seed}"
    there = [payload for (payload,) in outside.rows(path, "SELECT payload FROM _honker_stream ORDER BY offset")]
    assert [json.loads(text)["id"] for text in there] == heard


PUBLISHER = """
    import sys
    from peewee_honker import Event, HonkerDatabase
    from peewee_honker.events import HonkerEventTarget
    db = HonkerDatabase(sys.argv[1], timeout=30)
    target = HonkerEventTarget(db, "durable", stream="hub")
    number = 0
    while True:
        number += 1
        target.dispatch(Event("tick", str(number), number))
        print(number)
"""


def test_listeners_over_a_socket_that_come_while_others_publish_miss_nothing(db, path, server):
    with outside.Script(PUBLISHER, path) as publisher, client(server.url) as target:
        last = int(publisher.line())
        for _ in range(20):
            heard = []

            def listener(event, heard=heard):
                heard.append(event.payload)

            target.add_listener("tick", listener)
            started = int(db.execute_sql("SELECT seq FROM sqlite_sequence WHERE name = '_honker_stream'").fetchone()[0])
            while last < started + 20:
                last = int(publisher.line())
            until(lambda heard=heard, last=last: heard and heard[-1] >= last)
            target.remove_listener("tick", listener)
            assert heard == list(range(heard[0], heard[-1] + 1))
            assert heard[0] <= started + 1


def test_thousands_of_topics_are_asked_for_at_once_when_the_connection_comes(server):
    heard = Heard()
    target = WebSocketClientTarget(server.url)
    for number in range(5000):
        target.add_listener(f"tick:{number}", heard.hear)
    with target:
        target.wait_connected(outside.DEADLINE)
        say(server, 17, 4999, 5000, 0)
        until(lambda: len(heard) >= 3)
    assert heard == ["17", "4999", "0"]


def test_the_server_sends_what_was_subscribed_to_and_nothing_else(server):
    with Raw(server.url) as raw:
        assert raw.ask("__subscribe", {"topics": ["tick:1", "tock"]})["type"] == "__ack"
        say(server, 1, 2)
        say(server, 3, type_="tock")
        heard = [raw.hear("tick", "tock")["id"] for _ in range(2)]
        assert raw.ask("__unsubscribe", {"topics": ["tock"]})["type"] == "__ack"
        say(server, 4, type_="tock")
        say(server, 1)
        assert [*heard, raw.hear("tick", "tock")["id"]] == ["1", "3", "1"]


def test_a_dispatch_is_committed_when_it_returns(db, server):
    with client(server.url) as target:
        for number in range(20):
            say(target, number)
            assert read_stream(db.engine, "hub", number, 10)[-1].id == str(number)
    with pytest.raises(HubConnectionError, match="not connected"):
        say(target, "away")


def test_concurrent_dispatches_are_each_acknowledged(db, server):
    with client(server.url) as target:
        threads = [threading.Thread(target=say, args=(target, *range(n * 100, n * 100 + 50))) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    there = [int(event.id) for event in read_stream(db.engine, "hub", 0, 1000)]
    assert len(there) == 400
    for n in range(8):  # each thread's in its order
        assert [number for number in there if n * 100 <= number < n * 100 + 100] == list(range(n * 100, n * 100 + 50))


def test_events_of_a_transaction_whose_hub_is_away_are_told_as_lost(db, serve, tmp_path, caplog):
    server = serve(HonkerDatabase(str(tmp_path / "hub.db")))
    with client(server.url, database=db) as target:
        with db.atomic():
            say(target, 1)
            server.close()
        until(lambda: "was not published" in caplog.text)
        assert db.is_closed() or not db.in_transaction()
    server.database.close_engine()


# Who is slow


def test_who_does_not_read_is_dropped_with_a_call_back_and_the_others_hear_all(serve):
    dropped, heard = [], Heard()
    server = serve(most_behind=200_000, on_slow=lambda peer, behind: dropped.append((peer.identity.id, behind)))
    narrow = socket.create_connection(("127.0.0.1", server.port))
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client(server.url) as target, Raw(server.url, sock=narrow, max_queue=1) as slow:
        target.add_listener("tick", heard.hear)
        slow.ask("__subscribe", {"topics": ["tick"]})
        number = 0
        while not dropped:
            say(server, number, payload="x" * 50_000)
            number += 1
            until(lambda sent=number: len(heard) == sent)  # or a busy machine's reader is behind, and nobody slow is noticed
            assert number < 2000
            assert all(subscriber.outbox.size <= 200_000 + 60_000 for subscriber in list(server.subscribers))
        until(lambda: len(server.subscribers) == 1)
        until(lambda: len(heard) == number)
    [(who, behind)] = dropped
    assert who == "anyone"
    assert behind > 200_000
    assert heard == [str(each) for each in range(number)]


def test_listeners_that_are_slow_hear_everything_later_and_little_waits(server):
    heard, go_on, most = Heard(), threading.Event(), []
    with client(server.url, buffer=20_000) as target:

        def slow(event):
            go_on.wait(outside.DEADLINE)
            heard.hear(event)
            most.append(target._inbox._size)

        target.add_listener("tick", slow)
        say(server, *range(300), payload="x" * 2000)
        until(lambda: target._link._is_paused)
        target.dispatch(Event("tock"))  # is answered though events wait
        say(server, *range(300, 1500), payload="x" * 2000)
        go_on.set()
        until(lambda: len(heard) == 1500)
    assert heard == [str(number) for number in range(1500)]


# Who hangs

CLIENT = """
    import sys
    from peewee_honker.hub import WebSocketClientTarget
    with WebSocketClientTarget(sys.argv[1], heartbeat=60) as target:
        target.wait_connected(20)
        target.add_listener("tick", lambda event: print(event.id))
        print("ready")
        sys.stdin.readline()
"""


def test_a_client_that_hangs_is_noticed_and_gets_what_it_missed_when_it_wakes(serve):
    server = serve(heartbeat=0.4)
    with outside.Script(CLIENT, server.url) as script:
        assert script.line() == "ready"
        script.process.send_signal(signal.SIGSTOP)
        until(lambda: not server.subscribers)
        say(server, 1, 2)
        script.process.send_signal(signal.SIGCONT)
        assert [script.line(), script.line()] == ["1", "2"]
        script.say("end")
        script.finish()


def test_a_hub_that_hangs_is_noticed_and_heard_again_when_it_wakes(path):
    heard = Heard()
    with outside.Script(SERVER, path, "0", "60") as hub:
        url = f"ws://127.0.0.1:{hub.line()}"
        with client(url, heartbeat=0.4, timeout=2) as target:
            target.add_listener("tick", heard.hear)
            hub.process.send_signal(signal.SIGSTOP)
            until(lambda: not target.is_connected)
            hub.process.send_signal(signal.SIGCONT)
            until(lambda: target.is_connected)
            say(target, 1)
            until(lambda: heard == ["1"])
        hub.say("end")
        assert hub.finish() == "['MainThread']\n"


# Who is not welcome


def test_tls_keeps_what_is_said_and_refuses_who_is_not_known(serve, tmp_path):
    mine, trusting = certificate(tmp_path)
    server, heard = serve(ssl=mine), Heard()
    assert server.url.startswith("wss://")
    with client(server.url, ssl=trusting) as target:
        target.add_listener("tick", heard.hear)
        say(target, 1)
        until(lambda: heard == ["1"])
    with WebSocketClientTarget(server.url) as stranger, pytest.raises(HubConnectionError, match="certificate"):
        stranger.wait_connected(1)
    with WebSocketClientTarget(server.url.replace("wss", "ws")) as plain, pytest.raises(HubConnectionError):
        plain.wait_connected(0.5)


@pytest.mark.parametrize(
    ("origin", "welcome"), [(None, True), ("https://shop.example", True), ("https://evil.example", False), ("null", False)]
)
def test_web_pages_connect_from_where_they_may(serve, origin, welcome):
    server = serve(origins=["https://shop.example"])
    if welcome:
        with Raw(server.url, origin=origin) as raw:
            assert raw.hear("__welcome")
    else:
        with pytest.raises(InvalidStatus) as refused, Raw(server.url, origin=origin):
            pass
        assert refused.value.response.status_code == 403


def test_a_key_is_not_taken_elsewhere_by_a_redirect():
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, socket.create_server(("127.0.0.1", 0)) as hub:
        elsewhere.settimeout(0.5)
        location = f"ws://127.0.0.1:{elsewhere.getsockname()[1]}/"

        def redirect():
            asked, _ = hub.accept()
            with asked:
                asked.recv(10_000)
                asked.sendall(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=redirect)
        thread.start()
        with WebSocketClientTarget(f"ws://127.0.0.1:{hub.getsockname()[1]}", key="phk_secret") as target:
            with pytest.raises(HubRefusedError, match="302"):
                target.wait_connected(outside.DEADLINE)
            with pytest.raises(TimeoutError):
                elsewhere.accept()
        thread.join()


def test_there_are_no_more_connections_than_allowed(serve):
    server = serve(most_connections=2)
    with Raw(server.url) as one, Raw(server.url) as other:
        assert one.hear("__welcome")
        assert other.hear("__welcome")
        with pytest.raises(InvalidStatus) as refused, Raw(server.url):
            pass
        assert refused.value.response.status_code == 503
    until(lambda: not server.subscribers)
    with Raw(server.url) as third:
        assert third.hear("__welcome")


def test_there_are_no_more_connections_than_allowed_also_when_many_come_at_once(serve):
    all_there = threading.Barrier(4)

    def authenticate(handshake):
        all_there.wait(outside.DEADLINE)
        return anyone(handshake)

    server = serve(authenticate=authenticate, most_connections=2)
    targets = [WebSocketClientTarget(server.url) for _ in range(4)]
    for target in targets:
        target.start()
    until(lambda: all(target.is_connected or target.error for target in targets))
    assert sum(target.is_connected for target in targets) == len(server.subscribers) == 2
    for target in targets:
        target.stop()


def test_there_are_no_more_topics_than_allowed(serve):
    server = serve(most_topics=3)
    with client(server.url) as target:
        for number in range(3):
            target.add_listener(f"tick:{number}", print)
        with pytest.raises(HubRefusedError, match="at most 3 topics"):
            target.add_listener("tick", print)


def test_what_is_too_large_is_refused_by_both_ends(db, serve):
    server = serve(max_bytes=1000)
    with client(server.url, max_bytes=1000) as target, pytest.raises(PayloadError, match="1000 are allowed"):
        say(target, 1, payload="x" * 1000)
    with client(server.url) as target:
        with pytest.raises(PayloadError, match="1000 are allowed"):
            say(target, 1, payload="x" * 1000)
        say(target, 2)
    with Raw(server.url) as raw:
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(100):
                raw.say("tick", "x" * 100_000)
                time.sleep(0.001)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert [event.id for event in read_stream(db.engine, "hub", 0, 10)] == ["2"]


def test_an_event_that_is_too_large_for_the_hub_is_told_as_a_gap_and_the_next_ones_come(db, serve):
    server, seen = serve(max_bytes=1000), []
    large = HonkerEventTarget(db, "durable", stream="hub")  # another program, with other limits
    with client(server.url) as target:
        target.add_listener("__gap__", lambda event: seen.append(event.payload["reason"]))
        target.add_listener("tick", lambda event: seen.append(event.id))
        say(server, 1)
        say(large, 2, payload="x" * 100_000)
        say(server, 3)
        until(lambda: len(seen) == 3)
    assert seen == ["1", "too large", "3"]


def test_those_who_come_back_while_much_is_said_miss_nothing(db, path, server):
    """Catching up and going live fall together in every way."""
    heard = Heard()
    with outside.Script(PUBLISHER, path) as publisher, client(server.url) as target:
        target.add_listener("tick", heard.hear)
        for _ in range(6):
            goal = len(heard) + 30
            until(lambda goal=goal: len(heard) > goal)
            cut(server)
        publisher.process.kill()
        publisher.process.wait()
        said = [event.id for event in read_stream(db.engine, "hub", 0, 1_000_000)]
        until(lambda: heard and heard[-1] == said[-1])
    assert heard == said[said.index(heard[0]) :]


def test_a_topic_with_many_stars_holds_nobody_up(server):
    with Raw(server.url) as raw, client(server.url) as target:
        raw.ask("__subscribe", {"topics": ["*a" * 100 + "b", "x:" + "*a" * 100 + "b"]})
        heard = Heard()
        target.add_listener("*", heard.hear)
        say(target, "a" * 1000, type_="a" * 250)
        say(target, "a" * 1000, type_="x")
        until(lambda: len(heard) == 2)


# Nonsense

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
requests = ["subscribe", "unsubscribe", "newest", "forward", "forwarded", "register", "discover", "ack", "welcome", "gap__"]
calls = ["requested", "responded", "aborted", "error", "completed"]
types = st.sampled_from(
    [*(f"__{each}" for each in requests), *(f"call.{each}" for each in calls), "tick", "a:b", "*"]
) | st.text(max_size=5)
names = [
    "topics",
    "after",
    "echo",
    "relay",
    "events",
    "spoke",
    "operations",
    "service",
    "requestId",
    "operationId",
    "identity",
]
payloads = anything | st.fixed_dictionaries({}, optional=dict.fromkeys(names, anything | st.lists(st.text(max_size=5))))
envelopes = st.fixed_dictionaries(
    {"type": types, "event_id": st.text(min_size=1, max_size=8), "payload": payloads},
    optional={
        "id": st.text(max_size=5) | anything,
        "time": anything,
        "headers": anything,
        "offset": anything,
        "origin": anything,
        "operation": anything,
        "changes": anything,
    },
)
messages = (
    st.binary(max_size=50)
    | st.text(max_size=50)
    | envelopes.map(json.dumps)
    | anything.map(json.dumps)
    | st.sampled_from(["[" * 100_000, '{"type": "tick"}', "NaN", '{"type":"tick","event_id":"\\ud800"}', "9" * 5000])
)


def answers_after(server, sent):
    """Send messages over one connection, and look whether another is served."""
    try:
        with Raw(server.url) as raw:
            for message in sent:
                raw.socket.send(message)
            raw.ask("__newest")
    except ConnectionClosed:
        pass  # it may end connections that talk nonsense


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    database = HonkerDatabase(str(tmp_path_factory.mktemp("fuzz") / "hub.db"))
    with WebSocketServerTarget(database, authenticate=anyone) as server, client(server.url) as target:
        heard = Heard()
        target.add_listener("answer", heard.hear)
        yield server, target, heard
    database.close_engine()


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(messages, min_size=1, max_size=5))
def test_nonsense_harms_nobody_else(fuzzed, sent):
    server, target, heard = fuzzed
    answers_after(server, sent)
    number = str(len(heard))
    say(target, number, type_="answer")
    until(lambda: heard and heard[-1] == number)
    assert target.is_connected


def test_requests_that_are_sent_again_are_answered_again(server):
    """A replayed subscription changes nothing; a replayed event is another, which is what relays are for."""
    with Raw(server.url) as raw:
        for _ in range(3):
            assert raw.ask("__subscribe", {"topics": ["tick"]}, event_id="same")["type"] == "__ack"
        for _ in range(2):
            raw.ask("tick", "replayed", event_id="same again")
        assert [raw.hear("tick")["payload"] for _ in range(2)] == ["replayed"] * 2


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (("__nothing", {}), "UNKNOWN"),
        (("__subscribe", {"topics": "tick"}), "BAD_REQUEST"),
        (("__subscribe", {"topics": ["x" * 2000]}), "BAD_REQUEST"),
        (("__subscribe", {"topics": ["tick"], "after": [-1, None]}), "BAD_REQUEST"),
        (("__unsubscribe", []), "BAD_REQUEST"),
        (("__forwarded", {"relay": ""}), "BAD_REQUEST"),
        (("__forward", {"relay": "r", "events": []}), "BAD_REQUEST"),
        (("__forward", {"relay": "r", "events": [{"type": "tick", "event_id": "1"}]}), "BAD_REQUEST"),
        (("__forward", {"relay": "r", "events": [{"type": "a:b", "event_id": "1", "offset": 1}]}), "TOPIC"),
        (("a:b", {}), "TOPIC"),
    ],
)
def test_requests_that_are_none_are_told_why(server, request_, code):
    with Raw(server.url) as raw:
        answer = raw.ask(*request_)
        assert (answer["type"], answer["payload"]["code"]) == ("__error", code)
        assert raw.ask("__newest")["type"] == "__ack"  # and the connection goes on


def test_starting_twice_and_stopping_what_does_not_run(server):
    with pytest.raises(RuntimeError, match="serves already"):
        server.start()
    server.stop()
    server.stop()
    with pytest.raises(RuntimeError, match="does not serve"):
        _ = server.port
    target = WebSocketClientTarget("ws://127.0.0.1:1")
    target.stop()
    with target, pytest.raises(RuntimeError, match="runs already"):
        target.start()


def test_a_server_that_was_stopped_serves_again(server):
    server.stop()
    server.start()
    with client(server.url) as target:
        heard = Heard()
        target.add_listener("tick", heard.hear)
        say(target, 1)
        until(lambda: heard == ["1"])
    server.stop()


def test_what_waits_for_a_slow_listener_comes_after_the_next_start(db, server):
    heard, go_on = Heard(), threading.Event()

    def slow(event):
        heard.hear(event)
        go_on.wait(0.01)

    target = WebSocketClientTarget(server.url, after=0)
    target.add_listener("tick", slow)
    with db.atomic():
        say(server, *range(1, 2001))
    with target:
        until(lambda: heard and (target._link.place or (0,))[0] == 2000)  # all have come
    assert len(heard) < 2000
    assert target.place == int(heard[-1])  # with which another client would go on
    go_on.set()
    with target:
        until(lambda: len(heard) >= 2000)
    assert heard == [str(id_) for id_ in range(1, 2001)]


def test_no_thread_is_left(server):
    before = set(threading.enumerate())
    for _ in range(3):
        with client(server.url) as target:
            target.add_listener("tick", print)
    server.stop()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("peewee")]


def test_the_package_does_without_websockets_until_a_hub_is_wanted():
    code = (
        "import sys, peewee_honker; assert not [name for name in sys.modules if name.startswith('websockets')]; print('so')"
    )
    with outside.Script(code) as script:
        assert script.line() == "so"
