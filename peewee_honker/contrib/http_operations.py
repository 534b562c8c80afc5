"""Operations over HTTP: the part that no web framework is needed for.

`peewee_honker.contrib.flask_operations` and `peewee_honker.contrib.starlette_operations` serve it, in the same way:

| request | answer |
|---|---|
| `POST /{namespace}/{name}`, the input as JSON | `{data, meta}` |
| the same of a subscription, or `GET ...?input={...}` as a browser's EventSource asks | server-sent events |
| `GET /openapi.json` | the document |

An error is `{code, message, details?}` with the status that its contract says. Neither SQL nor a traceback is in an answer.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

from peewee_honker.contrib.sse import HEADERS
from peewee_honker.operations import Envelope, Identity, OperationError, OperationRegistry, OperationSpec, OperationType
from peewee_honker.operations.errors import ABORTED, ACCESS_DENIED, EXECUTION_ERROR, VALIDATION_ERROR
from peewee_honker.operations.openapi import http_status, openapi
from peewee_honker.storage.api_keys import ApiKeys
from peewee_honker.storage.identity import ApiKey

__all__ = [
    "METHODS",
    "Answer",
    "HttpError",
    "HttpOperations",
    "Resources",
    "admit",
    "api_key_identity",
    "encoded",
    "error_text",
    "failed",
    "key_identity",
    "response_text",
    "unidentified",
]

logger = logging.getLogger("peewee_honker.contrib")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""What an adapter hands on: all, so that a wrong one is answered in JSON too."""

_INVALID_KEY = "the API key is not valid"  # nothing says whether it is unknown, revoked, or has expired
_NO_KEY = "an API key is needed: Authorization: Bearer ..."


class HttpError(OperationError):
    """An error that only HTTP knows: its status, and what the answer's headers say of it."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.headers = dict(headers or {})


class Answer(NamedTuple):
    """What is sent."""

    status: int
    body: bytes
    headers: dict[str, str]


class HttpOperations:
    """A registry as it is served over HTTP; what both adapters share.

    Arguments:
        registry: of operations whose handlers are here.
        title: of the OpenAPI document.
        max_body: bytes of an input, at most.
        subscriptions: how many may be open at a time.
        keep_alive: seconds of silence after which an open subscription is sent a comment. By it a page that has gone is
            noticed, and proxies do not close the connection.
    """

    def __init__(
        self, registry: OperationRegistry, *, title: str, max_body: int, subscriptions: int, keep_alive: float
    ) -> None:
        for name, value in (("max_body", max_body), ("subscriptions", subscriptions), ("keep_alive", keep_alive)):
            if value <= 0:
                raise ValueError(f"{name} is more than 0, not {value!r}")
        self.registry = registry
        self.title = title
        self.max_body = max_body
        self.keep_alive = keep_alive
        self._most, self._open = subscriptions, 0
        self._changing = threading.Lock()

    def document(self, path: str) -> Answer:
        """The OpenAPI document, asked for at `path`."""
        document = openapi(self.registry, title=self.title, prefix=path.removesuffix("/openapi.json"))
        return _json(200, encoded(document))

    # A request, step by step. Each raises OperationError.

    def asked(self, operation_id: str, method: str) -> OperationSpec:
        """The contract of what is asked for, by a method that it has."""
        spec = self.registry.spec(operation_id)
        allowed = ("POST", "GET") if spec.type is OperationType.SUBSCRIPTION else ("POST",)
        if method not in allowed:
            headers = {"Allow": ", ".join((*allowed, "OPTIONS"))}
            raise HttpError(405, VALIDATION_ERROR, f"{operation_id} is asked for by {' or '.join(allowed)}", headers)
        return spec

    def expect(self, length: int | None, content_type: str | None) -> None:
        """Refuse a body by what its headers say. A page of another origin cannot send JSON unless it is let (CORS)."""
        if (content_type or "").partition(";")[0].strip().lower() != "application/json":
            raise HttpError(415, VALIDATION_ERROR, "the body's type is not application/json")
        if length is not None and length > self.max_body:
            self.too_large()

    def too_large(self) -> NoReturn:
        """Refuse a body that is larger than is taken."""
        raise HttpError(413, VALIDATION_ERROR, f"the body is larger than {self.max_body} bytes")

    def input(self, text: bytes | str) -> Any:
        """The value of an input's JSON."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
        except (ValueError, RecursionError):
            raise HttpError(400, VALIDATION_ERROR, "the input is no JSON") from None
        return value

    # Answers

    def told(self, spec: OperationSpec, envelope: Envelope) -> Answer:
        """The answer to a query or a mutation. Raises OperationError for a result that has no form in JSON."""
        return _json(200, response_text(spec, envelope))

    def options(self, spec: OperationSpec) -> Answer:
        """The answer to OPTIONS."""
        allowed = "POST, GET, OPTIONS" if spec.type is OperationType.SUBSCRIPTION else "POST, OPTIONS"
        return Answer(204, b"", {"Allow": allowed})

    # Subscriptions

    def open(self) -> None:
        """Take a place for a subscription; `left` frees it. Raises HttpError where all are taken."""
        with self._changing:
            if self._open >= self._most:
                told = f"{self._open} subscriptions are open already, as many as are allowed"
                raise HttpError(503, ABORTED, told, {"Retry-After": "5"})
            self._open += 1

    def left(self) -> None:
        """Free the place of a subscription."""
        with self._changing:
            self._open -= 1

    @property
    def subscriptions(self) -> int:
        """How many are open."""
        return self._open

    @property
    def headers(self) -> dict[str, str]:
        """Of a subscription's answer."""
        return dict(HEADERS)


