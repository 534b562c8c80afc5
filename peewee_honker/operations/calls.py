"""Calling operations in other processes, by events.

| event | id | payload |
|---|---|---|
| `call.requested` | the request's | `requestId, operationId, input, parentRequestId?, deadline?, identity?, metadata?` |
| `call.responded` | the same | `requestId, output`: the answer, or one of a subscription's |
| `call.completed` | the same | `requestId`: a subscription has ended |
| `call.error` | the same | `requestId, code, message, details?` |
| `call.aborted` | the same | `requestId`: the caller has left; the handler stops, and what it has called |

A deadline is in milliseconds since 1970.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

from peewee_honker.events import Event, EventTarget
from peewee_honker.operations.errors import (
    ABORTED,
    EXECUTION_ERROR,
    TIMEOUT,
    UNKNOWN_ERROR,
    OperationError,
)
from peewee_honker.operations.pending import PendingCall, PendingRequestMap, PendingSubscription
from peewee_honker.operations.registry import Context, OperationRegistry
from peewee_honker.operations.spec import Identity, OperationType

__all__ = ["CallClient", "CallHandler"]

logger = logging.getLogger("peewee_honker.operations")

_REQUESTED, _RESPONDED, _COMPLETED = "call.requested", "call.responded", "call.completed"
_ERROR, _ABORTED = "call.error", "call.aborted"
_LEASE = 30  # seconds
_MOST_ABORTED = 10_000
_CLAIMS_KEPT = 86_400  # seconds
_FORGET_EVERY = 3_600.0  # seconds
_LOOK = 1.0  # seconds between two looks into the queue when no event says that there is something
_CLAIMS = "CREATE TABLE IF NOT EXISTS _honker_peewee_calls (request_id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID"
_CLAIM = "INSERT OR IGNORE INTO _honker_peewee_calls (request_id, at) VALUES (?, unixepoch())"
_FORGET = "DELETE FROM _honker_peewee_calls WHERE at < unixepoch() - ?"


class CallClient:
    """Calls operations that are executed elsewhere.

        client = CallClient(HonkerEventTarget(db))
        row = client.call("orders.create", {"customer": "Ada"}, identity=identity)

    Arguments:
        target: where events go and come from; its listeners have to be called, as those of every target.
        database: a HonkerDatabase, to call durably: the request is a job in its queue, written in the open transaction. It
            waits for a handler that is not there yet, and outlives one that dies.
        queue: the queue's name.
        lease: as that of a handler in the same process, which has the same queue.

    The identity is what the caller says; who can write to the file is trusted with it. For any thread.
    """

    def __init__(self, target: EventTarget, *, database: Any = None, queue: str = "calls", lease: int = _LEASE) -> None:
        self._target = target
        self._queue = None if database is None else _queue_of(database, queue, lease)
        self._database = database
        self._pending = PendingRequestMap(self._abort)
        self._listeners = {
            _RESPONDED: lambda event: self._pending.responded(event.id, _part(event, "output")),
            _COMPLETED: lambda event: self._pending.ended(event.id),
            _ERROR: lambda event: self._pending.ended(event.id, OperationError.from_json(event.payload)),
        }
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
        pending = PendingCall(self._pending, uuid.uuid4().hex, operation_id, timeout)
        self._pending.add(pending)
        self._request(pending.request_id, operation_id, data, identity, parent, metadata, timeout)
        return pending

    def subscribe(
        self,
        operation_id: str,
        data: Any,
        *,
        idle_timeout: float = 3600.0,
        identity: Identity | None = None,
        parent: Context | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> PendingSubscription:
        """Subscribe: an iterator of the responses' data, sync or async. `idle_timeout`: seconds without one, after which it
        raises TIMEOUT."""
        pending = PendingSubscription(self._pending, uuid.uuid4().hex, operation_id, idle_timeout)
        self._pending.add(pending)
        self._request(pending.request_id, operation_id, data, identity, parent, metadata, None)
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
        timeout: float | None,
    ) -> None:
        payload: dict[str, Any] = {"requestId": request_id, "operationId": operation_id, "input": data}
        if parent is not None:
            payload["parentRequestId"] = parent.request_id
            identity = identity or parent.identity
        if timeout is not None:
            payload["deadline"] = int((time.time() + timeout) * 1000)
        if identity is not None:
            payload["identity"] = identity.to_json()
        if metadata:
            payload["metadata"] = dict(metadata)
        try:
            if self._queue is None:
                self._target.dispatch(Event(_REQUESTED, request_id, payload))
                return
            with self._database.atomic():
                self._queue.enqueue(payload)
                self._target.dispatch(Event(_REQUESTED, request_id, payload))
        except BaseException:
            self._pending.forget(request_id)
            raise

    def _abort(self, request_id: str) -> None:
        self._target.dispatch(Event(_ABORTED, request_id, {"requestId": request_id}))


class CallHandler:
    """Executes calls with a registry's handlers, in threads of its own.

        with CallHandler(registry, HonkerEventTarget(db), database=db):
            ...

    Arguments:
        target: where requests come from and answers go.
        database: a HonkerDatabase on which several handlers, also of several processes, agree who executes a call: each
            call is executed by one. Needed for durable calls; without it this has to be the only handler.
        durable: take requests from the queue instead of from events. A call whose handler has died is executed again when
            its contract says that it may be, else answered with EXECUTION_ERROR.
        queue: the queue's name.
        workers: how many calls are executed at a time; a subscription holds a worker as long as it lasts.
        lease: seconds after which a call whose handler does not say that it lives is another's.

    An abort cancels coroutines and closes generators, here and of the calls that the call has made. A function that does not
    await runs to its end, and its answer is thrown away.
    """

    def __init__(
        self,
        registry: OperationRegistry,
        target: EventTarget,
        *,
        database: Any = None,
        durable: bool = False,
        queue: str = "calls",
        workers: int = 16,
        lease: int = _LEASE,
    ) -> None:
        if durable and database is None:
            raise ValueError("durable calls are jobs in a database's queue: database=")
        self.registry = registry
        self._target = target
        self._database = database
        self._queue = _queue_of(database, queue, lease) if durable else None
        self._lease = lease
        self._name = uuid.uuid4().hex
        self._workers = workers
        self._running: dict[str, _Running] = {}
        self._jobs: dict[str, Any] = {}
        self._aborted: dict[str, None] = {}  # what was aborted before it ran, the latest last
        self._changing = threading.Lock()
        self._free = threading.Semaphore(workers)
        self._next_beat = 0.0
        self._next_forgetting = 0.0
        self._stopped = threading.Event()
        self._woken = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._taker: threading.Thread | None = None

    def start(self) -> None:
        """Begin to execute calls."""
        self._stopped.clear()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="peewee_honker-call")
        if self._database is not None:
            self._database.execute_sql(_CLAIMS)
        self._target.add_listener(_ABORTED, self._on_aborted)
        self._target.add_listener(_REQUESTED, self._on_requested)
        if self._queue is not None:
            self._taker = threading.Thread(target=self._take_jobs, name="peewee_honker-calls", daemon=True)
            self._taker.start()

    def stop(self) -> None:
        """Execute no more, and wait for what runs; subscriptions are ended."""
        self._target.remove_listener(_REQUESTED, self._on_requested)
        self._stopped.set()
        self._woken.set()
        if self._taker is not None:
            self._taker.join()
            self._taker = None
        for running in list(self._running.values()):
            if running.endless:
                running.abort()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None
        self._target.remove_listener(_ABORTED, self._on_aborted)

    def __enter__(self) -> "CallHandler":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # What comes in

    def _on_requested(self, event: Event) -> None:
        if self._queue is not None:
            self._woken.set()
        elif isinstance(event.payload, Mapping) and self._mine(event.payload) and self._pool is not None:
            self._pool.submit(self._handle_event, dict(event.payload))

    def _mine(self, request: Mapping[str, Any]) -> bool:
        """Whether this handler is the one to execute a request."""
        if not self.registry.has_handler(str(request.get("operationId"))):
            return False
        return self._database is None or self._claimed(str(request.get("requestId")))

    def _claimed(self, request_id: str) -> bool:
        """Whether nobody has begun with a request before."""
        if time.monotonic() >= self._next_forgetting:
            self._next_forgetting = time.monotonic() + _FORGET_EVERY
            self._database.execute_sql(_FORGET, (_CLAIMS_KEPT,))
        cursor = self._database.execute_sql(_CLAIM, (request_id,))
        return bool(self._database.rows_affected(cursor))

    def _on_aborted(self, event: Event) -> None:
        with self._changing:
            running = self._running.get(event.id)
            children = [request_id for request_id, each in self._running.items() if each.parent == event.id]
            if running is None:
                self._aborted[event.id] = None
                if len(self._aborted) > _MOST_ABORTED:
                    del self._aborted[next(iter(self._aborted))]
        if running is not None:
            running.abort()
        for request_id in children:  # whose own children hear of it in turn, wherever they run
            self._target.dispatch(Event(_ABORTED, request_id, {"requestId": request_id}))

    def _take_jobs(self) -> None:
        """Take requests from the queue, as long as there are workers for them. In a thread."""
        assert self._queue is not None  # noqa: S101 # else the thread is not started
        while not self._stopped.is_set():
            self._keep_leases()
            if not self._free.acquire(timeout=_LOOK):
                continue
            job = self._queue.claim_one(self._name)
            if job is None:
                self._free.release()
                self._woken.wait(_LOOK)
                self._woken.clear()
                continue
            request = job.payload if isinstance(job.payload, Mapping) else {}
            if not self.registry.has_handler(str(request.get("operationId"))) and request.get("requestId"):
                self._free.release()
                job.retry(1, "no handler here")  # another process may have one
                continue
            assert self._pool is not None  # noqa: S101 # ends after this thread
            with self._changing:
                self._jobs[str(request.get("requestId"))] = job
            self._pool.submit(self._handle_job, dict(request), job)
        if not self._database.is_closed():
            self._database.close()

    def _keep_leases(self) -> None:
        """Say of the jobs that are worked on that they are."""
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + self._lease / 3
        with self._changing:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.heartbeat()

    def _handle_event(self, request: dict[str, Any]) -> None:
        try:
            self._handle(request)
        except Exception:
            logger.exception("a call could not be answered")

    def _handle_job(self, request: dict[str, Any], job: Any) -> None:
        try:
            self._handle(request, is_job=True)
            job.ack()
        except Exception:
            logger.exception("a call could not be answered; it comes again after its lease")
        finally:
            with self._changing:
                self._jobs.pop(str(request.get("requestId")), None)
            self._free.release()

    # One call

    def _handle(self, request: dict[str, Any], is_job: bool = False) -> None:
        """Execute a request and publish what comes of it. In a worker's thread."""
        request_id = str(request.get("requestId"))
        try:
            asyncio.run(self._executed(request_id, request, is_job))
        except OperationError as error:
            self._publish(_ERROR, request_id, error.to_json())
        except asyncio.CancelledError:
            logger.info("the call %s was aborted", request_id)
        except Exception:  # an answer that has no form in JSON, or is too large
            logger.exception("the answer to the call %s could not be sent", request_id)
            unsent = OperationError(EXECUTION_ERROR, f"the answer of {request.get('operationId')} could not be sent")
            self._publish(_ERROR, request_id, unsent.to_json())
        finally:
            with self._changing:
                self._running.pop(request_id, None)
            if self._database is not None and not self._database.is_closed():
                self._database.close()

    async def _executed(self, request_id: str, request: dict[str, Any], is_job: bool) -> None:
        operation_id, context = _context(request_id, request)
        spec = self.registry.spec(operation_id)
        if is_job and not self._claimed(request_id) and not spec.may_repeat:
            raise OperationError(EXECUTION_ERROR, f"the handler of {operation_id} died; whether it was done is not known")
        timeout = _time_left(request)
        if timeout is not None and timeout <= 0:
            raise OperationError(TIMEOUT, f"{operation_id} came too late")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 # a coroutine runs in one
        endless = spec.type is OperationType.SUBSCRIPTION
        with self._changing:
            if request_id in self._aborted:
                raise asyncio.CancelledError
            self._running[request_id] = _Running(task, asyncio.get_running_loop(), context.parent_request_id, endless)
        try:
            async with asyncio.timeout(timeout):
                if endless:
                    responses: Any = self.registry.subscribe(operation_id, request.get("input"), context=context)
                    async with aclosing(responses):
                        async for envelope in responses:
                            self._publish(_RESPONDED, request_id, {"output": envelope.to_json()})
                    self._publish(_COMPLETED, request_id, {})
                else:
                    envelope = await self.registry.execute(operation_id, request.get("input"), context=context)
                    self._publish(_RESPONDED, request_id, {"output": envelope.to_json()})
        except TimeoutError:
            raise OperationError(TIMEOUT, f"{operation_id} took too long") from None
        except asyncio.CancelledError:
            if endless and self._stopped.is_set():
                raise OperationError(ABORTED, f"the handler of {operation_id} has stopped") from None
            raise

    def _publish(self, type_: str, request_id: str, payload: dict[str, Any]) -> None:
        self._target.dispatch(Event(type_, request_id, {"requestId": request_id, **payload}))


