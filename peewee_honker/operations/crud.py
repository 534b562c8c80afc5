"""Operations generated from a model: create, find, list, update, delete, and watch."""

import asyncio
import base64
import binascii
import contextlib
import functools
import json
import operator
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import peewee
from marshmallow import fields

from peewee_honker.bridge import Bridge
from peewee_honker.events import Event, Follower
from peewee_honker.operations.errors import TOO_SLOW, VALIDATION_ERROR, OperationError
from peewee_honker.operations.registry import Context, Handler, OperationRegistry
from peewee_honker.operations.spec import AccessControl, ErrorSpec, OperationSpec, OperationType
from peewee_honker.schemas import create_insert_schema, create_select_schema, create_update_schema, reported
from peewee_honker.schemas.contract import json_schema

__all__ = ["CONFLICT", "NOT_FOUND", "ModelOperations", "operations_for"]

NOT_FOUND = ErrorSpec("NOT_FOUND", "There is no such row.", http_status=404)
CONFLICT = ErrorSpec("CONFLICT", "The row breaks a constraint of the database.", http_status=409)

_OPERATORS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "in": None,  # takes a list
}
_MOST = 1000  # rows of a page
_WAITING = 10_000  # changes that a watcher may be behind
_OPERATION = {"enum": ["insert", "update", "delete"]}


def operations_for(
    model: Any,
    *,
    namespace: str | None = None,
    bridge: Bridge | None = None,
    exclude: Iterable[str] = (),
    page: int = 100,
    version: str = "1.0.0",
) -> "ModelOperations":
    """The operations of a model, on the database that it has when they are executed.

        operations_for(Order, bridge=bus.bridge(Order)).register(registry)

    | operation | type | scope | input | output |
    |---|---|---|---|---|
    | `create` | mutation | `orders:write` | what the insert schema loads | the row |
    | `find` | query | `orders:read` | `{id}` | the row |
    | `list` | query | `orders:read` | `{filter, order, limit, cursor}` | `{items, next}` |
    | `update` | mutation | `orders:write` | `{id, changes}`: what the update schema loads | the row |
    | `delete` | mutation | `orders:write` | `{id}` | `{id}` |
    | `watch` | subscription | `orders:read` | `{id}` or `{}` | `{operation, id, row}` for each change that commits |

    Arguments:
        model: with a primary key of one column.
        namespace: of the operations, and of the scopes; by default the table's name with an `s`.
        bridge: the model's, which `watch` hears; without it there is no `watch`.
        exclude: fields that are neither taken nor told.
        page: rows of a page unless a `limit` is asked for, which is 1,000 at most.
        version: of the contracts.

    Writes run in a transaction with what receivers and bridges do in it. A page goes on behind its last row (`next` is given
    as `cursor`), so that rows that come and go in between shift nothing.
    """
    return ModelOperations(model, namespace, bridge, tuple(exclude), page, version)


