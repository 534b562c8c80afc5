"""Calls over events: one suite over all targets; what happens when somebody is late, dies, or says it twice."""

import asyncio
import contextvars
import itertools
import queue
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peewee_honker.events import Event, HonkerEventTarget, LocalEventTarget
from peewee_honker.operations import AccessControl, Identity, OperationError, OperationRegistry, OperationSpec, OperationType
from peewee_honker.operations.calls import CallClient, CallHandler
from peewee_honker.operations.workers import Workers
from tests.support.laws import examples
from tests.support.outside import Script, until

# ruff: noqa: ARG005  (handlers have two arguments)

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
MODES = ["local", "honker", "durable", "stream"]


def spec(name, type_=OperationType.QUERY, **more):
    return OperationSpec("math", name, type_, NUMBER, {}, **more)


class Side:
    """A registry, a client and a handler over one target."""

    def __init__(self, mode, db):
        self.registry, self.mode, self.db = OperationRegistry(), mode, db
        self.target = LocalEventTarget() if mode == "local" else HonkerEventTarget(db)
        handlers = self.target
        if mode == "stream":  # all events are kept; the client and the handler are consumers of their own
            self.target, handlers = (
                HonkerEventTarget(db, "durable", stream="calls", consumer=name) for name in ("client", "handler")
            )
        durable = mode == "durable"
        self.client = CallClient(self.target, database=db if durable else None, lease=3)
        database = None if mode == "local" else db
        self.handler = CallHandler(self.registry, handlers, database=database, durable=durable, lease=3, workers=8)

    def add(self, spec, handler):
        self.registry.register(spec, handler)


@pytest.fixture(params=MODES)
def side(request, db):
    side = Side(request.param, db)
    with side.handler:
        yield side
    side.client.close()


def failing(call):
    with pytest.raises(OperationError) as found:
        call()
    return found.value


def test_a_call_is_answered(side):
    side.add(spec("double"), lambda data, context: data["n"] * 2)
    assert side.client.call("math.double", {"n": 21}) == 42

    async def concurrently():
        return await asyncio.gather(*(side.client.start("math.double", {"n": n}) for n in range(50)))

    assert asyncio.run(concurrently()) == [n * 2 for n in range(50)]
    assert side.client.pending == 0


def test_an_error_is_the_callers(side):
    def fail(data, context):
        raise OperationError("TOO_LARGE", "n is too large", {"most": 9})

    side.add(spec("fail"), fail)
    side.add(spec("broken"), lambda data, context: 1 / 0)
    assert failing(lambda: side.client.call("math.fail", {"n": 1})).to_json() == {
        "code": "TOO_LARGE",
        "message": "n is too large",
        "details": {"most": 9},
    }
    assert failing(lambda: side.client.call("math.broken", {"n": 1})).message == "math.broken failed"
    assert failing(lambda: side.client.call("math.fail", {})).code == "VALIDATION_ERROR"


def test_an_answer_that_cannot_be_sent_is_an_error_at_once(side):
    side.add(spec("strange"), lambda data, context: {1, 2})
    error = failing(lambda: side.client.call("math.strange", {"n": 1}))
    assert (error.code, error.message) == ("EXECUTION_ERROR", "the answer of math.strange could not be sent")


def test_what_was_executed_long_ago_is_forgotten(db):
    side = Side("honker", db)
    side.add(spec("double"), lambda data, context: data["n"] * 2)
    with side.handler:
        db.execute_sql("INSERT INTO _honker_peewee_calls VALUES ('old', unixepoch() - 100000)")
        assert side.client.call("math.double", {"n": 1}) == 2
    side.client.close()
    assert ("old",) not in db.execute_sql("SELECT request_id FROM _honker_peewee_calls").fetchall()


async def give_up_something():
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task


async def give_up(data, context):
    await give_up_something()


async def give_one_and_up(data, context):
    yield 1
    await give_up_something()


def leave(data, context):
    sys.exit("no such option")


async def leave_later(data, context):
    sys.exit("no such option")


