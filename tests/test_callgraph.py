"""The call graph: what the events of calls make of it, in memory and in tables, and that a replay makes the same."""

# ruff: noqa: ARG005  (handlers have two arguments)

import asyncio
import contextlib
import itertools
import signal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peewee_honker.events import Event, Follower, HonkerEventTarget, LocalEventTarget, dead_letters
from peewee_honker.operations import (
    CallClient,
    CallGraphProjection,
    CallHandler,
    Identity,
    OperationError,
    OperationRegistry,
    OperationSpec,
    OperationType,
)
from peewee_honker.storage import CycleError, Edge, Graph, GraphRepository, graph_database
from tests.support.laws import examples
from tests.support.outside import Script, until

ANY = {"type": "object"}


@pytest.fixture(params=["memory", "tables"])
def graph(request, db):
    return CallGraphProjection(None if request.param == "memory" else db)


def told(type_, id_, at=0.0, **payload):
    """An event of a call."""
    return Event(f"call.{type_}", id_, {"requestId": id_, **payload}, time=at)


def requested(id_, at=0.0, operation="math.double", **payload):
    return told("requested", id_, at, operationId=operation, input={"n": 1}, **payload)


def take(graph, *events):
    for event in events:
        graph.apply(event)


def nested(tree):
    return {tree.call.request_id: [nested(child) for child in tree.children]}


# What an event does


def test_a_call_goes_from_pending_to_running_to_completed(graph):
    take(graph, requested("a", 1, identity={"id": "ada"}))
    assert graph.status("a") == "pending"
    assert graph.duration("a") is None
    take(graph, told("started", "a", 2))
    assert graph.status("a") == "running"
    take(graph, told("responded", "a", 2.5, output={"data": 42, "meta": {}}))
    call = graph.call("a")
    assert (call.status, call.input, call.output, call.identity) == ("completed", {"n": 1}, 42, {"id": "ada"})
    assert (call.requested_at, call.started_at, call.completed_at) == (1000, 2000, 2500)
    assert graph.duration("a") == 500
    assert call.to_json()["status"] == "completed"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (told("error", "a", 3, code="TOO_LARGE", message="n is too large", details={"most": 9}), "failed"),
        (told("aborted", "a", 3), "aborted"),
        (told("completed", "a", 3), "completed"),
    ],
)
def test_an_end_is_for_ever(graph, end, status):
    take(graph, requested("a", 1), end)
    call = graph.call("a")
    assert (call.status, call.completed_at) == (status, 3000)
    if status == "failed":
        assert call.error == {"code": "TOO_LARGE", "message": "n is too large", "details": {"most": 9}}
    late = [told("started", "a", 4), told("responded", "a", 4), told("error", "a", 4, code="X"), told("aborted", "a", 4)]
    take(graph, *late, requested("a", 5, operation="math.other"))
    assert graph.call("a") == call


def test_a_subscription_runs_until_it_is_completed(graph):
    take(graph, requested("a", 1, idleTimeout=1000))
    for number in range(3):
        take(graph, told("responded", "a", 2 + number, output={"data": number}))
        assert graph.status("a") == "running"
    take(graph, told("completed", "a", 9))
    call = graph.call("a")
    assert (call.status, call.output, call.is_subscription, call.duration) == ("completed", None, True, 8000)


def test_what_is_not_known_is_ignored(graph):
    take(graph, *(told(type_, "x") for type_ in ("started", "responded", "completed", "error", "aborted")))
    take(graph, requested("b", operation=None), requested("c", operation=""), Event("call.requested", "d", "no object"))
    take(graph, Event("order.saved", "e"), requested(""))
    assert [graph.status(id_) for id_ in ("x", "b", "c", "d", "e", "")] == [None] * 6
    assert graph.calls().calls == []
    with pytest.raises(LookupError, match="no call x is known"):
        graph.tree("x")


def test_calls_are_below_those_that_made_them_whoever_is_told_of_first(graph):
    take(graph, requested("c", 3, parentRequestId="b"), requested("d", 4, parentRequestId="b"))
    take(graph, requested("b", 2, parentRequestId="a"), requested("e", 5, parentRequestId="elsewhere"))
    assert nested(graph.tree("b")) == {"b": [{"c": []}, {"d": []}]}
    take(graph, requested("a", 1))
    assert nested(graph.tree("a")) == {"a": [{"b": [{"c": []}, {"d": []}]}]}
    assert nested(graph.tree("e")) == {"e": []}
    assert graph.tree("a").to_json()["children"][0]["children"][1]["request_id"] == "d"


