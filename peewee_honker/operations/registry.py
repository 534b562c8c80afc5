"""Operations that can be executed: contracts and handlers, registered apart."""

import asyncio
import inspect
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import marshmallow

from peewee_honker.events.listener import is_cancelled
from peewee_honker.operations.errors import (
    ACCESS_DENIED,
    EXECUTION_ERROR,
    OPERATION_NOT_FOUND,
    TIMEOUT,
    VALIDATION_ERROR,
    OperationError,
)
from peewee_honker.operations.spec import Identity, OperationSpec, OperationType
from peewee_honker.storage.evolution import cast_attributes
from peewee_honker.storage.validation import problems_of

__all__ = ["Context", "Envelope", "Handler", "OperationRegistry", "new_request_id"]

logger = logging.getLogger("peewee_honker.operations")

Handler = Callable[[Any, "Context"], Any]
"""Gets the input and the context. May be a coroutine function; of a subscription, an async generator function."""


def new_request_id() -> str:
    """128 random bits, as text. (A UUID takes four times as long to make.)"""
    return os.urandom(16).hex()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A result: `data`, and in `meta` where it is from: `source`, `operation_id`, `timestamp` in milliseconds since 1970."""

    data: Any
    meta: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"data": self.data, "meta": dict(self.meta)}


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler knows of its call.

    - `env`: other operations, as `await context.env.orders.find({"id": 1})`: with this call's identity and request id, and
      without a look at access, since this operation's was granted.
    """

    request_id: str = field(default_factory=new_request_id)
    identity: Identity | None = None
    parent_request_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    env: Any = None


class OperationRegistry:
    """Contracts and their handlers.

        registry = OperationRegistry()
        registry.register(spec, handler)
        envelope = await registry.execute("orders.create", {"customer": "Ada"}, identity=identity)

    A call goes this way: the contract is known, the handler is known, the identity is admitted, the input fits its schema,
    the handler runs, its result is wrapped unless it is an `Envelope`, and gets the output's defaults; a result that does
    not fit the output's schema is logged and given all the same. Each step fails with an `OperationError`. For any thread
    once everything is registered.
    """

    def __init__(self) -> None:
        self._specs: dict[str, OperationSpec] = {}
        self._handlers: dict[str, Handler] = {}

    def register(self, spec: OperationSpec, handler: Handler | None = None) -> None:
        """Add a contract, and its handler if it is here. Raises ValueError for an id that is there with another contract."""
        known = self._specs.setdefault(spec.id, spec)
        if known != spec:
            raise ValueError(f"{spec.id} is registered already, with another contract")
        if handler is not None:
            self.handle(spec.id, handler)

    def handle(self, operation_id: str, handler: Handler) -> None:
        """Set the handler of an operation, also in another's place. Raises LookupError for an unknown operation."""
        spec = self._specs.get(operation_id)
        if spec is None:
            raise LookupError(f"no operation {operation_id} is registered: register(spec) first")
        streams = inspect.isasyncgenfunction(inspect.unwrap(handler))
        if streams != (spec.type is OperationType.SUBSCRIPTION):
            wanted = "no async generator function" if streams else "an async generator function"
            raise TypeError(f"{operation_id} is a {spec.type}: its handler has to be {wanted}")
        self._handlers[operation_id] = handler

    @property
    def specs(self) -> list[OperationSpec]:
        """All contracts, by id."""
        return [self._specs[operation_id] for operation_id in sorted(self._specs)]

    def spec(self, operation_id: str) -> OperationSpec:
        """A contract. Raises OperationError (OPERATION_NOT_FOUND)."""
        found = self._specs.get(operation_id)
        if found is None:
            raise OperationError(OPERATION_NOT_FOUND, f"there is no operation {operation_id}")
        return found

    def has_handler(self, operation_id: str) -> bool:
        """Whether it can be executed here."""
        return operation_id in self._handlers

    def runs_async(self, operation_id: str) -> bool:
        """Whether its handler is a coroutine function, which runs on the caller's event loop; another one would block it."""
        handler = self._handlers.get(operation_id)
        return handler is not None and inspect.iscoroutinefunction(inspect.unwrap(handler))

    # Execution

    async def execute(
        self,
        operation_id: str,
        data: Any,
        *,
        identity: Identity | None = None,
        context: Context | None = None,
        trusted: bool = False,
    ) -> Envelope:
        """Execute a query or a mutation.

        Arguments:
            data: the input, JSON values.
            identity: who calls; or in `context`.
            trusted: do not look at access: for calls of the program's own.

        Raises OperationError.
        """
        found = self.begin(operation_id, data, identity=identity, context=context, trusted=trusted)
        return found if isinstance(found, Envelope) else await found

    def execute_sync(
        self,
        operation_id: str,
        data: Any,
        *,
        identity: Identity | None = None,
        context: Context | None = None,
        trusted: bool = False,
    ) -> Envelope:
        """As `execute`, where no event loop runs. A function is called without a loop, which takes less time."""
        found = self.begin(operation_id, data, identity=identity, context=context, trusted=trusted)
        return found if isinstance(found, Envelope) else asyncio.run(found)

    def begin(
        self,
        operation_id: str,
        data: Any,
        *,
        identity: Identity | None = None,
        context: Context | None = None,
        trusted: bool = False,
    ) -> Envelope | Coroutine[Any, Any, Envelope]:
        """As `execute`: the result where the handler is a function, a coroutine to be awaited for it where it is not."""
        spec, handler, made = self._prepared(operation_id, data, identity, context, trusted)
        if spec.type is OperationType.SUBSCRIPTION:
            raise OperationError(VALIDATION_ERROR, f"{operation_id} is a subscription: subscribe to it")
        try:
            result = handler(data, made)
        except Exception as error:
            raise _told(spec, error) from None
        return _awaited(spec, result) if inspect.isawaitable(result) else _wrapped(spec, result)

    def subscribe(
        self,
        operation_id: str,
        data: Any,
        *,
        identity: Identity | None = None,
        context: Context | None = None,
        trusted: bool = False,
    ) -> AsyncGenerator[Envelope, None]:
        """Execute a subscription: an async generator of its responses. Close it (`aclose`) to end it early.

        Raises OperationError: here for what is looked at before the handler runs, and where the responses are read for
        what the handler raises.
        """
        spec, handler, made = self._prepared(operation_id, data, identity, context, trusted)
        if spec.type is not OperationType.SUBSCRIPTION:
            raise OperationError(VALIDATION_ERROR, f"{operation_id} is no subscription: execute it")
        return _responses(spec, handler(data, made))

    def _prepared(
        self, operation_id: str, data: Any, identity: Identity | None, context: Context | None, trusted: bool
    ) -> tuple[OperationSpec, Handler, Context]:
        spec = self.spec(operation_id)
        handler = self._handlers.get(operation_id)
        if handler is None:
            raise OperationError(OPERATION_NOT_FOUND, f"{operation_id} has no handler here")
        given = context or Context(identity=identity)
        if not trusted and not spec.access_control.admits(given.identity):
            raise OperationError(ACCESS_DENIED, f"{operation_id} is not allowed")
        problems = problems_of(spec.input_schema, data)
        if problems:
            raise OperationError(VALIDATION_ERROR, f"the input of {operation_id} is not right", problems)
        made = Context(given.request_id, given.identity, given.parent_request_id, given.metadata, self.build_env(given))
        return spec, handler, made

    def build_env(self, context: Context) -> Any:
        """`env.namespace.name(input)` for each operation that has a handler here; of a subscription, an async iterator."""
        return _Env(self, context)