@pytest.mark.parametrize("handler", [give_up, leave, leave_later])
def test_what_a_handler_cancels_or_leaves_ends_its_call_alone(side, handler):
    side.add(spec("fine"), lambda data, context: data["n"])
    side.add(spec("failing"), handler)
    for _ in range(10):  # there are eight workers
        error = failing(lambda: side.client.call("math.failing", {"n": 1}))
        assert (error.code, error.message) == ("EXECUTION_ERROR", "math.failing failed")
    assert side.client.call("math.fine", {"n": 1}) == 1


def test_a_subscription_whose_handler_has_cancelled_what_it_awaits_fails(side):
    side.add(spec("failing", OperationType.SUBSCRIPTION), give_one_and_up)
    heard = []
    error = failing(lambda: heard.extend(iter(side.client.subscribe("math.failing", {"n": 1}, idle_timeout=20))))
    assert (error.code, error.message) == ("EXECUTION_ERROR", "math.failing failed")


def test_the_identity_travels_and_is_looked_at(side):
    guarded = AccessControl(required_scopes=("math:use",))
    side.add(spec("who", access_control=guarded), lambda data, context: [context.identity.id, context.metadata])
    assert failing(lambda: side.client.call("math.who", {"n": 1})).code == "ACCESS_DENIED"
    may = Identity("ada", ("math:use",))
    assert side.client.call("math.who", {"n": 1}, identity=may, metadata={"a": 1}) == ["ada", {"a": 1}]


def test_a_deadline_that_passes_is_a_timeout_and_aborts_the_handler(side):
    aborted = threading.Event()

    async def slow(data, context):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            aborted.set()
            raise

    side.add(spec("slow"), slow)
    assert failing(lambda: side.client.call("math.slow", {"n": 1}, timeout=0.3)).code == "TIMEOUT"
    assert aborted.wait(20)
    assert side.client.pending == 0


def test_a_call_without_a_handler_times_out(side):
    assert failing(lambda: side.client.call("math.nothing", {"n": 1}, timeout=0.2)).code == "TIMEOUT"


def test_a_subscription_gives_all_responses_and_its_end(side):
    async def count(data, context):
        for number in range(data["n"]):
            yield number

    side.add(spec("count", OperationType.SUBSCRIPTION), count)
    assert list(side.client.subscribe("math.count", {"n": 5})) == [0, 1, 2, 3, 4]

    async def heard():
        return [number async for number in side.client.subscribe("math.count", {"n": 3})]

    assert asyncio.run(heard()) == [0, 1, 2]
    assert side.client.pending == 0


def test_a_subscription_that_is_not_read_is_ended_behind_what_waits(side):
    aborted = threading.Event()

    async def count(data, context):
        try:
            for number in itertools.count():
                yield number
                await asyncio.sleep(0)
        finally:
            aborted.set()

    side.add(spec("count", OperationType.SUBSCRIPTION), count)
    subscription, heard = side.client.subscribe("math.count", {"n": 1}, buffer=5), []
    assert aborted.wait(20)
    error = failing(lambda: heard.extend(iter(subscription)))
    assert (error.code, heard) == ("TOO_SLOW", [0, 1, 2, 3, 4])
    assert side.client.pending == 0


def test_many_subscriptions_wait_on_one_loop(db):
    side = Side("local", db)
    many = 40  # more than asyncio has threads for what blocks

    async def one(data, context):
        yield data["n"]
        await asyncio.sleep(60)

    side.add(spec("one", OperationType.SUBSCRIPTION), one)

    async def hear_all():
        heard = []

        async def hear(number):
            async for value in side.client.subscribe("math.one", {"n": number}):
                heard.append(value)  # noqa: PERF401  (others look at it meanwhile)

        hearing = []
        async with asyncio.timeout(20):
            for number in range(many):
                hearing.append(asyncio.create_task(hear(number)))
                while len(heard) < len(hearing):  # so that it waits for more when the next one comes
                    await asyncio.sleep(0.001)
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)
        return heard

    with CallHandler(side.registry, side.target, workers=many):
        assert asyncio.run(hear_all()) == list(range(many))
        assert side.client.pending == 0
    side.client.close()


