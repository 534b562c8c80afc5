"""Operations through a hub, and spokes: away, killed, replaced, ended."""

import asyncio
import itertools
import signal
import threading
import time

import pytest

pytest.importorskip("websockets", reason="websockets is not installed: the extra `hub`")

from peewee_honker import Event, HonkerDatabase, PayloadError
from peewee_honker.events import HonkerEventTarget, dead_letters
from peewee_honker.events.stream import read_stream
from peewee_honker.hub import Hub, HubRefusedError, Peer, Spoke, anyone
from peewee_honker.operations import Identity, OperationError, OperationRegistry, OperationSpec, OperationType
from peewee_honker.operations.calls import CallClient
from tests.support import outside
from tests.support.hub import ALL_SCOPES, Raw, client
from tests.support.outside import until

# ruff: noqa: ARG005  (handlers have two arguments)

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def spec(name, type_=OperationType.QUERY, **more):
    return OperationSpec("math", name, type_, NUMBER, {}, **more)


class Operations:
    """A registry with operations that are quick, slow, endless and wrong, and what has become of the slow ones."""

    def __init__(self):
        self.registry = OperationRegistry()
        self.began, self.stopped = threading.Event(), threading.Event()
        self.registry.register(spec("double"), lambda data, context: data["n"] * 2)
        self.registry.register(spec("slow"), self.slow)
        self.registry.register(spec("count", OperationType.SUBSCRIPTION), self.count)
        self.registry.register(spec("fail"), self.fail)
        self.registry.register(spec("burst", OperationType.SUBSCRIPTION), self.burst)

    async def slow(self, data, context):
        self.began.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.stopped.set()

    async def count(self, data, context):
        try:
            for number in itertools.count() if data["n"] < 0 else range(data["n"]):
                yield number
                await asyncio.sleep(0.001)
        finally:
            self.stopped.set()

    async def burst(self, data, context):
        for number in range(data["n"]):
            yield [number, "x" * 300_000]

    def fail(self, data, context):
        raise OperationError("TOO_LARGE", "n is too large", {"most": 9})


@pytest.fixture
def operations():
    return Operations()


@pytest.fixture
def hub(tmp_path, operations):
    database = HonkerDatabase(str(tmp_path / "hub.db"))
    with Hub(database, authenticate=anyone, registry=operations.registry) as made:
        yield made
    database.close_engine()


@pytest.fixture
def make_spoke(tmp_path, hub):
    made = []

    def make(name, **options):
        spoke = Spoke(HonkerDatabase(str(tmp_path / f"{name}.db")), hub.url, name, **options)
        made.append(spoke)
        spoke.start()
        spoke.wait_connected(outside.DEADLINE)
        return spoke

    yield make
    for spoke in made:
        spoke.stop()
        spoke.database.close_engine()


@pytest.fixture(params=["shop", "hub"])
def called(request, operations, make_spoke):
    """Whose operations are called: a spoke's, and the hub's own."""
    if request.param == "shop":
        make_spoke("shop", registry=operations.registry)
    return request.param


@pytest.fixture
def caller(hub):
    with client(hub.url) as target:
        yield CallClient(target.calls)


def failing(call):
    with pytest.raises(OperationError) as found:
        call()
    return found.value


def publish(database, *ids, stream="events"):
    target = HonkerEventTarget(database, "durable", stream=stream)
    with database.atomic():
        for id_ in ids:
            target.dispatch(Event("tick", str(id_)))


def ids_in(database, stream):
    return [event.id for event in read_stream(database.engine, stream, 0, 10_000) if not event.is_gap]


# Calls


def test_a_call_is_answered_through_the_hub(called, caller):
    assert caller.call(f"{called}/math/double", {"n": 21}) == 42

    async def concurrently():
        return await asyncio.gather(*(caller.start(f"{called}/math/double", {"n": n}) for n in range(100)))

    assert asyncio.run(concurrently()) == [n * 2 for n in range(100)]


def test_errors_reach_the_caller(called, caller):
    assert failing(lambda: caller.call(f"{called}/math/fail", {"n": 1})).details == {"most": 9}
    assert failing(lambda: caller.call(f"{called}/math/double", {})).code == "VALIDATION_ERROR"
    assert failing(lambda: caller.call(f"{called}/math/nothing", {"n": 1})).code == "OPERATION_NOT_FOUND"
    assert failing(lambda: caller.call("nobody/math/double", {"n": 1})).code == "OPERATION_NOT_FOUND"
    assert failing(lambda: caller.call("math.double", {"n": 1})).code == "UNKNOWN_ERROR"


