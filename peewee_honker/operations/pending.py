"""Calls that wait for their answers, by request id."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from peewee_honker.operations.errors import TIMEOUT, TOO_SLOW, OperationError

__all__ = ["PendingCall", "PendingRequestMap", "PendingSubscription"]

_END = object()


class PendingCall:
    """A call under way. `result()` waits for its output; `await` does so on an event loop."""

    def __init__(self, map_: "PendingRequestMap", request_id: str, operation_id: str, timeout: float) -> None:
        self.request_id = request_id
        self.operation_id = operation_id
        self.deadline = time.monotonic() + timeout
        self._map = map_
        self._future: Future[Any] = Future()

    def result(self) -> Any:
        """The output. Raises OperationError: the handler's, or TIMEOUT, after which the call is aborted."""
        try:
            return self._future.result(max(0.0, self.deadline - time.monotonic()))
        except TimeoutError:
            raise self._map.give_up(self) from None

    def __await__(self) -> Any:
        return self._result().__await__()

    async def _result(self) -> Any:
        try:
            async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                return await asyncio.shield(asyncio.wrap_future(self._future))  # an answer may come at the same moment
        except TimeoutError:
            raise self._map.give_up(self) from None
        except asyncio.CancelledError:
            self._map.give_up(self)
            raise

    def respond(self, output: Any) -> None:
        """Take the answer."""
        self._future.set_result(output)

    def complete(self) -> None:
        """The end without an answer."""
        self._future.set_result(None)

    def fail(self, error: OperationError) -> None:
        """Take the error."""
        self._future.set_exception(error)


class PendingSubscription:
    """A subscription under way: an iterator of its responses. `close()`, or the end of a `with` block, ends it on the other
    side too."""

    def __init__(
        self, map_: "PendingRequestMap", request_id: str, operation_id: str, idle_timeout: float, buffer: int
    ) -> None:
        self.request_id = request_id
        self.operation_id = operation_id
        self.deadline = float("inf")
        self._map = map_
        self._idle_timeout = idle_timeout
        self._buffer = buffer
        self._responses: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._wake: Callable[[], None] | None = None  # tells who waits on an event loop that there is something

    def __iter__(self) -> Iterator[Any]:
        """The responses. Raises OperationError: the handler's, TIMEOUT when none comes for the idle time, TOO_SLOW behind
        those that have waited."""
        try:
            while True:
                try:
                    value = _read(self._responses.get(timeout=self._idle_timeout))
                except queue.Empty:
                    raise self._map.give_up(self) from None
                if value is _END:
                    return
                yield value
        finally:
            self.close()

    async def __aiter__(self) -> Any:
        """As `__iter__`. It holds no thread while it waits: any number may wait on a loop."""
        loop, something = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits any more
                loop.call_soon_threadsafe(something.set)

        self._wake = wake
        try:
            while True:
                something.clear()
                try:
                    value = _read(self._responses.get_nowait())
                except queue.Empty:
                    try:
                        await asyncio.wait_for(something.wait(), self._idle_timeout)
                    except TimeoutError:
                        raise self._map.give_up(self) from None
                    continue
                if value is _END:
                    return
                yield value
        finally:
            self._wake = None
            self.close()

    def _put(self, kind: str, value: Any) -> None:
        self._responses.put((kind, value))
        wake = self._wake
        if wake is not None:
            wake()

    def __enter__(self) -> "PendingSubscription":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End it here, and on the other side unless it has ended there."""
        if self._map.forget(self.request_id):
            self._map.abort(self.request_id)
        self._put("end", None)

    def respond(self, output: Any) -> None:
        """Take a response; the subscription goes on, unless too many wait already."""
        if self._responses.qsize() < self._buffer:
            self._put("output", output)
        elif self._map.forget(self.request_id):
            self._map.abort(self.request_id)
            told = f"more than {self._buffer} responses of {self.operation_id} wait: read faster, or subscribe again"
            self.fail(OperationError(TOO_SLOW, told))

    def complete(self) -> None:
        """The end."""
        self._put("end", None)

    def fail(self, error: OperationError) -> None:
        """Take the error."""
        self._put("error", error)


def _read(response: tuple[str, Any]) -> Any:
    """The output that a response brings; `_END` when it is the end. Raises the error that it is."""
    kind, value = response
    if kind == "error":
        raise value
    return value if kind == "output" else _END


class PendingRequestMap:
    """Who waits for what. Answers to unknown requests (late ones, second ones) are ignored. For any thread.

    Arguments:
        abort: is called with the id of a request that is given up.
    """

    def __init__(self, abort: Any) -> None:
        self.abort = abort
        self._changing = threading.Lock()
        self._pending: dict[str, PendingCall | PendingSubscription] = {}
        self._soonest = float("inf")  # no deadline is before; that of one that was answered may have been

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, pending: PendingCall | PendingSubscription) -> None:
        """Wait for an answer."""
        with self._changing:
            self._pending[pending.request_id] = pending
            self._soonest = min(self._soonest, pending.deadline)
        if self._soonest < time.monotonic():
            self.expire()

    def forget(self, request_id: str) -> bool:
        """Wait no longer; whether one did."""
        with self._changing:
            return self._pending.pop(request_id, None) is not None

    def expire(self) -> None:
        """Give up calls that nobody waits for any more, whose deadline has passed."""
        now = time.monotonic()
        with self._changing:
            over = [pending for pending in self._pending.values() if pending.deadline < now]
            waiting = (pending.deadline for pending in self._pending.values() if pending.deadline >= now)
            self._soonest = min(waiting, default=float("inf"))
        for pending in over:
            if isinstance(pending, PendingCall) and self.forget(pending.request_id):
                self.abort(pending.request_id)
                pending.fail(OperationError(TIMEOUT, f"{pending.operation_id} did not answer in time"))

    def give_up(self, pending: PendingCall | PendingSubscription) -> OperationError:
        """Abort a request; gives the error to raise."""
        if self.forget(pending.request_id):
            self.abort(pending.request_id)
        return OperationError(TIMEOUT, f"{pending.operation_id} did not answer in time")

    def responded(self, request_id: str, output: Any) -> None:
        """An answer has come."""
        with self._changing:
            pending = self._pending.get(request_id)
            if isinstance(pending, PendingCall):
                del self._pending[request_id]
        if pending is not None:
            pending.respond(output)

    def ended(self, request_id: str, error: OperationError | None = None) -> None:
        """The end has come, or an error."""
        with self._changing:
            pending = self._pending.pop(request_id, None)
        if pending is not None:
            pending.complete() if error is None else pending.fail(error)
