"""NatsTarget on a real server: durable consumers, faults of the server, of the connection and of consumers, relays."""

import asyncio
import datetime
import gc
import random
import signal
import socket
import threading

import pytest

pytest.importorskip("nats", reason="nats-py is not installed: the extra `nats`")

from peewee_honker import Event, ForwardConflictError, HonkerError, PayloadError, Relay
from peewee_honker.events import GAP, HonkerEventTarget, SilentRecorder
from peewee_honker.events.consumer import Consumer
from peewee_honker.events.stream import read_stream
from peewee_honker.events.target import Forwarded
from peewee_honker.servers.nats import NatsFullError, NatsStore, NatsTarget, NatsUnavailableError, StreamLimits, names
from peewee_honker.servers.nats import dispatcher as dispatching
from peewee_honker.signals import in_transaction
from tests.support import outside
from tests.support.cutting_proxy import CuttingProxy
from tests.support.errors import HARD_TO_WRITE

pytestmark = pytest.mark.services

BOTH = pytest.mark.parametrize("mode", ["ephemeral", "durable"])


@pytest.fixture
def make(nats_url):
    """`make(mode)` gives a target on the test's server."""
    made = []

    def make(mode="durable", url=nats_url, **options):
        made.append(NatsTarget(url, mode, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def hear(make):
    """`hear(mode)` gives a target with a listener, and the list of the ids that it has heard."""

    def hear(mode="durable", **options):
        if mode == "durable":
            options.setdefault("consumer", "test")
        target, heard = make(mode, **options), []
        target.add_listener("*", lambda event: heard.append(event.id))
        return target, heard

    return hear


def say(target, *ids, type_="order.saved"):
    for id_ in ids:
        target.dispatch(Event(type_, str(id_), {"id": id_}))


def publish(db, *ids, payload=None):
    source = HonkerEventTarget(db, "durable", stream="orders")
    with db.atomic():
        for id_ in ids:
            source.dispatch(Event("order.saved", str(id_), payload, origin="here"))


def stored(target):
    """The ids of the events that the target's stream has."""
    store = NatsStore(target.store.link.url)
    try:
        ids, after = [], store.pruned_offset(target.stream)
        while after < store.offset_of(target.stream, "now"):
            offsets, events = store.read_page(target.stream, after, 300)
            ids += [event.id for event in events]
            after = max([after, *offsets])
        return ids
    finally:
        store.close()


def nats_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("peewee-honker")]


# Consumers


def test_a_consumer_goes_on_where_it_stopped(make, hear):
    first, heard = hear()
    say(first, 1, 2)
    outside.until(lambda: len(heard) == 2)
    first.close()
    say(make(), 3, 4)
    second, heard = hear()
    say(second, 5)
    outside.until(lambda: len(heard) == 3)
    assert heard == ["3", "4", "5"]


def test_each_named_consumer_hears_all(make, hear):
    _, one = hear(consumer="one")
    _, other = hear(consumer="other")
    say(make(), *range(700))  # more than a page
    outside.until(lambda: len(one) == len(other) == 700)
    assert one == other == [str(number) for number in range(700)]


def test_listening_durably_needs_a_consumers_name(make):
    with pytest.raises(ValueError, match="needs a consumer's name"):
        make().add_listener("*", print)


def test_a_new_consumer_begins_where_it_is_told(make, hear):
    publisher = make()
    say(publisher, 1, 2)
    time_of_two = publisher.store.jetstream.next(names.stream_name("events"), names.stream_subjects("events"), 2).time
    # To the next microsecond, since a datetime has no finer.
    when = datetime.datetime.fromisoformat(time_of_two[:26] + "+0000") + datetime.timedelta(microseconds=1)
    say(publisher, 3)
    targets = {
        position: hear(consumer=f"c{number}", start_at=position)[1]
        for number, position in enumerate(("beginning", when, 2, "now"))
    }
    say(publisher, "last")
    outside.until(lambda: all(heard and heard[-1] == "last" for heard in targets.values()))
    assert targets == {
        "beginning": ["1", "2", "3", "last"],
        when: ["3", "last"],
        2: ["3", "last"],
        "now": ["last"],
    }


def test_a_consumer_can_be_moved_while_it_runs_and_forgotten(make, hear):
    target, heard = hear()
    say(target, 1, 2)
    outside.until(lambda: len(heard) == 2)
    outside.until(lambda: target.store.place("test", "events") == 2)
    other = make().store
    other.seek("test", "events", "beginning")
    outside.until(lambda: heard == ["1", "2", "1", "2"])
    with pytest.raises(LookupError, match="create=True"):
        other.seek("nobody", "events", "now")
    assert other.lag("events", 1) == 1
    target.close()
    other.forget_consumer("test", "events")
    assert other.place("test", "events") is None


CONSUMER = """
    import sys
    from peewee_honker.servers.nats import NatsTarget
    with NatsTarget(sys.argv[1], "durable", consumer="test") as target:
        target.add_listener("*", lambda event: print(event.id))
        print("ready")
        sys.stdin.readline()
"""


def test_a_killed_consumers_place_is_taken_by_the_next_in_order_and_without_loss(make, hear, nats_url):
    publisher = make()
    with outside.Script(CONSUMER, nats_url) as first:
        assert first.line() == "ready"
        say(publisher, *range(20))
        while first.line() != "10":
            pass
        target, heard = hear()
        say(publisher, *range(20, 30))
        first.process.send_signal(signal.SIGKILL)
        outside.until(lambda: heard and heard[-1] == "29", "the takeover")
    # What the killed one had done since it last saved its place comes again; nothing is left out.
    assert heard == [str(number) for number in range(int(heard[0]), 30)]
    assert int(heard[0]) <= 20
    assert target.store.is_leader("test", target.consumer._owner)


def test_who_leaves_in_good_order_is_followed_at_once_and_nothing_comes_twice(make, hear):
    first, one = hear()
    second, other = hear()
    publisher = make()
    say(publisher, 1, 2)
    outside.until(lambda: one == ["1", "2"])
    first.close()
    say(publisher, 3)
    outside.until(lambda: other == ["3"])
    assert second.store.is_leader("test", second.consumer._owner)


def test_of_two_that_believe_to_be_active_only_the_one_whose_lease_it_is_saves_its_place(make):
    one, other = make().store, make().store
    for store in (one, other):
        store.make_place("test", "events", "now")
    assert one.lead("test", "one", 0)
    assert not other.lead("test", "other", 0)  # has just seen it
    assert other.lead("test", "other", 0)  # and that it was not renewed
    assert not one.keep_leading("test", "one", 0)
    assert not one.is_leader("test", "one")
    assert other.keep_leading("test", "other", 0)
    assert other.save_place("test", "events", 0, 5)
    assert not one.save_place("test", "events", 0, 3)
    assert one.place("test", "events") == 5


# Receivers that fail


def test_a_receiver_that_fails_is_called_again_and_the_order_is_kept(make):
    target, calls = make(consumer="test", backoff=0.01), []

    def sometimes(event):
        calls.append(event.id)
        if calls.count("2") < 3 and event.id == "2":
            raise RuntimeError("not yet")

    target.add_listener("*", sometimes)
    say(target, 1, 2, 3)
    outside.until(lambda: "3" in calls)
    assert calls == ["1", "2", "2", "2", "3"]
    assert target.store.dead_letters() == []


def test_what_fails_too_often_is_a_dead_letter_that_can_be_listed_replayed_and_dropped(make, hear):
    dead = []

    class Recorder(SilentRecorder):
        def dead(self, type_):
            dead.append(type_)

    target, works, heard = make(consumer="test", attempts=2, backoff=0.01, recorder=Recorder()), [], []

    def ship(event):
        if event.id in "13" and not works:
            raise RuntimeError("cannot ship ä" + "x" * 9000)
        heard.append(event.id)

    target.add_listener("*", ship)
    say(target, 1, 2, 3)
    outside.until(lambda: len(dead) == 2)
    outside.until(lambda: heard == ["2"])
    target.store.bury("another", "events", Event("a", "b"), "someone", ValueError("no"), 1)
    one, three = target.store.dead_letters("test")
    assert len(target.store.dead_letters()) == 3
    assert (one.consumer, one.stream, one.offset, one.attempts) == ("test", "events", 1, 2)
    assert one.receiver.endswith("ship")
    assert one.event.id == "1"
    assert one.event.payload == {"id": 1}
    assert "cannot ship" in one.error
    assert "RuntimeError" in one.traceback
    works.append(True)
    target.consumer.replay(one)
    assert heard == ["2", "1"]
    with pytest.raises(LookupError, match="gone"):
        target.consumer.replay(one)
    assert target.store.forget(three)
    assert not target.store.forget(three)
    assert target.store.dead_letters("test") == []


def test_a_letter_that_is_buried_again_is_there_once(make):
    target = make()
    say(target, 1)
    for attempt in (1, 2):
        event = Event("order.saved", "1", offset=1)
        target.store.bury("test", "events", event, "ship", ValueError("no"), attempt)
    [letter] = target.store.dead_letters()
    assert letter.attempts == 2
    assert letter.event.payload == {"id": 1}  # as it was stored


def test_the_largest_event_that_can_be_dispatched_can_be_a_dead_letter_too(make):
    target = make(consumer="test", attempts=1)

    def ship(event):
        raise RuntimeError("ä" * 20_000)

    target.add_listener("*", ship)
    size = 1024 * 1024 - 32 * 1024 - len(Event("order.saved", "", "").to_json()) - 10
    target.dispatch(Event("order.saved", "", "x" * size))
    with pytest.raises(PayloadError, match="fit into a message"):
        target.dispatch(Event("order.saved", "", "x" * (size + 100)))
    outside.until(target.store.dead_letters)
    assert len(target.store.dead_letters()[0].event.payload) == size


def test_a_listener_in_a_transaction_is_refused(make):
    with pytest.raises(ValueError, match="no transaction"):
        make(consumer="test").add_listener("*", in_transaction(lambda _: None))


# Names and sizes


@BOTH
@pytest.mark.parametrize("type_", ["a b", "ä.ö\n", ".", "a..b.", "a>b", "=41", "$SYS.x", "x" * 5000, "\x00"])
def test_any_type_id_stream_prefix_and_consumer_has_a_name(make, mode, type_):
    odd = "a.b *>/\\ ä"
    options = {"consumer": odd, "stream": odd} if mode == "durable" else {"prefix": odd}
    target, heard = make(mode, **options), []
    target.add_listener("*", heard.append)
    sent = Event(type_, "id *.> \n", "x", event_id="an id\r\nof any form")
    target.dispatch(sent)
    outside.until(lambda: heard)
    [event] = heard
    assert (event.type, event.id, event.event_id) == (type_, sent.id, sent.event_id)


def test_different_texts_have_different_names():
    texts = ["", "a", "A", "=", "=41", "a.b", "a b", "a=20b", "ä", "x" * 300, "x" * 301, ".", ">", "*"]
    assert len({names.token(text) for text in texts}) == len(texts)
    assert all(set(names.token(text)) <= set("=-_" + "".join(map(chr, range(128)))) for text in texts)
    for type_ in ("order.saved", "a..b.", "ä *>.", "=41"):
        subject = names.stream_event_subject("s", type_)
        assert not set(subject) & set(" *>\n")
        assert names.type_of(subject.partition(".event.")[2]) == type_


@BOTH
def test_targets_of_other_prefixes_and_streams_hear_nothing(hear, mode):
    one, other = ({"stream": "one"}, {"stream": "other"}) if mode == "durable" else ({"prefix": "one"}, {"prefix": "other"})
    first, mine = hear(mode, **one)
    # A consumer's name is of all streams: of two with one name one is active.
    second, theirs = hear(mode, **other, **({"consumer": "another"} if mode == "durable" else {}))
    say(first, 1)
    say(second, 2)
    outside.until(lambda: mine and theirs)
    assert (mine, theirs) == (["1"], ["2"])


@BOTH
def test_what_another_program_publishes_is_an_event_with_the_subjects_type(hear, nats_url, mode):
    target, _ = hear(mode)
    heard = []
    target.add_listener("order.saved", heard.append)
    subject = "peewee_honker.stream.events.event.order.saved" if mode == "durable" else "peewee_honker.event.=.order.saved"

    async def publish():
        import nats

        client = await nats.connect(nats_url)
        await client.publish(subject, b'{"number": 17}')
        await client.close()

    asyncio.run(publish())
    outside.until(lambda: heard)
    assert (heard[0].type, heard[0].payload) == ("order.saved", {"number": 17})


@BOTH
def test_a_large_payload_arrives_whole_and_one_too_large_for_the_server_is_refused(make, hear, mode):
    target, _ = hear(mode, max_bytes=4_000_000)
    heard = []
    target.add_listener("large", lambda event: heard.append(event.payload))
    target.dispatch(Event("large", "", "ä" * 500_000))
    with pytest.raises(PayloadError, match="max_payload"):
        target.dispatch(Event("large", "", "x" * 1_100_000))
    target.dispatch(Event("large", "", "end"))
    outside.until(lambda: len(heard) == 2)
    assert heard == ["ä" * 500_000, "end"]


def test_an_event_that_is_dispatched_again_is_stored_once(make, hear):
    target, heard = hear()
    event = Event("order.saved", "1")
    for _ in range(3):
        target.dispatch(event)
    say(target, 2)
    outside.until(lambda: "2" in heard)
    assert heard == ["1", "2"]


# Threads, loops and processes


@BOTH
def test_dispatch_from_many_threads_and_a_running_loop_at_once(hear, mode):
    target, heard = hear(mode)

    async def in_loop():
        for number in range(20):
            say(target, f"loop {number}")
            await asyncio.sleep(0)

    threads = [
        threading.Thread(target=say, args=(target, *(f"{name} {number}" for number in range(20))))
        for name in ("a", "b", "c")
    ]
    for thread in threads:
        thread.start()
    asyncio.run(in_loop())
    for thread in threads:
        thread.join()
    outside.until(lambda: len(heard) == 80)
    for name in ("a", "b", "c", "loop"):
        assert [id_ for id_ in heard if id_.startswith(name)] == [f"{name} {number}" for number in range(20)]


def test_more_large_events_than_the_connection_holds_arrive_in_order(make, hear):
    _, heard = hear("ephemeral")
    publisher = make("ephemeral")
    for number in range(300):
        publisher.dispatch(Event("order.saved", str(number), "x" * 100_000))
    outside.until(lambda: len(heard) == 300)
    assert heard == [str(number) for number in range(300)]


@BOTH
def test_a_coroutine_listener_can_dispatch_in_its_loop(make, mode):
    async def run():
        target = make(mode, **({"consumer": "test"} if mode == "durable" else {}))
        answered = asyncio.Event()

        async def question(event):
            target.dispatch(Event("answer"))

        async def answer(event):
            answered.set()

        target.add_listener("question", question)
        target.add_listener("answer", answer)
        target.dispatch(Event("question"))
        async with asyncio.timeout(outside.DEADLINE):
            await answered.wait()
        await asyncio.to_thread(target.close)

    asyncio.run(run())


def test_all_threads_end_with_close_and_it_can_be_used_again(hear):
    for mode in ("ephemeral", "durable"):
        target, heard = hear(mode)
        say(target, 1)
        outside.until(lambda heard=heard: heard)
        assert "peewee-honker-nats" in nats_threads()
        target.close()
        assert nats_threads() == []
        say(target, 2)
        target.close()
        target.close()
        assert nats_threads() == []


def test_the_connection_of_a_target_that_nobody_closes_ends_with_it(hear, nats_url):
    _, heard = hear("ephemeral")
    forgotten = NatsTarget(nats_url)
    say(forgotten, 1)
    assert nats_threads().count("peewee-honker-nats") == 2
    del forgotten
    gc.collect()
    outside.until(lambda: nats_threads().count("peewee-honker-nats") == 1)
    outside.until(lambda: heard)


@BOTH
def test_closing_inside_a_listener_ends_the_threads_too(make, mode):
    target = make(mode, **({"consumer": "test"} if mode == "durable" else {}))
    target.add_listener("*", lambda _: target.close())
    say(target, 1)
    outside.until(lambda: nats_threads() == [])


def test_several_targets_share_one_connection(nats_url):
    store, heard = NatsStore(nats_url), []
    targets = [NatsTarget(store), NatsTarget(store, "durable", consumer="a"), NatsTarget(store, prefix="x")]
    with pytest.raises(ValueError, match="NatsStore"):
        NatsTarget(store, limits=StreamLimits())
    for target in targets:
        target.add_listener("*", heard.append)
        say(target, 1)
    outside.until(lambda: len(heard) == 3)
    assert sorted(nats_threads()) == ["peewee-honker-dispatcher", "peewee-honker-nats"]
    for target in targets:
        target.close()
    assert nats_threads() == ["peewee-honker-nats"]
    store.close()
    assert nats_threads() == []


def test_what_is_sent_last_before_the_interpreter_ends_arrives(hear, nats_url):
    _, heard = hear("ephemeral")
    code = """
        import sys
        from peewee_honker import Event
        from peewee_honker.servers.nats import NatsTarget
        target = NatsTarget(sys.argv[1])
        target.add_listener("nothing", print)
        for number in range(1000):
            target.dispatch(Event("tick", str(number)))
    """
    with outside.Script(code, nats_url) as script:
        assert script.finish() == ""
    outside.until(lambda: len(heard) == 1000)


def test_at_the_interpreters_end_places_are_saved_and_the_next_follows_at_once(make, hear, nats_url):
    code = """
        import sys, threading
        from peewee_honker.servers.nats import NatsTarget
        target, heard = NatsTarget(sys.argv[1], "durable", consumer="test"), threading.Event()
        target.add_listener("*", lambda event: heard.set())
        print("ready")
        heard.wait()
    """
    with outside.Script(code, nats_url) as script:
        script.line()
        say(make(), 1)
        assert script.finish() == ""
    target, heard = hear()
    say(target, 2)
    outside.until(lambda: heard)
    assert heard == ["2"]


@BOTH
def test_the_child_of_a_fork_has_a_connection_of_its_own(nats_url, hear, mode):
    _, heard = hear(mode)
    code = """
        import os, sys
        from peewee_honker import Event
        from peewee_honker.servers.nats import NatsTarget
        options = {"consumer": "another"} if sys.argv[2] == "durable" else {}
        target, got = NatsTarget(sys.argv[1], sys.argv[2], **options), []
        target.add_listener("parent", got.append)
        target.dispatch(Event("parent", "parent before"))
        child = os.fork()
        if child == 0:
            target.dispatch(Event("child", "child"))
            target.close()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        target.dispatch(Event("parent", "parent after"))
        while len(got) < 2:
            pass
        target.close()
    """
    with outside.Script(code, nats_url, mode) as script:
        script.finish()
    outside.until(lambda: len(heard) == 3)
    assert sorted(heard) == ["child", "parent after", "parent before"]  # each once; two connections have no common order


# No server, and servers that go


@BOTH
def test_no_server_at_the_start_is_a_clear_error_without_secrets(make, mode):
    target = make(mode, "nats://ada:secret@127.0.0.1:1", **({"consumer": "test"} if mode == "durable" else {}))
    for do in (lambda: say(target, 1), lambda: target.add_listener("*", print)):
        with pytest.raises(NatsUnavailableError, match=r"no connection to NATS at 127\.0\.0\.1:1") as raised:
            do()
        assert isinstance(raised.value, HonkerError)
        assert "secret" not in str(raised.value)
    assert nats_threads() == []


def test_wrong_credentials_are_a_clear_error(new_nats_server, make):
    server = new_nats_server(more='authorization { user: "ada", password: "right" }')
    say(make("ephemeral", server.url.replace("//", "//ada:right@")), 1)
    wrong = make("ephemeral", server.url.replace("//", "//ada:wrong@"))

    def is_told():
        with pytest.raises(NatsUnavailableError) as caught:
            say(wrong, 1)
        return "Authorization" in str(caught.value)

    outside.until(is_told)  # the server's reset may overtake its answer


def test_options_that_the_client_does_not_take_are_a_clear_error(nats_url, make):
    with pytest.raises(NatsUnavailableError, match="no_such_option"):
        say(make(options={"no_such_option": 1}), 1)
    assert nats_threads() == []


def test_whatever_answers_in_the_servers_place_a_target_comes_back_with_the_server(new_nats_server, hear):
    server = new_nats_server()
    target, heard = hear("durable", url=server.url)
    say(target, 1)
    outside.until(lambda: heard == ["1"])
    server.end(signal.SIGKILL)
    with socket.create_server(("127.0.0.1", server.port)) as other:
        other.settimeout(outside.DEADLINE)
        connection, _ = other.accept()
        connection.sendall(b"INFO []\r\n")  # JSON, but not as a server says it
        connection.recv(1)
        connection.close()
    server.start()
    outside.until(lambda: target.store.link.is_connected, "the connection")
    say(target, 2)
    outside.until(lambda: heard[-1] == "2")


def test_a_server_without_jetstream_is_a_clear_error(new_nats_server, make):
    server = new_nats_server(max_file=None)
    say(make("ephemeral", server.url), 1)
    with pytest.raises(NatsUnavailableError, match="JetStream"):
        say(make("durable", server.url, timeout=0.5), 1)


def test_nothing_durable_is_lost_or_doubled_when_the_server_is_killed_and_comes_back(new_nats_server, make, hear):
    server = new_nats_server()
    publisher = make("durable", server.url, timeout=outside.DEADLINE)
    _, heard = hear(url=server.url, timeout=outside.DEADLINE)
    done = threading.Event()

    def publish():
        say(publisher, *range(300))
        done.set()

    thread = threading.Thread(target=publish)
    thread.start()
    for goal in (50, 150):
        outside.until(lambda goal=goal: len(heard) > goal or done.is_set())
        server.end(signal.SIGKILL)
        server.start()
    outside.until(lambda: len(heard) >= 300)
    thread.join()
    assert stored(publisher) == [str(number) for number in range(300)]
    assert heard == stored(publisher)


def test_while_the_server_is_away_dispatch_says_so_and_then_goes_on(new_nats_server, make, hear):
    server = new_nats_server()
    durable = make("durable", server.url, timeout=0.5)
    ephemeral, heard = hear("ephemeral", url=server.url)
    gaps = []
    ephemeral.add_listener(GAP, gaps.append)
    say(durable, 1)
    say(ephemeral, 1)
    outside.until(lambda: heard == ["1"])
    server.end(signal.SIGKILL)
    outside.until(lambda: not (ephemeral.store.link.is_connected or durable.store.link.is_connected))
    lost = Event("order.saved", "2")
    for target in (durable, ephemeral):
        with pytest.raises(NatsUnavailableError, match="no connection"):
            target.dispatch(lost)
    server.start()
    for target in (durable, ephemeral):
        outside.until(lambda target=target: target.store.link.is_connected)
    durable.dispatch(lost)
    say(ephemeral, 3)
    outside.until(lambda: heard == ["1", "3"])
    assert stored(durable) == ["1", "2"]
    assert "connection was lost" in gaps[0].payload["reason"]


@pytest.mark.parametrize("what", ["requests", "answers"])
def test_a_cut_in_the_middle_of_a_message_neither_loses_nor_doubles_it(nats_server, make, hear, what):
    with CuttingProxy(nats_server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}"
        publisher = make("durable", url, timeout=outside.DEADLINE)
        consumer, heard = hear(url=url, timeout=outside.DEADLINE)
        targets = publisher, consumer
        say(publisher, 0)
        chance = random.Random(17)
        for number in range(1, 40):
            if number % 8 == 0:
                proxy.cut_after(chance.randrange(1, 400), what)
            say(publisher, number)
        assert stored(publisher) == [str(number) for number in range(40)]
        outside.until(lambda: len(heard) >= 40)
        assert heard == [str(number) for number in range(40)]
        assert proxy.cuts
        for each in targets:
            each.close()


def test_a_receiver_that_fails_with_the_connection_has_no_dead_letter(nats_server, make):
    with CuttingProxy(nats_server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}"
        target, heard = make("durable", url, consumer="test", attempts=1), []

        def ship(event):
            if not heard:
                heard.append("first")
                proxy.cut()
                outside.until(lambda: not target.store.link.is_connected)
                raise RuntimeError("the connection is gone")
            heard.append(event.id)

        target.add_listener("*", ship)
        say(target, 1)
        outside.until(lambda: heard == ["first", "1"])
        assert target.store.dead_letters() == []
        target.close()


# Limits


def test_a_full_stream_that_refuses_says_so_and_goes_on_when_there_is_room(make):
    target = make(limits=StreamLimits(count=2, refuse_when_full=True))
    say(target, 1, 2)
    with pytest.raises(NatsFullError, match="no room: maximum messages exceeded"):
        say(target, 3)
    target.store.jetstream.api("STREAM.PURGE.peewee_honker_events")
    say(target, 4)
    assert stored(target) == ["4"]


def test_a_server_out_of_storage_says_so_and_what_was_stored_stays(new_nats_server, make):
    server = new_nats_server(max_file="1MB")
    target = make("durable", server.url)
    say(target, 1)
    kept = 1
    with pytest.raises(NatsFullError, match="no room"):
        while kept < 100:
            target.dispatch(Event("order.saved", "large", "x" * 100_000))
            kept += 1
    assert kept < 100
    assert len(stored(target)) == kept


def test_a_relay_waits_while_the_server_is_full_and_goes_on_when_there_is_room(new_nats_server, make, db):
    """A batch ends in the middle of the room that is left: the server keeps a part of it, of which nothing comes twice."""
    server = new_nats_server(max_file="1MB")
    publish(db, *range(20), payload="x" * 50_000)
    other = make("durable", server.url, stream="other")
    for _ in range(8):
        other.dispatch(Event("order.saved", "", "x" * 50_000))
    target = make("durable", server.url, timeout=0.5)
    with Relay(db, "orders", target, batch=8) as relay:
        outside.until(lambda: isinstance(relay.error, NatsFullError))
        arrived = stored(target)
        assert 0 < len(arrived) < 20
        other.store.jetstream.api("STREAM.DELETE.peewee_honker_other")
        assert relay.catch_up(outside.DEADLINE)
    assert arrived == [str(number) for number in range(len(arrived))]
    assert stored(target) == [str(number) for number in range(20)]


def test_what_was_deleted_before_it_was_read_is_told_of_by_a_gap(make, hear):
    first, heard = hear()
    say(first, 1)
    outside.until(lambda: heard == ["1"])
    first.close()
    say(make(limits=StreamLimits(count=2)), 2, 3, 4, 5)
    target, gaps, heard = make(consumer="test"), [], []
    target.add_listener(GAP, gaps.append)
    target.add_listener("*", lambda event: heard.append(event.id))
    outside.until(lambda: heard == ["4", "5"])
    [gap] = gaps
    assert (gap.payload["channel"], gap.payload["after"], gap.payload["before"]) == ("events", 1, 4)


def test_a_consumer_of_a_stream_that_was_made_anew_goes_on_at_its_beginning(make, hear, caplog):
    target, heard = hear()
    say(target, 1, 2, 3)
    outside.until(lambda: len(heard) == 3)
    outside.until(lambda: target.store.place("test", "events") == 3)
    target.store.jetstream.api("STREAM.DELETE.peewee_honker_events")
    say(target, 4)
    outside.until(lambda: heard == ["1", "2", "3", "4"])
    assert "deleted and made anew" in caplog.text


def test_limits_are_given_to_a_stream_that_is_there_and_without_any_it_stays(make):
    say(make(limits=StreamLimits(age=60, count=10, size=100_000, duplicate_window=5)), 1)
    say(make(), 2)
    state = make().store.jetstream
    config = state.api("STREAM.INFO.peewee_honker_events")["config"]
    assert (config["max_age"], config["max_msgs"], config["max_bytes"]) == (60 * 10**9, 10, 100_000)
    say(make(limits=StreamLimits(age=None, count=3)), 3, 4)
    config = state.api("STREAM.INFO.peewee_honker_events")["config"]
    assert (config["max_age"], config["max_msgs"], config["max_bytes"]) == (0, 3, -1)
    with pytest.raises(ValueError, match="larger than 0"):
        StreamLimits(count=0)


def test_a_listener_that_is_too_slow_for_ephemeral_events_is_told_what_it_missed(make, monkeypatch):
    monkeypatch.setattr(dispatching, "_MOST_EVENTS", 100)
    target, heard, gaps, go_on = make("ephemeral"), [], [], threading.Event()

    def slow(event):
        heard.append(event.id)
        go_on.wait(outside.DEADLINE)

    target.add_listener("order.saved", slow)
    target.add_listener(GAP, gaps.append)
    publisher = make("ephemeral")
    say(publisher, *range(1000))
    publisher.store.link.flush()
    target.store.link.flush()
    go_on.set()
    outside.until(lambda: gaps)
    say(publisher, "later")
    outside.until(lambda: "later" in heard)
    assert "faster than they were taken" in gaps[0].payload["reason"]
    assert heard[:50] == [str(number) for number in range(50)]
    assert len(heard) < 1000


# Relays


def test_a_relays_events_arrive_in_order_and_as_they_were(db, make, hear):
    publish(db, *range(1200))
    target = make()
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
        say(target, "another publisher's")
        publish(db, *range(1200, 1205))
        assert relay.catch_up(outside.DEADLINE)
    expected = (
        [str(number) for number in range(1200)] + ["another publisher's"] + [str(number) for number in range(1200, 1205)]
    )
    assert stored(target) == expected
    _, heard = hear(start_at="beginning")
    outside.until(lambda: len(heard) == 1206)
    assert heard == expected


def test_who_comes_with_old_events_is_refused(make):
    target, other = make(), make()
    events = [Event("order.saved", str(number), offset=number) for number in (1, 2)]
    target.forward("edge", events, None)
    known = Forwarded(2, events[-1].event_id)
    assert target.forwarded("edge") == other.forwarded("edge") == known
    for after in (None, Forwarded(1, events[0].event_id), Forwarded(2, "another event")):
        for each in (target, other):
            with pytest.raises(ForwardConflictError, match="edge"):
                each.forward("edge", events, after)
    other.forward("edge", [Event("order.saved", "3", offset=7)], known)
    with pytest.raises(ForwardConflictError, match="edge"):  # it believes to know the last
        target.forward("edge", [Event("order.saved", "4", offset=8)], known)
    target.forward("another relay", [Event("order.saved", "5", offset=7)], None)
    assert stored(target) == ["1", "2", "3", "5"]
    assert make("ephemeral").forwarded("edge") is None


def test_an_event_that_the_stream_has_already_is_dropped_and_those_around_it_are_not(make):
    target = make()
    events = [Event("order.saved", str(number), offset=number) for number in range(1, 8)]
    target.dispatch(events[3])
    target.forward("edge", events, None)
    assert stored(target) == ["4", "1", "2", "3", "5", "6", "7"]


def test_a_stream_without_batches_gets_each_event_once_within_its_window(db, make):
    target = make()
    say(target, "first")
    config = target.store.jetstream.api("STREAM.INFO.peewee_honker_events")["config"]
    target.store.jetstream.api("STREAM.DELETE.peewee_honker_events")
    target.store.jetstream.api("STREAM.CREATE.peewee_honker_events", {**config, "allow_atomic": False})
    publish(db, *range(50))
    for name in ("one", "the same again"):
        with Relay(db, "orders", target, name=name, batch=20) as relay:
            assert relay.catch_up(outside.DEADLINE)
    assert stored(target) == [str(number) for number in range(50)]
    assert target.forwarded("one") is None


def test_an_event_too_large_for_the_server_is_a_dead_letter_of_the_relay(db, make):
    publish(db, 1)
    publish(db, "large", payload="x" * 1_030_000)
    publish(db, 2)
    target = make()
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
    assert stored(target) == ["1", "2"]


def test_a_relay_brings_a_stream_back_into_a_file_each_event_once(db, make):
    target = make()
    say(target, *range(700))
    source = target.store
    for turn in (1, 2):
        with Relay(source, "events", HonkerEventTarget(db, "durable", stream="orders")) as relay:
            assert relay.catch_up(outside.DEADLINE)
        if turn == 1:
            source.seek("relay:events", "events", "beginning")  # as a crash before the place was saved
    assert [event.id for event in read_stream(db.engine, "orders", 0, 2000)] == [str(number) for number in range(700)]


def test_several_consumers_on_one_connection_read_at_their_own_pace(nats_url):
    store, heard, go_on = NatsStore(nats_url), {"fast": [], "slow": []}, threading.Event()
    targets = {name: NatsTarget(store, "durable", consumer=name) for name in heard}

    def slow(event):
        heard["slow"].append(event.id)
        if not go_on.is_set():
            raise RuntimeError("not yet")

    targets["slow"].add_listener("*", slow)
    targets["fast"].add_listener("*", lambda event: heard["fast"].append(event.id))
    say(targets["fast"], *range(1000))
    outside.until(lambda: len(heard["fast"]) == 1000)
    go_on.set()
    outside.until(lambda: heard["slow"] and heard["slow"][-1] == "999")
    assert heard["fast"] == [str(number) for number in range(1000)]
    assert list(dict.fromkeys(heard["slow"])) == heard["fast"]
    for target in targets.values():
        target.close()
    store.close()


RELAY = """
    import sys
    from peewee_honker import HonkerDatabase, Relay
    from peewee_honker.servers.nats import NatsTarget
    target = NatsTarget(sys.argv[2], "durable", stream="central")
    with Relay(HonkerDatabase(sys.argv[1], timeout=30), "orders", target, batch=7):
        print("ready")
        sys.stdin.readline()
"""


def test_a_relay_through_kills_of_its_process_and_of_the_server_doubles_and_loses_nothing(db, path, new_nats_server, make):
    server, seed, sent = new_nats_server(), random.randrange(1000), 0
    target = make("durable", server.url, stream="central", timeout=outside.DEADLINE)
    # A window that is over at once: it is not what keeps doubles out here.
    target.store.jetstream.ensure(
        names.stream_name("central"),
        [names.stream_subjects("central")],
        {"allow_atomic": True, "duplicate_window": 100_000_000},
    )
    chance = random.Random(seed)

    def arrived():
        return target.store.jetstream.state(names.stream_name("central")).size

    for turn in range(3):
        with outside.Script(RELAY, path, server.url) as relay:
            relay.line()
            for _ in range(chance.randrange(1, 8)):
                publish(db, *range(sent, sent + 20))
                sent += 20
            goal = chance.randrange(sent)
            outside.until(lambda goal=goal: arrived() > goal, f"seed {seed}")
            if turn % 2:
                server.end(signal.SIGKILL)
                server.start()
                outside.until(lambda goal=goal: arrived() > goal, f"seed {seed}")
            relay.process.send_signal(signal.SIGKILL)
    with Relay(db, "orders", target):
        outside.until(lambda: arrived() >= sent, f"seed {seed}")
    assert stored(target) == [str(number) for number in range(sent)], f"seed {seed}"


def test_a_relay_waits_while_the_server_is_away_and_catches_up(db, new_nats_server, make):
    server = new_nats_server()
    target = make("durable", server.url, timeout=0.5)
    publish(db, 1)
    with Relay(db, "orders", target) as relay:
        assert relay.catch_up(outside.DEADLINE)
        server.end(signal.SIGKILL)
        publish(db, 2, 3)
        outside.until(lambda: isinstance(relay.error, NatsUnavailableError))
        server.start()
        assert relay.catch_up(outside.DEADLINE)
    assert stored(target) == ["1", "2", "3"]


def test_requests_that_were_sent_again_do_not_make_a_conflict_of_their_own(nats_server, make):
    """The answer to a first attempt is cut off: the server has done what is asked again."""
    with CuttingProxy(nats_server.port) as proxy:
        store = make("durable", f"nats://127.0.0.1:{proxy.port}", timeout=outside.DEADLINE).store
        store.make_place("test", "events", "now")
        assert store.lead("test", "me", 6)
        for number in range(6):
            proxy.cut_after(1, "answers")
            assert store.keep_leading("test", "me", 6)
            proxy.cut_after(1, "answers")
            assert store.save_place("test", "events", number, number + 1)
        assert proxy.cuts >= 6
        store.close()


PERMITTED = """
authorization { users: [
  { user: publisher, password: x, permissions: {
    publish: ["peewee_honker.>", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.CREATE.*"], subscribe: ["_INBOX.>"] } }
  { user: listener, password: x, permissions: { subscribe: ["peewee_honker.event.>", "_INBOX.>"] } }
  { user: consumer, password: x, permissions: {
    publish: ["peewee_honker.>", "$KV.peewee_honker.>", "$JS.API.STREAM.>", "$JS.API.CONSUMER.>"],
    subscribe: ["_INBOX.>"] } }
] }
"""


def test_the_permissions_that_the_docs_name_suffice(new_nats_server, make, hear):
    server = new_nats_server(more=PERMITTED)
    url = {name: server.url.replace("//", f"//{name}:x@") for name in ("publisher", "listener", "consumer")}
    _, ephemeral = hear("ephemeral", url=url["listener"])
    say(make("durable", url["publisher"]), 1)
    say(make("ephemeral", url["publisher"]), 2)
    target, durable = make("durable", url["consumer"], consumer="test", start_at="beginning", attempts=1), []

    def ship(event):
        durable.append(event.id)
        raise RuntimeError("no")

    target.add_listener("*", ship)
    outside.until(target.store.dead_letters)
    outside.until(lambda: ephemeral)
    assert (durable, ephemeral) == (["1"], ["2"])


def test_one_consumer_reads_two_streams(nats_url):
    store, heard = NatsStore(nats_url), []
    consumer = Consumer(store, "test")
    targets = [NatsTarget(store, "durable", stream=stream, consumer=consumer) for stream in ("one", "other")]
    for target in targets:
        target.add_listener("*", lambda event: heard.append(event.id))
    for target in targets:
        say(target, target.stream)
    outside.until(lambda: sorted(heard) == ["one", "other"])
    for target in targets:
        target.close()
    store.close()


@pytest.mark.parametrize("error", HARD_TO_WRITE)
def test_an_error_that_cannot_be_written_as_it_is_does_not_stop_its_stream(make, error):
    heard = []

    def fails(event):
        heard.append(event.id)
        raise error

    target = make(consumer="test", attempts=1)
    target.add_listener("*", fails)
    say(target, 1, 2)
    outside.until(lambda: len(target.store.dead_letters("test")) == 2)
    assert heard == ["1", "2"]
    assert all(letter.error and "fails" in letter.traceback for letter in target.store.dead_letters("test"))
