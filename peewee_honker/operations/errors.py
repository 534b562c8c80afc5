"""What an operation can fail with. Nothing of a traceback or of SQL is in it."""

from collections.abc import Mapping
from typing import Any

from peewee_honker.errors import HonkerError

__all__ = [
    "ABORTED",
    "ACCESS_DENIED",
    "EXECUTION_ERROR",
    "OPERATION_NOT_FOUND",
    "TIMEOUT",
    "TOO_SLOW",
    "UNAVAILABLE",
    "UNKNOWN_ERROR",
    "VALIDATION_ERROR",
    "OperationError",
]

OPERATION_NOT_FOUND = "OPERATION_NOT_FOUND"
ACCESS_DENIED = "ACCESS_DENIED"
VALIDATION_ERROR = "VALIDATION_ERROR"
TIMEOUT = "TIMEOUT"
ABORTED = "ABORTED"
EXECUTION_ERROR = "EXECUTION_ERROR"
UNKNOWN_ERROR = "UNKNOWN_ERROR"
TOO_SLOW = "TOO_SLOW"
"""More responses of a subscription wait than may."""
UNAVAILABLE = "UNAVAILABLE"
"""Who would execute it cannot be reached: a hub or a spoke is away. Whether it was executed is not known."""


class OperationError(HonkerError):
    """An operation failed: `code` is one of this module's or one of the operation's own, `details` any JSON value.

    Handlers raise it to tell their callers; what else they raise is told as EXECUTION_ERROR, without its text.
    """

    def __init__(self, code: str, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def to_json(self) -> dict[str, Any]:
        """The error as JSON values."""
        told: dict[str, Any] = {"code": self.code, "message": self.message}
        return told if self.details is None else {**told, "details": self.details}

    @classmethod
    def from_json(cls, value: Any) -> "OperationError":
        """The error that `to_json` gave; UNKNOWN_ERROR for what is none."""
        if not isinstance(value, Mapping) or not isinstance(value.get("code"), str):
            return cls(UNKNOWN_ERROR, "the answer is no error of an operation")
        return cls(value["code"], str(value.get("message", "")), value.get("details"))