def test_subscriptions_give_all_and_who_leaves_stops_the_generator(called, caller, operations):
    assert list(caller.subscribe(f"{called}/math/count", {"n": 50})) == list(range(50))
    operations.stopped.clear()
    with caller.subscribe(f"{called}/math/count", {"n": -1}) as numbers:
        assert next(iter(numbers)) == 0
    assert operations.stopped.wait(outside.DEADLINE)


def test_a_burst_of_answers_arrives_whole_and_drops_nobody_who_reads(called, caller):
    many = 100  # 30 MB; most_behind is one
    assert [number for number, _ in caller.subscribe(f"{called}/math/burst", {"n": many})] == list(range(many))


def test_a_deadline_stops_what_is_executed(called, caller, operations):
    assert failing(lambda: caller.call(f"{called}/math/slow", {"n": 1}, timeout=0.3)).code == "TIMEOUT"
    assert operations.stopped.wait(outside.DEADLINE)


def test_a_caller_that_goes_away_aborts_its_calls(called, hub, operations):
    with client(hub.url) as target:
        pending = CallClient(target.calls).start(f"{called}/math/slow", {"n": 1}, timeout=60)
        assert operations.began.wait(outside.DEADLINE)
    assert operations.stopped.wait(outside.DEADLINE)
    assert failing(pending.result).code == "UNAVAILABLE"


def test_a_subscription_hears_of_a_lost_connection_however_many_others_were_left(called, hub, caller, monkeypatch):
    monkeypatch.setattr("peewee_honker.hub.calls._MOST_REMEMBERED", 5)
    responses = iter(caller.subscribe(f"{called}/math/count", {"n": -1}, idle_timeout=outside.DEADLINE))
    assert next(responses) == 0
    for _ in range(10):
        with caller.subscribe(f"{called}/math/count", {"n": -1}) as other:
            assert next(iter(other)) == 0
    for subscriber in list(hub.server.subscribers):
        hub.server.loop.soon(subscriber.socket.transport.abort)
    assert failing(lambda: list(responses)).code == "UNAVAILABLE"


def test_a_spoke_that_goes_away_in_the_middle_is_told_to_the_caller(make_spoke, caller, operations):
    shop = make_spoke("shop", registry=operations.registry)
    pending = caller.start("shop/math/slow", {"n": 1}, timeout=60)
    assert operations.began.wait(outside.DEADLINE)
    shop.hub.stop()
    error = failing(pending.result)
    assert (error.code, "went away" in error.message) == ("UNAVAILABLE", True)
    assert operations.stopped.wait(outside.DEADLINE)  # nobody waits for it any more
    assert failing(lambda: caller.call("shop/math/double", {"n": 1})).code == "OPERATION_NOT_FOUND"


def test_an_abort_reaches_what_a_call_has_called_at_another_spoke(make_spoke, caller, operations):
    make_spoke("stock", registry=operations.registry)
    registry = OperationRegistry()
    shop = make_spoke("shop", registry=registry)

    async def order(data, context):
        return await shop.calls.start("stock/math/slow", data, parent=context, timeout=60)

    registry.register(spec("order"), order)
    shop.hub._ask(shop._greeting())  # with the operation that it has now
    pending = caller.start("shop/math/order", {"n": 1}, timeout=1)
    assert operations.began.wait(outside.DEADLINE)
    assert failing(pending.result).code == "TIMEOUT"
    assert operations.stopped.wait(outside.DEADLINE)


def test_nobody_answers_or_aborts_the_calls_of_others(hub, make_spoke, caller, operations):
    make_spoke("shop", registry=operations.registry)
    pending = caller.start("shop/math/slow", {"n": 1}, timeout=60)
    assert operations.began.wait(outside.DEADLINE)
    [route] = hub._router._routes.values()
    with Raw(hub.url) as other:
        for id_ in (route.call_id, route.request_id):
            for type_ in ("call.responded", "call.aborted", "call.error", "call.completed"):
                other.say(type_, {"output": {"data": "forged"}, "code": "X", "requestId": id_}, id=id_)
        other.ask("__newest")
    assert not pending._future.done()
    assert not operations.stopped.is_set()


def test_a_call_id_that_is_under_way_is_refused_and_the_first_goes_on(hub, make_spoke, operations):
    make_spoke("shop", registry=operations.registry)
    request = {"operationId": "shop/math/slow", "input": {"n": 1}, "deadline": (time.time() + 60) * 1000}
    with Raw(hub.url) as raw:
        raw.say("call.requested", request, id="same")
        assert operations.began.wait(outside.DEADLINE)
        raw.say("call.requested", request, id="same")
        assert raw.hear("call.error")["payload"]["code"] == "UNKNOWN_ERROR"
        assert not operations.stopped.is_set()


