"""Operations: contracts, access, execution in its order, and those that a model gives."""

# ruff: noqa: ARG005  (handlers have two arguments)

import asyncio
import contextlib
import itertools
import json

import peewee
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peewee_honker import EventBus
from peewee_honker.operations import (
    AccessControl,
    Context,
    Envelope,
    ErrorSpec,
    Identity,
    OperationError,
    OperationRegistry,
    OperationSpec,
    OperationType,
    operations_for,
)
from peewee_honker.signals import Model, pre_save

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
ANY = {}


def spec(name="double", type_=OperationType.QUERY, taken=NUMBER, given=ANY, **more):
    return OperationSpec("math", name, type_, taken, given, **more)


def failing(call):
    """The error of a call."""
    with pytest.raises(OperationError) as found:
        call()
    return found.value


# Contracts


def test_a_contract_is_json_and_back():
    full = spec(
        title="Double",
        description="n times two",
        tags=("a",),
        version="2.0.0",
        error_schemas=(ErrorSpec("TOO_LARGE", "n is too large", {"type": "object"}, 422),),
        access_control=AccessControl(("math:use",), ("a", "b"), "number", "double"),
        idempotent=True,
        meta={"x": [1]},
    )
    assert OperationSpec.from_json(json.loads(json.dumps(full.to_json()))) == full
    assert full.id == "math.double"
    assert OperationSpec.from_json({**spec().to_json(), "access_control": None}) == spec()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
)


@given(json_values | st.fixed_dictionaries({}, optional=dict.fromkeys(spec().to_json(), json_values)))
def test_what_is_no_contract_and_no_identity_and_no_error_is_a_plain_error(value):
    with contextlib.suppress(ValueError):
        OperationSpec.from_json(value)
    with contextlib.suppress(ValueError):
        Identity.from_json(value)
    assert OperationError.from_json(value).code


def test_parts_of_ids_have_no_dots_and_resources_are_whole():
    for wrong in ("", "a.b", "a:b", "a b", "a/b", "*"):
        with pytest.raises(ValueError, match="no part of an operation's id"):
            spec(wrong)
    with pytest.raises(ValueError, match="both, or neither"):
        AccessControl(resource_type="order")


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        (AccessControl(), {"nobody", "reader", "writer", "owner"}),
        (AccessControl(required_scopes=("r",)), {"reader", "writer"}),
        (AccessControl(required_scopes=("r", "w")), {"writer"}),
        (AccessControl(required_scopes_any=("w", "x")), {"writer"}),
        (AccessControl(required_scopes=("r",), required_scopes_any=("w", "x")), {"writer"}),
        (AccessControl(resource_type="order", resource_action="pay"), {"owner"}),
        (AccessControl(required_scopes=("r",), resource_type="order", resource_action="pay"), set()),
        (AccessControl(resource_type="orde", resource_action="pay"), set()),
    ],
)
def test_who_is_admitted(access, allowed):
    identities = {
        "nobody": None,
        "reader": Identity("1", ("r",)),
        "writer": Identity("2", ("r", "w")),
        "owner": Identity("3", (), {"order:7": ("see", "pay"), "bill:7": ("send",)}),
    }
    registry = OperationRegistry()
    registry.register(spec(access_control=access), lambda data, context: data["n"] * 2)
    for name, identity in identities.items():
        if identity is not None:
            assert Identity.from_json(identity.to_json()) == identity
        if name in allowed:
            assert registry.execute_sync("math.double", {"n": 2}, identity=identity).data == 4
        else:
            assert (
                failing(lambda who=identity: registry.execute_sync("math.double", {"n": 2}, identity=who)).code
                == "ACCESS_DENIED"
            )
    assert registry.execute_sync("math.double", {"n": 2}, trusted=True).data == 4


# Execution


def test_a_result_is_wrapped_once():
    registry = OperationRegistry()
    registry.register(spec(), lambda data, context: data["n"] * 2)
    registry.register(spec("told"), lambda data, context: Envelope(1, {"source": "http"}))
    made = registry.execute_sync("math.double", {"n": 21})
    assert (made.data, made.meta["source"], made.meta["operation_id"]) == (42, "local", "math.double")
    assert isinstance(made.meta["timestamp"], int)
    assert registry.execute_sync("math.told", {"n": 1}).meta == {"source": "http"}


