"""Pages that listen to server-sent events, and the servers they listen to, each in a process of its own."""

import http.client
import json
import socket
from contextlib import closing
from typing import Any, NamedTuple

from tests.support.outside import DEADLINE, Script

_APP = """
import json, signal, socket, sys
from peewee_honker import HonkerDatabase
from peewee_honker.contrib.sse import Feed

path, options, port = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])

def data(event):
    if event.payload == "secret":
        raise ValueError("not for pages")
    return {"type": event.type, "id": event.id, "payload": event.payload}

def authorize(request):
    asked = request.args if hasattr(request, "args") else request.query_params
    user = asked.get("user")
    return user == "root" or (user is not None and (lambda event: event.payload == user))

guarded = options.pop("guarded", False)
db = HonkerDatabase(path)
feed = Feed(db, data=data, **options)
listening = socket.create_server(("127.0.0.1", port), backlog=200)
"""
_SERVERS = {
    "flask": """
import threading
from flask import Flask
from werkzeug.serving import make_server
from peewee_honker.contrib.flask import events_blueprint

app = Flask(__name__)
app.register_blueprint(events_blueprint(feed, authorize=authorize if guarded else None))
app.get("/clients")(lambda: str(feed.clients))
server = make_server("127.0.0.1", 0, app, threaded=True, fd=listening.fileno())

def stop(number, frame):
    feed.close()
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
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from peewee_honker.contrib.starlette import events_endpoint

async def clients(request):
    return PlainTextResponse(str(feed.clients))

events = events_endpoint(feed, authorize=authorize if guarded else None)
app = Starlette(routes=[Route("/events", events), Route("/clients", clients)])
server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
print(listening.getsockname()[1])
signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises what it has heard once more when it has ended
try:
    server.run(sockets=[listening])
except KeyboardInterrupt:
    pass
feed.close()
db.close_engine()
print("stopped")
""",
}
FRAMEWORKS = tuple(_SERVERS)


class Server(Script):
    """A server of one framework that streams a feed of the file at `/events`."""

    def __init__(self, framework: str, path: str, port: int = 0, **options: Any) -> None:
        super().__init__(_APP + _SERVERS[framework], path, json.dumps(options), str(port))
        self.port = int(self.line())

    def clients(self) -> int:
        """How many pages it serves."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)) as asked:
            asked.request("GET", "/clients")
            return int(asked.getresponse().read())


class Sent(NamedTuple):
    """One event as a page gets it."""

    id: str
    name: str
    data: Any


class Page:
    """A page's connection; reads what the server sends as a browser's EventSource does."""

    def __init__(self, port: int, query: str = "", last: str | None = None, method: str = "GET") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._connection.request(method, f"/events{query}", headers={} if last is None else {"Last-Event-ID": last})
        self.response = self._connection.getresponse()
        self.status = self.response.status
        self.last = last
        self.retry: int | None = None
        self.comments = 0

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away."""
        self.response.close()
        self._connection.close()

    def next(self) -> Sent:
        """The next event. Raises EOFError when the server ended the stream, TimeoutError when nothing comes."""
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline().decode()
            if not line:
                raise EOFError
            name, _, value = line.rstrip("\n").partition(":")
            if name:
                fields[name] = value.removeprefix(" ")
            elif line.startswith(":"):
                self.comments += 1
            elif "retry" in fields:
                self.retry = int(fields.pop("retry"))
            elif "data" in fields:
                self.last = fields.get("id", self.last)
                return Sent(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))

    def take(self, number: int) -> list[Sent]:
        """The next events."""
        return [self.next() for _ in range(number)]

    def opened(self) -> "Page":
        """Wait for the first line that the server sends: from then on the page hears what commits."""
        while self.retry is None:
            line = self.response.readline().decode()
            assert line
            name, _, value = line.partition(":")
            if name == "retry":
                self.retry = int(value)
                assert self.response.readline() == b"\n"
        return self