def test_who_leaves_a_subscription_stops_the_generator(side):
    stopped = threading.Event()

    async def count(data, context):
        try:
            for number in itertools.count():
                yield number
                await asyncio.sleep(0.001)
        finally:
            stopped.set()

    side.add(spec("count", OperationType.SUBSCRIPTION), count)
    with side.client.subscribe("math.count", {"n": 1}) as responses:
        assert next(iter(responses)) == 0
    assert stopped.wait(20)


def test_a_subscription_that_says_nothing_is_a_timeout(side):
    async def silent(data, context):
        yield 1
        await asyncio.sleep(60)

    side.add(spec("silent", OperationType.SUBSCRIPTION), silent)
    heard = []
    error = failing(lambda: heard.extend(iter(side.client.subscribe("math.silent", {"n": 1}, idle_timeout=0.3))))
    assert error.code == "TIMEOUT"


def test_an_abort_reaches_what_the_call_has_called(side):
    stopped = threading.Event()

    async def inner(data, context):
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async def outer(data, context):
        return await side.client.start("math.inner", data, parent=context)

    side.add(spec("inner"), inner)
    side.add(spec("outer"), outer)
    assert failing(lambda: side.client.call("math.outer", {"n": 1}, timeout=0.5)).code == "TIMEOUT"
    assert stopped.wait(20)


def test_a_handler_that_stops_ends_subscriptions_that_have_not_begun_too(db):
    side = Side("local", db)
    begun = threading.Event()

    async def silent(data, context):
        begun.set()
        await asyncio.sleep(60)
        yield 1

    side.add(spec("silent", OperationType.SUBSCRIPTION), silent)
    side.handler = CallHandler(side.registry, side.target, workers=1)
    with side.handler:
        running, waiting = (side.client.subscribe("math.silent", {"n": n}) for n in (1, 2))
        assert begun.wait(20)
    assert [failing(lambda each=each: list(each)).code for each in (running, waiting)] == ["ABORTED", "ABORTED"]
    side.client.close()


def test_a_call_leaves_no_tasks_behind_and_no_context(db):
    """The loop of a worker serves many calls, none of which sees what another has left."""
    side = Side("local", db)
    name = contextvars.ContextVar("name", default="nobody")
    ended = threading.Event()

    async def leave(data, context):
        async def background():
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        context.metadata["kept"] = asyncio.create_task(background())
        name.set("somebody")
        await asyncio.sleep(0)

    async def who(data, context):
        return [name.get(), len(asyncio.all_tasks())]

    side.add(spec("leave"), leave)
    side.add(spec("who"), who)
    side.handler = CallHandler(side.registry, side.target, workers=1)
    with side.handler:
        assert side.client.call("math.leave", {"n": 1}, metadata={"a": 1}) is None
        assert ended.wait(20)
        assert side.client.call("math.who", {"n": 1}) == ["nobody", 1]
    side.client.close()


def test_a_job_that_comes_while_a_worker_falls_idle_costs_no_other_its_worker(monkeypatch):
    begun, go = threading.Semaphore(0), threading.Event()
    found_empty, late = [], []

    class Interrupted(queue.SimpleQueue):
        """In the moment in which it is first found empty a job comes, whose thread, if it gets one, starts late."""

        def get_nowait(self):
            return self.get(block=False)

        def get(self, block=True, timeout=None):
            try:
                return super().get(block, timeout)
            except queue.Empty:
                found_empty.append(threading.current_thread())
                if len(found_empty) == 1:
                    with monkeypatch.context() as patched:
                        patched.setattr(threading.Thread, "start", lambda thread: late.append(thread))  # noqa: PLW0108  (a method)
                        workers.submit(work)
                raise

    def work():
        begun.release()
        go.wait()

    workers = Workers(3, "worker", lambda: None)
    workers._jobs = Interrupted()
    workers.submit(lambda: None)
    assert begun.acquire(timeout=20)
    for thread in late:
        thread.start()
        until(lambda thread=thread: thread in found_empty)
    for _ in range(2):
        workers.submit(work)
    assert [begun.acquire(timeout=20) for _ in range(2)] == [True, True]
    go.set()
    workers.close()