def test_each_step_is_looked_at_before_the_next(caplog):
    registry, guarded = OperationRegistry(), AccessControl(required_scopes=("x",))
    assert failing(lambda: registry.execute_sync("math.double", {})).code == "OPERATION_NOT_FOUND"
    registry.register(spec(access_control=guarded, given={"type": "string"}))
    assert failing(lambda: registry.execute_sync("math.double", {})).code == "OPERATION_NOT_FOUND"
    registry.handle("math.double", lambda data, context: 1)
    assert failing(lambda: registry.execute_sync("math.double", {})).code == "ACCESS_DENIED"
    error = failing(lambda: registry.execute_sync("math.double", {"n": "x"}, identity=Identity("1", ("x",))))
    assert error.code == "VALIDATION_ERROR"
    assert error.details == [{"path": "/n", "message": "must be of type integer"}]
    assert registry.execute_sync("math.double", {"n": 1}, trusted=True).data == 1
    assert "the output of math.double does not fit its schema" in caplog.text


def test_defaults_of_the_output_are_filled_in():
    given = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 2}}}
    registry = OperationRegistry()
    registry.register(spec(given=given), lambda data, context: {"a": 1})
    assert registry.execute_sync("math.double", {"n": 1}).data == {"a": 1, "b": 2}


def test_nothing_of_what_went_wrong_inside_leaves(db, caplog):
    def broken(data, context):
        db.execute_sql("SELECT password FROM nowhere")

    def own(data, context):
        raise OperationError("TOO_LARGE", "n is too large", {"most": 9})

    async def slow(data, context):
        raise TimeoutError("secret host")

    registry = OperationRegistry()
    for name, handler in (("broken", broken), ("own", own), ("slow", slow)):
        registry.register(spec(name), handler)
    error = failing(lambda: registry.execute_sync("math.broken", {"n": 1}))
    assert error.to_json() == {"code": "EXECUTION_ERROR", "message": "math.broken failed"}
    assert error.__cause__ is None
    assert "nowhere" in caplog.text
    assert failing(lambda: registry.execute_sync("math.own", {"n": 1})).to_json() == {
        "code": "TOO_LARGE",
        "message": "n is too large",
        "details": {"most": 9},
    }
    assert failing(lambda: registry.execute_sync("math.slow", {"n": 1})).to_json()["message"] == "math.slow took too long"


def test_operations_call_others_with_the_same_identity_and_without_another_look_at_access():
    registry, seen = OperationRegistry(), []

    async def quadruple(data, context):
        return await context.env.math.double({"n": await context.env.math.double(data)})

    def double(data, context):
        seen.append((context.identity, context.request_id))
        return data["n"] * 2

    registry.register(spec(access_control=AccessControl(required_scopes=("inner",))), double)
    registry.register(spec("quadruple"), quadruple)
    identity = Identity("1")
    context = Context("request-1", identity)
    assert asyncio.run(registry.execute("math.quadruple", {"n": 3}, context=context)).data == 12
    assert seen == [(identity, "request-1")] * 2


def test_a_subscription_is_an_async_generator_which_is_closed():
    registry, closed = OperationRegistry(), []

    async def count(data, context):
        try:
            for number in itertools.count():
                yield number
                if number == data["n"]:
                    raise RuntimeError("secret")
        finally:
            closed.append(True)

    registry.register(spec("count", OperationType.SUBSCRIPTION), count)

    async def take(most, n=100):
        found = []
        async with contextlib.aclosing(registry.subscribe("math.count", {"n": n})) as responses:
            async for envelope in responses:
                found.append(envelope.data)
                if len(found) == most:
                    break
        return found

    assert asyncio.run(take(3)) == [0, 1, 2]
    assert closed == [True]
    assert failing(lambda: asyncio.run(take(9, n=1))).message == "math.count failed"
    assert failing(lambda: registry.execute_sync("math.count", {"n": 1})).code == "VALIDATION_ERROR"


