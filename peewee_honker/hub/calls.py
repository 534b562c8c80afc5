"""Calls of operations over a connection to a hub, for `peewee_honker.operations.calls`."""

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from peewee_honker.events import Event, EventTarget
from peewee_honker.hub.errors import HubConnectionError
from peewee_honker.operations.errors import UNAVAILABLE, OperationError

if TYPE_CHECKING:
    from peewee_honker.hub.link import Link

__all__ = ["CallTarget"]

logger = logging.getLogger("peewee_honker.hub")

_REQUESTED, _RESPONDED = "call.requested", "call.responded"
_ERROR, _ABORTED = "call.error", "call.aborted"
_ENDS = ("call.completed", "call.error", "call.aborted")
_MOST_REMEMBERED = 20_000


class CallTarget(EventTarget):
    """The calls that go over a connection: to the hub, and from it to the operations that are registered there.

    Nothing of them is kept: a request raises OperationError (UNAVAILABLE) when the hub is away, calls that are under way
    when the connection is lost end so, and what was executed here for others is aborted. Listeners are called in the
    connection's event loop.
    """

    def __init__(self, link: "Link") -> None:
        super().__init__(max_bytes=link.max_bytes)
        self._link = link
        self._asked: dict[str, bool] = {}  # whether a request ends with the first response
        self._executing: dict[str, bool] = {}
        self._changing = threading.Lock()
        link.on_call = self._take
        link.on_lost = self._on_lost

    def _dispatch(self, event: Event) -> None:
        event.to_json(self._link.max_bytes)
        if event.type == _REQUESTED:
            self._note(self._asked, event)
        elif event.type == _ABORTED:  # who has asked leaves, and no answer comes
            self._forget(self._asked, event.id)
        else:
            self._end(self._executing, event)
        try:
            self._link.send(event, waits=event.type in (_RESPONDED, *_ENDS))  # an answer is not left out for a burst
        except HubConnectionError as error:
            if event.type == _REQUESTED:
                self._forget(self._asked, event.id)
                raise OperationError(UNAVAILABLE, str(error)) from error
            logger.debug("nobody hears the %s of the call %s: %s", event.type, event.id, error)

    def _take(self, event: Event) -> None:
        """A message of the hub."""
        if event.type == _REQUESTED:
            self._note(self._executing, event)
        elif event.type == _ABORTED:  # and none is given
            self._forget(self._executing, event.id)
        else:
            self._end(self._asked, event)
        self._deliver(event)

    def _on_lost(self) -> None:
        """There are no answers any more, and nobody who waits for them."""
        with self._changing:
            asked, self._asked = self._asked, {}
            executing, self._executing = self._executing, {}
        away = OperationError(UNAVAILABLE, "the connection to the hub was lost; whether it was executed is not known")
        for request_id in asked:
            self._deliver(Event(_ERROR, request_id, {"requestId": request_id, **away.to_json()}))
        for request_id in executing:
            self._deliver(Event(_ABORTED, request_id, {"requestId": request_id}))

    def _note(self, calls: dict[str, bool], event: Event) -> None:
        is_once = isinstance(event.payload, Mapping) and event.payload.get("deadline") is not None
        with self._changing:
            calls[event.id] = is_once
            if len(calls) > _MOST_REMEMBERED:
                del calls[next(iter(calls))]

    def _end(self, calls: dict[str, bool], event: Event) -> None:
        if event.type in _ENDS or (event.type == _RESPONDED and calls.get(event.id)):
            self._forget(calls, event.id)

    def _forget(self, calls: dict[str, bool], request_id: str) -> None:
        with self._changing:
            calls.pop(request_id, None)
