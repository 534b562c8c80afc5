"""Who calls operations that are executed elsewhere."""

import time
from collections.abc import Mapping
from typing import Any

from peewee_honker.events import Event, EventTarget
from peewee_honker.operations.errors import OperationError
from peewee_honker.operations.pending import PendingCall, PendingRequestMap, PendingSubscription
from peewee_honker.operations.protocol import ABORTED, COMPLETED, ERROR, LEASE, REQUESTED, RESPONDED, output_of, queue_of
from peewee_honker.operations.registry import Context, new_request_id
from peewee_honker.operations.spec import Identity

__all__ = ["CallClient"]


class CallClient:
    """Calls operations that are executed elsewhere.

        client = CallClient(HonkerEventTarget(db))
        row = client.call("orders.create", {"customer": "Ada"}, identity=identity)

    Arguments:
        target: where events go and come from; its listeners have to be called, as those of every target. A durable one has
            a consumer's name that no other client and no handler has.
        database: a HonkerDatabase, to call durably: the request is a job in its queue, written in the open transaction. It
            waits for a handler that is not there yet, and outlives one that dies.
        queue: the queue's name.
        lease: as that of a handler in the same process, which has the same queue.

    The identity is what the caller says; who can write to the file is trusted with it. For any thread.
    """

    def __init__(self, target: EventTarget, *, database: Any = None, queue: str = "calls", lease: int = LEASE) -> None:
        self._target = target
        self._queue = None if database is None else queue_of(database, queue, lease)
        self._database = database
        self._pending = PendingRequestMap(self._abort)
        self._listeners = {
            RESPONDED: lambda event: self._pending.responded(event.id, output_of(event.payload)),
            COMPLETED: lambda event: self._pending.ended(event.id),
            ERROR: lambda event: self._pending.ended(event.id, OperationError.from_json(event.payload)),
        }
        with target.holding():
            for type_, listener in self._listeners.items():
                target.add_listener(type_, listener)

    def call(self, operation_id: str, data: Any, *, timeout: float = 30.0, **more: Any) -> Any:
        """The data that a query or mutation gives. Raises OperationError, TIMEOUT after so many seconds.

        Arguments are those of `start`.
        """
        return self.start(operation_id, data, timeout=timeout, **more).result()

    def start(
        self,
        operation_id: str,
        data: Any,
        *,
        timeout: float = 30.0,
        identity: Identity | None = None,
        parent: Context | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> PendingCall:
        """Begin a call, to wait for its `result()` later, or to `await` it.

        Arguments:
            timeout: seconds.
            identity: who calls; by default the parent's.
            parent: the context of the handler that calls: when its call is aborted, this one is too.
            metadata: JSON values that the handler sees.
        """
        pending = PendingCall(self._pending, new_request_id(), operation_id, timeout)
        self._pending.add(pending)
        self._request(pending.request_id, operation_id, data, identity, parent, metadata, _until(timeout))
        return pending

    def subscribe(
        self,
        operation_id: str,
        data: Any,
        *,
        idle_timeout: float = 3600.0,
        buffer: int = 10_000,
        identity: Identity | None = None,
        parent: Context | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> PendingSubscription:
        """Subscribe: an iterator of the responses' data, sync or async.

        Arguments:
            idle_timeout: seconds without a response, after which it raises TIMEOUT.
            buffer: how many responses may wait for who reads them. With one more the subscription is aborted, and raises
                TOO_SLOW behind those that wait.
        """
        pending = PendingSubscription(self._pending, new_request_id(), operation_id, idle_timeout, buffer)
        self._pending.add(pending)
        self._request(pending.request_id, operation_id, data, identity, parent, metadata, _idle_for(idle_timeout))
        return pending

    @property
    def pending(self) -> int:
        """How many calls and subscriptions wait."""
        return len(self._pending)

    def close(self) -> None:
        """Listen no more."""
        for type_, listener in self._listeners.items():
            self._target.remove_listener(type_, listener)

    def _request(
        self,
        request_id: str,
        operation_id: str,
        data: Any,
        identity: Identity | None,
        parent: Context | None,
        metadata: Mapping[str, Any] | None,
        limits: Mapping[str, Any],
    ) -> None:
        payload: dict[str, Any] = {"requestId": request_id, "operationId": operation_id, "input": data, **limits}
        if parent is not None:
            payload["parentRequestId"] = parent.request_id
            identity = identity or parent.identity
        if identity is not None:
            payload["identity"] = identity.to_json()
        if metadata:
            payload["metadata"] = dict(metadata)
        try:
            if self._queue is None:
                self._target.dispatch(Event(REQUESTED, request_id, payload))
                return
            with self._database.atomic():
                self._queue.enqueue(payload)
                self._target.dispatch(Event(REQUESTED, request_id, payload))
        except BaseException:
            self._pending.forget(request_id)
            raise

    def _abort(self, request_id: str) -> None:
        self._target.dispatch(Event(ABORTED, request_id, {"requestId": request_id}))


def _until(timeout: float) -> dict[str, int]:
    return {"deadline": int((time.time() + timeout) * 1000)}


def _idle_for(seconds: float) -> dict[str, int]:
    return {"idleTimeout": int(seconds * 1000)}