def test_registering_says_what_is_wrong():
    registry = OperationRegistry()
    registry.register(spec())
    registry.register(spec())
    with pytest.raises(ValueError, match="with another contract"):
        registry.register(spec(version="2.0.0"))
    with pytest.raises(LookupError, match="register"):
        registry.handle("math.half", print)

    async def stream(data, context):
        yield 1

    with pytest.raises(TypeError, match="has to be no async generator function"):
        registry.handle("math.double", stream)
    with pytest.raises(TypeError, match="has to be an async generator function"):
        registry.register(spec("count", OperationType.SUBSCRIPTION), print)


# Of a model


@pytest.fixture
def Order(db):
    class Order(Model):
        number = peewee.CharField(unique=True, max_length=5)
        total = peewee.IntegerField(constraints=[peewee.Check("total >= 0")])
        note = peewee.TextField(null=True)
        secret = peewee.TextField(default="s")

        class Meta:
            database = db

    db.create_tables([Order])
    return Order


@pytest.fixture
def call(db, Order):  # noqa: N803
    registry = OperationRegistry()
    bus = EventBus(db)
    operations_for(Order, bridge=bus.bridge(Order), exclude=["secret"], page=3).register(registry)
    identity = Identity("1", ("orders:read", "orders:write"))

    def execute(name, data, who=identity):
        return registry.execute_sync(f"orders.{name}", data, identity=who).data

    execute.registry, execute.bus = registry, bus
    return execute


def test_rows_are_made_found_changed_and_deleted(call, Order):  # noqa: N803
    made = call("create", {"number": "A1", "total": 5})
    assert made == {"id": 1, "number": "A1", "total": 5, "note": None}
    assert call("find", {"id": 1}) == made
    assert call("update", {"id": 1, "changes": {"note": "x"}}) == {**made, "note": "x"}
    assert call("update", {"id": 1, "changes": {}})["note"] == "x"
    assert call("delete", {"id": 1}) == {"id": 1}
    assert Order.select().count() == 0
    for name, data in (("find", {"id": 1}), ("delete", {"id": 1}), ("update", {"id": 1, "changes": {}})):
        assert failing(lambda name=name, data=data: call(name, data)).code == "NOT_FOUND"


@pytest.mark.parametrize(
    ("name", "data", "place"),
    [
        ("create", {"number": "A1"}, "/total"),
        ("create", {"number": "toolong", "total": 1}, "/number"),
        ("create", {"number": "A1", "total": "1"}, "/total"),
        ("create", {"number": "A1", "total": -1}, "/total"),
        ("create", {"number": "A1", "total": 1, "secret": "x"}, "/secret"),
        ("update", {"id": 1, "changes": {"id": 2}}, "/changes/id"),
        ("find", {}, "/id"),
        ("find", {"id": "1"}, "/id"),
        ("list", {"order": ["note"]}, "/order/0"),
        ("list", {"order": ["secret"]}, "/order/0"),
        ("list", {"filter": {"secret": {"eq": "s"}}}, "/filter/secret"),
        ("list", {"filter": {"total": {"like": 1}}}, "/filter/total"),
        ("list", {"limit": 1001}, "/limit"),
        ("list", {"cursor": "x"}, "/cursor"),
    ],
)
def test_input_that_is_not_right_is_told_by_path(call, name, data, place):
    error = failing(lambda: call(name, data))
    assert error.code == "VALIDATION_ERROR"
    assert place in [problem["path"] for problem in error.details]


def test_what_the_database_refuses_is_told_too(call):
    call("create", {"number": "A1", "total": 5})
    error = failing(lambda: call("create", {"number": "A1", "total": 5}))
    assert (error.code, error.details) == ("VALIDATION_ERROR", [{"path": "/number", "message": "Is taken."}])


