"""Operators on async iterators: of events, or of anything.

    from peewee_honker.events import operators as ops

    await ops.pipe(
        pubsub.subscribe("order.saved"),
        ops.filter(lambda event: event.payload["total"] > 100),
        ops.map(lambda event: event.id),
        ops.take(3),
        ops.to_list(),
    )

An operator is a function of an async iterable. It closes what it reads when it ends, is closed early, fails or is
cancelled, so a subscription inside a `pipe` needs no closing of its own. The functions that operators are given may be
coroutine functions.
"""

import asyncio
import builtins
import inspect
from collections import OrderedDict, deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast, overload

__all__ = [
    "batch",
    "chain",
    "dedupe",
    "filter",
    "flat",
    "group_by",
    "join",
    "map",
    "pipe",
    "reduce",
    "take",
    "to_list",
    "window",
]

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")


@overload
def pipe(source: T, /) -> T: ...
@overload
def pipe(source: T, a: Callable[[T], A], /) -> A: ...
@overload
def pipe(source: T, a: Callable[[T], A], b: Callable[[A], B], /) -> B: ...
@overload
def pipe(source: T, a: Callable[[T], A], b: Callable[[A], B], c: Callable[[B], C], /) -> C: ...
@overload
def pipe(source: T, a: Callable[[T], A], b: Callable[[A], B], c: Callable[[B], C], d: Callable[[C], D], /) -> D: ...
@overload
def pipe(
    source: T, a: Callable[[T], A], b: Callable[[A], B], c: Callable[[B], C], d: Callable[[C], D], e: Callable[[D], E], /
) -> E: ...
@overload
def pipe(source: Any, /, *operators: Callable[[Any], Any]) -> Any: ...
def pipe(source: Any, /, *operators: Callable[[Any], Any]) -> Any:
    """`source` through the operators, from left to right: `pipe(s, a, b)` is `b(a(s))`."""
    for operator in operators:
        source = operator(source)
    return source


def filter(predicate: Callable[[T], Any]) -> Callable[[AsyncIterable[T]], AsyncIterator[T]]:  # noqa: A001
    """The items for which the predicate holds."""

    async def run(source: AsyncIterable[T]) -> AsyncIterator[T]:
        async with _opened(source) as items:
            async for item in items:
                if await _called(predicate, item):
                    yield item

    return run


def map(function: Callable[[T], Awaitable[R] | R]) -> Callable[[AsyncIterable[T]], AsyncIterator[R]]:  # noqa: A001
    """What the function makes of each item."""

    async def run(source: AsyncIterable[T]) -> AsyncIterator[R]:
        async with _opened(source) as items:
            async for item in items:
                yield await _called(function, item)

    return run


def take(count: int) -> Callable[[AsyncIterable[T]], AsyncIterator[T]]:
    """The first `count` items; it does not wait for one more."""

    async def run(source: AsyncIterable[T]) -> AsyncIterator[T]:
        left = count
        async with _opened(source) as items:
            while left > 0:
                try:
                    item = await items.__anext__()
                except StopAsyncIteration:
                    return
                left -= 1
                yield item

    return run


def batch(size: int, timeout: float | None = None) -> Callable[[AsyncIterable[T]], AsyncIterator[list[T]]]:
    """Lists of `size` items.

    A shorter one comes when the source ends or fails, and, with a `timeout`, when so many seconds have passed since its
    first item came. No item is lost by that.
    """
    _check_size(size)

    async def run(source: AsyncIterable[T]) -> AsyncIterator[list[T]]:
        found: list[T] = []
        async with _opened(source) as items, _Ahead(items) as ahead:
            clock = asyncio.get_running_loop().time
            due = 0.0
            while True:
                wait = max(0.0, due - clock()) if found and timeout is not None else None
                try:
                    came, item = await ahead.within(wait)
                except StopAsyncIteration:
                    break
                except Exception:
                    if found:
                        yield found
                    raise
                if came:
                    if not found and timeout is not None:
                        due = clock() + timeout
                    found.append(cast("T", item))
                if len(found) >= size or (found and not came):
                    full, found = found, []
                    yield full
            if found:
                yield found

    return run


def window(size: int, step: int = 1) -> Callable[[AsyncIterable[T]], AsyncIterator[tuple[T, ...]]]:
    """The last `size` items, at the first time when there are so many, then after every `step` items."""
    _check_size(size)
    _check_size(step)

    async def run(source: AsyncIterable[T]) -> AsyncIterator[tuple[T, ...]]:
        last: deque[T] = deque(maxlen=size)
        number = 0
        async with _opened(source) as items:
            async for item in items:
                last.append(item)
                number += 1
                if number >= size and (number - size) % step == 0:
                    yield tuple(last)

    return run