class _Env:
    """Other operations, for a call; nothing is made before it is asked for."""

    __slots__ = ("_context", "_registry")

    def __init__(self, registry: OperationRegistry, context: Context) -> None:
        self._registry, self._context = registry, context

    def __getattr__(self, namespace: str) -> "_Namespace":
        if not any(spec.namespace == namespace for spec in self._registry.specs):
            raise AttributeError(f"there are no operations {namespace}.* here")
        return _Namespace(self._registry, self._context, namespace)


class _Namespace:
    """The operations of a namespace."""

    __slots__ = ("_context", "_namespace", "_registry")

    def __init__(self, registry: OperationRegistry, context: Context, namespace: str) -> None:
        self._registry, self._context, self._namespace = registry, context, namespace

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        registry, context, operation_id = self._registry, self._context, f"{self._namespace}.{name}"
        if not registry.has_handler(operation_id):
            raise AttributeError(f"{operation_id} has no handler here")
        if registry.spec(operation_id).type is OperationType.SUBSCRIPTION:
            return lambda data: registry.subscribe(operation_id, data, context=context, trusted=True)

        async def call(data: Any) -> Any:
            return (await registry.execute(operation_id, data, context=context, trusted=True)).data

        return call


async def _awaited(spec: OperationSpec, result: Awaitable[Any]) -> Envelope:
    try:
        made = await result
    except Exception as error:
        raise _told(spec, error) from None
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise _told(spec, error) from None  # of something that it has awaited: nobody else would tell the caller
    return _wrapped(spec, made)


async def _responses(spec: OperationSpec, results: AsyncGenerator[Any, None]) -> AsyncGenerator[Envelope, None]:
    try:
        async for result in results:
            yield _wrapped(spec, result)
    except Exception as error:
        raise _told(spec, error) from None
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise _told(spec, error) from None  # of something that it has awaited: nobody else would tell the caller
    finally:
        await results.aclose()


def _wrapped(spec: OperationSpec, result: Any) -> Envelope:
    if isinstance(result, Envelope):
        data, meta = result.data, result.meta
    else:
        data, meta = result, {"source": "local", "operation_id": spec.id, "timestamp": time.time_ns() // 1_000_000}
    if isinstance(data, Mapping) and spec.output_schema.get("properties"):
        data = cast_attributes(data, spec.output_schema)  # defaults are filled in
    problems = problems_of(spec.output_schema, data)
    if problems:
        paths = ", ".join(problem["path"] or "/" for problem in problems)
        logger.warning("the output of %s does not fit its schema at %s", spec.id, paths)
    return Envelope(data, meta)


def _told(spec: OperationSpec, error: BaseException) -> OperationError:
    """What the caller is told of what a handler has raised."""
    if isinstance(error, OperationError):
        return error
    if isinstance(error, marshmallow.ValidationError):
        return OperationError(VALIDATION_ERROR, f"the input of {spec.id} is not right", _problems(error.messages))
    if isinstance(error, TimeoutError):
        return OperationError(TIMEOUT, f"{spec.id} took too long")
    logger.error("%s failed", spec.id, exc_info=error)
    return OperationError(EXECUTION_ERROR, f"{spec.id} failed")


def _problems(messages: Any, path: str = "") -> list[dict[str, str]]:
    """marshmallow's messages as `{path, message}`."""
    if isinstance(messages, Mapping):
        found = []
        for key, inner in messages.items():
            found += _problems(inner, path if key == "_schema" else f"{path}/{key}")
        return found
    return [{"path": path, "message": str(message)} for message in (messages if isinstance(messages, list) else [messages])]