class _Running:
    """A call that is executed."""

    def __init__(self, task: Any, loop: asyncio.AbstractEventLoop, parent: str | None, endless: bool) -> None:
        self._task, self._loop = task, loop
        self.parent, self.endless = parent, endless

    def abort(self) -> None:
        """Cancel it."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)


def _queue_of(database: Any, name: str, lease: int) -> Any:
    # How often a call may be tried is for its contract to say, not for the queue.
    return database.queue(name, visibility_timeout_s=lease, max_attempts=1_000_000)


def _context(request_id: str, request: Mapping[str, Any]) -> tuple[str, Context]:
    """What a request says. Raises OperationError for one that is none."""
    operation_id, parent, metadata = request.get("operationId"), request.get("parentRequestId"), request.get("metadata")
    if not isinstance(operation_id, str) or not isinstance(metadata, Mapping | None):
        raise OperationError(UNKNOWN_ERROR, "the request names no operation")
    try:
        identity = None if request.get("identity") is None else Identity.from_json(request["identity"])
    except ValueError:
        raise OperationError(UNKNOWN_ERROR, "the request's identity is none") from None
    return operation_id, Context(request_id, identity, None if parent is None else str(parent), metadata or {})


def _time_left(request: Mapping[str, Any]) -> float | None:
    deadline: Any = request.get("deadline")
    is_number = isinstance(deadline, int | float) and not isinstance(deadline, bool)
    return float(deadline) / 1000 - time.time() if is_number else None


def _part(event: Event, name: str) -> Any:
    """The data of an answer."""
    output = event.payload.get(name) if isinstance(event.payload, Mapping) else None
    return output.get("data") if isinstance(output, Mapping) else output
