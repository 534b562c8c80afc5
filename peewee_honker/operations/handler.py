"""Who executes the operations that others call."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Awaitable, Mapping
from contextlib import aclosing
from typing import Any

from peewee_honker.events import Event, EventTarget
from peewee_honker.operations.errors import ABORTED as ABORTED_CODE
from peewee_honker.operations.errors import EXECUTION_ERROR, TIMEOUT, OperationError
from peewee_honker.operations.protocol import (
    ABORTED,
    COMPLETED,
    ERROR,
    LEASE,
    REQUESTED,
    RESPONDED,
    STARTED,
    context_of,
    queue_of,
    time_left,
)
from peewee_honker.operations.registry import Context, Envelope, OperationRegistry
from peewee_honker.operations.spec import OperationSpec, OperationType
from peewee_honker.operations.workers import Workers

__all__ = ["CallHandler"]

logger = logging.getLogger("peewee_honker.operations")

_MOST_ABORTED = 10_000
_CLAIMS_KEPT = 86_400  # seconds
_FORGET_EVERY = 3_600.0  # seconds
_LOOK = 1.0  # seconds, at most, between two looks into the queue when no event says that there is something
_CLAIMS = "CREATE TABLE IF NOT EXISTS _honker_peewee_calls (request_id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID"
_CLAIM = "INSERT OR IGNORE INTO _honker_peewee_calls (request_id, at) VALUES (?, unixepoch()) RETURNING 1 AS claimed"
_FORGET = "DELETE FROM _honker_peewee_calls WHERE at < unixepoch() - ?"


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
        tells_start: whether `call.started` is published. By default it is, but not on an ephemeral HonkerEventTarget, where
            few would hear it and a short call would take longer by a fifth.

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
        lease: int = LEASE,
        tells_start: bool | None = None,
    ) -> None:
        if durable and database is None:
            raise ValueError("durable calls are jobs in a database's queue: database=")
        self.registry = registry
        self._target = target
        self._database = database
        self._queue = queue_of(database, queue, lease) if durable else None
        self._lease = lease
        self._look = min(_LOOK, lease / 3)
        self._tells_start = getattr(target, "mode", None) != "ephemeral" if tells_start is None else tells_start
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
        self._taken = threading.Event()  # no more jobs are
        self._pool: Workers | None = None
        self._taker: threading.Thread | None = None

    def start(self) -> None:
        """Begin to execute calls; nothing if it does."""
        if self._pool is not None:
            return
        self._stopped.clear()
        self._pool = Workers(self._workers, "peewee_honker-call", self._close_connection)
        if self._database is not None:
            self._database.execute_sql(_CLAIMS)
        with self._target.holding():
            self._target.add_listener(ABORTED, self._on_aborted)
            self._target.add_listener(REQUESTED, self._on_requested)
        if self._queue is not None:
            self._taken.clear()
            self._taker = threading.Thread(target=self._work_on_queue, name="peewee_honker-calls", daemon=True)
            self._taker.start()

    def stop(self) -> None:
        """Execute no more, and wait for what runs; subscriptions are ended."""
        if getattr(self._target, "mode", None) == "durable":  # no request is read that would not be executed
            with self._target.holding():
                self._target.remove_listener(REQUESTED, self._on_requested)
                self._target.remove_listener(ABORTED, self._on_aborted)
        self._target.remove_listener(REQUESTED, self._on_requested)
        self._stopped.set()
        self._woken.set()
        if self._taker is not None:
            self._taken.wait()
        for running in list(self._running.values()):
            if running.endless:
                running.abort()
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._taker is not None:
            self._taker.join()
            self._taker = None
        self._target.remove_listener(ABORTED, self._on_aborted)

    def __enter__(self) -> "CallHandler":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # What comes in

    def _on_requested(self, event: Event) -> None:
        if self._queue is not None:
            self._woken.set()
        elif isinstance(event.payload, Mapping) and self.registry.has_handler(str(event.payload.get("operationId"))):
            pool = self._pool
            if pool is not None:
                pool.submit(self._handle, dict(event.payload))

    def _claimed(self, request_id: str) -> bool:
        """Whether nobody has begun with a request before."""
        if time.monotonic() >= self._next_forgetting:
            self._next_forgetting = time.monotonic() + _FORGET_EVERY
            self._database.execute_sql(_FORGET, (_CLAIMS_KEPT,))
        return bool(self._database.write_beside(_CLAIM, (request_id,)))

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
            self._target.dispatch(Event(ABORTED, request_id, {"requestId": request_id}))

    def _work_on_queue(self) -> None:
        """Take requests until the handler is stopped; their leases are kept until the last of them is done. In a thread."""
        while not self._stopped.is_set():
            try:
                self._keep_leases()
                self._take_job()
            except Exception:  # whatever the file or the lock on it has to say: the others' calls go on
                logger.exception("no call could be taken from the queue; tried again in %s s", self._look)
                self._stopped.wait(self._look)
        self._taken.set()
        while self._jobs:
            try:
                self._keep_leases()
            except Exception:
                logger.exception("the leases of running calls could not be renewed; tried again in %s s", self._look)
            self._woken.wait(self._look)
            self._woken.clear()
        self._close_connection()

    def _take_job(self) -> None:
        """Take a request from the queue, if a worker is free for one; else wait a while for either."""
        assert self._queue is not None  # noqa: S101 # else the thread is not started
        assert self._pool is not None  # noqa: S101 # closed after the last was taken
        if not self._free.acquire(timeout=self._look):
            return
        job = None
        try:
            job = self._queue.claim_one(self._name)
        finally:
            if job is None:
                self._free.release()
        if job is None:
            self._woken.wait(self._look)
            self._woken.clear()
            return
        request = job.payload if isinstance(job.payload, Mapping) else {}
        if not self.registry.has_handler(str(request.get("operationId"))) and request.get("requestId"):
            self._free.release()
            job.retry(1, "no handler here")  # another process may have one
            return
        with self._changing:
            self._jobs[str(request.get("requestId"))] = job
        self._pool.submit(self._handle_job, dict(request), job)

    def _keep_leases(self) -> None:
        """Say of the jobs that are worked on that they are."""
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + self._lease / 3
        with self._changing:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.heartbeat()

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
            if self._stopped.is_set():
                self._woken.set()

    # One call

    def _handle(self, request: dict[str, Any], is_job: bool = False) -> None:
        """Execute a request and publish what comes of it. In a worker's thread."""
        request_id = str(request.get("requestId"))
        try:
            self._execute(request_id, request, is_job)
        except OperationError as error:
            self._publish(ERROR, request_id, error.to_json())
        except asyncio.CancelledError:
            logger.info("the call %s was aborted", request_id)
        except Exception:  # an answer that has no form in JSON, or is too large
            logger.exception("the answer to the call %s could not be sent", request_id)
            unsent = OperationError(EXECUTION_ERROR, f"the answer of {request.get('operationId')} could not be sent")
            self._publish(ERROR, request_id, unsent.to_json())
        except SystemExit:  # of a handler: it ends the call, and not the worker that executes it
            logger.exception("the handler of the call %s wanted to end the program", request_id)
            failed = OperationError(EXECUTION_ERROR, f"{request.get('operationId')} failed")
            self._publish(ERROR, request_id, failed.to_json())
        finally:
            with self._changing:
                self._running.pop(request_id, None)

    def _execute(self, request_id: str, request: dict[str, Any], is_job: bool) -> None:
        if request_id in self._aborted:
            raise asyncio.CancelledError
        timeout = time_left(request)
        is_late = timeout is not None and timeout <= 0
        if not self._begin(request_id, request, is_job, is_late):
            return
        operation_id, context = context_of(request_id, request)
        spec = self.registry.spec(operation_id)
        if is_late:
            raise OperationError(TIMEOUT, f"{operation_id} came too late")
        running = _Running(context.parent_request_id, spec.type is OperationType.SUBSCRIPTION)
        with self._changing:
            if request_id in self._aborted:
                raise asyncio.CancelledError
            self._running[request_id] = running
        if running.endless and self._stopped.is_set():  # it waited for a worker meanwhile
            running.abort()
        assert self._pool is not None  # noqa: S101 # of which this is a thread
        if running.endless:
            self._pool.run(self._limited(running, spec, self._answers(spec, request, context), timeout))
            self._publish(COMPLETED, request_id, {})
            return
        found = self.registry.begin(operation_id, request.get("input"), context=context)
        if not isinstance(found, Envelope):
            found = self._pool.run(self._limited(running, spec, found, timeout))
        self._publish(RESPONDED, request_id, {"output": found.to_json()})

    def _begin(self, request_id: str, request: Mapping[str, Any], is_job: bool, is_late: bool) -> bool:
        """Say that a call is executed from now on; False when another does so. The claim commits with the word."""
        tells = self._tells_start and not is_late
        if self._database is None:
            if tells:
                self._publish(STARTED, request_id, {})
            return True
        if tells:
            with self._database.atomic():
                claimed = self._claimed(request_id)
                if claimed:
                    self._publish(STARTED, request_id, {})
        else:
            claimed = self._claimed(request_id)
        if claimed or not is_job:
            return claimed
        spec = self.registry.spec(str(request.get("operationId")))
        if not spec.may_repeat:
            raise OperationError(EXECUTION_ERROR, f"the handler of {spec.id} died; whether it was done is not known")
        return True

    async def _limited(self, running: "_Running", spec: OperationSpec, work: Awaitable[Any], timeout: float | None) -> Any:
        """Await a call's work until its deadline."""
        running.begin()
        try:
            async with asyncio.timeout(timeout):
                return await work
        except TimeoutError:
            raise OperationError(TIMEOUT, f"{spec.id} took too long") from None
        except asyncio.CancelledError:
            if running.endless and self._stopped.is_set():
                raise OperationError(ABORTED_CODE, f"the handler of {spec.id} has stopped") from None
            raise

    async def _answers(self, spec: OperationSpec, request: Mapping[str, Any], context: Context) -> None:
        """Publish a subscription's answers as they come."""
        responses: Any = self.registry.subscribe(spec.id, request.get("input"), context=context)
        async with aclosing(responses):
            async for envelope in responses:
                self._publish(RESPONDED, context.request_id, {"output": envelope.to_json()})

    def _publish(self, type_: str, request_id: str, payload: dict[str, Any]) -> None:
        self._target.dispatch(Event(type_, request_id, {"requestId": request_id, **payload}))

    def _close_connection(self) -> None:
        self._target.close_thread()
        if self._database is not None and not self._database.is_closed():
            self._database.close()


class _Running:
    """A call that is executed."""

    def __init__(self, parent: str | None, endless: bool) -> None:
        self.parent, self.endless = parent, endless
        self._changing = threading.Lock()
        self._is_aborted = False
        self._task: asyncio.Task[Any] | None = None

    def begin(self) -> None:
        """Be the task that runs now; an abort that has come before cancels it."""
        with self._changing:
            self._task = asyncio.current_task()
            if self._is_aborted and self._task is not None:
                self._task.cancel()

    def abort(self) -> None:
        """Cancel it. A function goes on to its end."""
        with self._changing:
            self._is_aborted = True
            task = self._task
        if task is not None and not task.get_loop().is_closed():
            task.get_loop().call_soon_threadsafe(task.cancel)