class ModelOperations:
    """What `operations_for` gives: `specs` and `handlers` by name, to be registered, or changed before."""

    def __init__(
        self, model: Any, namespace: str | None, bridge: Bridge | None, exclude: tuple[str, ...], page: int, version: str
    ) -> None:
        key = model._meta.primary_key
        if not isinstance(key, peewee.Field) or isinstance(key, peewee.CompositeKey):
            raise ValueError(f"{model.__name__} has no primary key of one column, by which its rows could be found")
        self.model = model
        self.namespace = namespace or f"{model._meta.table_name}s"
        self._key: Any = key
        self._page = page
        self._bridge = bridge
        self._out = create_select_schema(model, exclude=exclude)()
        self._in = create_insert_schema(model, exclude=exclude)()
        self._changes = create_update_schema(model, exclude=(*exclude, key.name) if key.name not in exclude else exclude)()
        self._key_field = self._out.fields[key.name]
        self.specs = {spec.name: spec for spec in self._make_specs(version)}
        self.handlers: dict[str, Handler] = {
            "create": self._create,
            "find": self._find,
            "list": self._list,
            "update": self._update,
            "delete": self._delete,
        }
        if bridge is not None:
            self.handlers["watch"] = self._watch

    def change(self, name: str, handler: Handler | None = None, **contract: Any) -> "ModelOperations":
        """Put another handler in the place of one, or another part of its contract: `change("create", title="Order")`."""
        if name not in self.specs:
            raise LookupError(f"{self.namespace} has no operation {name}; it has {', '.join(self.specs)}")
        if contract:
            self.specs[name] = replace(self.specs[name], **contract)
        if handler is not None:
            self.handlers[name] = handler
        return self

    def register(self, registry: OperationRegistry) -> None:
        """Register all contracts and handlers."""
        for name, spec in self.specs.items():
            registry.register(spec, self.handlers[name])

    # Contracts

    def _make_specs(self, version: str) -> list[OperationSpec]:
        row, name = _bare(json_schema(self._out, "dump")), self.model.__name__
        key = row["properties"][self._key.name]
        by_key = _object({"id": key}, ["id"])
        write = AccessControl(required_scopes=(f"{self.namespace}:write",))
        read = AccessControl(required_scopes=(f"{self.namespace}:read",))

        def spec(what: str, type_: OperationType, taken: Any, given: Any, title: str, *errors: ErrorSpec) -> OperationSpec:
            access = write if type_ is OperationType.MUTATION else read
            return OperationSpec(
                self.namespace,
                what,
                type_,
                taken,
                given,
                version,
                title,
                error_schemas=errors,
                access_control=access,
                idempotent=None if what in ("create", "update") else True,
                meta={"destructive": False} if what == "create" else {},  # it adds, and takes nothing away
            )

        query, mutation = OperationType.QUERY, OperationType.MUTATION
        changed = _object({"id": key, "changes": _bare(json_schema(self._changes))}, ["id", "changes"])
        listed = _object({"items": {"type": "array", "items": row}, "next": {"type": ["string", "null"]}}, ["items", "next"])
        made = [
            spec("create", mutation, _bare(json_schema(self._in)), row, f"Make a {name}", CONFLICT),
            spec("find", query, by_key, row, f"One {name}", NOT_FOUND),
            spec("list", query, self._list_schema(), listed, f"{name}s, page by page"),
            spec("update", mutation, changed, row, f"Change a {name}", NOT_FOUND, CONFLICT),
            spec("delete", mutation, by_key, by_key, f"Delete a {name}", NOT_FOUND, CONFLICT),
        ]
        if self._bridge is not None:
            told = _object(
                {"operation": {"enum": ["insert", "update", "delete"]}, "id": {"type": "string"}, "row": {}},
                ["operation", "id"],
            )
            watched = _object({"id": key}, [])
            made.append(spec("watch", OperationType.SUBSCRIPTION, watched, told, f"{name}s as they change"))
        return made

    def _list_schema(self) -> dict[str, Any]:
        names = [
            name for name in self._out.fields if name in self.model._meta.fields and not _hidden(self._out.fields[name])
        ]
        sortable = [name for name in names if not self.model._meta.fields[name].null]
        condition = {"type": "object", "propertyNames": {"enum": list(_OPERATORS)}, "minProperties": 1}
        orders = [sign + name for name in sortable for sign in ("", "-")]
        return _object(
            {
                "filter": {"type": "object", "properties": dict.fromkeys(names, condition), "additionalProperties": False},
                "order": {"type": "array", "items": {"enum": orders}},
                "limit": {"type": "integer", "minimum": 1, "maximum": _MOST},
                "cursor": {"type": ["string", "null"]},
            },
            [],
        )

    # Handlers

    def _create(self, data: Any, _context: Context) -> Any:
        values = self._in.load(data)
        with self.model._meta.database.atomic():
            made = self._written(lambda: self.model.create(**values))
            return self._out.dump(self.model.get_by_id(made.get_id()))  # with what the database has put in

    def _find(self, data: Any, _context: Context) -> Any:
        return self._out.dump(self._row(data["id"]))

    def _update(self, data: Any, _context: Context) -> Any:
        values = self._changes.load(data["changes"])
        with self.model._meta.database.atomic():
            row = self._row(data["id"])
            for name, value in values.items():
                setattr(row, name, value)
            if values:
                self._written(row.save)
            return self._out.dump(self.model.get_by_id(row.get_id()))

    def _delete(self, data: Any, _context: Context) -> Any:
        with self.model._meta.database.atomic():
            row = self._row(data["id"])
            self._written(row.delete_instance)
            return {"id": data["id"]}

    def _list(self, data: Any, _context: Context) -> Any:
        limit = int(data.get("limit") or self._page)  # 5.0 is an integer, by JSON Schema
        order = [(name.removeprefix("-"), name.startswith("-")) for name in data.get("order", [])]
        if self._key.name not in [name for name, _ in order]:
            order.append((self._key.name, False))
        query = self.model.select()
        for name, conditions in data.get("filter", {}).items():
            for sign, value in conditions.items():
                query = query.where(self._condition(name, sign, value))
        if data.get("cursor"):
            query = query.where(self._behind(order, self._place(data["cursor"], order)))
        columns = [
            (self.model._meta.fields[name].desc() if down else self.model._meta.fields[name].asc()) for name, down in order
        ]
        rows = list(query.order_by(*columns).limit(limit + 1))
        following = None
        if len(rows) > limit:
            rows = rows[:limit]
            last = self._out.dump(rows[-1])
            following = _cursor([[name, down, last[name]] for name, down in order])
        return {"items": self._out.dump(rows, many=True), "next": following}

    async def _watch(self, data: Any, _context: Context) -> AsyncIterator[Any]:
        assert self._bridge is not None  # noqa: S101 # else there is no such operation
        wanted = str(data["id"]) if "id" in data else None
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event](_WAITING)

        def hear(event: Event) -> None:
            loop.call_soon_threadsafe(keep, event)

        def keep(event: Event) -> None:
            if wanted is None or event.id == wanted:
                with contextlib.suppress(asyncio.QueueFull):
                    events.put_nowait(event)

        with _hearing(self._bridge, hear):
            while True:
                if events.full():
                    raise OperationError(TOO_SLOW, f"more than {_WAITING} changes wait: subscribe again")
                event = await events.get()
                yield {"operation": event.operation, "id": event.id, "row": event.payload}

    # Parts of these

    def _row(self, key: Any) -> Any:
        try:
            return self.model.get(self._key == self._key_field.deserialize(key))
        except self.model.DoesNotExist:
            raise OperationError(NOT_FOUND.code, f"there is no {self.model.__name__} {key}") from None

    def _written(self, write: Any) -> Any:
        """What a write gives. A broken UNIQUE or NOT NULL is told as marshmallow tells it, others as CONFLICT."""
        try:
            with reported(self.model):
                return write()
        except peewee.IntegrityError:
            raise OperationError(CONFLICT.code, f"the {self.model.__name__} breaks a constraint of the database") from None

    def _condition(self, name: str, sign: str, value: Any) -> Any:
        field, column = self._out.fields[name], self.model._meta.fields[name]
        if value is None and sign in ("eq", "ne"):
            return column.is_null(sign == "eq")
        if sign == "in":
            if not isinstance(value, list) or len(value) > _MOST:
                raise OperationError(VALIDATION_ERROR, f"`in` of {name} takes a list of {_MOST} values at most")
            return column.in_([field.deserialize(one) for one in value])
        compare: Any = _OPERATORS[sign]
        return compare(column, field.deserialize(value))

    def _behind(self, order: list[tuple[str, bool]], values: list[Any]) -> Any:
        """The rows behind a place: greater in one column (less, where it goes down), and equal in those before it."""
        parts: list[Any] = []
        equal: list[Any] = []
        for (name, down), value in zip(order, values, strict=True):
            column, found = self.model._meta.fields[name], self._out.fields[name].deserialize(value)
            beyond = column < found if down else column > found
            parts.append(functools.reduce(operator.and_, [*equal, beyond]))
            equal.append(column == found)
        return functools.reduce(operator.or_, parts)

    def _place(self, cursor: str, order: list[tuple[str, bool]]) -> list[Any]:
        try:
            rows = json.loads(base64.urlsafe_b64decode(cursor.encode()))
            if [(name, down) for name, down, _ in rows] == order:
                return [value for _, _, value in rows]
        except (ValueError, TypeError, binascii.Error):
            pass
        problem = {"path": "/cursor", "message": "is none of a list in this order"}
        raise OperationError(VALIDATION_ERROR, f"the cursor is not one of {self.namespace}.list in this order", [problem])


@contextlib.contextmanager
def _hearing(bridge: Bridge, hear: Callable[[Event], None]) -> Iterator[None]:
    """Give a bridge's events to a function, from now on; of a stream without a consumer's name."""
    if bridge.durable:
        with Follower(bridge.model._meta.database, bridge.stream_name, hear):
            yield
        return
    types = (bridge.type_saved, bridge.type_deleted)
    for type_ in types:
        bridge.target.add_listener(type_, hear)
    try:
        yield
    finally:
        for type_ in types:
            bridge.target.remove_listener(type_, hear)


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema to be part of another."""
    return {name: value for name, value in schema.items() if name != "$schema"}


def _hidden(field: fields.Field[Any]) -> bool:
    return bool(field.load_only)


def _cursor(place: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode()
