"""Server-sent events: the same of a feed in Flask and in Starlette, each a real server in a process of its own."""

import asyncio
import http.client
import itertools
import os
import signal

import pytest

from peewee_honker import HonkerDatabase
from peewee_honker.contrib.sse import Feed, FeedFullError
from peewee_honker.events import Event, HonkerEventTarget
from peewee_honker.events.retention import Retention, prune_stream
from tests.support.outside import Script, until
from tests.support.pages import FRAMEWORKS, Page, Server


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "test.db")


@pytest.fixture
def db(path):
    db = HonkerDatabase(path)
    yield db
    db.close_engine()


@pytest.fixture
def stream(db):
    return HonkerEventTarget(db, "durable", stream="orders")


def payloads(sent):
    return [one.data["payload"] for one in sent]


# What a page hears


def test_a_page_hears_what_commits_in_another_process_and_not_what_is_rolled_back(framework, path, db, stream):
    with Server(framework, path, stream="orders") as server, Page(server.port).opened() as page:
        assert page.response.headers.get_content_type() == "text/event-stream"
        assert "no-store" in page.response.headers["Cache-Control"]
        assert page.retry == 2000
        with db.atomic():
            stream.dispatch(Event("order.saved", "1", "no\nlines: \u2028 ü"))
        with db.atomic() as transaction:
            stream.dispatch(Event("order.saved", "2", "rolled back"))
            transaction.rollback()
        stream.dispatch(Event("order.saved", "3", [3]))
        first, second = page.take(2)
        assert first.data == {"type": "order.saved", "id": "1", "payload": "no\nlines: \u2028 ü"}
        assert second.data["payload"] == [3]
        assert first.name == "message"
        assert int(first.id) < int(second.id)


def test_a_page_hears_only_the_topics_of_the_feed_under_their_names_where_asked(framework, path, stream):
    with Server(framework, path, stream="orders", topics=["order.*", "item.saved:7"], named=True) as server:
        with Page(server.port).opened() as page:
            for type_, id_ in (("item.saved", "1"), ("order.saved", "2"), ("item.saved", "7"), ("order.deleted", "2")):
                stream.dispatch(Event(type_, id_, id_))
            assert [one.name for one in page.take(3)] == ["order.saved", "item.saved", "order.deleted"]
        with Page(server.port, last="0") as page:  # read from the file
            assert payloads(page.take(3)) == ["2", "7", "2"]


def test_ephemeral_events_have_no_ids(framework, path, db):
    channel = HonkerEventTarget(db)
    with Server(framework, path, topics=["price.*"]) as server, Page(server.port, last="17").opened() as page:
        channel.dispatch(Event("other", "", 1))
        channel.dispatch(Event("price.changed", "gold", 2))
        sent = page.next()
        assert (sent.id, sent.data["payload"]) == ("", 2)


def test_silence_is_broken_by_comments(framework, path, stream):
    with Server(framework, path, stream="orders", keep_alive=0.05) as server, Page(server.port).opened() as page:
        while page.comments < 3:
            page.comments += page.response.readline().startswith(b":")
        stream.dispatch(Event("order.saved", "1", 1))
        assert page.next().data["id"] == "1"


def test_what_cannot_be_sent_is_told_of(framework, path, stream):
    with Server(framework, path, stream="orders") as server, Page(server.port).opened() as page:
        stream.dispatch(Event("order.saved", "1", "secret"))
        stream.dispatch(Event("order.saved", "2", "known"))
        gap, sent = page.take(2)
        assert (gap.name, gap.data["reason"]) == ("gap", "an event could not be sent")
        assert sent.data["payload"] == "known"


# Coming back


def test_a_page_that_comes_back_hears_what_it_missed(framework, path, stream):
    with Server(framework, path, stream="orders", buffer=5) as server:
        with Page(server.port).opened() as page:
            stream.dispatch(Event("order.saved", "", 0))
            page.next()
        for number in range(1, 500):
            stream.dispatch(Event("order.saved", "", number))
        with Page(server.port, last=page.last) as page:
            assert payloads(page.take(499)) == list(range(1, 500))
            stream.dispatch(Event("order.saved", "", 500))
            assert page.next().data["payload"] == 500


def test_no_event_is_missed_and_none_comes_twice_while_pages_come_and_go(framework, path):
    writer = """
        import sys
        from peewee_honker import HonkerDatabase
        from peewee_honker.events import Event, HonkerEventTarget
        db = HonkerDatabase(sys.argv[1])
        stream = HonkerEventTarget(db, "durable", stream="orders")
        for number in range(2000):
            stream.dispatch(Event("order.saved" if number % 3 else "other", "", number))
        db.close_engine()
    """
    wanted = [number for number in range(2000) if number % 3]
    with Server(framework, path, stream="orders", topics=["order.saved"], buffer=20) as server, Script(writer, path):
        heard, last = [], "0"
        for most in itertools.cycle((1, 7, 40, 200)):
            with Page(server.port, last=last) as page:
                heard += payloads(page.take(min(most, len(wanted) - len(heard))))
                last = page.last
            if len(heard) == len(wanted):
                break
        assert heard == wanted


