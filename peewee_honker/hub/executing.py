"""Executing calls that come through a hub."""

from typing import TYPE_CHECKING

from peewee_honker.events import EventTarget
from peewee_honker.operations.calls import CallHandler
from peewee_honker.operations.registry import OperationRegistry

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["Executing"]


class Executing(CallHandler):
    """A handler whose threads leave no connection to a database open for long. A hub passes each call to one handler, so
    there is nothing to be agreed upon in the database."""

    def __init__(self, registry: OperationRegistry, target: EventTarget, used: "HonkerDatabase", workers: int) -> None:
        super().__init__(registry, target, workers=workers, tells_start=False)
        self._used = used

    def _close_connection(self) -> None:
        super()._close_connection()
        if not self._used.is_closed():
            self._used.close()
