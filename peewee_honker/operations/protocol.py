"""The events of which a call consists.

| event | id | payload |
|---|---|---|
| `call.requested` | the request's | `requestId, operationId, input`, and more, see below |
| `call.started` | the same | `requestId`: a handler has begun to execute it |
| `call.responded` | the same | `requestId, output`: the answer, or one of a subscription's |
| `call.completed` | the same | `requestId`: a subscription has ended |
| `call.error` | the same | `requestId, code, message, details?` |
| `call.aborted` | the same | `requestId`: the caller has left; the handler stops, and what it has called |

A request may have `parentRequestId` (of the call that calls), `identity`, `metadata`, `deadline` (milliseconds since 1970)
and, what makes it a subscription's, `idleTimeout` (milliseconds).
"""

import time
from collections.abc import Mapping
from typing import Any

from peewee_honker.operations.errors import UNKNOWN_ERROR, OperationError
from peewee_honker.operations.registry import Context
from peewee_honker.operations.spec import Identity

__all__ = [
    "ABORTED",
    "CALLS",
    "COMPLETED",
    "ERROR",
    "LEASE",
    "REQUESTED",
    "RESPONDED",
    "STARTED",
    "context_of",
    "is_subscription",
    "output_of",
    "queue_of",
    "time_left",
]

REQUESTED, STARTED = "call.requested", "call.started"
RESPONDED, COMPLETED = "call.responded", "call.completed"
ERROR, ABORTED = "call.error", "call.aborted"
CALLS = "call.*"
"""The topic of all of them."""

LEASE = 30
"""Seconds after which a durable call whose handler does not say that it lives is another's, unless said otherwise."""


def context_of(request_id: str, request: Mapping[str, Any]) -> tuple[str, Context]:
    """What a request says: the operation's id, and the handler's context. Raises OperationError for one that is none."""
    operation_id, parent, metadata = request.get("operationId"), request.get("parentRequestId"), request.get("metadata")
    if not isinstance(operation_id, str) or not isinstance(metadata, Mapping | None):
        raise OperationError(UNKNOWN_ERROR, "the request names no operation")
    try:
        identity = None if request.get("identity") is None else Identity.from_json(request["identity"])
    except ValueError:
        raise OperationError(UNKNOWN_ERROR, "the request's identity is none") from None
    return operation_id, Context(request_id, identity, None if parent is None else str(parent), metadata or {})


def time_left(request: Mapping[str, Any]) -> float | None:
    """Seconds until a request's deadline; None when it has none."""
    deadline: Any = request.get("deadline")
    is_number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
    return float(deadline) / 1000 - time.time() if is_number else None


def is_subscription(request: Mapping[str, Any]) -> bool:
    """Whether more than one answer may come."""
    return request.get("idleTimeout") is not None


def output_of(payload: Any) -> Any:
    """The data of an answer."""
    output = payload.get("output") if isinstance(payload, Mapping) else None
    return output.get("data") if isinstance(output, Mapping) else output


def queue_of(database: Any, name: str, lease: int) -> Any:
    """The queue of durable calls."""
    # How often a call may be tried is for its contract to say, not for the queue.
    return database.queue(name, visibility_timeout_s=lease, max_attempts=1_000_000)