def test_a_page_goes_on_after_its_server_was_killed(framework, path, stream):
    with Server(framework, path, stream="orders") as server, Page(server.port).opened() as page:
        stream.dispatch(Event("order.saved", "", 1))
        assert page.next().data["payload"] == 1
        server.process.kill()
        with pytest.raises((EOFError, ConnectionError, http.client.IncompleteRead)):
            page.next()
        server.process.wait()
        stream.dispatch(Event("order.saved", "", 2))
    with Server(framework, path, server.port, stream="orders") as again, Page(again.port, last=page.last) as page:
        assert page.next().data["payload"] == 2


def test_a_page_begins_where_what_it_shows_was_read(framework, path, db, stream):
    feed = Feed(db, stream="orders")
    stream.dispatch(Event("order.saved", "", "shown"))
    position = feed.position
    stream.dispatch(Event("order.saved", "", "first"))
    stream.dispatch(Event("order.saved", "", "second"))
    with Server(framework, path, stream="orders") as server:
        with Page(server.port, f"?after={position}") as page:
            assert page.next().data["payload"] == "first"
        with Page(server.port, f"?after={position}", last=page.last) as page:
            assert page.next().data["payload"] == "second"


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "٣"])
def test_an_id_that_is_none_is_a_gap(path, db, stream, last):
    feed = Feed(db, stream="orders")
    with feed:
        frames = iter(feed.connect(last))
        assert b"event: gap" in next(frames)
        stream.dispatch(Event("order.saved", "", 1))
        assert b'"payload":1' in next(frames)


def test_what_was_pruned_before_a_page_came_back_is_a_gap(framework, path, db, stream):
    for number in range(10):
        stream.dispatch(Event("order.saved", "", number))
    prune_stream(db.engine, "orders", Retention(age=None, count=3))
    with Server(framework, path, stream="orders") as server, Page(server.port, last="2") as page:
        gap, *sent = page.take(4)
        assert (gap.name, gap.data) == ("gap", {"reason": "pruned", "after": 2, "before": 8})
        assert payloads(sent) == [7, 8, 9]
        with Page(server.port, last=gap.id) as again:
            assert payloads(again.take(3)) == [7, 8, 9]


def test_a_page_that_is_far_behind_gets_the_last_events(framework, path, stream):
    for number in range(30):
        stream.dispatch(Event("order.saved", "", number))
    with Server(framework, path, stream="orders", replay=5) as server, Page(server.port, last="3") as page:
        gap, *sent = page.take(6)
        assert (gap.name, gap.data) == ("gap", {"reason": "more than 5 events were missed", "after": 3, "before": 26})
        assert payloads(sent) == [25, 26, 27, 28, 29]


def test_an_id_of_a_file_that_is_gone_is_a_gap(framework, path, stream):
    stream.dispatch(Event("order.saved", "", 1))
    with Server(framework, path, stream="orders") as server, Page(server.port, last="1000") as page:
        assert page.next().data["reason"] == "the file was replaced"
        stream.dispatch(Event("order.saved", "", 2))
        assert page.next().data["payload"] == 2


def test_pages_are_told_when_the_file_is_replaced_and_go_on_in_the_new_one(db, path, stream):
    other = f"{path}.other"
    publish = """
        import sys
        from peewee_honker import HonkerDatabase
        from peewee_honker.events import Event, HonkerEventTarget
        db = HonkerDatabase(sys.argv[1])
        HonkerEventTarget(db, "durable", stream="orders").dispatch(Event("order.saved", "", sys.argv[2]))
        db.close_engine()
    """
    for number in range(5):
        stream.dispatch(Event("order.saved", "", number))
    with Feed(db, stream="orders", keep_alive=0.05) as feed:
        frames = (frame for frame in feed.connect() if not frame.startswith(b":"))
        assert next(frames) == b"retry: 2000\n\n"
        db.close()
        with Script(publish, other, "there already") as script:
            script.finish()
        for end in ("-wal", "-shm"):
            if os.path.exists(path + end):
                os.remove(path + end)
        os.replace(other, path)
        told = next(frames)
        assert b"event: gap" in told
        assert b"the file was replaced" in told
        with Script(publish, path, "new") as script:
            script.finish()
        assert b'"payload":"new"' in next(frames)


# Who may listen, and how many