def test_a_deep_chain_of_calls_is_a_tree_too(graph):
    take(graph, requested("0"), *(requested(str(n), parentRequestId=str(n - 1)) for n in range(1, 60)))
    tree, depth = graph.tree("0"), 0
    while tree.children:
        (tree,), depth = tree.children, depth + 1
    assert depth == 59


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_cycle_is_refused_and_nothing_of_the_call_is_there(graph, length):
    parents = {str(n): str((n + 1) % length) for n in range(length)}
    calls = [requested(id_, parentRequestId=parent) for id_, parent in parents.items()]
    take(graph, *calls[:-1])
    with pytest.raises(CycleError):
        take(graph, calls[-1])
    assert graph.status(str(length - 1)) is None
    take(graph, told("responded", str(length - 1)), requested("free"))
    assert len(graph.calls().calls) == length


def test_what_may_be_secret_is_left_out(db):
    for database in (None, db):
        graph = CallGraphProjection(database, leave_out=("input", "output", "error", "identity"))
        take(graph, requested("a", identity={"id": "ada"}), told("responded", "a", output={"data": "secret"}))
        take(graph, requested("b"), told("error", "b", code="NO", message="secret"))
        call, failed = graph.call("a"), graph.call("b")
        assert (call.input, call.output, call.identity, failed.error) == (None, None, None, {"code": "NO"})
    with pytest.raises(ValueError, match="there is no outputs to leave out"):
        CallGraphProjection(leave_out=["outputs"])


# Questions


def test_calls_are_listed_by_pages_newest_first(graph):
    for number in range(7):
        take(graph, requested(f"r{number}", number // 2, operation="math.odd" if number % 2 else "math.even"))
        if number > 3:
            take(graph, told("responded", f"r{number}", number))
    everything = ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    found, cursor = [], None
    for _ in everything:
        page = graph.calls(limit=2, cursor=cursor)
        found += [call.request_id for call in page.calls]
        cursor = page.next
        if cursor is None:
            break
    assert found == everything
    assert graph.calls(limit=7).next is None

    def ids(**wanted):
        return [call.request_id for call in graph.calls(**wanted).calls]

    assert ids(status="completed") == ["r6", "r5", "r4"]
    assert ids(operation_id="math.odd") == ["r5", "r3", "r1"]
    assert ids(since=2000) == ["r6", "r5", "r4"]
    assert ids(status="pending", operation_id="math.even", since=1000) == ["r2"]
    for wrong in ({"status": "done"}, {"cursor": "x"}, {"cursor": "x/y"}, {"cursor": "1/"}):
        with pytest.raises(ValueError, match=r"done|cursor"):
            graph.calls(**wrong)


def test_where_the_time_went(graph):
    take(graph, requested("a", 0), requested("b", 1, parentRequestId="a"), requested("c", 1, parentRequestId="a"))
    take(graph, requested("d", 2, parentRequestId="c"), requested("e", 0, operation="math.other"))
    take(graph, *(told("responded", id_, at) for id_, at in (("b", 2), ("d", 7), ("c", 8), ("a", 9))))
    assert [call.request_id for call in graph.critical_path("a")] == ["a", "c", "d"]
    assert [call.request_id for call in graph.slowest()] == ["a", "c", "d", "b"]
    assert [call.request_id for call in graph.slowest(since=1000, limit=1)] == ["c"]
    assert graph.slowest(operation_id="math.other") == []


def test_old_calls_go_when_new_ones_come(db):
    for database in (None, db):
        graph = CallGraphProjection(database, keep=60)
        take(graph, requested("a", 0), requested("b", 10, parentRequestId="a"), requested("c", 50, parentRequestId="b"))
        take(graph, requested("d", 65))
        assert graph.status("a") is None
        assert nested(graph.tree("b")) == {"b": [{"c": []}]}
        take(graph, told("responded", "a", 66))  # nobody knows it any more
        assert [call.request_id for call in graph.calls().calls] == ["d", "c", "b"]
        take(graph, *(requested(f"x{number}", 70) for number in range(40)), requested("y", 200))
        assert graph.prune() == 43 - 10  # the new call has removed ten
        assert [call.request_id for call in graph.calls().calls] == ["y"]
    with pytest.raises(ValueError, match="kept for a time"):
        CallGraphProjection(keep=0)


# The tables


def test_the_calls_are_a_graph_of_the_database(db):
    graph = CallGraphProjection(db, graph="billing")
    take(graph, requested("a"), requested("b", parentRequestId="a"))
    again = CallGraphProjection(db, graph="billing")
    assert nested(again.tree("a")) == {"a": [{"b": []}]}
    assert CallGraphProjection(db, graph="other").status("a") is None
    with graph_database.use(db):
        row = Graph.get(Graph.name == "billing")
        assert [(edge.source_node_key, edge.target_node_key, edge.type) for edge in Edge.select()] == [
            ("a", "b", "triggered")
        ]
    assert GraphRepository(db, row).topological_order() == ["a", "b"]
    assert db.execute_sql("SELECT key, status FROM call_nodes ORDER BY key").fetchall() == [
        ("a", "pending"),
        ("b", "pending"),
    ]


# A replay makes the same

ids = st.sampled_from("abcde")
steps = st.one_of(
    st.tuples(st.just("requested"), ids, st.none() | ids, st.booleans()),
    st.tuples(st.sampled_from(["started", "responded", "completed", "error", "aborted"]), ids),
)


def events_of(drawn):
    made, at = [], 0.0
    for pause, (type_, id_, *more) in drawn:
        at += pause
        if type_ == "requested":
            parent, subscribes = more
            extra = {} if parent is None else {"parentRequestId": parent}
            made.append(requested(id_, at, **extra, **({"idleTimeout": 1} if subscribes else {})))
        else:
            made.append(told(type_, id_, at, code="X", output={"data": at}))
    return made


def seen(graph):
    """All that a graph answers."""
    calls = graph.calls().calls
    return calls, [graph.tree(call.request_id) for call in calls], graph.slowest()


def taken(graph, events, crashes=()):
    """What becomes of events that a consumer gives: one that is refused is left behind."""
    for number, event in enumerate(events):
        with contextlib.suppress(CycleError):
            if number in crashes:
                with contextlib.suppress(KeyboardInterrupt), graph._database.atomic():
                    graph.apply(event)
                    raise KeyboardInterrupt
            graph.apply(event)


numbers = itertools.count()


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 30.0]), steps), max_size=25),
    st.sets(st.integers(0, 24)),
    st.sampled_from([None, 40]),
    st.integers(0, 25),
)
def test_what_lives_and_what_is_replayed_are_the_same(db, drawn, crashes, keep, prefix):
    """In memory, in tables with crashes before the commit of an event, and with a prefix that comes twice."""
    events = events_of(drawn)
    memory, again = CallGraphProjection(keep=keep), CallGraphProjection(keep=keep)
    tables = CallGraphProjection(db, graph=f"g{next(numbers)}", keep=keep)
    taken(memory, events)
    taken(again, events[:prefix])
    assert seen(again) == seen(CallGraphProjection()) or prefix
    taken(again, events[prefix:])
    taken(tables, events, crashes)
    assert seen(memory) == seen(again) == seen(tables)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(st.just(0.0), steps), max_size=20), st.randoms(use_true_random=False))
