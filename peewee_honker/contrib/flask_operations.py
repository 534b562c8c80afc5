"""Operations over HTTP in Flask: the extra `peewee-honker[flask]`.

    app.register_blueprint(operations_blueprint(registry, identify=who), url_prefix="/api")

What is asked and answered stands in `peewee_honker.contrib.http_operations`.
"""

import threading
from collections.abc import Callable

from flask import Blueprint, Request, Response, request
from werkzeug.exceptions import HTTPException

from peewee_honker.contrib.http_operations import METHODS, Answer, HttpOperations, admit, failed, unidentified
from peewee_honker.contrib.subscriptions import Page, ThreadPage
from peewee_honker.operations import Identity, OperationError, OperationRegistry, OperationSpec, OperationType

__all__ = ["OperationsBlueprint", "operations_blueprint"]

Identify = Callable[[Request], Identity | None]


def operations_blueprint(
    registry: OperationRegistry,
    *,
    identify: Identify,
    title: str = "Operations",
    name: str = "operations",
    max_body: int = 1 << 20,
    subscriptions: int = 100,
    keep_alive: float = 15.0,
) -> "OperationsBlueprint":
    """A blueprint that serves a registry's operations.

    Arguments:
        registry: of operations whose handlers are here.
        identify: says who asks, of each request; None is nobody, who may what has no access control. Never a trusted call.
            What it `abort`s with is Flask's to answer. `api_key_identity` of `http_operations` is one.
        title: of the document at `openapi.json`.
        name: the blueprint's.
        max_body: bytes of an input, at most.
        subscriptions: how many may be open at a time. Each holds a thread of the server, and one of its own.
        keep_alive: seconds of silence after which an open subscription is sent a comment; by it a page that has gone is
            noticed.

    A handler runs in the request's thread, a coroutine function on an event loop there.
    """
    served = HttpOperations(registry, title=title, max_body=max_body, subscriptions=subscriptions, keep_alive=keep_alive)
    return OperationsBlueprint(served, identify, name)


class OperationsBlueprint(Blueprint):
    """What `operations_blueprint` gives; `close()` ends the subscriptions that are open."""

    def __init__(self, served: HttpOperations, identify: Identify, name: str) -> None:
        super().__init__(name, __name__)
        self._served, self._identify = served, identify
        self._pages: set[ThreadPage] = set()
        self._changing = threading.Lock()
        self._closed = False
        self.add_url_rule("/openapi.json", "document", self._document, methods=["GET"])
        self.add_url_rule("/<namespace>/<operation>", "call", self._call, methods=METHODS, provide_automatic_options=False)

    def close(self) -> None:
        """End all subscriptions, whose pages are told so, and take no more: for the end of a server."""
        with self._changing:
            self._closed = True
            pages = list(self._pages)
        for page in pages:
            page.stop()

    @property
    def subscriptions(self) -> int:
        """How many subscriptions are open."""
        return self._served.subscriptions

    def _document(self) -> Response:
        return _response(self._served.document(request.root_path + request.path))

    def _call(self, namespace: str, operation: str) -> Response:
        operation_id, spec = f"{namespace}.{operation}", None
        try:
            spec = self._served.registry.spec(operation_id)
            if request.method == "OPTIONS":
                return _response(self._served.options(spec))
            self._served.asked(operation_id, request.method)
            identity = self._who()
            admit(spec, identity)
            data = self._served.input(request.args.get("input", "{}") if request.method == "GET" else self._body())
            if spec.type is OperationType.SUBSCRIPTION:
                return self._subscribed(spec, data, identity)
            envelope = self._served.registry.execute_sync(operation_id, data, identity=identity)
            return _response(self._served.told(spec, envelope))
        except OperationError as error:
            return _response(failed(spec, error))

    def _who(self) -> Identity | None:
        try:
            return self._identify(request)
        except HTTPException:
            raise
        except Exception as error:
            raise unidentified(error) from None

    def _body(self) -> bytes:
        self._served.expect(request.content_length, request.content_type)
        body = request.stream.read(self._served.max_body + 1)
        if len(body) > self._served.max_body:
            self._served.too_large()
        return body

    def _subscribed(self, spec: OperationSpec, data: object, identity: Identity | None) -> Response:
        responses = self._served.registry.subscribe(spec.id, data, identity=identity)
        self._served.open()
        frames = Page(spec, responses, self._served.keep_alive, self._served.left)
        try:
            page = ThreadPage(frames, self._left)
        except RuntimeError:  # no more threads
            frames.close()
            raise
        with self._changing:
            self._pages.add(page)
            if self._closed:
                page.stop()
        return Response(page, 200, self._served.headers, mimetype="text/event-stream")

    def _left(self, page: ThreadPage) -> None:
        with self._changing:
            self._pages.discard(page)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, answer.headers)
