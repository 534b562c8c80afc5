"""Calling operations in other processes, by events: who calls, and who executes. `peewee_honker.operations.protocol` has the
events."""

from peewee_honker.operations.client import CallClient
from peewee_honker.operations.handler import CallHandler

__all__ = ["CallClient", "CallHandler"]
