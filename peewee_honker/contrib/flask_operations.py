"""Operations over HTTP in Flask: `POST /{namespace}/{name}` with the input as JSON, and the OpenAPI document.

app.register_blueprint(operations_blueprint(registry, identify=who), url_prefix="/api")
"""

from collections.abc import Callable

from flask import Blueprint, Request, Response, jsonify, request

from peewee_honker.operations import Identity, OperationError, OperationRegistry
from peewee_honker.operations.errors import VALIDATION_ERROR
from peewee_honker.operations.openapi import http_status, openapi

__all__ = ["operations_blueprint"]


def operations_blueprint(
    registry: OperationRegistry,
    *,
    identify: Callable[[Request], Identity | None],
    title: str = "Operations",
    name: str = "operations",
) -> Blueprint:
    """A blueprint that serves a registry's queries and mutations.

    Arguments:
        registry: of operations whose handlers are here.
        identify: says who asks, of each request; None is nobody, who may what has no access control. Never a trusted call.
        title: of the document at `openapi.json`.
        name: the blueprint's.

    An answer is `{data, meta}` with the source `http`, an error `{code, message, details?}` with its contract's status.
    """
    blueprint = Blueprint(name, __name__)

    @blueprint.get("/openapi.json")
    def document() -> Response:
        return jsonify(openapi(registry, title=title, prefix=request.path.removesuffix("/openapi.json")))

    @blueprint.post("/<namespace>/<operation>")
    def call(namespace: str, operation: str) -> tuple[Response, int]:
        operation_id, spec = f"{namespace}.{operation}", None
        try:
            spec = registry.spec(operation_id)
            data = request.get_json(silent=True)
            if data is None:
                raise OperationError(VALIDATION_ERROR, "the body is no JSON, or its type is not application/json")
            envelope = registry.execute_sync(operation_id, data, identity=identify(request))
        except OperationError as error:
            return jsonify(error.to_json()), http_status(spec, error.code)
        return jsonify({"data": envelope.data, "meta": {**envelope.meta, "source": "http"}}), 200

    return blueprint
