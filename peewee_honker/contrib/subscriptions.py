"""Subscriptions of operations as server-sent events: what a page is sent, on an event loop or from a thread.

A response is a message whose data is `{data, meta}`. The end of the subscription is an event `end`, a failure an event
`failed` whose data is the error; after either a page closes its EventSource, which would ask again by itself.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

from peewee_honker.contrib.http_operations import error_text, response_text
from peewee_honker.operations import Envelope, OperationError, OperationSpec
from peewee_honker.operations.errors import ABORTED, EXECUTION_ERROR

__all__ = ["Page", "ThreadPage"]

logger = logging.getLogger("peewee_honker.contrib")

_OPEN = b": open\n\n"
_KEEP_ALIVE = b": keep-alive\n\n"


class Page:
    """One page's subscription, as an async iterator of bytes to send.

    Arguments:
        spec: of the operation.
        responses: what `OperationRegistry.subscribe` gave. It runs in a task of its own, which is cancelled when the page
            leaves: at the `await` where it waits, so that its `finally` blocks run.
        keep_alive: seconds of silence after which a comment is sent.
        left: is called once, when the generator has ended.

    The first bytes are sent once the generator has come to its first `await`. One response is made at a time: a page that
    reads slowly slows its generator, and nobody else's.
    """

    def __init__(
        self,
        spec: OperationSpec,
        responses: AsyncGenerator[Envelope, None],
        keep_alive: float,
        left: Callable[[], None],
    ) -> None:
        self._spec, self._responses, self._keep_alive = spec, responses, keep_alive
        self._left: Callable[[], None] | None = left
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._may_make = asyncio.Semaphore(1)
        self._task: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        if self._left is None:  # closed before it was read
            return
        self._task = asyncio.create_task(self._make())
        self._task.add_done_callback(self._done)
        try:
            await asyncio.sleep(0)
            yield _OPEN
            while True:
                try:
                    async with asyncio.timeout(self._keep_alive):
                        frame = await self._frames.get()
                except TimeoutError:
                    yield _KEEP_ALIVE
                    continue
                if frame is None:
                    return
                yield frame
                self._may_make.release()
        finally:
            self.close()

    def close(self) -> None:
        """End the subscription, also one that was never read. On the page's loop."""
        if self._task is None:
            self._forget()
        else:
            self._task.cancel()

    async def closed(self) -> None:
        """Wait until the generator has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _make(self) -> None:
        """Make the frames, one when the last was sent."""
        try:
            async with contextlib.aclosing(self._responses) as responses:
                await self._may_make.acquire()
                async for envelope in responses:
                    self._frames.put_nowait(_frame("", response_text(self._spec, envelope)))
                    await self._may_make.acquire()
            last = _frame("end", "{}")
        except OperationError as error:
            last = _failed(error)
        except asyncio.CancelledError:  # the page has left, or the server stops: then there is one to tell
            last = _failed(OperationError(ABORTED, f"{self._spec.id} was stopped"))
        except Exception:
            logger.exception("the subscription %s failed", self._spec.id)
            last = _failed(OperationError(EXECUTION_ERROR, f"{self._spec.id} failed"))
        self._frames.put_nowait(last)

    def _done(self, _task: asyncio.Task[None]) -> None:
        self._frames.put_nowait(None)
        self._forget()

    def _forget(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left()


class ThreadPage:
    """The same for a server of threads: an iterator of bytes. The subscription runs on an event loop of its own, in a thread
    that `close` ends; so it goes on while the server waits for the page to read.

    `close()` is called by the server's thread when the page has left (WSGI says so), `stop()` by anybody.
    """

    def __init__(self, page: Page, left: Callable[["ThreadPage"], None]) -> None:
        self._page, self._left = page, left
        self._changing = threading.Lock()
        self._is_closed = False
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="peewee_honker-subscription", daemon=True)
        self._thread.start()
        started.result()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        frame = None if self._is_closed else self._ask(self._next())
        if frame is None:
            self.close()
            raise StopIteration
        return frame

    def close(self) -> None:
        """End the subscription and its thread, and wait for both."""
        with self._changing:
            if self._is_closed:
                return
            self._is_closed = True
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._left(self)

    def stop(self) -> None:
        """End the subscription: its page is told so, and whoever reads closes it."""
        with self._changing:
            if not self._is_closed:
                self._loop.call_soon_threadsafe(self._page.close)

    def _ask(self, coroutine: Coroutine[Any, Any, bytes | None]) -> bytes | None:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _next(self) -> bytes | None:
        return await anext(self._frames, None)

    def _run(self, started: Future[None]) -> None:
        asyncio.run(self._serve(started))

    async def _serve(self, started: Future[None]) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._frames = self._page.__aiter__()
        started.set_result(None)
        await self._ended.wait()
        await self._frames.aclose()
        self._page.close()
        await self._page.closed()


def _frame(name: str, text: str) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def _failed(error: OperationError) -> bytes:
    return _frame("failed", error_text(error))
