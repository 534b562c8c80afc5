"""What the operators stand on: a source that is closed once, a flow of items, and several sources read side by side."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

__all__ = ["Arrivals", "Flow", "Source", "close_all"]

logger = logging.getLogger("peewee_honker.events")

T = TypeVar("T")


class Source(AsyncIterator[T]):
    """An async iterator that was handed over: read, and closed once. `async with source:` closes it at the end.

    What is closed is what `__aiter__` gave, by its `aclose()`, if it has one. Raises TypeError for what is not an async
    iterable.
    """

    __slots__ = ("_closed", "_iterator")

    def __init__(self, source: AsyncIterable[T]) -> None:
        self._iterator = aiter(source)
        self._closed = False

    def __anext__(self) -> Awaitable[T]:
        return self._iterator.__anext__()

    async def aclose(self) -> None:
        """Close the iterator, the first time that this is called."""
        if self._closed:
            return
        self._closed = True
        aclose = getattr(self._iterator, "aclose", None)
        if aclose is not None:
            await aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


class Flow(AsyncIterator[T]):
    """The items that an operator gives: an async iterator, to be read once, that owns its sources.

    Guarantee: the sources are closed when the flow ends, fails, is cancelled while it is being read, or is closed, also
    when nobody has begun to read it. `async with flow:` closes it when the block is left, by `break` too.

    As with every async generator, one task reads it at a time, and a read that is cancelled is its end.
    """

    __slots__ = ("_items", "_sources")

    def __init__(self, items: AsyncGenerator[T, None], *sources: Source[Any]) -> None:
        self._items = items
        self._sources = sources

    def __anext__(self) -> Awaitable[T]:
        return self._items.__anext__()

    async def aclose(self) -> None:
        """End the flow and close its sources. Raises RuntimeError while a task is reading: cancel that one."""
        await self._items.aclose()
        await close_all(self._sources)  # the items have done so themselves, unless nobody had begun to read

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


async def close_all(sources: tuple[Source[Any], ...]) -> None:
    """Close every source, also when closing one of them fails; that failure is raised then."""
    async with AsyncExitStack() as stack:
        for source in reversed(sources):
            stack.push_async_callback(source.aclose)


class _Arrival(Generic[T]):
    """An item, when it came (the loop's time), and how its source is asked for the next one."""

    __slots__ = ("item", "taken", "time")

    def __init__(self, item: T, time: float, taken: asyncio.Event) -> None:
        self.item = item
        self.time = time
        self.taken = taken


class _End:
    """A source has ended, or failed."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Arrivals(AsyncIterator[T]):
    """The items of several sources, in the order in which they come. An async context manager that owns them.

    Each source is read in a task of its own. It is asked for its next item when the one before has been taken and the
    reader asks again, so at most one item of each source waits here. The first error of a source is raised where it
    stands among the items. At the end of the block the tasks have ended and the sources are closed.
    """

    def __init__(self, *sources: Source[T]) -> None:
        self._sources = sources
        self._loop = asyncio.get_running_loop()
        self._came: deque[_Arrival[T] | _End] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._taken: asyncio.Event | None = None
        self._left = len(sources)
        self.time = 0.0
        """When the item that was given last came, in the loop's time."""
        self._tasks = [self._loop.create_task(self._read(source)) for source in sources]

    async def wait(self, deadline: float | None = None) -> bool:
        """Wait for an arrival, an end or error too, at most until `deadline` (loop's time); False if there is none."""
        if self._taken is not None:
            self._taken.set()
            self._taken = None
        if not self._came:
            self._waiter = waiter = self._loop.create_future()
            timer = None if deadline is None else self._loop.call_at(deadline, _wake, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        return bool(self._came)

    async def __anext__(self) -> T:
        while self._left:
            await self.wait()
            arrival = self._came.popleft()
            if isinstance(arrival, _Arrival):
                self.time, self._taken = arrival.time, arrival.taken
                return arrival.item
            self._left -= 1
            if arrival.error is not None:
                raise arrival.error
        raise StopAsyncIteration

    async def _read(self, source: Source[T]) -> None:
        taken = asyncio.Event()
        try:
            async with source:
                async for item in source:
                    taken.clear()
                    self._add(_Arrival(item, self._loop.time(), taken))
                    await taken.wait()
        except BaseException as error:
            # A source that cancels itself, too, has ended for the reader; a task that is cancelled stays so.
            self._add(_End(error))
            if not isinstance(error, Exception):
                raise
        else:
            self._add(_End(None))

    def _add(self, arrival: _Arrival[T] | _End) -> None:
        self._came.append(arrival)
        if self._waiter is not None:
            _wake(self._waiter)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left = 0
        try:
            await _cancel(self._tasks)
        finally:
            for arrival in self._came:
                if isinstance(arrival, _End) and isinstance(arrival.error, Exception):
                    logger.warning("a source failed while it was no longer read", exc_info=arrival.error)
            self._came.clear()
            await close_all(self._sources)  # those whose task was cancelled before it began


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended, also when cancelled meanwhile; that is raised then."""
    cancelled: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    while unfinished := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(unfinished)
        except asyncio.CancelledError as error:
            cancelled = error
            for task in unfinished:  # it may hang in its own clean-up
                task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it has been handed on already: not to be reported as never retrieved
    if cancelled is not None:
        raise cancelled


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
