"""Servers that serve the operations of `tests.support.shop` to agents, and the `mcp` package's own client for them."""

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx2
from anyio.from_thread import start_blocking_portal
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.support.outside import DEADLINE, Script

ROOT = str(Path(__file__).parent.parent.parent)
_BEGIN = """
import json, sys
sys.path.insert(0, sys.argv[2])
from peewee_honker import HonkerDatabase
from tests.support.shop import IDENTITIES, shop
db = HonkerDatabase(sys.argv[1])
registry = shop(db)
"""
STDIO = f"""{_BEGIN}
from peewee_honker.contrib.mcp import serve_stdio
serve_stdio(registry, identity=IDENTITIES.get(sys.argv[3]), name="shop", instructions="Sell.")
db.close_engine()
print("ended", file=sys.stderr)
"""
_HTTP = f"""{_BEGIN}
import signal, socket
import uvicorn
from peewee_honker.contrib.http_operations import api_key_identity
from peewee_honker.contrib.mcp import mcp_app
from peewee_honker.storage import ApiKeys, create_system_database
from starlette.applications import Starlette
from starlette.routing import Mount

options = json.loads(sys.argv[3])
if options.pop("keys", False):
    system = create_system_database(sys.argv[1] + ".system")
    identify = api_key_identity(ApiKeys(system), required=True)
else:
    def identify(request):
        if request.headers.get("X-User") == "crash":
            raise RuntimeError("hidden_column")
        return IDENTITIES.get(request.headers.get("X-User"))

app = mcp_app(registry, identify=identify, name="shop", instructions="Sell.", **options)
outer = Starlette(routes=[Mount("/agents", app)], lifespan=lambda _: app.router.lifespan_context(app))
listening = socket.create_server(("127.0.0.1", 0), backlog=200)
server = uvicorn.Server(uvicorn.Config(outer, log_level="error"))
print(listening.getsockname()[1])
signal.signal(signal.SIGTERM, lambda *_: None)
try:
    server.run(sockets=[listening])
except KeyboardInterrupt:
    pass
db.close_engine()
print("ended")
"""


class ToolServer(Script):
    """A server over HTTP, mounted in another application at `/agents`."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(_HTTP, path, ROOT, json.dumps(options))
        self.url = f"http://127.0.0.1:{self.line()}/agents/mcp"


class StdioServer(Script):
    """A server over standard input and output, spoken to line by line."""

    def __init__(self, path: str, user: str = "clerk") -> None:
        super().__init__(STDIO, path, ROOT, user)

    def ask(self, method: str, params: Any = None, id_: int = 1) -> Any:
        """Send a request, and read the answer."""
        self.say(json.dumps({"jsonrpc": "2.0", "id": id_, "method": method, "params": params or {}}))
        return json.loads(self.line())

    def begin(self) -> Any:
        """Shake hands."""
        client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        answer = self.ask("initialize", client)
        self.say(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        return answer


class Agent:
    """A client on an event loop of its own, for tests of plain functions."""

    def __init__(self, client: contextlib.AbstractAsyncContextManager[Client]) -> None:
        self._opened = contextlib.ExitStack()
        self._portal = self._opened.enter_context(start_blocking_portal())
        self.client = self._opened.enter_context(self._portal.wrap_async_context_manager(client))

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def begin(self, tool: str, arguments: Any = None) -> Future[Any]:
        """Call a tool; `cancel()` of the future cancels the call."""
        return self._portal.start_task_soon(self.client.call_tool, tool, arguments)

    def call(self, tool: str, arguments: Any = None) -> Any:
        """Call a tool, and wait for its result."""
        return self.begin(tool, {} if arguments is None else arguments).result(DEADLINE)

    def tools(self) -> dict[str, Any]:
        """The tools that the agent sees."""
        listed = self._portal.start_task_soon(self.client.list_tools).result(DEADLINE)
        return {tool.name: tool for tool in listed.tools}


@contextlib.asynccontextmanager
async def over_stdio(path: str, user: str, mode: str) -> AsyncIterator[Client]:
    """A client whose server is a process of its own."""
    command = StdioServerParameters(command=sys.executable, args=["-W", "error", "-c", STDIO, path, ROOT, user])
    async with Client(command, mode=mode) as client:
        yield client


@contextlib.asynccontextmanager
async def over_http(url: str, mode: str, **headers: str) -> AsyncIterator[Client]:
    """A client of a server that runs already."""
    async with (
        httpx2.AsyncClient(headers=headers, timeout=20) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode) as client,
    ):
        yield client
