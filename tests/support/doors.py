"""Servers that serve the operations of `tests.support.shop` over HTTP, each in a process of its own."""

import http.client
import json
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.support.outside import DEADLINE, Script
from tests.support.pages import Page

_APP = """
import json, signal, socket, sys
sys.path.insert(0, sys.argv[4])
from peewee_honker import HonkerDatabase
from tests.support.shop import IDENTITIES, HIDDEN, shop

path, options, port = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])

def who(request):
    user = request.headers.get("X-User")
    if user == "crash":
        raise RuntimeError(HIDDEN)
    if user == "abort":
        abort(418)
    return IDENTITIES.get(user)

async def identify_async(request):
    return who(request)

identify, kind = who, options.pop("identify", "sync")
db = HonkerDatabase(path)
registry = shop(db)
if kind == "keys":
    from peewee_honker.contrib.http_operations import api_key_identity
    from peewee_honker.storage import ApiKeys, create_system_database, system_database
    system = create_system_database(path + ".system")
    identify = api_key_identity(ApiKeys(system), required=options.pop("required", False))
elif kind == "async":
    identify = identify_async
listening = socket.create_server(("127.0.0.1", port), backlog=200)
"""
_SERVERS = {
    "flask": """
import logging, threading
from flask import Flask, abort
from werkzeug.serving import make_server
from peewee_honker.contrib.flask_operations import operations_blueprint

logging.getLogger("werkzeug").setLevel("ERROR")  # nobody reads a line a request
app = Flask(__name__)
blueprint = operations_blueprint(registry, identify=identify, **options)
app.register_blueprint(blueprint, url_prefix="/api")
app.get("/subscriptions")(lambda: str(blueprint.subscriptions))
server = make_server("127.0.0.1", 0, app, threaded=True, fd=listening.fileno())

def stop(number, frame):
    blueprint.close()
    threading.Thread(target=server.shutdown).start()

signal.signal(signal.SIGTERM, stop)
print(listening.getsockname()[1])
server.serve_forever()
db.close_engine()
print("stopped")
""",
    "starlette": """
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from peewee_honker.contrib.starlette_operations import operations_routes

def abort(status):
    raise HTTPException(status)

app = Starlette(routes=[Mount("/api", routes=operations_routes(registry, identify=identify, **options))])
server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
print(listening.getsockname()[1])
signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises what it has heard once more when it has ended
try:
    server.run(sockets=[listening])
except KeyboardInterrupt:
    pass
db.close_engine()
print("stopped")
""",
}
FRAMEWORKS = tuple(_SERVERS)
_ROOT = str(Path(__file__).parent.parent.parent)


class Answered(NamedTuple):
    """An answer: its status, the JSON of its body (or the text), and its headers."""

    status: int
    body: Any
    headers: Any

    @property
    def code(self) -> Any:
        """Of an error."""
        return self.body["code"]


class Door(Script):
    """A server of one framework that serves the shop's operations at `/api`."""

    def __init__(self, framework: str, path: str, **options: Any) -> None:
        super().__init__(_APP + _SERVERS[framework], path, json.dumps(options), "0", _ROOT)
        self.port = int(self.line())

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answered:
        """Send a request, and read the answer."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return Answered(answer.status, json.loads(content) if is_json and content else content, answer.headers)

    def call(self, operation: str, data: Any = None, user: str = "clerk", **headers: str) -> Answered:
        """Call an operation, with its input as JSON."""
        headers = {"Content-Type": "application/json", "X-User": user, **headers}
        return self.send("POST", f"/api/{operation.replace('.', '/')}", json.dumps({} if data is None else data), headers)

    def subscribe(self, operation: str, data: Any = None, user: str = "clerk", method: str = "POST") -> "Subscribed":
        """Open a subscription."""
        return Subscribed(self.port, operation, {} if data is None else data, user, method)


class Subscribed(Page):
    """A page that subscribes to an operation, as `Page` to a feed."""

    def __init__(self, port: int, operation: str, data: Any, user: str, method: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        path, headers = f"/api/{operation.replace('.', '/')}", {"X-User": user}
        if method == "GET":
            self._connection.request("GET", f"{path}?input={quote(json.dumps(data))}", headers=headers)
        else:
            self._connection.request("POST", path, json.dumps(data), {**headers, "Content-Type": "application/json"})
        self.response = self._connection.getresponse()
        self.status = self.response.status
        self.last: str | None = None
        self.retry: int | None = None
        self.comments = 0

    def opened(self) -> "Subscribed":
        """Wait for the first line: from then on the page hears what commits."""
        assert self.response.readline() == b": open\n"
        assert self.response.readline() == b"\n"
        return self