def test_answers_that_nobody_waits_for_are_ignored(side):
    side.add(spec("double"), lambda data, context: data["n"] * 2)
    for type_ in ("call.responded", "call.completed", "call.error", "call.aborted"):
        side.target.dispatch(Event(type_, "unknown", {"requestId": "unknown"}))
    pending = side.client.start("math.double", {"n": 1})
    assert pending.result() == 2
    side.target.dispatch(Event("call.responded", pending.request_id, {"output": {"data": 3}}))
    assert side.client.call("math.double", {"n": 2}) == 4


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**15) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = ["requestId", "operationId", "input", "parentRequestId", "deadline", "identity", "metadata", "output", "code"]


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["call.requested", "call.responded", "call.error", "call.aborted", "call.completed"]),
    anything | st.fixed_dictionaries({}, optional=dict.fromkeys(names, anything) | {"operationId": st.just("math.double")}),
)
def test_bad_messages_do_no_harm(db, type_, payload):
    side = Side("local", db)
    side.add(spec("double"), lambda data, context: data["n"] * 2)
    with side.handler:
        side.target.dispatch(Event(type_, "fuzz", payload))
        assert side.client.call("math.double", {"n": 4}) == 8
    side.client.close()


def test_what_was_asked_through_a_stream_waits_for_the_handler_that_comes_back(db):
    side = Side("stream", db)
    side.add(spec("double"), lambda data, context: data["n"] * 2)
    with side.handler:
        assert side.client.call("math.double", {"n": 1}) == 2
    pending = [side.client.start("math.double", {"n": n}) for n in range(20)]
    with side.handler:
        assert [call.result() for call in pending] == [n * 2 for n in range(20)]
    side.client.close()


# Several processes

HANDLER = """
    import os, signal, sys, time
    from peewee_honker import HonkerDatabase
    from peewee_honker.events import HonkerEventTarget
    from peewee_honker.operations import OperationRegistry, OperationSpec, OperationType
    from peewee_honker.operations.calls import CallHandler

    path, durable = sys.argv[1], sys.argv[2] == "durable"
    db = HonkerDatabase(path, timeout=20)
    db.execute_sql("CREATE TABLE IF NOT EXISTS done (n INTEGER, by INTEGER)")
    registry = OperationRegistry()
    ANY = {"type": "object"}

    def count(data, context):
        if data.get("die") and not db.execute_sql("SELECT count(*) FROM done").fetchone()[0]:
            db.execute_sql("INSERT INTO done VALUES (-1, ?)", (os.getpid(),))
            os.kill(os.getpid(), signal.SIGKILL)
        db.execute_sql("INSERT INTO done VALUES (?, ?)", (data["n"], os.getpid()))
        return data["n"]

    registry.register(OperationSpec("work", "count", OperationType.MUTATION, ANY, {}), count)
    registry.register(OperationSpec("work", "again", OperationType.MUTATION, ANY, {}, idempotent=True), count)
    with CallHandler(registry, HonkerEventTarget(db), database=db, durable=durable, lease=2):
        print("ready")
        sys.stdin.readline()
    db.close_engine()
"""


@pytest.mark.parametrize("mode", ["honker", "durable"])
def test_of_several_handlers_one_executes_a_call(db, path, mode):
    client = CallClient(HonkerEventTarget(db), database=db if mode == "durable" else None)
    with Script(HANDLER, path, mode) as one, Script(HANDLER, path, mode) as other:
        assert one.line() == other.line() == "ready"
        calls = [client.start("work.count", {"n": n}) for n in range(60)]
        assert [call.result() for call in calls] == list(range(60))
        for script in (one, other):
            script.say("end")
            script.finish()
    client.close()
    rows = db.execute_sql("SELECT n, by FROM done ORDER BY n").fetchall()
    assert [n for n, _ in rows] == list(range(60))