def test_services_are_discovered_with_their_schemas(make_spoke, operations):
    make_spoke("shop", registry=operations.registry)
    other = make_spoke("desk")
    assert [(one["spoke"], one["service"]) for one in other.discover()] == [("hub", "math"), ("shop", "math")]
    [shop] = other.discover("shop")
    assert [each["name"] for each in shop["operations"]] == ["burst", "count", "double", "fail", "slow"]
    assert OperationSpec.from_json(shop["operations"][2]) == spec("double")
    assert other.discover("shop", "none") == []


def test_a_spoke_is_called_by_one_name_and_nobody_else_takes_it(tmp_path):
    def who(handshake):
        return Peer(Identity(handshake.bearer, ALL_SCOPES), "acme")

    database = HonkerDatabase(str(tmp_path / "hub.db"))
    with Hub(database, authenticate=who) as hub:  # noqa: SIM117
        with Raw(hub.url, "ada") as first, Raw(hub.url, "eve") as other, Raw(hub.url, "ada") as again:
            assert first.ask("__register", {"spoke": "shop", "operations": []})["type"] == "__ack"
            assert other.ask("__register", {"spoke": "shop", "operations": []})["payload"]["code"] == "NAME_TAKEN"
            for name in ("hub", "", "a/b", "x" * 65, None):
                assert other.ask("__register", {"spoke": name, "operations": []})["payload"]["code"] == "BAD_REQUEST"
            assert other.ask("__register", {"spoke": "x", "operations": [{}]})["payload"]["code"] == "BAD_REQUEST"
            assert again.ask("__register", {"spoke": "shop", "operations": []})["type"] == "__ack"
            until(lambda: len(hub.server.subscribers) == 2)  # its first connection was ended
            assert hub.spokes == [("acme", "shop")]
    database.close_engine()


# Spokes and their events


def test_events_go_from_spoke_to_spoke_once_and_not_back(hub, make_spoke):
    shop, stock = make_spoke("shop"), make_spoke("stock")
    publish(shop.database, *range(100))
    publish(stock.database, "from stock")
    until(lambda: len(ids_in(stock.database, "hub")) == 100)
    until(lambda: len(ids_in(shop.database, "hub")) == 1)
    assert ids_in(stock.database, "hub") == [str(number) for number in range(100)]
    assert ids_in(shop.database, "hub") == ["from stock"]
    until(lambda: shop.waiting == 0)  # its place is saved after the hub has answered


def test_a_spoke_works_while_it_is_away_and_catches_up(hub, make_spoke, operations):
    shop, stock = make_spoke("shop", registry=operations.registry), make_spoke("stock")
    shop.stop()
    publish(shop.database, 1, 2, 3)  # its own database is there
    publish(stock.database, "a", "b")
    assert stock.catch_up(outside.DEADLINE)
    error = failing(lambda: shop.call("hub/math/double", {"n": 1}))
    assert error.code == "UNAVAILABLE"
    assert shop.waiting == 3
    shop.start()
    until(lambda: ids_in(shop.database, "hub") == ["a", "b"])
    until(lambda: ids_in(stock.database, "hub") == ["1", "2", "3"])
    assert shop.call("hub/math/double", {"n": 1}) == 2
    assert stock.call("shop/math/double", {"n": 2}) == 4


def test_a_spoke_of_a_hub_that_takes_less_sends_in_parts_and_buries_what_is_too_large(tmp_path, operations, db):
    hub = HonkerDatabase(str(tmp_path / "hub.db"))
    target = HonkerEventTarget(db, "durable", stream="events")
    target.dispatch(Event("tick", "large", "x" * 200_000))
    for id_ in range(300):
        target.dispatch(Event("tick", str(id_), "x" * 500))
    operations.registry.register(spec("large"), lambda data, context: "x" * 200_000)
    with (
        Hub(hub, authenticate=anyone, max_bytes=20_000) as small,
        Spoke(db, small.url, "shop", registry=operations.registry) as spoke,
        client(small.url) as target,
    ):
        calls = CallClient(target.calls)
        assert spoke.catch_up(outside.DEADLINE)
        assert failing(lambda: calls.call("shop/math/large", {"n": 1})).code == "EXECUTION_ERROR"
        with pytest.raises(PayloadError, match="20000 are allowed"):
            calls.call("shop/math/double", {"n": 1, "more": "x" * 200_000})
        assert calls.call("shop/math/double", {"n": 1}) == 2
    assert ids_in(hub, "hub") == [str(id_) for id_ in range(300)]
    assert [dead.event.id for dead in dead_letters(db, "spoke:shop:events")] == ["large"]
    hub.close_engine()


