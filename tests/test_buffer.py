"""A buffer loses nothing that it took, keeps its bound, and leaves nobody waiting."""

import asyncio
import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from peewee_honker.errors import BufferFullError, HonkerError
from peewee_honker.events import operators as ops
from peewee_honker.events.buffer import Buffer
from tests.support.asynchronous import run, settle
from tests.support.laws import examples
from tests.support.outside import DEADLINE, until

settings = hypothesis_settings(max_examples=examples(25), deadline=None)


@contextlib.asynccontextmanager
async def producers(buffer, count, items):
    """Threads that put (which, number) each, as futures of what `put` returned. They end with the block."""

    def produce(which):
        return [buffer.put((which, number)) for number in range(items)]

    pool = ThreadPoolExecutor(count)
    try:
        yield [asyncio.wrap_future(pool.submit(produce, which)) for which in range(count)]
    finally:
        buffer.close()
        await asyncio.to_thread(pool.shutdown)


def numbers_of(which, taken):
    return [number for producer, number in taken if producer == which]


# Several threads, one consumer


@settings
@given(st.integers(1, 4), st.integers(0, 40), st.integers(1, 6), st.booleans())
def test_block_gives_every_item_of_every_thread_once_and_in_its_order(threads, items, size, consumer_pauses):
    async def consume():
        buffer = Buffer(size)
        taken, longest = [], 0
        async with producers(buffer, threads, items) as producing:
            while len(taken) < threads * items:
                longest = max(longest, len(buffer))
                taken.append(await buffer.get())
                if consumer_pauses:
                    await asyncio.sleep(0)
            assert await asyncio.gather(*producing) == [[True] * items] * threads
        assert [item async for item in buffer] == []
        return taken, longest

    taken, longest = run(consume())
    assert [numbers_of(which, taken) for which in range(threads)] == [list(range(items))] * threads
    assert longest <= size


@settings
@given(st.integers(1, 4), st.integers(0, 40), st.integers(1, 6))
def test_drop_oldest_gives_the_newest_in_order_and_counts_the_others(threads, items, size):
    async def consume():
        buffer = Buffer(size, "drop_oldest")
        async with producers(buffer, threads, items) as producing:
            assert await asyncio.gather(*producing) == [[True] * items] * threads
        return [item async for item in buffer], buffer.dropped

    taken, dropped = run(consume())
    assert len(taken) == min(size, threads * items)
    assert len(taken) + dropped == threads * items
    for which in range(threads):
        numbers = numbers_of(which, taken)
        assert numbers == list(range(items))[items - len(numbers) :]


@settings
@given(st.integers(1, 4), st.integers(0, 40), st.integers(1, 6))
def test_raise_gives_what_there_was_room_for_and_then_the_error(threads, items, size):
    async def consume():
        buffer = Buffer(size, "raise")
        async with producers(buffer, threads, items) as producing:
            put = await asyncio.gather(*producing)
            taken = []
            try:
                for _ in range(sum(map(sum, put)) + (threads * items > size)):
                    taken.append(await buffer.get())  # noqa: PERF401  what was taken stays when the next one fails
            except BufferFullError:
                return taken, put, True
        return taken, put, False

    taken, put, failed = run(consume())
    assert failed == (threads * items > size)
    assert len(taken) == min(size, threads * items)
    # Each thread knows which of its items were taken.
    assert Counter(taken) == Counter((which, n) for which, said in enumerate(put) for n, yes in enumerate(said) if yes)


@settings
@given(st.integers(1, 5), st.lists(st.integers(0, 3), max_size=20))
def test_a_consumer_that_is_cancelled_while_it_waits_loses_no_item(size, pauses):
    async def consume():
        buffer = Buffer(size)
        taken = []
        async with producers(buffer, 2, 10):
            for pause in [*pauses, *[200] * 20]:
                waiting = asyncio.create_task(buffer.get())
                for _ in range(pause):
                    await asyncio.sleep(0)
                    if waiting.done():
                        break
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    taken.append(await waiting)
            while len(taken) < 20:
                taken.append(await buffer.get())
        return taken

    taken = run(consume())
    assert [numbers_of(which, taken) for which in range(2)] == [list(range(10))] * 2


def test_an_item_wakes_a_consumer_that_waits():
    async def consume():
        buffer = Buffer(1)
        waiting = asyncio.create_task(buffer.get())
        await settle()
        assert not waiting.done()
        assert await asyncio.to_thread(buffer.put, "here")
        return await waiting

    assert run(consume()) == "here"


def test_a_buffer_for_a_loop_can_be_made_in_another_thread():
    async def consume():
        loop = asyncio.get_running_loop()
        buffer = await asyncio.to_thread(lambda: Buffer(1, loop=loop))
        async with producers(buffer, 1, 3):
            return [await buffer.get() for _ in range(3)]

    assert run(consume()) == [(0, 0), (0, 1), (0, 2)]


def test_many_puts_wake_the_consumer_once():
    class Counting(asyncio.SelectorEventLoop):
        wakes = 0

        def call_soon_threadsafe(self, *arguments, **options):
            self.wakes += 1
            return super().call_soon_threadsafe(*arguments, **options)

    async def consume():
        loop = asyncio.get_running_loop()
        buffer = Buffer(100)
        waiting = asyncio.create_task(buffer.get())
        await settle()
        before = loop.wakes
        for number in range(50):
            buffer.put(number)
        wakes = loop.wakes - before
        assert await waiting == 0
        return wakes

    with asyncio.Runner(debug=True, loop_factory=Counting) as runner:
        assert runner.run(consume()) == 1


# Closing