def test_a_durable_call_waits_for_its_handler(db, path):
    client = CallClient(HonkerEventTarget(db), database=db)
    pending = client.start("work.count", {"n": 7})
    with db.atomic() as transaction:
        client.start("work.count", {"n": 8})
        transaction.rollback()
    with Script(HANDLER, path, "durable") as handler:
        assert handler.line() == "ready"
        assert pending.result() == 7
        handler.say("end")
        handler.finish()
    client.close()
    assert db.execute_sql("SELECT n FROM done").fetchall() == [(7,)]


@pytest.mark.parametrize(("name", "answer"), [("again", 5), ("count", "EXECUTION_ERROR")])
def test_a_durable_call_whose_handler_was_killed(db, path, name, answer):
    client = CallClient(HonkerEventTarget(db), database=db)
    with Script(HANDLER, path, "durable") as first, Script(HANDLER, path, "durable") as second:
        assert first.line() == second.line() == "ready"
        pending = client.start(f"work.{name}", {"n": 5, "die": True})
        if answer == 5:
            assert pending.result() == 5
        else:
            error = failing(pending.result)
            assert (error.code, "died" in error.message) == (answer, True)
        until(lambda: -9 in (first.process.poll(), second.process.poll()))
    client.close()
    done = [n for (n,) in db.execute_sql("SELECT n FROM done ORDER BY n").fetchall()]
    assert done == ([-1, 5] if answer == 5 else [-1])


def test_a_caller_that_was_killed_leaves_nothing_behind(db, path):
    caller = """
        import sys
        from peewee_honker import HonkerDatabase
        from peewee_honker.events import HonkerEventTarget
        from peewee_honker.operations.calls import CallClient
        db = HonkerDatabase(sys.argv[1])
        pending = CallClient(HonkerEventTarget(db)).start("math.slow", {"n": 1}, timeout=1)
        print("called"); sys.stdin.readline()
    """
    ended, side = threading.Event(), Side("honker", db)

    async def slow(data, context):
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    side.add(spec("slow"), slow)
    side.add(spec("double"), lambda data, context: data["n"] * 2)
    with side.handler:
        with Script(caller, path) as script:
            assert script.line() == "called"
            until(lambda: side.handler._running)
            script.process.kill()
        assert ended.wait(20)  # at the deadline that it gave
        assert side.client.call("math.double", {"n": 2}) == 4
    side.client.close()


def test_a_stopping_handler_keeps_the_leases_of_what_it_still_runs(db):
    calls, go = [], threading.Event()

    def slow(data, context):
        calls.append(context.request_id)
        assert go.wait(60)
        return "done"

    registry = OperationRegistry()
    registry.register(spec("slow", idempotent=True), slow)
    client = CallClient(HonkerEventTarget(db), database=db, lease=1)
    first, second = (CallHandler(registry, HonkerEventTarget(db), database=db, durable=True, lease=1) for _ in range(2))
    with first:
        pending = client.start("math.slow", {"n": 1})
        until(lambda: calls)
        with second:
            stopping = threading.Thread(target=first.stop)
            stopping.start()
            until(first._stopped.is_set)
            (ends,) = db.execute_sql("SELECT claim_expires_at FROM _honker_live").fetchone()
            until(lambda: db.execute_sql("SELECT claim_expires_at FROM _honker_live").fetchone()[0] > ends + 2)
            go.set()
            assert pending.result() == "done"
            stopping.join()
    client.close()
    assert len(calls) == 1


@pytest.mark.parametrize("durable", [False, True])
def test_a_handler_that_is_started_twice_is_one_and_leaves_no_thread(db, durable):
    before, registry = set(threading.enumerate()), OperationRegistry()
    registry.register(spec("double"), lambda data, context: data["n"] * 2)
    client = CallClient(HonkerEventTarget(db), database=db if durable else None)
    handler = CallHandler(registry, HonkerEventTarget(db), database=db, durable=durable)
    with handler:
        assert client.call("math.double", {"n": 3}) == 6
        handler.start()
        assert client.call("math.double", {"n": 4}) == 8
    client.close()
    until(lambda: set(threading.enumerate()) <= before)


def test_durable_handlers_need_a_database():
    with pytest.raises(ValueError, match="database="):
        CallHandler(OperationRegistry(), LocalEventTarget(), durable=True)