def test_a_new_spoke_begins_now_or_at_the_beginning(hub, make_spoke):
    for number in range(5):
        hub.server.dispatch(Event("tick", str(number)))
    now, all_ = make_spoke("now"), make_spoke("all", start_at="beginning")
    hub.server.dispatch(Event("tick", "5"))
    until(lambda: "5" in ids_in(now.database, "hub"))
    until(lambda: "5" in ids_in(all_.database, "hub"))
    assert ids_in(now.database, "hub") == ["5"]
    assert ids_in(all_.database, "hub") == ["0", "1", "2", "3", "4", "5"]


def test_a_spoke_that_has_heard_nothing_yet_misses_nothing_either(hub, make_spoke):
    shop = make_spoke("shop")
    until(lambda: shop.hub._store.forwarded("hub:shop"))
    shop.stop()
    hub.server.dispatch(Event("tick", "missed"))
    shop.start()
    until(lambda: ids_in(shop.database, "hub") == ["missed"])


def test_what_the_hub_has_deleted_is_a_gap_in_the_inbox(hub, make_spoke):
    from peewee_honker import Retention
    from peewee_honker.events.retention import prune_stream

    shop = make_spoke("shop")
    hub.server.dispatch(Event("tick", "0"))
    until(lambda: ids_in(shop.database, "hub") == ["0"])
    shop.stop()
    for number in range(1, 6):
        hub.server.dispatch(Event("tick", str(number)))
    prune_stream(hub.server.database.engine, "hub", Retention(age=None, count=2, consumed=False))
    shop.start()
    until(lambda: "5" in ids_in(shop.database, "hub"))
    there = [event.type if event.is_gap else event.id for event in read_stream(shop.database.engine, "hub", 0, 100)]
    assert there == ["0", "__gap__", "4", "5"]


def test_the_streams_of_hub_and_spoke_do_not_grow_without_bound(tmp_path):
    from peewee_honker import Retention

    database, other = HonkerDatabase(str(tmp_path / "hub.db")), HonkerDatabase(str(tmp_path / "shop.db"))
    publish(database, *range(2500), stream="hub")
    few = Retention(age=None, count=10, consumed=False)
    publish(other, *range(50), stream="hub")
    with Hub(database, authenticate=anyone, retention=few) as hub, Spoke(other, hub.url, "shop", retention=few) as shop:
        until(lambda: len(ids_in(database, "hub")) == 10)
        shop.wait_connected(outside.DEADLINE)
        hub.server.dispatch(Event("tick", "new"))
        until(lambda: len(ids_in(other, "hub")) <= 11)
    database.close_engine()
    other.close_engine()


def test_a_spoke_that_runs_twice_on_one_file_hears_everything_once(hub, make_spoke):
    first = make_spoke("shop")
    second = Spoke(first.database, hub.url, "shop2")
    second.hub._relay = first.hub._relay  # the same place, though the hub knows them by two names
    with second:
        second.wait_connected(outside.DEADLINE)
        for number in range(100):
            hub.server.dispatch(Event("tick", str(number)))
        until(lambda: "99" in ids_in(first.database, "hub"))
    assert ids_in(first.database, "hub") == [str(number) for number in range(100)]


def test_a_contract_that_is_none_harms_no_caller(hub):
    bad = {**spec("bad").to_json(), "access_control": {"required_scopes": [["unhashable"]]}}
    with Raw(hub.url) as raw:
        assert raw.ask("__register", {"spoke": "shop", "operations": [bad]})["payload"]["code"] == "BAD_REQUEST"


def test_arguments_that_cannot_be_are_refused(db):
    with pytest.raises(ValueError, match="cannot go up again"):
        Spoke(db, "ws://127.0.0.1:1", "shop", streams=["hub"])
    with pytest.raises(ValueError, match="beginning"):
        Spoke(db, "ws://127.0.0.1:1", "shop", start_at="later")


def test_a_key_that_may_not_serve_is_told_so(tmp_path, operations, db):
    def who(_handshake):
        return Peer(Identity("reader", ("events:read",)), "acme")

    database = HonkerDatabase(str(tmp_path / "hub.db"))
    with (
        Hub(database, authenticate=who) as hub,
        Spoke(db, hub.url, "shop", registry=operations.registry) as shop,
        pytest.raises(HubRefusedError, match="ACCESS_DENIED"),
    ):
        shop.wait_connected(outside.DEADLINE)
    database.close_engine()