def test_scopes_are_of_reading_and_writing(call):
    reader = Identity("2", ("orders:read",))
    assert call("list", {}, reader)["items"] == []
    for name in ("create", "update", "delete"):
        assert failing(lambda name=name: call(name, {}, reader)).code == "ACCESS_DENIED"
    assert failing(lambda: call("list", {}, None)).code == "ACCESS_DENIED"


def test_a_list_is_filtered_ordered_and_goes_on_behind_its_last_row(call, Order):  # noqa: N803
    for number in range(10):
        call("create", {"number": f"N{number}", "total": number % 3, "note": None if number % 2 else "odd"})
    items, cursor = [], None
    while True:
        page = call("list", {"order": ["-total"], "cursor": cursor})
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            break
        Order.delete().where(Order.id == page["items"][0]["id"]).execute()  # shifts nothing
    wanted = sorted(range(10), key=lambda number: (-(number % 3), number))
    assert [item["number"] for item in items] == [f"N{number}" for number in wanted]
    first = call("list", {"limit": 2})
    assert failing(lambda: call("list", {"order": ["-id"], "cursor": first["next"]})).code == "VALIDATION_ERROR"


def test_filters_compare(call):
    for number in range(6):
        call("create", {"number": f"N{number}", "total": number, "note": "x" if number > 3 else None})

    def found(**filters):
        return [item["total"] for item in call("list", {"filter": filters, "limit": 100})["items"]]

    assert found(total={"ge": 2, "lt": 4}) == [2, 3]
    assert found(total={"in": [1, 5, 9]}) == [1, 5]
    assert found(total={"ne": 0}, note={"eq": None}) == [1, 2, 3]
    assert found(note={"ne": None}) == [4, 5]
    assert failing(lambda: found(total={"eq": "x"})).code == "VALIDATION_ERROR"
    assert failing(lambda: found(total={"in": 5})).code == "VALIDATION_ERROR"


def test_a_write_is_one_transaction_with_its_event(call, db, Order):  # noqa: N803
    @pre_save.connect_via(Order)
    def refuse(sender, instance, created):
        db.execute_sql("INSERT INTO \"order\" (number, total, secret) VALUES ('B', 1, 's')")
        raise RuntimeError("no")

    assert failing(lambda: call("create", {"number": "A1", "total": 5})).code == "EXECUTION_ERROR"
    assert Order.select().count() == 0


@pytest.mark.parametrize("durable", [False, True])
def test_watchers_hear_of_what_commits(db, Order, durable):  # noqa: N803
    registry, bus = OperationRegistry(), EventBus(db)
    bridge = bus.bridge(Order, durable=durable, exclude=["secret"])
    operations_for(Order, bridge=bridge, exclude=["secret"]).change("find", title="Find it").register(registry)
    assert registry.spec("orders.find").title == "Find it"
    other = Order.create(number="O", total=0)

    async def watch():
        identity, heard = Identity("1", ("orders:read",)), []

        async def listen(data, most):
            async with contextlib.aclosing(registry.subscribe("orders.watch", data, identity=identity)) as changes:
                async for envelope in changes:
                    heard.append(envelope.data)
                    if len(heard) == most:
                        return

        task = asyncio.create_task(listen({"id": other.id + 1}, 3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        def work():
            with db.connection_context():
                made = Order.create(number="A", total=1)
                other.save()
                made.total = 2
                made.save()
                made.delete_instance()

        await asyncio.to_thread(work)
        await asyncio.wait_for(task, 20)
        return heard

    heard = asyncio.run(watch())
    assert [(each["operation"], each["row"]["total"]) for each in heard] == [("insert", 1), ("update", 2), ("delete", 2)]


def test_without_a_bus_there_is_no_watch_and_unknown_ones_are_named(Order, db):  # noqa: N803
    made = operations_for(Order)
    assert list(made.specs) == ["create", "find", "list", "update", "delete"]
    with pytest.raises(LookupError, match="no operation watch; it has create"):
        made.change("watch")

    class Pair(Model):
        a, b = peewee.IntegerField(), peewee.IntegerField()

        class Meta:
            database = db
            primary_key = peewee.CompositeKey("a", "b")

    with pytest.raises(ValueError, match="primary key of one column"):
        operations_for(Pair)
