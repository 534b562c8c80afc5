"""Operators on async iterators: each equals what is said of lists, and leaves nothing open behind it."""

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peewee_honker.events import operators as ops

ITEMS = st.lists(st.integers(0, 9), max_size=30)
FEW = settings(max_examples=40, deadline=None)


class Source:
    """An async iterator over a list that gives way to others now and then, and notes that it was closed."""

    def __init__(self, items, error=None):
        self._items = iter(items)
        self._error = error
        self._number = 0
        self.closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        assert not self.closed
        self._number += 1
        for _ in range(self._number % 3):
            await asyncio.sleep(0)
        for item in self._items:
            return item
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def aclose(self):
        self.closed = True


def results(items, *operators):
    """What comes out; nothing is left running, and the source is closed."""

    async def run():
        source = Source(items)
        found = await ops.pipe(source, *operators, ops.to_list())
        assert source.closed
        assert len(asyncio.all_tasks()) == 1
        return found

    return asyncio.run(run(), debug=True)


async def later(value):
    await asyncio.sleep(0)
    return value


@FEW
@given(ITEMS)
def test_filter_and_map_take_functions_and_coroutine_functions(items):
    assert results(items, ops.filter(lambda item: item % 2)) == [item for item in items if item % 2]
    assert results(items, ops.filter(lambda item: later(item % 2))) == [item for item in items if item % 2]
    assert results(items, ops.map(str)) == [str(item) for item in items]
    assert results(items, ops.map(lambda item: later(-item))) == [-item for item in items]


@FEW
@given(ITEMS, st.integers(0, 12))
def test_take_gives_the_first(items, count):
    assert results(items, ops.take(count)) == items[:count]


def test_take_does_not_wait_for_one_more():
    async def run():
        async def endless():
            yield 1
            yield 2
            await asyncio.Event().wait()

        return await asyncio.wait_for(ops.pipe(endless(), ops.take(2), ops.to_list()), 10)

    assert asyncio.run(run()) == [1, 2]


@FEW
@given(ITEMS, st.integers(1, 7), st.sampled_from([None, 60.0]))
def test_batch_gives_lists_of_a_size(items, size, timeout):
    expected = [items[start : start + size] for start in range(0, len(items), size)]
    assert results(items, ops.batch(size, timeout)) == expected


def test_batch_gives_what_came_when_its_time_is_over_and_loses_nothing():
    async def run():
        gate = asyncio.Event()

        async def slow():
            yield 1
            yield 2
            await gate.wait()
            yield 3

        found = []
        async for part in ops.batch(10, 0.01)(slow()):
            found += [part]
            gate.set()
        return found

    assert asyncio.run(run(), debug=True) == [[1, 2], [3]]


def test_batch_gives_what_came_before_an_error():
    async def run():
        found = []
        source = Source([1, 2, 3], ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            async for part in ops.batch(2)(source):
                found += [part]
        assert source.closed
        return found

    assert asyncio.run(run(), debug=True) == [[1, 2], [3]]


@FEW
@given(ITEMS, st.integers(1, 5), st.integers(1, 4))
def test_window_slides(items, size, step):
    expected = [tuple(items[end - size : end]) for end in range(size, len(items) + 1, step)]
    assert results(items, ops.window(size, step)) == expected


@FEW
@given(ITEMS)
def test_dedupe_skips_what_was_there(items):
    assert results(items, ops.dedupe()) == list(dict.fromkeys(items))
    first = {}
    for item in items:
        first.setdefault(item % 3, item)
    assert results(items, ops.dedupe(lambda item: item % 3)) == list(first.values())


def test_dedupe_remembers_so_many():
    assert results([1, 2, 3, 1, 3], ops.dedupe(most=2)) == [1, 2, 3, 1]


@FEW
@given(st.lists(ITEMS, max_size=5))
def test_flat_takes_iterables_and_async_iterables(lists):
    expected = [item for items in lists for item in items]
    assert results(lists, ops.flat()) == expected
    assert results([Source(items) for items in lists], ops.flat()) == expected


@FEW
@given(ITEMS)
def test_group_by_gives_neighbours_of_one_key(items):
    expected = [(key, list(group)) for key, group in itertools.groupby(items, lambda item: item % 2)]
    assert results(items, ops.group_by(lambda item: item % 2)) == expected


@FEW
@given(ITEMS)
def test_reduce_folds(items):
    async def run():
        return await ops.pipe(Source(items), ops.reduce(lambda total, item: total + item, 0))

    assert asyncio.run(run()) == sum(items)


@FEW
@given(st.lists(ITEMS, max_size=4))
def test_chain_is_one_after_the_other(lists):
    async def run():
        return await ops.pipe(ops.chain(*map(Source, lists)), ops.to_list())

    assert asyncio.run(run()) == [item for items in lists for item in items]


@FEW
@given(st.lists(ITEMS, max_size=4))
def test_join_keeps_each_source_in_order(lists):
    async def run():
        sources = [Source([(number, item) for item in items]) for number, items in enumerate(lists)]
        found = await ops.pipe(ops.join(*sources), ops.to_list())
        assert all(source.closed for source in sources)
        assert len(asyncio.all_tasks()) == 1
        return found

    found = asyncio.run(run(), debug=True)
    for number, items in enumerate(lists):
        assert [item for source, item in found if source == number] == items
    assert len(found) == sum(map(len, lists))


def test_an_error_in_one_source_ends_join_and_closes_all():
    async def run():
        async def endless():
            try:
                yield 1
                await asyncio.Event().wait()
            finally:
                closed.append("endless")

        closed = []
        broken = Source([1, 2], ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await ops.pipe(ops.join(endless(), broken), ops.to_list())
        assert closed == ["endless"]
        assert broken.closed

    asyncio.run(run(), debug=True)


@pytest.mark.parametrize(
    "operator",
    [
        ops.filter(bool),
        ops.map(lambda item: item),
        ops.take(100),
        ops.batch(1),
        ops.batch(1, 60),
        ops.window(1),
        ops.dedupe(),
        ops.group_by(lambda item: item),
        ops.chain,
        ops.join,
    ],
    ids=["filter", "map", "take", "batch", "batch by time", "window", "dedupe", "group_by", "chain", "join"],
)
def test_closing_early_failing_and_cancelling_close_the_source(operator):
    async def run():
        source = Source(range(1, 10))
        out = operator(source)
        await anext(out)
        await out.aclose()
        assert source.closed

        source = Source([1, 2], ZeroDivisionError())
        with pytest.raises(ZeroDivisionError):
            await ops.pipe(source, operator, ops.to_list())
        assert source.closed

        source = Source(itertools.repeat(1))
        task = asyncio.create_task(ops.pipe(source, operator, ops.filter(lambda _: False), ops.to_list()))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert source.closed
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run(), debug=True)


def test_sizes_are_positive():
    for make in (ops.batch, ops.window):
        with pytest.raises(ValueError, match="1 at least"):
            make(0)