# In processes of their own

HUB = """
    import sys, threading
    from peewee_honker import HonkerDatabase
    from peewee_honker.hub import Hub, anyone
    db = HonkerDatabase(sys.argv[1], timeout=20)
    hub = Hub(db, port=int(sys.argv[2]), authenticate=anyone)
    start = hub.start
    hub.start = lambda: (start(), print(hub.port))
    hub.run()
    db.close_engine()
    print([thread.name for thread in threading.enumerate()])
"""
SPOKE = """
    import sys, threading
    from peewee_honker import HonkerDatabase
    from peewee_honker.hub import Spoke
    from peewee_honker.operations import OperationRegistry, OperationSpec, OperationType
    db = HonkerDatabase(sys.argv[1], timeout=20)
    registry = OperationRegistry()
    registry.register(OperationSpec("math", "double", OperationType.QUERY, {}, {}), lambda data, context: data["n"] * 2)
    spoke = Spoke(db, sys.argv[2], sys.argv[3], registry=registry)
    start = spoke.start
    spoke.start = lambda: (start(), spoke.wait_connected(20), print("connected"))
    spoke.run()
    db.close_engine()
    print([thread.name for thread in threading.enumerate()])
"""


def test_a_hub_and_a_spoke_end_well(tmp_path):
    with outside.Script(HUB, str(tmp_path / "hub.db"), "0") as hub:
        url = f"ws://127.0.0.1:{hub.line()}"
        with (
            outside.Script(SPOKE, str(tmp_path / "a.db"), url, "a") as a,
            outside.Script(SPOKE, str(tmp_path / "b.db"), url, "b") as b,
        ):
            assert a.line() == b.line() == "connected"
            a.process.send_signal(signal.SIGINT)
            assert a.finish() == "['MainThread']\n"
            hub.process.send_signal(signal.SIGINT)
            assert hub.finish() == "['MainThread']\n"
            b.process.send_signal(signal.SIGTERM)  # while its hub is away
            assert b.finish() == "['MainThread']\n"


def test_hub_and_spokes_that_are_killed_lose_nothing_and_come_back_by_themselves(tmp_path):
    """A spoke in this process publishes; one in another hears; the hub and the other are killed in between."""
    hub_file, file = str(tmp_path / "hub.db"), str(tmp_path / "other.db")
    database = HonkerDatabase(str(tmp_path / "shop.db"))
    with outside.Script(HUB, hub_file, "0") as hub:
        port = hub.line()
        url = f"ws://127.0.0.1:{port}"
        shop = Spoke(database, url, "shop")
        shop.start()
        with outside.Script(SPOKE, file, url, "other") as other:
            assert other.line() == "connected"
            publish(database, *range(100))
            until(lambda: shop.waiting < 80)
            other.process.kill()
            publish(database, *range(100, 150))
        with outside.Script(SPOKE, file, url, "other") as other:
            assert other.line() == "connected"
            assert shop.call("other/math/double", {"n": 4}) == 8
            publish(database, *range(150, 200))
            hub.process.kill()
            hub.process.wait()
            publish(database, *range(200, 220))
            until(lambda: not shop.is_connected)
            assert failing(lambda: shop.call("other/math/double", {"n": 4})).code == "UNAVAILABLE"
            with outside.Script(HUB, hub_file, port):
                until(lambda: shop.is_connected)
                assert shop.catch_up(outside.DEADLINE)
                shop.stop()
                database.close_engine()
                count = "SELECT count(*) FROM _honker_stream WHERE topic = 'hub'"
                until(lambda: outside.rows(file, count)[0][0] >= 220)
    ids = "SELECT json_extract(payload, '$.id') FROM _honker_stream WHERE topic = 'hub' ORDER BY offset"
    assert [row[0] for row in outside.rows(file, ids)] == [str(number) for number in range(220)]
    assert [row[0] for row in outside.rows(hub_file, ids)] == [str(number) for number in range(220)]


def test_many_spokes_hear_everything(hub, db):
    """A smaller one of `benchmarks/hub.py`."""
    heard = [[] for _ in range(20)]
    targets = []
    try:
        for ids in heard:
            target = client(hub.url)
            targets.append(target)
            target.__enter__().add_listener("tick", lambda event, ids=ids: ids.append(event.id))
        with hub.server.database.atomic():
            for number in range(500):
                hub.server.dispatch(Event("tick", str(number)))
        until(lambda: all(len(ids) == 500 for ids in heard))
    finally:
        for target in targets:
            target.__exit__(None, None, None)
    assert all(ids == [str(number) for number in range(500)] for ids in heard)
