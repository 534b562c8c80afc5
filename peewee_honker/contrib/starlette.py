"""Server-sent events in Starlette and FastAPI, by sse-starlette: the extra `peewee-honker[starlette]`.

    feed = Feed(db, stream="orders")
    app = Starlette(routes=[Route("/events", events_endpoint(feed))])
    app.add_route("/events", events_endpoint(feed))       # FastAPI

A page that is open costs a task and no thread. Pages are let go when the server stops.
"""

import inspect
from collections.abc import Awaitable, Callable

from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from peewee_honker.contrib.sse import HEADERS, Client, Feed, FeedFullError, Filter

__all__ = ["Authorize", "events_endpoint"]

Authorize = Callable[[Request], bool | Filter | Awaitable[bool | Filter]]
"""Says whether a request may listen, or to which events: a function of an event. May be a coroutine function."""


def events_endpoint(feed: Feed, *, authorize: Authorize | None = None) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that streams a feed's events; as `peewee_honker.contrib.flask.events_blueprint`.

    Arguments:
        feed: what pages may hear. `?after=17` in the URL begins behind an offset, as `Feed.position` gives it;
            `Last-Event-ID`, which a browser sends when it connects again, goes before it.
        authorize: is called with each request. False is answered by 403; True allows the whole feed, and a function of an
            event only those events for which it is true. Without it everyone may listen.

    When the feed is full the answer is 503 with Retry-After.
    """

    async def events(request: Request) -> Response:
        allowed = True if authorize is None else authorize(request)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if not allowed:
            return PlainTextResponse("You may not listen to these events.\n", 403)
        where = allowed if callable(allowed) else None
        last, after = request.headers.get("Last-Event-ID"), request.query_params.get("after")
        try:
            # A page that comes back is looked for in the file.
            client = await run_in_threadpool(feed.connect, last, after=after, where=where)
        except FeedFullError as error:
            return PlainTextResponse(f"{error}\n", 503, {"Retry-After": "5"})
        return _Events(client)

    return events


class _Events(EventSourceResponse):
    """The response, whose end frees the page's place, also when nothing was sent."""

    def __init__(self, client: Client) -> None:
        # Comments are sent by the client itself, in silence only; sse-starlette's would come beside the events.
        super().__init__(client, headers=HEADERS, ping=24 * 3600)
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._client.close()