def admit(spec: OperationSpec, identity: Identity | None) -> None:
    """Refuse who may not, before anything of the input is looked at. The registry looks again."""
    if not spec.access_control.admits(identity):
        raise OperationError(ACCESS_DENIED, f"{spec.id} is not allowed")


def failed(spec: OperationSpec | None, error: OperationError) -> Answer:
    """The answer to what went wrong."""
    status, headers = (error.status, error.headers) if isinstance(error, HttpError) else (http_status(spec, error.code), {})
    return _json(status, error_text(error), headers)


def error_text(error: OperationError) -> str:
    """The JSON of an error; without its details where they have no form in JSON."""
    try:
        return encoded(error.to_json())
    except (TypeError, ValueError, RecursionError):
        logger.exception("the details of an error could not be sent")
        return encoded({"code": error.code, "message": error.message})


def unidentified(error: Exception) -> OperationError:
    """What is told when `identify` has raised."""
    if isinstance(error, OperationError):
        return error
    logger.error("who asks could not be found out", exc_info=error)
    return OperationError(EXECUTION_ERROR, "who asks could not be found out")


Resources = Callable[[ApiKey], Mapping[str, tuple[str, ...]]]
"""Gives the resources of a key's identity, which a key does not have itself."""


def key_identity(keys: ApiKeys, text: str, *, resources: Resources | None = None) -> Identity | None:
    """The identity of an API key: its account, by its id, with the key's scopes. None for a key that may not be used now."""
    row: Any = keys.verify(text)
    if row is None:
        return None
    scopes = tuple(scope for scope in row.scopes if isinstance(scope, str))
    return Identity(str(row.owner_id), scopes, {} if resources is None else resources(row))


def api_key_identity(
    keys: ApiKeys, *, required: bool = False, resources: Resources | None = None
) -> Callable[[Any], Identity | None]:
    """An `identify` that reads `Authorization: Bearer <API key>`, for every adapter; see `key_identity`.

    Arguments:
        keys: the API keys of the system database.
        required: refuse requests without a key; else they are nobody's, who may what has no access control.
        resources: gives an identity's resources.

    A key that may not be used is answered by 401 and always the same text, whatever is wrong with it.
    """

    def identify(request: Any) -> Identity | None:
        header = request.headers.get("Authorization")
        if header is None and not required:
            return None
        scheme, _, text = (header or "").strip().partition(" ")
        found = key_identity(keys, text.strip(), resources=resources) if scheme.lower() == "bearer" else None
        if found is None:
            told = _NO_KEY if header is None else _INVALID_KEY
            raise HttpError(401, ACCESS_DENIED, told, {"WWW-Authenticate": "Bearer"})
        return found

    return identify


def response_text(spec: OperationSpec, envelope: Envelope) -> str:
    """The JSON of a response. Raises OperationError for one that has no form in JSON."""
    meta = {"operation_id": spec.id, **envelope.meta, "source": "http"}
    try:
        return encoded({"data": envelope.data, "meta": meta})
    except (TypeError, ValueError, RecursionError):
        logger.exception("the result of %s has no form in JSON", spec.id)
        raise OperationError(EXECUTION_ERROR, f"{spec.id} was executed, its result could not be sent") from None


def encoded(value: Any) -> str:
    """A value's JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _json(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, text.encode(), {"Content-Type": "application/json", **(headers or {})})


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
