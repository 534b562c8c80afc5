"""A registry with operations of every kind, for the doors through which it is served."""

import asyncio
import threading
from typing import Any

import peewee

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.operations import (
    AccessControl,
    ErrorSpec,
    Identity,
    OperationError,
    OperationRegistry,
    OperationSpec,
    OperationType,
    operations_for,
)
from peewee_honker.signals import Model

IDENTITIES = {
    "clerk": Identity("1", ("orders:read", "orders:write")),
    "reader": Identity("2", ("orders:read",)),
    "owner": Identity("3", (), {"order:17": ("read",)}),
    "other": Identity("4", ("orders:none",), {"order:17": ("write",), "customer:1": ("read",)}),
}
HIDDEN = "hidden_column"  # what no answer may hold
MEETING = 4  # calls that wait for one another

_QUERY, _MUTATION, _SUBSCRIPTION = OperationType.QUERY, OperationType.MUTATION, OperationType.SUBSCRIPTION
_ANY: dict[str, Any] = {"type": "object"}


def shop(db: HonkerDatabase) -> OperationRegistry:
    """The registry, on a database."""

    class Order(Model):  # type: ignore[misc]
        number = peewee.CharField(unique=True)
        total = peewee.IntegerField()

        class Meta:
            database = db

    db.create_tables([Order])
    registry = OperationRegistry()
    operations_for(Order, bridge=EventBus(db).bridge(Order)).register(registry)
    _register_queries(registry)
    _register_subscriptions(registry)
    return registry


def _register_queries(registry: OperationRegistry) -> None:
    numbers = {
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/N"}},
        "required": ["n"],
        "$defs": {"N": {"type": "integer"}},
    }
    meeting, arrived = threading.Barrier(MEETING), []

    def fail(_data: Any, _context: Any) -> Any:
        raise peewee.OperationalError(f"no such column: SELECT {HIDDEN} FROM order")

    def refuse(data: Any, _context: Any) -> Any:
        raise OperationError(data.get("code", "TOO_LATE"), "it is too late", data.get("details"))

    def meet(_data: Any, _context: Any) -> Any:
        meeting.wait(20)
        return {"met": True}

    async def meet_async(_data: Any, _context: Any) -> Any:
        arrived.append(1)
        while len(arrived) < MEETING:
            await asyncio.sleep(0.001)
        return {"met": True}

    def where(_data: Any, _context: Any) -> Any:
        return {"main": threading.current_thread() is threading.main_thread()}

    async def where_async(data: Any, context: Any) -> Any:
        return where(data, context)

    def add(
        name: str, handler: Any, type_: OperationType = _QUERY, schema: Any = _ANY, out: Any = None, **more: Any
    ) -> None:
        registry.register(OperationSpec("math", name, type_, schema, {} if out is None else out, **more), handler)

    add("double", lambda data, _: data["n"] * 2, schema=numbers, out={"type": "integer"}, description="n times two")
    add("echo", lambda data, _: data, schema={})
    add("fail", fail)
    add("refuse", refuse, error_schemas=(ErrorSpec("TOO_LATE", "Too late.", http_status=410),))
    add("unsent", lambda *_: {"it": float("nan")})
    add("wrong", lambda *_: {"it": 1}, out={"type": "object", "required": ["more"]})
    add("meet", meet)
    add("meet_async", meet_async)
    add("where", where)
    add("where_async", where_async)
    add("whoami", lambda _, context: None if context.identity is None else context.identity.to_json())
    add("shout", lambda *_: print("not protocol") or {"printed": True})  # type: ignore[func-returns-value]
    add("either", lambda *_: {}, _MUTATION, access_control=AccessControl(required_scopes_any=("a", "orders:write")))
    add("resource", lambda *_: {}, access_control=AccessControl(resource_type="order", resource_action="read"))
    registry.register(OperationSpec("math", "elsewhere", _QUERY, {}, {}))  # its handler is in another process


def _register_subscriptions(registry: OperationRegistry) -> None:
    ended: list[str] = []
    running: list[str] = []
    counted = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    async def count(data: Any, _context: Any) -> Any:
        for number in range(data["n"]):
            yield {"number": number}

    async def silent(data: Any, _context: Any) -> Any:
        running.append("silent")
        try:
            await asyncio.Event().wait()
            yield {}
        finally:
            await asyncio.sleep(0)  # ending may take time
            ended.append("silent")

    async def fails(_data: Any, _context: Any) -> Any:
        yield {"number": 1}
        raise peewee.OperationalError(f"no such column: SELECT {HIDDEN} FROM order")

    async def hang(_data: Any, _context: Any) -> Any:
        running.append("hang")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("hang")

    resource = AccessControl(resource_type="order", resource_action="read")
    for name, handler, schema, access in (
        ("count", count, counted, AccessControl()),
        ("silent", silent, _ANY, AccessControl()),
        ("fails", fails, _ANY, AccessControl()),
        ("resources", count, counted, resource),
    ):
        registry.register(OperationSpec("feed", name, _SUBSCRIPTION, schema, {}, access_control=access), handler)
    registry.register(OperationSpec("feed", "hang", _QUERY, _ANY, {}), hang)
    registry.register(OperationSpec("feed", "ended", _QUERY, _ANY, _ANY), lambda *_: {"running": running, "ended": ended})
