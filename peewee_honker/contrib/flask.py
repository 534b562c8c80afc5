"""Server-sent events in Flask: the extra `peewee-honker[flask]`.

    feed = Feed(db, stream="orders")
    app.register_blueprint(events_blueprint(feed, "/events"))

and in the page `new EventSource("/events").onmessage = message => ...`. Each page that is open holds a thread of the server
(`flask run` has as many as are asked for, `gunicorn --threads 100` says how many); the feed's `clients` should be less.
"""

from collections.abc import Callable

from flask import Blueprint, Request, Response, request

from peewee_honker.contrib.sse import HEADERS, Feed, FeedFullError, Filter

__all__ = ["Authorize", "events_blueprint"]

Authorize = Callable[[Request], bool | Filter]
"""Says whether a request may listen, or to which events: a function of an event."""


def events_blueprint(
    feed: Feed, url: str = "/events", *, authorize: Authorize | None = None, name: str = "events"
) -> Blueprint:
    """A blueprint that streams a feed's events.

    Arguments:
        feed: what pages may hear.
        url: where. `?after=17` begins behind an offset, as `Feed.position` gives it; `Last-Event-ID`, which a browser sends
            when it connects again, goes before it.
        authorize: is called with each request. False is answered by 403; True allows the whole feed, and a function of an
            event only those events for which it is true. Without it everyone may listen. What it raises or `abort`s is
            Flask's to answer.
        name: the blueprint's.

    When the feed is full the answer is 503 with Retry-After; the browser's EventSource stops then, and the page has to make
    a new one.
    """
    blueprint = Blueprint(name, __name__)

    @blueprint.get(url)
    def events() -> Response:
        allowed = True if authorize is None else authorize(request)
        if not allowed:
            return Response("You may not listen to these events.\n", 403, mimetype="text/plain")
        if request.method == "HEAD":
            return Response(None, 200, HEADERS, mimetype="text/event-stream")
        where = allowed if callable(allowed) else None
        try:
            client = feed.connect(request.headers.get("Last-Event-ID"), after=request.args.get("after"), where=where)
        except FeedFullError as error:
            return Response(f"{error}\n", 503, {"Retry-After": "5"}, mimetype="text/plain")
        return Response(client, 200, HEADERS, mimetype="text/event-stream")

    return blueprint
