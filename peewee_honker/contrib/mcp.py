"""A registry's operations as tools for agents, by the Model Context Protocol: the extra `peewee-honker[mcp]`.

    serve_stdio(registry, identity=Identity("agent", scopes=("orders:read",)))     # started by the agent's program
    app = mcp_app(registry, identify=api_key_identity(keys, required=True))        # ASGI, at /mcp

Each query and each mutation that has a handler here is a tool. Subscriptions are none: a tool answers once. An identity sees
the tools that it may call, and no others; the registry looks at its access once more at each call.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import anyio
from mcp import MCPError
from mcp.server import Server
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, CallToolRequestParams, CallToolResult, ListToolsResult
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from peewee_honker.contrib.http_operations import admit, failed, unidentified
from peewee_honker.contrib.mcp_tools import error_result, input_of, result_of, tool_name, tool_of
from peewee_honker.contrib.starlette_operations import Identify, executed, identified
from peewee_honker.operations import Envelope, Identity, OperationError, OperationRegistry, OperationSpec, OperationType
from peewee_honker.operations.errors import EXECUTION_ERROR

__all__ = ["mcp_app", "mcp_server", "serve_stdio"]

logger = logging.getLogger("peewee_honker.contrib")

_IDENTITY = "peewee_honker.identity"  # of a request's scope
_LINE = 4 << 20  # bytes of a message over stdio, at most; what the package allows over HTTP

Who = Callable[[Any], Awaitable[Identity | None]]
"""Says who asks, of the protocol's request context. Raises OperationError."""


def serve_stdio(
    registry: OperationRegistry,
    *,
    identity: Identity | Callable[[], Identity | None] | None = None,
    name: str = "operations",
    version: str = "",
    instructions: str | None = None,
) -> None:
    """Serve over standard input and output, until the client closes them or Ctrl-C; then return.

    Arguments:
        registry: of operations whose handlers are here.
        identity: who the agent is, for as long as it runs; or a function that says so at each request, in a thread, so that
            a key that was revoked ends. None is nobody, who may what has no access control.
        name, version: of the server, as the agent sees them.
        instructions: what an agent should know before it uses the tools.

    Standard output is the protocol's: what handlers print goes to standard error, and they read an empty standard input. A
    function that runs when the server ends is let finish; a coroutine function is cancelled.
    """

    async def who(_request: Any) -> Identity | None:
        if not callable(identity):
            return identity
        try:
            return await run_in_threadpool(identity)
        except Exception as error:
            raise unidentified(error) from None

    server = mcp_server(registry, who, name=name, version=version, instructions=instructions)
    try:
        asyncio.run(_over_stdio(server))
    except KeyboardInterrupt:
        logger.info("stopped by Ctrl-C")


def mcp_app(
    registry: OperationRegistry,
    *,
    identify: Identify,
    name: str = "operations",
    version: str = "",
    instructions: str | None = None,
    path: str = "/mcp",
    hosts: Iterable[str] = (),
    origins: Iterable[str] = (),
    max_body: int = 1 << 20,
    sessions: int = 1000,
) -> Starlette:
    """An ASGI application that serves over HTTP (streamable HTTP).

    Arguments:
        registry: of operations whose handlers are here.
        identify: says who asks, of each HTTP request, as in `operations_routes`: `api_key_identity` is one. What it refuses
            is answered before anything of the protocol is read. A session belongs to the identity that began it.
        name, version, instructions: as `serve_stdio`.
        path: where.
        hosts: what a request's `Host` may be, as `shop.example` or `127.0.0.1:*`; by default this machine's names with any
            port. So a page of another site cannot reach the server through a name of its own (DNS rebinding).
        origins: what a request's `Origin` may be, where it has one; by default pages of this machine.
        max_body: bytes of a message, at most.
        sessions: how many may be open at a time.

    Its lifespan has to run. A server does so for the application that it is given; where it is mounted in another one, that
    one's lifespan does: `async with app.router.lifespan_context(app): yield`.
    """

    async def who(context: Any) -> Identity | None:
        identity: Identity | None = context.request.scope[_IDENTITY]
        return identity

    local = ("127.0.0.1", "localhost", "[::1]")
    security = TransportSecuritySettings(
        allowed_hosts=list(hosts) or [host + port for host in local for port in ("", ":*")],
        allowed_origins=list(origins) or [f"http://{host}{port}" for host in local for port in ("", ":*")],
    )
    server = mcp_server(registry, who, name=name, version=version, instructions=instructions)
    app = server.streamable_http_app(
        streamable_http_path=path, max_request_body_size=max_body, max_sessions=sessions, transport_security=security
    )
    app.add_middleware(_Identifying, identify=identify)
    return app


