"""Operations as tools of the Model Context Protocol: names, schemas and results. The part that serves is `contrib.mcp`."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from mcp.types import CallToolResult, TextContent, Tool, ToolAnnotations

from peewee_honker.contrib.http_operations import encoded, error_text
from peewee_honker.operations import Envelope, OperationError, OperationSpec, OperationType
from peewee_honker.operations.errors import EXECUTION_ERROR, VALIDATION_ERROR
from peewee_honker.storage.validation import problems_of

__all__ = ["error_result", "input_of", "result_of", "tool_name", "tool_of"]

_PLAIN = re.compile(r"\w+", re.ASCII)
_LONGEST = 64  # what clients take; the protocol would allow 128
_INPUT, _RESULT = "input", "result"  # of what is no object: tools take objects and give objects


def tool_name(spec: OperationSpec) -> str:
    """The name of an operation's tool: `orders-create`, of ASCII letters, digits, `_` and `-`, 64 at most.

    Two operations have two names, and a name does not depend on what else is registered: an id with other signs, or one that
    is too long, ends in a dash and eight digits of its SHA-256.
    """
    name = f"{spec.namespace}-{spec.name}"
    if _PLAIN.fullmatch(spec.namespace) and _PLAIN.fullmatch(spec.name) and len(name) <= _LONGEST:
        return name
    parts = (re.sub(r"\W", "_", part, flags=re.ASCII) for part in (spec.namespace, spec.name))
    digest = hashlib.sha256(spec.id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{'-'.join(parts)[: _LONGEST - 9]}-{digest}"


def tool_of(spec: OperationSpec) -> Tool:
    """The tool that calls an operation. What it does to the world stands in its annotations: a query only reads; a mutation
    destroys unless its contract's `meta` says `destructive: False`, and may be repeated where the contract is idempotent."""
    is_query = spec.type is OperationType.QUERY
    annotations = ToolAnnotations(
        title=spec.title,
        read_only_hint=is_query,
        destructive_hint=not is_query and spec.meta.get("destructive") is not False,
        idempotent_hint=spec.may_repeat,
    )
    return Tool(
        name=tool_name(spec),
        title=spec.title,
        description=_description(spec),
        input_schema=_object(spec.input_schema, _INPUT),
        output_schema=_object(spec.output_schema, _RESULT) if spec.output_schema else None,
        annotations=annotations,
        _meta={"peewee_honker/operation": spec.id},
    )


def input_of(spec: OperationSpec, arguments: Mapping[str, Any] | None) -> Any:
    """The operation's input of a tool's arguments. Raises OperationError for what is no JSON (NaN), or holds more than the
    one argument that an input which is no object is given as."""
    data = dict(arguments or {})
    try:
        encoded(data).encode()
    except (TypeError, ValueError, RecursionError):
        raise OperationError(VALIDATION_ERROR, "the arguments are no JSON") from None
    if _is_object(spec.input_schema):
        return data
    if set(data) != {_INPUT}:
        problem = {"path": f"/{_INPUT}", "message": "is the one argument, and required"}
        raise OperationError(VALIDATION_ERROR, f"the input of {spec.id} is not right", [problem])
    return data[_INPUT]


def result_of(spec: OperationSpec, envelope: Envelope) -> CallToolResult:
    """The tool's result. One that does not fit its contract is an error that says that the operation was executed: clients
    refuse it otherwise, and would not know."""
    try:
        text = encoded(envelope.data)
        meta = {"operation_id": spec.id, **envelope.meta, "source": "mcp"}
        encoded(meta)
    except (TypeError, ValueError, RecursionError):
        return error_result(OperationError(EXECUTION_ERROR, f"{spec.id} was executed, its result could not be sent"))
    if problems_of(spec.output_schema, envelope.data):
        told = f"{spec.id} was executed, its result does not fit its contract"
        return error_result(OperationError(EXECUTION_ERROR, told))
    structured = None
    if spec.output_schema:
        structured = envelope.data if _is_object(spec.output_schema) else {_RESULT: envelope.data}
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=structured, _meta=meta)


def error_result(error: OperationError) -> CallToolResult:
    """An error as a tool's result: `{code, message, details?}` as JSON, for the agent to read and do better."""
    return CallToolResult(content=[TextContent(type="text", text=error_text(error))], is_error=True)


def _description(spec: OperationSpec) -> str:
    lines = [spec.description or spec.title or spec.id]
    if spec.error_schemas:
        errors = "; ".join(f"{one.code}: {one.description}" if one.description else one.code for one in spec.error_schemas)
        lines.append(f"Errors: {errors}")
    return "\n".join(lines)


def _is_object(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object"


def _object(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A schema whose root is an object's; another one's becomes its one property, with the definitions at the root."""
    bare = {key: value for key, value in schema.items() if key != "$schema"}
    if _is_object(schema):
        return bare
    definitions = {"$defs": bare.pop("$defs")} if "$defs" in bare else {}
    wrapped = {"type": "object", "properties": {name: bare}, "required": [name], "additionalProperties": False}
    return {**wrapped, **definitions}
