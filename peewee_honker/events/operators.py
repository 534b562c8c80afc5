"""Operators on async iterators, of events or of anything.

    from peewee_honker.events import operators as ops

    async with ops.pipe(events, ops.filter(lambda e: e.operation == "insert"), ops.batch(100, timeout=1)) as batches:
        async for batch in batches:
            ...

Each operator is called with its settings and gives a function of an async iterable; `pipe` applies such functions one
after the other. `chain` and `join` make one flow of several sources. `reduce` and `to_list` stand last: they give a
coroutine, which is the result once it is awaited.

Guarantee: an operator that is read owns its source, and closes it when it ends, fails, is cancelled or is closed. So
closing the last flow of a pipe, or leaving its `async with`, closes everything behind it, and leaves no task behind.
Cancelling the task that reads a flow ends the flow.

Items keep their order. An operator reads its source when it is read itself, and no further than it has to. Functions that
are given to operators may be coroutine functions, which are awaited, one at a time.

Settings are checked when the operator is made: a number that makes no sense raises ValueError there.
"""

import builtins
import inspect
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from typing import Any, TypeVar, overload

from peewee_honker.events.flow import Arrivals, Flow, Source, close_all
from peewee_honker.events.pipe import pipe

# `filter` and `map` (noqa: A001) are called as in every library of streams; the built-in one is builtins.map here.
__all__ = [
    "Flow",
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

# Functions take Any and not the item's type: a type checker infers an operator's type before it knows the source in
# `pipe`, so only this lets a lambda stand there. The types of the items themselves are followed through a pipe.

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")


def filter(predicate: Callable[[Any], object]) -> Callable[[AsyncIterable[T]], Flow[T]]:  # noqa: A001
    """Pass the items on for which `predicate(item)` is true."""

    async def items(source: Source[T]) -> AsyncGenerator[T, None]:
        async with source:
            async for item in source:
                if await _result(predicate(item)):
                    yield item

    return _operator(items)


@overload
def map(function: Callable[[Any], Coroutine[Any, Any, U]]) -> Callable[[AsyncIterable[Any]], Flow[U]]: ...  # noqa: A001
@overload
def map(function: Callable[[Any], U]) -> Callable[[AsyncIterable[Any]], Flow[U]]: ...  # noqa: A001
def map(function: Callable[[Any], Any]) -> Callable[[AsyncIterable[Any]], Flow[Any]]:  # noqa: A001
    """Give `function(item)` for each item."""

    async def items(source: Source[Any]) -> AsyncGenerator[Any, None]:
        async with source:
            async for item in source:
                yield await _result(function(item))

    return _operator(items)


def take(count: int) -> Callable[[AsyncIterable[T]], Flow[T]]:
    """Give the first `count` items, and end without waiting for another one. `take(0)` reads nothing."""
    _at_least(0, count=count)

    async def items(source: Source[T]) -> AsyncGenerator[T, None]:
        async with source:
            if not count:
                return
            left = count
            async for item in source:
                yield item
                left -= 1
                if not left:
                    return

    return _operator(items)


def batch(size: int, timeout: float | None = None) -> Callable[[AsyncIterable[T]], Flow[list[T]]]:
    """Collect the items in lists of `size`; the last one may be shorter, none is empty.

    Arguments:
        size: most items of a list, at least 1.
        timeout: give what is there when this many seconds have passed since the first item of the list came, though
            fewer than `size`; None waits for as long as it takes. Where a slow reader asks later than that, it gets the
            items that can be had without waiting. The source is read in a task of its own then, one item ahead.

    An error of the source is raised after the items that came before it were given.
    """
    _at_least(1, size=size)
    if timeout is not None and not timeout > 0:
        raise ValueError(f"a batch waits for more than 0 seconds, or has no timeout (None), not {timeout!r}")

    if timeout is None:
        return _operator(lambda source: _by_size(source, size))
    return _operator(lambda source: _by_size_and_time(source, size, timeout))


def window(size: int, step: int = 1) -> Callable[[AsyncIterable[T]], Flow[list[T]]]:
    """Give lists of `size` neighbours, each beginning `step` items after the one before.

    Every list is full: what is left at the end is not given, so fewer than `size` items give nothing (`batch` is for
    taking all). With a step longer than the size the items between two lists are passed over.
    """
    _at_least(1, size=size, step=step)

    async def items(source: Source[T]) -> AsyncGenerator[list[T], None]:
        async with source:
            last: deque[T] = deque(maxlen=size)
            missing = size  # items until the next list
            async for item in source:
                last.append(item)
                missing -= 1
                if not missing:
                    missing = step
                    yield list(last)

    return _operator(items)


def dedupe(key: Callable[[Any], object] | None = None, most: int = 1024) -> Callable[[AsyncIterable[T]], Flow[T]]:
    """Skip an item whose key is among the last `most` different ones that came; a key that comes again counts anew.

    Arguments:
        key: what an item is known by, hashable: for events `lambda event: event.event_id`. None: the item itself.
        most: keys that are remembered, at least 1. With 1 it skips an item that equals the one before.

    Raises TypeError for a key without a hash.
    """
    _at_least(1, most=most)

    async def items(source: Source[T]) -> AsyncGenerator[T, None]:
        seen: dict[object, None] = {}  # in the order in which they came last
        async with source:
            async for item in source:
                known_by = item if key is None else await _result(key(item))
                try:
                    is_new = known_by not in seen
                except TypeError as error:
                    raise TypeError(
                        f"dedupe() cannot remember a {type(known_by).__name__}: {error}; "
                        "give it a key= that can be hashed, for events lambda event: event.event_id"
                    ) from error
                if is_new and len(seen) == most:
                    del seen[next(iter(seen))]
                seen.pop(known_by, None)
                seen[known_by] = None
                if is_new:
                    yield item

    return _operator(items)


def flat() -> Callable[[AsyncIterable[Iterable[T] | AsyncIterable[T]]], Flow[T]]:
    """Give the items of items: each is an iterable or an async iterable, read to its end before the next one.

    An async iterable is closed as a source is. Raises TypeError for an item that is neither.
    """

    async def items(source: Source[Iterable[T] | AsyncIterable[T]]) -> AsyncGenerator[T, None]:
        async with source:
            async for inner in source:
                if isinstance(inner, AsyncIterable):
                    async with Source(inner) as opened:
                        async for item in opened:
                            yield item
                elif isinstance(inner, Iterable):
                    for item in inner:
                        yield item
                else:
                    raise TypeError(f"flat() needs iterables or async iterables, and got a {type(inner).__name__}")

    return _operator(items)


@overload
def group_by(
    key: Callable[[Any], Coroutine[Any, Any, K]], most: int | None = None
) -> Callable[[AsyncIterable[T]], Flow[tuple[K, list[T]]]]: ...
@overload
def group_by(key: Callable[[Any], K], most: int | None = None) -> Callable[[AsyncIterable[T]], Flow[tuple[K, list[T]]]]: ...
def group_by(key: Callable[[Any], Any], most: int | None = None) -> Callable[[AsyncIterable[T]], Flow[tuple[Any, list[T]]]]:
    """Give pairs of a key and the list of *consecutive* items that have it, as itertools.groupby does.

    Arguments:
        key: what the items of a group have in common; compared with ==.
        most: most items of a list, at least 1: a longer run comes as several pairs. None: no limit.

    Consecutive, because a stream of events has no end: a group that gathers all items of a key could never be given, and
    a stream for each key would need memory for every key that ever came. A list is given when the first item of the next
    group has come (or `most` is reached, or the source ends); to group what comes within a second by its key, take
    `batch(1000, timeout=1)` and group the lists.

    An error of the source is raised after the group that came before it was given.
    """
    if most is not None:
        _at_least(1, most=most)

    async def items(source: Source[T]) -> AsyncGenerator[tuple[Any, list[T]], None]:
        common: Any = None
        group: list[T] = []
        async with source:
            try:
                async for item in source:
                    found = await _result(key(item))
                    if group and found != common:
                        yield common, group
                        group = []
                    common = found
                    group.append(item)
                    if len(group) == most:
                        yield common, group
                        group = []
            except Exception:
                if group:
                    yield common, group
                raise
            if group:
                yield common, group

    return _operator(items)


def chain(*sources: AsyncIterable[T]) -> Flow[T]:
    """Give the items of the sources, one source after the other; each is closed when it has ended.

    It owns all of them: those that it did not come to are closed with it.
    """
    owned = tuple(builtins.map(Source, sources))

    async def items() -> AsyncGenerator[T, None]:
        try:
            for source in owned:
                async with source:
                    async for item in source:
                        yield item
        finally:
            await close_all(owned)

    return Flow(items(), *owned)


def join(*sources: AsyncIterable[T]) -> Flow[T]:
    """Give the items of all sources as they come (a merge), the items of each source in their order.

    The sources are read concurrently, each in a task of its own and at most one item ahead; none can keep the others
    from their turn. It ends when all have ended. An error of one is raised when the items that came before it were
    given, and ends the others. All sources are closed then.
    """
    owned = tuple(builtins.map(Source, sources))

    async def items() -> AsyncGenerator[T, None]:
        async with Arrivals(*owned) as arrivals:
            async for item in arrivals:
                yield item

    return Flow(items(), *owned)


@overload
def reduce(
    function: Callable[[U, Any], Coroutine[Any, Any, U]], initial: U
) -> Callable[[AsyncIterable[Any]], Coroutine[Any, Any, U]]: ...
@overload
def reduce(function: Callable[[U, Any], U], initial: U) -> Callable[[AsyncIterable[Any]], Coroutine[Any, Any, U]]: ...
def reduce(function: Callable[[Any, Any], Any], initial: Any) -> Callable[[AsyncIterable[Any]], Coroutine[Any, Any, Any]]:
    """Await one result: `function(result so far, item)` for each item, from `initial` on, when the source has ended."""

    async def result(source: Source[Any]) -> Any:
        so_far = initial
        async with source:
            async for item in source:
                so_far = await _result(function(so_far, item))
        return so_far

    return lambda source: result(Source(source))


def to_list() -> Callable[[AsyncIterable[T]], Coroutine[Any, Any, list[T]]]:
    """Await the list of all items, when the source has ended."""

    async def collect(source: Source[T]) -> list[T]:
        async with source:
            return [item async for item in source]

    return lambda source: collect(Source(source))


def _operator(items: Callable[[Source[T]], AsyncGenerator[U, None]]) -> Callable[[AsyncIterable[T]], Flow[U]]:
    def apply(source: AsyncIterable[T]) -> Flow[U]:
        owned = Source(source)
        return Flow(items(owned), owned)

    return apply


async def _by_size(source: Source[T], size: int) -> AsyncGenerator[list[T], None]:
    async with source:
        collected: list[T] = []
        try:
            async for item in source:
                collected.append(item)
                if len(collected) == size:
                    yield collected
                    collected = []
        except Exception:
            if collected:
                yield collected
            raise
        if collected:
            yield collected


async def _by_size_and_time(source: Source[T], size: int, timeout: float) -> AsyncGenerator[list[T], None]:
    async with Arrivals(source) as arrivals:
        async for first in arrivals:
            collected = [first]
            deadline = arrivals.time + timeout
            failure: Exception | None = None
            try:
                while len(collected) < size and await arrivals.wait(deadline):
                    collected.append(await anext(arrivals))
            except StopAsyncIteration:
                pass  # the loop around this ends at its next step
            except Exception as error:
                failure = error
            yield collected
            if failure is not None:
                raise failure


async def _result(value: Any) -> Any:
    """What a function gave, awaited if it is a coroutine."""
    return await value if inspect.isawaitable(value) else value


def _at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise ValueError(f"{name} is a number of at least {least}, not {value!r}")
