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


def http_status(spec: OperationSpec | None, code: str) -> int:
    """The status of an error over HTTP: what the contract says of its own ones, 400 where it says nothing."""
    for one in spec.error_schemas if spec is not None else ():
        if one.code == code:
            return one.http_status or 400
    return _STATUS.get(code, 400)


def openapi(
    registry: OperationRegistry, *, title: str = "Operations", version: str = "1.0.0", prefix: str = ""
) -> dict[str, Any]:
    """The document: each query and mutation is `POST {prefix}/{namespace}/{name}`, with its input as JSON body; the answer
    is `{data, meta}`, an error `{code, message, details?}`. Subscriptions are left out."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths = {}
    for spec in registry.specs:
        if spec.type is OperationType.SUBSCRIPTION:
            continue
        answer = {
            "type": "object",
            "properties": {"data": _moved(spec.output_schema, spec.id, schemas), "meta": {"type": "object"}},
        }
        responses = {"200": {"description": "Done.", "content": _json({**answer, "required": ["data", "meta"]})}}
        own = {one.http_status or 400: one.description or one.code for one in spec.error_schemas}
        for status, text in {**own, 403: "Not allowed.", 422: "The input is not right.", 500: "It failed."}.items():
            responses[f"{status}"] = {"description": text, "content": _json({"$ref": "#/components/schemas/Error"})}
        operation: dict[str, Any] = {
            "operationId": spec.id,
            "tags": [spec.namespace, *spec.tags],
            "requestBody": {"required": True, "content": _json(_moved(spec.input_schema, spec.id, schemas))},
            "responses": responses,
            "x-access-control": spec.to_json()["access_control"],
        }
        if spec.title:
            operation["summary"] = spec.title
        if spec.description:
            operation["description"] = spec.description
        paths[f"{prefix}/{spec.namespace}/{spec.name}"] = {"post": operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }


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