def test_duplicates_change_nothing_and_parents_may_come_late(drawn, random):
    """Of calls that are all requested, in any order, and then told of again."""
    parents = {}
    for _, (type_, id_, *more) in drawn:
        if type_ == "requested" and (more[0] is None or more[0] < id_):  # no cycles
            parents.setdefault(id_, more[0])
    requests = [requested(id_, ord(id_), **({"parentRequestId": p} if p else {})) for id_, p in parents.items()]
    others = [told(type_, id_, 1000, code="X") for _, (type_, id_, *_) in drawn if type_ != "requested"]
    one, other = CallGraphProjection(), CallGraphProjection()
    taken(one, [*requests, *others])
    random.shuffle(requests)
    taken(other, [*requests, *requests, *others])
    assert seen(one) == seen(other)
    last = seen(one)
    taken(one, [*requests, *(event for event in others if one.call(event.id) and one.call(event.id).status.is_final)])
    assert seen(one) == last


# With the bus


def registry_of_sums():
    registry = OperationRegistry()

    def add(name, handler, type_=OperationType.QUERY):
        registry.register(OperationSpec("math", name, type_, ANY, {}), handler)

    def fail(data, context):
        raise OperationError("NO", "no")

    async def slow(data, context):
        await asyncio.sleep(60)

    async def count(data, context):
        for number in range(data["n"]):
            yield number

    add("double", lambda data, context: data["n"] * 2)
    add("fail", fail)
    add("slow", slow)
    add("count", count, OperationType.SUBSCRIPTION)
    return registry


def test_the_graph_of_calls_of_this_process():
    target, registry, graph = LocalEventTarget(), registry_of_sums(), CallGraphProjection()
    graph.connect(target)
    client = CallClient(target)
    with CallHandler(registry, target):
        pending = client.start("math.double", {"n": 4}, identity=Identity("ada"))
        assert pending.result() == 8
        call = graph.call(pending.request_id)
        assert (call.status, call.output, call.identity["id"], call.started_at > 0) == ("completed", 8, "ada", True)
        graph.disconnect(target)
        assert client.call("math.double", {"n": 5}) == 10
    client.close()
    assert len(graph.calls().calls) == 1