def dedupe(key: Callable[[T], Any] | None = None, most: int = 1024) -> Callable[[AsyncIterable[T]], AsyncIterator[T]]:
    """Skip an item whose key is among the last `most` different ones that came; the key is the item itself by default.

    For events that may come twice: `dedupe(lambda event: event.event_id)`.
    """
    _check_size(most)

    async def run(source: AsyncIterable[T]) -> AsyncIterator[T]:
        seen: OrderedDict[Any, None] = OrderedDict()
        async with _opened(source) as items:
            async for item in items:
                found = item if key is None else await _called(key, item)
                known = found in seen
                seen[found] = None
                seen.move_to_end(found)
                if len(seen) > most:
                    seen.popitem(last=False)
                if not known:
                    yield item

    return run


def flat() -> Callable[[AsyncIterable[Iterable[T] | AsyncIterable[T]]], AsyncIterator[T]]:
    """The items of the items, which are iterables or async iterables, one after the other."""

    async def run(source: AsyncIterable[Iterable[T] | AsyncIterable[T]]) -> AsyncIterator[T]:
        async with _opened(source) as items:
            async for item in items:
                if isinstance(item, AsyncIterable):
                    async with _opened(item) as inner:
                        async for each in inner:
                            yield each
                else:
                    for each in item:
                        yield each

    return run


def group_by(
    key: Callable[[T], Awaitable[K] | K],
) -> Callable[[AsyncIterable[T]], AsyncIterator[tuple[K, list[T]]]]:
    """Pairs of a key and the list of items, one after the other, that have it; a group comes when the next one begins.

    As itertools.groupby does: a stream that never ends has no moment at which all items of a key are known.
    """

    async def run(source: AsyncIterable[T]) -> AsyncIterator[tuple[K, list[T]]]:
        group: tuple[K, list[T]] | None = None
        async with _opened(source) as items:
            async for item in items:
                found = await _called(key, item)
                if group is not None and group[0] == found:
                    group[1].append(item)
                    continue
                done, group = group, (found, [item])
                if done is not None:
                    yield done
            if group is not None:
                yield group

    return run


def reduce(function: Callable[[R, T], Awaitable[R] | R], initial: R) -> Callable[[AsyncIterable[T]], Coroutine[Any, Any, R]]:
    """Awaitable: what the function has made of `initial` and the items when the source has ended."""

    async def run(source: AsyncIterable[T]) -> R:
        result = initial
        async with _opened(source) as items:
            async for item in items:
                result = await _called(function, result, item)
        return result

    return run


def to_list() -> Callable[[AsyncIterable[T]], Coroutine[Any, Any, list[T]]]:
    """Awaitable: all items when the source has ended."""

    async def run(source: AsyncIterable[T]) -> list[T]:
        async with _opened(source) as items:
            return [item async for item in items]

    return run


async def chain(*sources: AsyncIterable[T]) -> AsyncIterator[T]:
    """The items of the sources, one source after the other. All are closed at the end."""
    left = list(sources)
    try:
        while left:
            async with _opened(left.pop(0)) as items:
                async for item in items:
                    yield item
    finally:
        for source in left:
            await _close(source)


async def join(*sources: AsyncIterable[T]) -> AsyncIterator[T]:
    """The items of all sources as they come, each source's in its order. An error in one ends all, and is raised."""
    iterators = [aiter(source) for source in sources]
    waiting: dict[asyncio.Task[T], AsyncIterator[T]] = {}
    try:
        for items in iterators:
            waiting[asyncio.create_task(_next(items))] = items
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in waiting if task in done]:
                items = waiting.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                waiting[asyncio.create_task(_next(items))] = items
                yield item
    finally:
        await _cancelled(waiting)
        for items in iterators:
            await _close(items)


class _Ahead:
    """The next item of an iterator, waited for in a task, which outlives a wait that was too short."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items = items
        self._next: asyncio.Task[Any] | None = None

    async def within(self, seconds: float | None) -> tuple[bool, Any]:
        """Whether the next item came in time, and it; raises what the iterator raises."""
        if self._next is None:
            self._next = asyncio.create_task(_next(self._items))
        done, _ = await asyncio.wait([self._next], timeout=seconds)
        if not done:
            return False, None
        task, self._next = self._next, None
        return True, task.result()

    async def __aenter__(self) -> "_Ahead":
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._next is not None:
            await _cancelled([self._next])


async def _next(items: AsyncIterator[T]) -> T:
    return await items.__anext__()


async def _cancelled(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks and wait for their end."""
    ending = builtins.list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


@asynccontextmanager
async def _opened(source: AsyncIterable[T]) -> AsyncIterator[AsyncIterator[T]]:
    items = aiter(source)
    try:
        yield items
    finally:
        await _close(items)


async def _close(source: object) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()


async def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    result = function(*arguments)
    return await result if inspect.isawaitable(result) else result


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"a size is 1 at least, not {size}")
