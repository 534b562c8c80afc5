"""A registry's operations as an OpenAPI 3.1 document, for the HTTP adapters."""

from collections.abc import Mapping
from typing import Any

from peewee_honker.operations.errors import (
    ABORTED,
    ACCESS_DENIED,
    EXECUTION_ERROR,
    OPERATION_NOT_FOUND,
    TIMEOUT,
    UNAVAILABLE,
    UNKNOWN_ERROR,
    VALIDATION_ERROR,
)
from peewee_honker.operations.registry import OperationRegistry
from peewee_honker.operations.spec import OperationSpec, OperationType

__all__ = ["http_status", "openapi"]

_STATUS = {
    OPERATION_NOT_FOUND: 404,
    ACCESS_DENIED: 403,
    VALIDATION_ERROR: 422,
    TIMEOUT: 504,
    ABORTED: 503,
    UNAVAILABLE: 503,
    EXECUTION_ERROR: 500,
    UNKNOWN_ERROR: 500,
}
_ERROR = {
    "type": "object",
    "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "details": {}},
    "required": ["code", "message"],
}

_REFUSED = {
    400: "The input is no JSON.",
    401: "The credentials are not valid.",
    403: "Not allowed.",
    404: "There is no handler.",
    422: "The input is not right.",
    500: "It failed.",
    504: "It took too long.",
}
_REFUSED_BODY = {413: "The input is too large.", 415: "The body's type is not application/json."}


def http_status(spec: OperationSpec | None, code: str) -> int:
    """The status of an error over HTTP: what the contract says of its own ones, 400 where it says nothing."""
    for one in spec.error_schemas if spec is not None else ():
        if one.code == code:
            return one.http_status or 400
    return _STATUS.get(code, 400)


def openapi(
    registry: OperationRegistry, *, title: str = "Operations", version: str = "1.0.0", prefix: str = ""
) -> dict[str, Any]:
    """The document: each operation is `POST {prefix}/{namespace}/{name}`, with its input as JSON body; the answer is
    `{data, meta}`, an error `{code, message, details?}`. A subscription's answers are server-sent events; it is a GET too,
    with the input's JSON in the query, as a browser's EventSource asks."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for spec in registry.specs:
        taken = _moved(spec.input_schema, spec.id, schemas)
        path = paths[f"{prefix}/{spec.namespace}/{spec.name}"] = {
            "post": {
                "operationId": spec.id,
                **_described(spec),
                "requestBody": {"required": True, "content": _json(taken)},
                "responses": _responses(spec, schemas, {**_REFUSED, **_REFUSED_BODY}),
            }
        }
        if spec.type is OperationType.SUBSCRIPTION:
            asked = {"name": "input", "in": "query", "required": bool(taken.get("required")), "content": _json(taken)}
            path["get"] = {
                "operationId": f"{spec.id}.events",
                **_described(spec),
                "parameters": [asked],
                "responses": _responses(spec, schemas, _REFUSED),
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _described(spec: OperationSpec) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tags": [spec.namespace, *spec.tags],
        "x-access-control": spec.to_json()["access_control"],
    }
    if spec.title:
        told["summary"] = spec.title
    if spec.description:
        told["description"] = spec.description
    return told


def _responses(spec: OperationSpec, schemas: dict[str, Any], refused: Mapping[int, str]) -> dict[str, Any]:
    answer = {
        "type": "object",
        "properties": {"data": _moved(spec.output_schema, spec.id, schemas), "meta": {"type": "object"}},
        "required": ["data", "meta"],
    }
    if spec.type is OperationType.SUBSCRIPTION:
        text = (
            "Server-sent events. The data of a message is `{data, meta}`, of an event `failed` an error; `end` is the last."
        )
        done: dict[str, Any] = {
            "description": text,
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "x-event-data": answer,
        }
        refused = {**refused, 503: "As many subscriptions are open as are allowed."}
    else:
        done = {"description": "Done.", "content": _json(answer)}
    own: dict[int, str] = {}
    for one in spec.error_schemas:
        own[one.http_status or 400] = one.description or one.code
    for status, text in refused.items():
        own[status] = f"{own[status]} Or: {text}" if status in own else text
    failed = {"content": _json({"$ref": "#/components/schemas/Error"})}
    return {"200": done, **{f"{status}": {"description": own[status], **failed} for status in sorted(own)}}


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _moved(schema: Any, name: str, schemas: dict[str, Any]) -> Any:
    """A schema whose definitions stand among the document's components."""

    def there(value: Any) -> Any:
        if isinstance(value, Mapping):
            found = {key: there(inner) for key, inner in value.items() if key not in ("$defs", "$schema")}
            reference = found.get("$ref")
            if isinstance(reference, str) and reference.startswith("#/$defs/"):
                found["$ref"] = f"#/components/schemas/{name}.{reference.removeprefix('#/$defs/')}"
            return found
        return [there(inner) for inner in value] if isinstance(value, list) else value

    for inner_name, inner in schema.get("$defs", {}).items():
        schemas[f"{name}.{inner_name}"] = there(inner)
    return there(schema)