def test_close_gives_the_consumer_what_is_left_and_then_the_end():
    async def consume():
        buffer = Buffer(3)
        buffer.put(1)
        buffer.put(2)
        await asyncio.to_thread(buffer.close)
        assert buffer.closed
        assert buffer.put(3) is False
        return [item async for item in buffer]

    assert run(consume()) == [1, 2]


def test_close_from_another_thread_wakes_the_consumer():
    async def consume():
        buffer = Buffer(1)
        waiting = asyncio.create_task(ops.to_list()(buffer))
        await settle()
        await asyncio.to_thread(buffer.close)
        return await waiting

    assert run(consume()) == []


@pytest.mark.parametrize("end", [lambda buffer: buffer.close(), lambda buffer: asyncio.run(buffer.aclose())])
def test_close_lets_producers_go_that_wait_and_their_item_is_not_taken(end):
    async def consume():
        buffer = Buffer(1)
        async with producers(buffer, 3, 2) as producing:
            await asyncio.to_thread(until, lambda: len(buffer) == 1)
            await asyncio.to_thread(end, buffer)
            said = await asyncio.gather(*producing)
        assert sum(map(sum, said)) == 1

    run(consume())


def test_a_consumer_that_closes_gets_nothing_more():
    async def consume():
        buffer = Buffer(3)
        buffer.put(1)
        await buffer.aclose()
        assert len(buffer) == 0
        return [item async for item in buffer]

    assert run(consume()) == []


def test_an_operator_that_ends_closes_the_buffer():
    async def consume():
        buffer = Buffer(1)
        async with producers(buffer, 2, 10) as producing:
            taken = await ops.pipe(buffer, ops.take(3), ops.to_list())
            said = await asyncio.gather(*producing)
        return taken, said, buffer.closed

    taken, said, closed = run(consume())
    assert len(taken) == 3
    assert closed
    assert 3 <= sum(map(sum, said)) <= 4  # one may still have been waiting in the buffer


def test_producers_go_on_without_a_loop():
    made: list[Buffer[int]] = []

    async def make():
        made.append(Buffer(1))

    asyncio.run(make())
    assert made[0].put(1) is False
    assert made[0].closed
    made[0].close()


def test_a_producer_that_waits_is_let_go_when_the_loop_ends():
    made: list[Buffer[int]] = []
    said: list[bool] = []

    def produce():
        said.append(made[0].put(1))
        said.append(made[0].put(2))

    async def make():
        made.append(Buffer(1))
        thread.start()
        await asyncio.to_thread(until, lambda: said)

    thread = threading.Thread(target=produce)
    asyncio.run(make())
    thread.join(DEADLINE)
    assert said == [True, False]


# The loop's own thread


def test_put_on_the_loop_takes_what_there_is_room_for_and_refuses_to_wait():
    async def produce():
        buffer = Buffer(1)
        assert buffer.put(1)
        with pytest.raises(RuntimeError, match=r"await buffer\.aput"):
            buffer.put(2)
        return [await buffer.get(), len(buffer)]

    assert run(produce()) == [1, 0]


def test_put_refuses_to_wait_in_the_thread_of_a_loop_that_stands_still():
    loop = asyncio.new_event_loop()
    try:

        async def make():
            return Buffer(1)

        buffer = loop.run_until_complete(make())
        assert buffer.put(1)
        with pytest.raises(RuntimeError, match=r"await buffer\.aput"):
            buffer.put(2)
    finally:
        loop.close()


@settings
@given(st.integers(1, 4), st.integers(0, 20), st.integers(1, 4))
def test_aput_waits_for_room_on_the_loop(tasks, items, size):
    async def consume():
        buffer = Buffer(size)

        async def produce(which):
            return [await buffer.aput((which, number)) for number in range(items)]

        async with asyncio.TaskGroup() as group, producers(buffer, 1, items) as producing:
            started = [group.create_task(produce(which)) for which in range(1, tasks + 1)]
            taken = [await buffer.get() for _ in range((tasks + 1) * items)]
            said = [await future for future in [*producing, *started]]
        assert said == [[True] * items] * (tasks + 1)
        return taken

    taken = run(consume())
    assert [numbers_of(which, taken) for which in range(tasks + 1)] == [list(range(items))] * (tasks + 1)


def test_aput_is_let_go_when_the_buffer_is_closed():
    async def produce():
        buffer = Buffer(1)
        buffer.put(1)
        waiting = [asyncio.create_task(buffer.aput(2)) for _ in range(2)]
        await settle()
        await asyncio.to_thread(buffer.close)
        return await asyncio.gather(*waiting)

    assert run(produce()) == [False, False]


# Errors


def test_an_overflow_is_an_error_of_this_package_that_names_the_way_out():
    async def consume():
        buffer = Buffer(1, "raise")
        assert [buffer.put(number) for number in range(3)] == [True, False, False]
        assert await buffer.get() == 0
        with pytest.raises(BufferFullError, match="when_full='drop_oldest'") as raised:
            await buffer.get()
        assert isinstance(raised.value, HonkerError)

    run(consume())


def test_an_overflow_wakes_a_consumer_that_waits():
    async def consume():
        buffer = Buffer(1, "raise")
        waiting = asyncio.create_task(ops.to_list()(buffer))
        await settle()
        buffer.put(1)
        buffer.put(2)
        with pytest.raises(BufferFullError):
            await waiting

    run(consume())


def test_a_buffer_needs_room_a_known_policy_and_a_loop():
    async def make(*arguments):
        return Buffer(*arguments)

    with pytest.raises(ValueError, match="at least one item"):
        run(make(0))
    with pytest.raises(ValueError, match="when_full is one of block, drop_oldest, raise, not 'wait'"):
        run(make(1, "wait"))
    with pytest.raises(RuntimeError, match="loop"):
        Buffer(1)