@pytest.mark.parametrize("durable", [False, True])
def test_the_graph_of_a_durable_stream(db, durable):
    """All events of the protocol are in the stream: the graph has the calls' ends, and a follower builds the same."""

    def target(consumer):
        return HonkerEventTarget(db, "durable", stream="calls", consumer=consumer)

    registry, graph, caller = registry_of_sums(), CallGraphProjection(db), target("client")
    client = CallClient(caller, database=db if durable else None)

    async def twice(data, context):
        return [await client.start("math.double", {"n": n}, parent=context) for n in (1, 2)]

    registry.register(OperationSpec("math", "twice", OperationType.QUERY, ANY, {}), twice)
    listening = target("call-graph")
    graph.connect(listening)
    with CallHandler(registry, target("handler"), database=db, durable=durable):
        parent = client.start("math.twice", {})
        assert parent.result() == [2, 4]
        failed = client.start("math.fail", {})
        with pytest.raises(OperationError):
            failed.result()
        slow = client.start("math.slow", {}, timeout=0.2)
        with pytest.raises(OperationError):
            slow.result()
        counting = client.subscribe("math.count", {"n": 3})
        assert list(counting) == [0, 1, 2]
        last = client.start("math.double", {"n": 9})
        assert last.result() == 18
        until(lambda: graph.status(last.request_id) == "completed")
        wanted = {parent: "completed", failed: "failed", counting: "completed", last: "completed"}
        assert {call: graph.status(call.request_id) for call in wanted} == wanted
        assert graph.status(slow.request_id) in ("failed", "aborted")  # the handler's word or the caller's, which is first
        tree = graph.tree(parent.request_id)
        assert [child.call.output for child in tree.children] == [2, 4]
        assert all(call.started_at is not None for call in graph.calls().calls)
    client.close()
    graph.disconnect(listening)
    memory = CallGraphProjection()
    with Follower(db, "calls", memory.apply, position="beginning"):
        until(lambda: seen(memory) == seen(graph))

    before = seen(graph)
    graph.rebuild("call-graph")
    assert graph.calls().calls == []
    graph.connect(listening)
    until(lambda: seen(graph) == before)
    graph.disconnect(listening)


def test_a_cycle_in_a_stream_is_a_dead_letter_and_the_graph_goes_on(db):
    graph, stream = CallGraphProjection(db), HonkerEventTarget(db, "durable", stream="calls")
    target = HonkerEventTarget(db, "durable", stream="calls", consumer="call-graph", attempts=1)
    graph.connect(target)
    for event in (requested("a", parentRequestId="a"), requested("b")):
        stream.dispatch(event)
    until(lambda: graph.status("b"))
    assert [letter.event.id for letter in dead_letters(db)] == ["a"]
    graph.disconnect(target)


def test_a_graph_that_would_not_commit_with_its_place_is_refused(db, open_database, tmp_path):
    target = HonkerEventTarget(db, "durable", stream="calls", consumer="call-graph")
    with pytest.raises(ValueError, match="Follower"):
        CallGraphProjection().connect(target)
    with pytest.raises(ValueError, match="another database"):
        CallGraphProjection(open_database(str(tmp_path / "other.db"))).connect(target)
    with pytest.raises(ValueError, match="no consumer's place"):
        CallGraphProjection().rebuild("call-graph")


PROJECTION = """
    import os, signal, sys
    from peewee_honker import HonkerDatabase
    from peewee_honker.events import HonkerEventTarget
    from peewee_honker.operations import CallGraphProjection
    from peewee_honker.signals import in_transaction

    db = HonkerDatabase(sys.argv[1])
    graph = CallGraphProjection(db)
    target = HonkerEventTarget(db, "durable", stream="calls", consumer="call-graph", start_at="beginning")

    @in_transaction
    def die(event):
        if event.id == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)     # after the graph has written, before the commit

    with target.holding():
        graph.connect(target)
        target.add_listener("call.completed", die)
    sys.stdin.readline()
    target.close()
    db.close_engine()
"""


def test_a_projection_that_is_killed_goes_on_where_it_was(db, path):
    stream = HonkerEventTarget(db, "durable", stream="calls")
    with db.atomic():
        for number in range(20):
            stream.dispatch(requested(str(number), number, **({"parentRequestId": str(number // 2)} if number else {})))
            stream.dispatch(told("started", str(number), number + 0.1))
            stream.dispatch(told("completed", str(number), number + 0.2))
    for victim in ("3", "11"):
        with Script(PROJECTION, path, victim) as script:
            until(lambda: script.process.poll() is not None)
            assert script.process.returncode == -signal.SIGKILL
        graph = CallGraphProjection(db)
        assert graph.status(victim) == "running"
        assert len(graph.calls().calls) == int(victim) + 1
        db.execute_sql("DELETE FROM _honker_locks")  # as if the lease had ended
    with Script(PROJECTION, path, "none") as script:
        until(lambda: graph.status("19") == "completed")
        script.say("end")
        script.finish()
    memory = CallGraphProjection()
    with Follower(db, "calls", memory.apply, position="beginning"):
        until(lambda: seen(memory) == seen(graph))
