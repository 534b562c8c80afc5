"""Operations over HTTP in Starlette and FastAPI: the extra `peewee-honker[starlette]`.

    app = Starlette(routes=[Mount("/api", routes=operations_routes(registry, identify=who))])
    app.mount("/api", Router(operations_routes(registry, identify=who)))       # FastAPI; Router of starlette.routing

What is asked and answered stands in `peewee_honker.contrib.http_operations`.
"""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from peewee_honker.contrib.http_operations import METHODS, Answer, HttpOperations, admit, failed, unidentified
from peewee_honker.contrib.subscriptions import Page
from peewee_honker.operations import Envelope, Identity, OperationError, OperationRegistry, OperationType

__all__ = ["Identify", "executed", "identified", "operations_routes"]

Identify = Callable[[Request], Identity | Awaitable[Identity | None] | None]
"""Says who asks. A coroutine function is awaited; another function runs in a thread, since it may ask a database."""


def operations_routes(
    registry: OperationRegistry,
    *,
    identify: Identify,
    title: str = "Operations",
    max_body: int = 1 << 20,
    subscriptions: int = 100,
    keep_alive: float = 15.0,
) -> list[BaseRoute]:
    """The routes that serve a registry's operations.

    Arguments:
        registry: of operations whose handlers are here.
        identify: says who asks, of each request; None is nobody, who may what has no access control. Never a trusted call.
            Its HTTPException is Starlette's to answer. `api_key_identity` of `http_operations` is one.
        title: of the document at `openapi.json`.
        max_body: bytes of an input, at most.
        subscriptions: how many may be open at a time. Each is a task and no thread.
        keep_alive: seconds of silence after which an open subscription is sent a comment.

    A handler runs in a thread, a coroutine function on the server's event loop. Subscriptions end when the server stops.
    """
    served = HttpOperations(registry, title=title, max_body=max_body, subscriptions=subscriptions, keep_alive=keep_alive)

    async def document(request: Request) -> Response:
        return _response(served.document(request.url.path))

    return [
        Route("/openapi.json", document),
        Route("/{namespace}/{operation}", partial(_call, served, identify), methods=list(METHODS)),
    ]


async def identified(identify: Identify, request: Request) -> Identity | None:
    """Who asks. Raises OperationError, and what of Starlette's an `identify` has raised."""
    try:
        if inspect.iscoroutinefunction(identify):
            found: Any = await identify(request)
        else:
            found = await run_in_threadpool(identify, request)
            if inspect.isawaitable(found):
                found = await found
    except HTTPException:
        raise
    except Exception as error:
        raise unidentified(error) from None
    return found  # type: ignore[no-any-return]  # what the function has given


async def executed(registry: OperationRegistry, operation_id: str, data: Any, identity: Identity | None) -> Envelope:
    """Execute a query or a mutation: a coroutine function on this loop, another in a thread, where it blocks nobody."""
    if registry.runs_async(operation_id):
        return await registry.execute(operation_id, data, identity=identity)
    return await run_in_threadpool(registry.execute_sync, operation_id, data, identity=identity)


async def _call(served: HttpOperations, identify: Identify, request: Request) -> Response:
    operation_id, spec = "{namespace}.{operation}".format(**request.path_params), None
    try:
        spec = served.registry.spec(operation_id)
        if request.method == "OPTIONS":
            return _response(served.options(spec))
        served.asked(operation_id, request.method)
        identity = await identified(identify, request)
        admit(spec, identity)
        is_get = request.method == "GET"
        data = served.input(request.query_params.get("input", "{}") if is_get else await _body(served, request))
        if spec.type is OperationType.SUBSCRIPTION:
            responses = served.registry.subscribe(operation_id, data, identity=identity)
            served.open()
            return _Subscribed(Page(spec, responses, served.keep_alive, served.left), served.headers)
        return _response(served.told(spec, await executed(served.registry, operation_id, data, identity)))
    except OperationError as error:
        return _response(failed(spec, error))
    except ClientDisconnect:  # in the middle of its body; nobody reads the answer
        return Response(None, 400)


async def _body(served: HttpOperations, request: Request) -> bytes:
    length = request.headers.get("Content-Length", "")
    served.expect(int(length) if length.isdecimal() and len(length) < 20 else None, request.headers.get("Content-Type"))
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > served.max_body:
            served.too_large()
    return bytes(body)


class _Subscribed(EventSourceResponse):
    """The response, whose end ends the subscription, also when nothing was sent."""

    def __init__(self, page: Page, headers: dict[str, str]) -> None:
        # Comments are sent by the page itself, in silence only; sse-starlette's would come beside them.
        super().__init__(page, headers=headers, ping=24 * 3600)
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._page.close()


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
