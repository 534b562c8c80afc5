"""Calling listeners: plain functions where the event is, coroutine functions on their event loop."""

import asyncio
import concurrent.futures
import contextvars
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from peewee_honker.events.event import Event

__all__ = [
    "FanOut",
    "Interrupted",
    "Listener",
    "Outcome",
    "RefusedAsync",
    "Where",
    "call",
    "ended",
    "is_cancelled",
    "is_coroutine_function",
    "name_of",
    "running_loop",
]

logger = logging.getLogger("peewee_honker.events")

Listener = Callable[[Event], Any]
"""Called with each event; may be a coroutine function."""
Where = Callable[[Event], bool]
Outcome = asyncio.Future[Exception | None]

_LOOK_AT_LOOP = 0.5  # seconds between two looks whether a loop that was closed keeps us waiting


class FanOut(Protocol):
    """A listener that stands for several, each of which is called, and fails, by itself."""

    def listeners_for(self, event: Event) -> list[Listener]:
        """Who is to be called with the event."""

    def __call__(self, event: Event) -> Any: ...


class Interrupted(Exception):  # noqa: N818  (no error: the event is as it was before the call)
    """The event loop of a coroutine listener ended before the listener did; nothing is known of its success."""


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    return asyncio._get_running_loop()  # get_running_loop() raises where there is none, which each delivery would feel


def call(
    listener: Callable[..., Any], *arguments: Any, loop: asyncio.AbstractEventLoop | None, **named: Any
) -> "Outcome | None":
    """Call a listener; returns when it has ended, also if it is a coroutine function.

    `loop` is where coroutines run. In that loop's own thread one cannot be waited for: it becomes a task, which is run
    after those that were made so before, and whose outcome is given: what it has raised, or None.

    Raises what the listener raises, TypeError when a coroutine has no loop, Interrupted when the loop ends first.
    """
    return ended(listener, listener(*arguments, **named), loop)


def ended(listener: Callable[..., Any], result: Any, loop: asyncio.AbstractEventLoop | None) -> "Outcome | None":
    """The rest of `call`, when the listener has given `result`."""
    if not inspect.iscoroutine(result):
        return None
    if loop is None or loop.is_closed():
        result.close()
        raise TypeError(
            f"{name_of(listener)} is a coroutine function, which needs a loop that runs: listen from within it, or run the "
            "bus by `async with bus` or `await bus.serve()`"
        )
    if running_loop() is loop:
        return _Queue.of(loop).put(listener, result)
    future = asyncio.run_coroutine_threadsafe(_uncancelled(result), loop)
    while True:
        try:
            future.result(_LOOK_AT_LOOP)
            return None
        except concurrent.futures.CancelledError:
            result.close()  # it may not have begun
            raise Interrupted(f"{name_of(listener)} was cancelled") from None
        except TimeoutError:
            if future.done():  # the listener's own TimeoutError
                raise
            if loop.is_closed():
                raise Interrupted(f"the loop of {name_of(listener)} was closed") from None


async def _uncancelled(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a listener, of which a CancelledError is a failure like others unless it is the listener that was cancelled."""
    try:
        await coroutine
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise RuntimeError("what the listener has waited for was cancelled") from error


def is_cancelled() -> bool:
    """Whether it is the running task that is cancelled. Else a CancelledError is of something that it has awaited."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class _Queue:
    """The coroutines that a loop's own thread has called, run one after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting: list[tuple[Callable[..., Any], Coroutine[Any, Any, Any], contextvars.Context, Outcome]] = []
        self._loop = loop
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "_Queue":
        queue: _Queue | None = getattr(loop, "_peewee_honker_queue", None)
        if queue is None:
            queue = cls(loop)
            loop._peewee_honker_queue = queue  # type: ignore[attr-defined]  # lives and dies with the loop
        return queue

    def put(self, listener: Callable[..., Any], coroutine: Coroutine[Any, Any, Any]) -> Outcome:
        outcome: Outcome = self._loop.create_future()
        self._waiting.append((listener, coroutine, contextvars.copy_context(), outcome))
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(), name="peewee_honker listeners")
        return outcome

    async def _run(self) -> None:
        try:
            while self._waiting:
                listener, coroutine, context, outcome = self._waiting.pop(0)
                try:
                    await self._loop.create_task(_uncancelled(coroutine), context=context)
                    outcome.set_result(None)
                except Exception as error:
                    logger.exception("listener %s failed", name_of(listener))
                    outcome.set_result(error)
                finally:
                    coroutine.close()  # cancelled, it may not have begun
        finally:
            for _, coroutine, _, _ in self._waiting:  # cancelled
                coroutine.close()
            self._waiting.clear()


class RefusedAsync:
    """Is called in the place of a transactional receiver that is a coroutine function. Raises TypeError."""

    def __init__(self, listener: Callable[..., Any]) -> None:
        self.func = listener

    def __call__(self, *_arguments: Any, **_named: Any) -> None:
        raise TypeError(
            f"{name_of(self)} is a coroutine function, and a transactional receiver cannot be async: its transaction is of "
            "the bus's thread"
        )


def is_coroutine_function(listener: Callable[..., Any]) -> bool:
    """Whether a listener, or what it calls in the end, is a coroutine function."""
    called: Any = listener
    while hasattr(called, "func"):
        called = called.func
    return inspect.iscoroutinefunction(called)


def name_of(listener: Callable[..., Any]) -> str:
    """A listener's module and qualified name."""
    called: Any = listener
    while hasattr(called, "func"):  # a partial's function, or one of this package's that call another
        called = called.func
    return f"{getattr(called, '__module__', '')}.{getattr(called, '__qualname__', repr(called))}"
