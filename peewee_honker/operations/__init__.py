"""Operations: contracts with handlers, generated from models or one's own, executed here or called over a bus."""

from peewee_honker.operations.callgraph import CallGraphProjection, CallPage, CallTree
from peewee_honker.operations.calls import CallClient, CallHandler
from peewee_honker.operations.callstores import Call, CallStatus
from peewee_honker.operations.crud import ModelOperations, operations_for
from peewee_honker.operations.errors import OperationError
from peewee_honker.operations.registry import Context, Envelope, Handler, OperationRegistry
from peewee_honker.operations.spec import AccessControl, ErrorSpec, Identity, OperationSpec, OperationType

__all__ = [
    "AccessControl",
    "Call",
    "CallClient",
    "CallGraphProjection",
    "CallHandler",
    "CallPage",
    "CallStatus",
    "CallTree",
    "Context",
    "Envelope",
    "ErrorSpec",
    "Handler",
    "Identity",
    "ModelOperations",
    "OperationError",
    "OperationRegistry",
    "OperationSpec",
    "OperationType",
    "operations_for",
]
