"""Each operator is its obvious function of lists, whatever the pauses between items, and leaves nothing open behind it."""

import asyncio
import itertools
import operator
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from peewee_honker.events import operators as ops
from tests.support.asynchronous import Tracked, generated, run, settle
from tests.support.laws import examples

ROOT = Path(__file__).parent.parent

settings = hypothesis_settings(max_examples=examples(60), deadline=None)

numbers = st.lists(st.integers(0, 5), max_size=12)
pauses = st.lists(st.integers(0, 2), max_size=12)
counts = st.integers(1, 5)


def is_odd(number: int) -> bool:
    return number % 2 == 1


def unchanged(item: Any) -> Any:
    return item


def perhaps_async(function, is_async):
    async def asynchronous(*arguments):
        await asyncio.sleep(0)
        return function(*arguments)

    return asynchronous if is_async else function


def source_of(items, steps, as_generator=False):
    source = Tracked(items, steps)
    return generated(source) if as_generator else source


# What each operator is of lists


def batched(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


def windows(items, size, step):
    return [items[at : at + size] for at in range(0, len(items) - size + 1, step)]


def deduped(items, key, most):
    kept = []
    for at, item in enumerate(items):
        last = list(dict.fromkeys(key(earlier) for earlier in reversed(items[:at])))[:most]
        if key(item) not in last:
            kept.append(item)
    return kept


def grouped(items, key, most):
    runs = [(common, list(group)) for common, group in itertools.groupby(items, key)]
    return [(common, part) for common, group in runs for part in batched(group, most or len(group))]


def half(number: int) -> int:
    return number // 2


# Of n, m and functions that `given` may have made asynchronous: the operator, and what it is of lists.
MODELS = {
    "filter": lambda case: (ops.filter(case.given(is_odd)), lambda items: [item for item in items if is_odd(item)]),
    "map": lambda case: (ops.map(case.given(str)), lambda items: [str(item) for item in items]),
    "take": lambda case: (ops.take(case.n - 1), lambda items: items[: case.n - 1]),
    "batch": lambda case: (ops.batch(case.n), lambda items: batched(items, case.n)),
    "batch with a timeout": lambda case: (ops.batch(case.n, timeout=1000), lambda items: batched(items, case.n)),
    "window": lambda case: (ops.window(case.n, case.m), lambda items: windows(items, case.n, case.m)),
    "dedupe": lambda case: (ops.dedupe(most=case.n), lambda items: deduped(items, unchanged, case.n)),
    "dedupe by a key": lambda case: (
        ops.dedupe(case.given(half), most=case.n),
        lambda items: deduped(items, half, case.n),
    ),
    "group_by": lambda case: (ops.group_by(case.given(half)), lambda items: grouped(items, half, None)),
    "group_by up to most": lambda case: (
        ops.group_by(case.given(half), most=case.n),
        lambda items: grouped(items, half, case.n),
    ),
    "join of one": lambda _: (ops.join, unchanged),
    "chain of one": lambda _: (ops.chain, unchanged),
}


@dataclass
class Case:
    n: int
    m: int
    is_async: bool

    def given(self, function):
        return perhaps_async(function, self.is_async)


@pytest.mark.parametrize("name", MODELS)
@settings
@given(numbers, pauses, st.builds(Case, counts, counts, st.booleans()), st.booleans())
def test_an_operator_gives_what_its_function_of_lists_gives(name, items, steps, case, as_generator):
    operated, function = MODELS[name](case)
    assert run(ops.pipe(source_of(items, steps, as_generator), operated, ops.to_list())) == function(items)


@settings
@given(st.lists(numbers, max_size=5), pauses, st.booleans())
def test_flat_gives_the_items_of_lists_and_of_async_iterators_one_after_the_other(lists, steps, as_generator):
    inner = [source_of(items, steps, as_generator) if at % 2 else items for at, items in enumerate(lists)]

    async def flat():
        return await ops.pipe(source_of(inner, steps), ops.flat(), ops.to_list())

    assert run(flat()) == list(itertools.chain(*lists))
    assert all(source.closed == 1 for source in inner if isinstance(source, Tracked))


@settings
@given(st.lists(st.tuples(numbers, pauses), max_size=4), st.booleans())
def test_chain_gives_one_source_after_the_other(sources, as_generator):
    opened = [source_of(items, steps, as_generator) for items, steps in sources]
    assert run(ops.pipe(ops.chain(*opened), ops.to_list())) == [item for items, _ in sources for item in items]


@settings
@given(st.lists(st.tuples(numbers, pauses), max_size=4), st.booleans())
def test_join_gives_every_item_once_and_each_source_in_its_order(sources, as_generator):
    opened = [source_of([(at, item) for item in items], steps, as_generator) for at, (items, steps) in enumerate(sources)]
    joined = run(ops.pipe(ops.join(*opened), ops.to_list()))
    assert [[item for which, item in joined if which == at] for at in range(len(sources))] == [items for items, _ in sources]


@settings
@given(numbers, pauses, st.booleans())
def test_reduce_gives_the_result_when_the_source_has_ended(items, steps, is_async):
    added = perhaps_async(operator.add, is_async)
    assert run(ops.pipe(source_of(items, steps), ops.reduce(added, 100))) == 100 + sum(items)


@settings
@given(numbers, pauses)
def test_a_pipe_is_its_operators_one_after_another(items, steps):
    async def both():
        piped = ops.pipe(source_of(items, steps), ops.filter(is_odd), ops.map(str), ops.take(3), ops.batch(2))
        nested = ops.batch(2)(ops.take(3)(ops.map(str)(ops.filter(is_odd)(source_of(items, steps)))))
        return await ops.to_list()(piped), await ops.to_list()(nested)

    piped, nested = run(both())
    assert piped == nested == batched([str(item) for item in items if is_odd(item)][:3], 2)


def test_a_pipe_without_operators_is_its_source():
    source = Tracked([1])
    assert ops.pipe(source) is source


# When something is given


def test_join_gives_what_comes_first_and_is_not_kept_by_a_source_that_is_silent():
    async def first_two():
        silent = Tracked([], then="hangs")
        async with ops.join(silent, Tracked(["here", "too"], then="hangs")) as joined:
            found = [await anext(joined), await anext(joined)]
        return found, silent.closed

    assert run(first_two()) == (["here", "too"], 1)


def test_join_gives_all_sources_their_turn():
    async def first_six():
        sources = [Tracked([name] * 100) for name in "abc"]
        return await ops.pipe(ops.join(*sources), ops.take(6), ops.to_list())

    assert sorted(run(first_six())) == ["a", "a", "b", "b", "c", "c"]


def test_take_does_not_wait_for_an_item_that_it_does_not_give():
    source = Tracked([1, 2, 3], then="hangs")
    assert run(ops.pipe(source, ops.take(3), ops.to_list())) == [1, 2, 3]
    assert source.closed == 1


def test_take_nothing_reads_nothing():
    source = Tracked([1], then="hangs")
    assert run(ops.pipe(source, ops.take(0), ops.to_list())) == []
    assert (source.given, source.closed) == (0, 1)


def test_a_batch_is_given_when_its_time_is_over():
    async def first():
        async with ops.batch(10, timeout=0.01)(Tracked([1, 2], then="hangs")) as batches:
            return await anext(batches)

    assert run(first()) == [1, 2]


def test_a_batch_loses_no_item_that_is_on_its_way_when_the_time_is_over():
    async def slow(events):
        for number in range(5):
            await events[number].wait()
            yield number

    async def batches():
        events = [asyncio.Event() for _ in range(5)]
        events[0].set()
        found = []
        async with ops.batch(3, timeout=0.005)(slow(events)) as given:
            async for items in given:  # each is given while the source waits for the next event
                found.append(items)
                if len(found) < 5:
                    events[len(found)].set()
        return found

    assert run(batches()) == [[0], [1], [2], [3], [4]]


def test_a_batch_that_is_asked_for_late_has_what_can_be_had_without_waiting():
    async def late():
        async with ops.batch(3, timeout=0.001)(Tracked([1, 2, 3, 4, 5, 6, 7], then="hangs")) as batches:
            found = [await anext(batches)]
            await asyncio.sleep(0.01)
            return [*found, await anext(batches), await anext(batches)]

    assert run(late()) == [[1, 2, 3], [4, 5, 6], [7]]


@pytest.mark.parametrize("timeout", [None, 1000], ids=["by size", "by size and time"])
def test_what_came_before_an_error_is_given_before_it(timeout):
    async def until_the_error(operated):
        found = []
        with pytest.raises(ValueError, match="the source failed"):
            async for items in operated(Tracked([1, 2, 3], then="fails")):
                found.append(items)  # noqa: PERF401  what was found stays when the next one fails
        return found

    assert run(until_the_error(ops.batch(2, timeout=timeout))) == [[1, 2], [3]]
    assert run(until_the_error(ops.group_by(half))) == [(0, [1]), (1, [2, 3])]
    assert run(until_the_error(ops.join)) == [1, 2, 3]


def test_a_group_is_given_as_soon_as_it_is_full():
    async def first():
        async with ops.group_by(half, most=2)(Tracked([2, 3], then="hangs")) as groups:
            return await anext(groups)

    assert run(first()) == (1, [2, 3])


# What cannot be


@pytest.mark.parametrize(
    "make",
    [
        lambda: ops.take(-1),
        lambda: ops.batch(0),
        lambda: ops.batch(1, timeout=0),
        lambda: ops.batch(1, timeout=float("nan")),
        lambda: ops.window(0),
        lambda: ops.window(1, 0),
        lambda: ops.dedupe(most=0),
        lambda: ops.group_by(half, most=0),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_when_the_operator_is_made(make):
    with pytest.raises(ValueError, match="not"):
        make()


def test_a_list_is_no_source():
    with pytest.raises(TypeError, match="list"):
        ops.pipe([1, 2], ops.take(1))  # type: ignore[arg-type]  # what is tested


def test_dedupe_says_how_to_remember_what_has_no_hash():
    with pytest.raises(TypeError, match="give it a key="):
        run(ops.pipe(Tracked([{}]), ops.dedupe(), ops.to_list()))


def test_flat_refuses_an_item_without_items():
    with pytest.raises(TypeError, match="and got a int"):
        run(ops.pipe(Tracked([1]), ops.flat(), ops.to_list()))


# Closing

OPERATORS = {
    "filter": ops.filter(lambda item: item is not None),
    "map": ops.map(unchanged),
    "take": ops.take(1000),
    "batch": ops.batch(1),
    "batch with a timeout": ops.batch(1, timeout=1000),
    "window": ops.window(1),
    "dedupe": ops.dedupe(),
    "group_by": ops.group_by(unchanged),
    "flat": lambda source: ops.flat()(ops.map(lambda item: [item])(source)),
    "flat of async iterators": lambda source: ops.flat()(Tracked([source])),
    "chain": ops.chain,
    "chain with a second": lambda source: ops.chain(source, Tracked([])),
    "join": ops.join,
    "join with a second": lambda source: ops.join(source, Tracked([], then="hangs")),
    "a pipe": lambda source: ops.pipe(source, ops.map(unchanged), ops.batch(1, timeout=1000), ops.join, ops.window(2)),
}
every_operator = pytest.mark.parametrize("operated", OPERATORS.values(), ids=OPERATORS)
as_iterator_or_generator = pytest.mark.parametrize("made", [unchanged, generated], ids=["iterator", "generator"])


@every_operator
@as_iterator_or_generator
def test_a_source_is_closed_when_the_reader_leaves(operated, made):
    source = Tracked(list(range(10)), then="hangs")

    async def leave():
        async with operated(made(source)) as flow:
            async for _ in flow:
                break
        assert source.closed == 1
        with pytest.raises(StopAsyncIteration):
            await anext(flow)
        await flow.aclose()

    run(leave())
    assert source.closed == 1


@every_operator
@as_iterator_or_generator
def test_a_source_is_closed_when_the_reader_is_cancelled(operated, made):
    source = Tracked(list(range(4)), then="hangs")

    async def cancel():
        flow = operated(made(source))

        async def read():
            async for _ in flow:
                pass

        reader = asyncio.create_task(read())
        await settle()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert reader.cancelled()
        assert source.closed == 1

    run(cancel())


@every_operator
@settings
@given(st.integers(0, 60), pauses, st.sampled_from(["ends", "fails", "hangs"]), st.booleans())
def test_a_cancellation_at_any_moment_is_not_swallowed_and_closes_the_source(operated, moment, steps, then, is_generator):
    source = Tracked(list(range(4)), steps, then)
    progress = []

    async def cancel():
        async def read():
            progress.append("begun")
            async with operated(generated(source) if is_generator else source) as flow:
                async for _ in flow:
                    await asyncio.sleep(0)
            progress.append("over")

        reader = asyncio.create_task(read())
        for _ in range(moment):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        if reader.cancelled():
            assert "over" not in progress
        else:
            assert "over" in progress or isinstance(reader.exception(), ValueError)
        if is_generator:
            assert source.closed <= 1  # not at all where it was cancelled before it began
            assert source.closed == 1 or source.given == 0
        elif progress:
            assert source.closed == 1

    run(cancel())


@every_operator
@as_iterator_or_generator
def test_a_source_that_fails_is_closed_and_its_error_is_raised(operated, made):
    source = Tracked([1, 2], then="fails")

    async def read():
        with pytest.raises(ValueError, match="the source failed"):
            async for _ in operated(made(source)):
                pass
        assert source.closed == 1

    run(read())


@pytest.mark.parametrize(
    "operated",
    [op for name, op in OPERATORS.items() if name not in ("join with a second", "flat of async iterators")],
)
def test_a_source_is_closed_by_a_flow_that_nobody_has_read(operated):
    source = Tracked([1, 2])

    async def close():
        await operated(source).aclose()

    run(close())
    assert (source.given, source.closed) == (0, 1)


@pytest.mark.parametrize("make", [ops.chain, ops.join])
def test_all_sources_are_closed_also_those_that_were_not_reached(make):
    sources = [Tracked([1, 2], then="hangs") for _ in range(3)]

    async def leave():
        async with make(*sources) as flow:
            await anext(flow)

    run(leave())
    assert [source.closed for source in sources] == [1, 1, 1]


@pytest.mark.parametrize(
    "operated",
    [
        ops.filter,
        ops.map,
        ops.dedupe,
        ops.group_by,
        lambda fails: ops.reduce(fails, 0),
    ],
    ids=["filter", "map", "dedupe", "group_by", "reduce"],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_source_is_closed_when_a_function_fails(operated, is_async):
    source = Tracked([1], then="hangs")

    def fails(*arguments):
        raise LookupError("the function failed")

    async def read():
        with pytest.raises(LookupError, match="the function failed"):
            result = operated(perhaps_async(fails, is_async))(source)
            await (result if asyncio.iscoroutine(result) else anext(result))

    run(read())
    assert source.closed == 1


@pytest.mark.parametrize("last", [ops.to_list(), ops.reduce(operator.add, 0)], ids=["to_list", "reduce"])
def test_a_result_that_is_not_waited_for_any_more_closes_its_source(last):
    source = Tracked([1], then="hangs")

    async def cancel():
        task = asyncio.create_task(last(source))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancel())
    assert source.closed == 1


def test_an_error_of_one_source_ends_a_join_and_closes_the_others():
    others = [Tracked([], then="hangs"), Tracked([1] * 1000)]

    async def read():
        with pytest.raises(ValueError, match="the source failed"):
            await ops.pipe(ops.join(*others, Tracked([2], then="fails")), ops.to_list())

    run(read())
    assert [source.closed for source in others] == [1, 1]


def test_a_source_that_cancels_itself_ends_a_join_as_it_would_end_its_reader():
    async def cancels_itself():
        yield 1
        raise asyncio.CancelledError

    async def read():
        with pytest.raises(asyncio.CancelledError):
            await ops.pipe(ops.join(cancels_itself(), Tracked([], then="hangs")), ops.to_list())

    run(read())


def test_a_source_that_fails_while_it_is_closed_is_logged_and_the_others_are_closed(caplog):
    other = Tracked([], then="hangs")

    async def fails_at_its_end():
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            raise LookupError("while closing")

    async def leave():
        async with ops.join(fails_at_its_end(), other) as flow:
            await anext(flow)
            reader = asyncio.create_task(ops.to_list()(flow))
            await settle()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader

    run(leave())
    assert other.closed == 1
    assert "a source failed while it was no longer read" in caplog.text


def test_a_join_waits_for_the_clean_up_of_its_sources_also_when_it_is_cancelled_twice():
    cleaned = []

    async def slow_to_end():
        try:
            await asyncio.Event().wait()
            yield 1
        finally:
            for _ in range(20):
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    cleaned.append("cancelled again")
            cleaned.append("clean")

    async def cancel_twice():
        reader = asyncio.create_task(ops.pipe(ops.join(slow_to_end()), ops.to_list()))
        await settle()
        reader.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert cleaned == ["cancelled again", "clean"]

    run(cancel_twice())


@every_operator
@as_iterator_or_generator
def test_a_flow_that_is_forgotten_in_the_middle_is_closed_by_its_loop(operated, made):
    source = Tracked([1, 2], then="hangs")

    async def forget():
        async for _ in operated(made(source)):
            break
        await settle()
        assert source.closed == 1

    run(forget())


def test_a_source_is_read_in_one_task_so_that_it_may_hold_a_timeout_open():
    async def timed(tasks):
        async with asyncio.timeout(1000):
            for number in range(3):
                tasks.add(asyncio.current_task())
                yield number

    async def read(operated):
        tasks = set()
        found = await ops.pipe(timed(tasks), operated, ops.flat(), ops.to_list())
        return found, len(tasks)

    assert run(read(ops.batch(2, timeout=1000))) == ([0, 1, 2], 1)
    assert run(read(lambda source: ops.batch(1)(ops.join(source)))) == ([0, 1, 2], 1)


# Types


def test_a_type_checker_knows_the_items_of_a_pipe():
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--ignore-missing-imports", "tests/support/typed_streams.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