def mcp_server(
    registry: OperationRegistry, who: Who, *, name: str = "operations", version: str = "", instructions: str | None = None
) -> Server[Any]:
    """The `mcp` package's server, for a transport of one's own; `who` says who asks, and raises OperationError."""

    def tools() -> dict[str, OperationSpec]:
        found: dict[str, OperationSpec] = {}
        for spec in registry.specs:
            if spec.type is not OperationType.SUBSCRIPTION and registry.has_handler(spec.id):
                other = found.setdefault(tool_name(spec), spec)
                if other is not spec:  # two ids whose digests begin alike
                    logger.error("%s and %s would be one tool: %s is left out", other.id, spec.id, spec.id)
        return found

    async def list_tools(context: Any, _params: Any) -> ListToolsResult:
        try:
            identity = await who(context)
        except OperationError as error:
            raise MCPError(INTERNAL_ERROR, error.message, error.to_json()) from None
        admitted = [spec for spec in tools().values() if spec.access_control.admits(identity)]
        return ListToolsResult(tools=[tool_of(spec) for spec in admitted])

    async def call_tool(context: Any, params: CallToolRequestParams) -> CallToolResult:
        spec = tools().get(params.name)
        if spec is None:
            raise MCPError(INVALID_PARAMS, f"there is no tool {params.name[:100]!r}")
        try:
            identity = await who(context)
            admit(spec, identity)
            data = input_of(spec, params.arguments)
            return result_of(spec, await _cancellable(executed(registry, spec.id, data, identity)))
        except OperationError as error:
            return error_result(error)
        except Exception:  # whose text the package would send
            logger.exception("the tool %s failed", params.name)
            return error_result(OperationError(EXECUTION_ERROR, f"{spec.id} failed"))

    return Server(name, version=version, instructions=instructions, on_list_tools=list_tools, on_call_tool=call_tool)


async def _cancellable(call: Awaitable[Envelope]) -> Envelope:
    """Await a call in a task of its own. The package cancels at every `await` from then on, in a handler's `finally` too; so
    the handler is cancelled once, and let end."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        raise
    return task.result()


# HTTP


class _Identifying:
    """Finds out who asks before the protocol is read, and binds sessions to them."""

    def __init__(self, app: ASGIApp, identify: Identify) -> None:
        self._app, self._identify = app, identify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            identity = await identified(self._identify, Request(scope))
        except OperationError as error:
            answer = failed(None, error)
            await Response(answer.body, answer.status, answer.headers)(scope, receive, send)
            return
        except HTTPException as error:
            await Response(error.detail, error.status_code, error.headers)(scope, receive, send)
            return
        found = {**scope, _IDENTITY: identity}
        if identity is not None:  # the package compares it with who began the session
            found["user"] = AuthenticatedUser(AccessToken(token="", client_id=identity.id, scopes=list(identity.scopes)))
        await self._app(found, receive, send)


# Standard input and output


async def _over_stdio(server: Server[Any]) -> None:
    try:
        with _standard_input() as lines:
            async with stdio_server(stdin=lines) as (reading, writing):
                with _standard_output():
                    await server.run(reading, writing, server.create_initialization_options())
    except* (BrokenPipeError, ConnectionResetError):
        logger.info("the client is gone")
    except* anyio.BrokenResourceError:
        logger.info("ended while a message was on its way")  # the package's own reader meets a server that has stopped


@contextlib.contextmanager
def _standard_input() -> Iterator[Any]:
    """The lines of standard input. The package waits for them in a thread, which nothing could end at Ctrl-C."""
    if sys.platform == "win32":  # pipes cannot be waited for there
        yield None
        return
    taken, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    try:
        os.dup2(nothing, 0)
        yield _Lines(taken)
    finally:
        os.dup2(taken, 0)
        os.close(nothing)
        os.close(taken)


@contextlib.contextmanager
def _standard_output() -> Iterator[None]:
    """What is printed goes to standard error, where descriptor 1 leads meanwhile. Nothing of it stays in a buffer that would
    be written out when the descriptor is the client's again."""
    sys.stdout.flush()
    printed = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        printed.flush()


class _Lines:
    """The lines of a descriptor, as an async iterator that can be cancelled."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def __aiter__(self) -> AsyncIterator[str]:
        kept = b""
        while True:
            try:
                await anyio.wait_readable(self._descriptor)
            except PermissionError:  # a regular file, which is always readable
                await asyncio.sleep(0)
            read = os.read(self._descriptor, 1 << 16)
            *lines, kept = (kept + read).split(b"\n")
            for line in lines:
                yield line.decode("utf-8", "replace")
            if not read:
                return
            if len(kept) > _LINE:
                logger.error("a message over %s bytes: the client is not heard any further", _LINE)
                return