def test_a_page_that_may_not_listen_is_refused(framework, path):
    with Server(framework, path, stream="orders", guarded=True) as server:
        with Page(server.port) as page:
            assert page.status == 403
        assert server.clients() == 0


def test_a_page_hears_only_what_it_may(framework, path, stream):
    for name in ("ada", "eve", "ada"):
        stream.dispatch(Event("order.saved", "", name))
    with (
        Server(framework, path, stream="orders", guarded=True) as server,
        Page(server.port, "?user=ada&after=0") as ada,
        Page(server.port, "?user=root&after=0") as root,
    ):
        assert payloads(ada.take(2)) == ["ada", "ada"]
        assert payloads(root.take(3)) == ["ada", "eve", "ada"]
        for name in ("eve", "ada"):
            stream.dispatch(Event("order.saved", "", name))
        assert payloads(ada.take(1)) == ["ada"]
        assert payloads(root.take(2)) == ["eve", "ada"]


def test_a_full_feed_refuses_until_a_page_has_gone(framework, path):
    with Server(framework, path, stream="orders", clients=2, keep_alive=0.05) as server:
        pages = [Page(server.port).opened() for _ in range(2)]
        with Page(server.port) as refused:
            assert (refused.status, refused.response.headers["Retry-After"]) == (503, "5")
        pages[0].close()
        until(lambda: server.clients() == 1, "the place of the page that has gone is free")
        with Page(server.port) as page:
            assert page.status == 200
        pages[1].close()


def test_asking_for_the_headers_takes_no_place(path):
    with Server("flask", path, stream="orders") as server:
        with Page(server.port, method="HEAD") as page:
            assert page.status == 200
        assert server.clients() == 0


def test_a_page_that_reads_slowly_gets_all_of_a_stream(framework, path, db, stream):
    with Server(framework, path, stream="orders", buffer=10) as server, Page(server.port).opened() as page:
        with db.atomic():
            for number in range(3000):
                stream.dispatch(Event("order.saved", str(number), "x" * 2000))
        assert [one.data["id"] for one in page.take(3000)] == [str(number) for number in range(3000)]


def test_a_page_that_reads_slowly_is_told_of_what_it_missed_of_channels(framework, path, db):
    channel = HonkerEventTarget(db)
    with (
        Server(framework, path, buffer=10) as server,
        Page(server.port).opened() as page,
        Page(server.port).opened() as quick,
    ):
        for number in range(3000):
            channel.dispatch(Event("tick", str(number), "x" * 4000))
            if number % 10 == 0:
                while quick.next().data.get("id") != str(number):
                    pass
        channel.dispatch(Event("tick", "last", ""))
        sent = []
        while not sent or sent[-1].data.get("id") != "last":
            sent.append(page.next())
        assert {one.data["reason"] for one in sent if one.name == "gap"} == {"the page was too slow"}
        numbers = [int(one.data["id"]) for one in sent[:-1] if one.name == "message"]
        assert numbers == sorted(set(numbers))


# The end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_lets_its_pages_go(framework, path, stream, number):
    if framework == "flask" and number == signal.SIGINT:
        pytest.skip("werkzeug's own server ends at once at Ctrl-C, with its threads")
    with Server(framework, path, stream="orders") as server, Page(server.port).opened() as page:
        stream.dispatch(Event("order.saved", "", 1))
        page.next()
        server.process.send_signal(number)
        with pytest.raises((EOFError, ConnectionError)):
            page.next()
        assert server.finish() == "stopped\n"


def test_a_closed_feed_takes_nobody_and_ends_its_pages(db):
    with Feed(db, stream="orders") as feed:
        page = feed.connect()
    assert list(page) == []
    with pytest.raises(FeedFullError, match="closed"):
        feed.connect()
    assert feed.clients == 0


def test_a_connection_that_is_dropped_frees_its_place(db):
    with Feed(db, stream="orders", clients=1) as feed:
        feed.connect()
        page = feed.connect()
        with pytest.raises(FeedFullError, match="clients="):
            feed.connect()
        page.close()
        feed.connect()


def test_pages_on_a_loop_that_was_closed_keep_no_event_from_the_others(db, caplog):
    async def connected():
        frames = aiter(feed.connect())
        await anext(frames)
        return frames

    with Feed(db, keep_alive=20.0) as feed:
        gone = []
        for _ in range(2):
            loop = asyncio.new_event_loop()
            gone.append(loop.run_until_complete(connected()))
            loop.close()
        page = iter(feed.connect())
        next(page)
        HonkerEventTarget(db).dispatch(Event("order.saved", "1"))
        assert b"order.saved" in next(page)
        until(lambda: feed.clients == 1)
    assert caplog.text == ""
