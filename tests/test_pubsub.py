"""Publish and subscribe with async iterators: bounded, in order, and closed when they end."""

import asyncio
import gc
import threading

import pytest

from peewee_honker.errors import BufferFullError
from peewee_honker.events import (
    CompositeEventTarget,
    HonkerEventTarget,
    LocalEventTarget,
    create_pubsub,
)
from peewee_honker.events import operators as ops
from peewee_honker.events.buffer import Buffer
from tests.support import outside


@pytest.fixture(params=["local", "ephemeral", "durable", "composite"])
def pubsub(request, db):
    target = {
        "local": lambda: LocalEventTarget(db),
        "ephemeral": lambda: HonkerEventTarget(db),
        "durable": lambda: HonkerEventTarget(db, "durable", consumer="test"),
        "composite": lambda: CompositeEventTarget(LocalEventTarget(db), HonkerEventTarget(db)),
    }[request.param]()
    yield create_pubsub(target)
    target.close()


async def soon(awaitable):
    async with asyncio.timeout(outside.DEADLINE):
        return await awaitable


def test_a_subscription_hears_what_is_published_after_it(db, pubsub):
    async def run():
        pubsub.publish("order.saved", "0")
        async with pubsub.subscribe("order.saved") as orders:
            with db.atomic():
                for number in range(1, 4):
                    pubsub.publish("order.saved", str(number), {"number": number})
                pubsub.publish("other")
            with pytest.raises(ZeroDivisionError), db.atomic():
                pubsub.publish("order.saved", "rolled back")
                _ = 1 / 0
            pubsub.publish("order.saved", "4")
            return await soon(ops.pipe(orders, ops.take(4), ops.map(lambda event: event.id), ops.to_list()))

    assert asyncio.run(run()) == ["1", "2", "3", "4"]


def test_one_id_a_pattern_and_a_filter(pubsub):
    async def run():
        one = pubsub.subscribe("order.saved", "7")
        pattern = pubsub.subscribe("order.*")
        large = pubsub.subscribe("order.saved", where=lambda event: event.payload > 5)
        for number in range(10):
            pubsub.publish("order.saved", str(number), number)
        pubsub.publish("order.deleted", "7", 0)
        heard = [
            await soon(ops.pipe(source, ops.take(count), ops.to_list()))
            for source, count in ((one, 1), (pattern, 11), (large, 4))
        ]
        return [[event.topic for event in events] for events in heard]

    one, pattern, large = asyncio.run(run())
    assert one == ["order.saved:7"]
    assert pattern == [*(f"order.saved:{number}" for number in range(10)), "order.deleted:7"]
    assert large == [f"order.saved:{number}" for number in range(6, 10)]


def test_a_full_buffer_drops_the_oldest_and_counts(pubsub):
    async def run():
        counted = []
        async with pubsub.subscribe("tick", size=3, when_full="drop_oldest") as ticks:
            for number in range(10):
                pubsub.publish("tick", "", number)
            while ticks.dropped < 7:
                await asyncio.sleep(0.005)
            counted.append(ticks.dropped)
            return counted, [event.payload for event in await soon(ops.pipe(ticks, ops.take(3), ops.to_list()))]

    assert asyncio.run(run()) == ([7], [7, 8, 9])


def test_a_full_buffer_raises_after_what_is_there(pubsub):
    async def run():
        heard = []
        async with pubsub.subscribe("tick", size=2, when_full="raise") as ticks:
            for number in range(5):
                pubsub.publish("tick", "", number)
            while ticks._buffer._failure is None:
                await asyncio.sleep(0.005)
            with pytest.raises(BufferFullError, match="take them faster"):
                async for event in ticks:
                    heard += [event.payload]
        return heard

    assert asyncio.run(run()) == [0, 1]


def test_blocking_loses_nothing_and_ends_with_the_subscription(db):
    pubsub = create_pubsub(HonkerEventTarget(db))

    async def run():
        async with pubsub.subscribe("tick", size=2) as ticks:
            for number in range(50):
                pubsub.publish("tick", "", number)
            return [event.payload for event in await soon(ops.pipe(ticks, ops.take(20), ops.to_list()))]

    assert asyncio.run(run()) == list(range(20))
    pubsub.target.close()


def test_a_subscription_that_was_left_lying_is_closed(db):
    target = HonkerEventTarget(db)

    async def run():
        subscription = create_pubsub(target).subscribe("tick", size=1)
        assert subscription is not None
        assert target._registrations
        del subscription
        gc.collect()

    asyncio.run(run())
    assert not target._registrations


def test_threads_put_and_one_coroutine_gets():
    async def run():
        buffer = Buffer(5)

        def put(name):
            for number in range(200):
                assert buffer.put((name, number))

        threads = [threading.Thread(target=put, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        heard = [await soon(buffer.__anext__()) for _ in range(600)]
        for thread in threads:
            thread.join()
        return heard

    heard = asyncio.run(run())
    for name in "abc":
        assert [number for who, number in heard if who == name] == list(range(200))


def test_closing_frees_a_thread_that_waits_and_gives_what_is_there():
    async def run():
        buffer = Buffer(1)
        buffer.put(1)
        taken = []
        thread = threading.Thread(target=lambda: taken.append(buffer.put(2)))
        thread.start()
        buffer.close()
        thread.join(outside.DEADLINE)
        return taken, [item async for item in buffer]

    assert asyncio.run(run()) == ([False], [1])


def test_cancelling_who_waits_loses_no_item():
    async def run():
        buffer = Buffer(10)
        heard = []
        for number in range(100):
            task = asyncio.create_task(buffer.__anext__())
            await asyncio.sleep(0)
            threading.Thread(target=buffer.put, args=(number,)).start()
            if number % 2:
                task.cancel()
            try:
                heard.append(await soon(task))
            except asyncio.CancelledError:
                heard.append(await soon(buffer.__anext__()))
        return heard

    assert asyncio.run(run()) == list(range(100))


def test_two_coroutines_cannot_share_one():
    async def run():
        buffer = Buffer(1)
        first = asyncio.create_task(buffer.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two coroutines"):
            await buffer.__anext__()
        buffer.close()
        with pytest.raises(StopAsyncIteration):
            await first

    asyncio.run(run())


def test_nonsense_is_refused():
    async def run():
        with pytest.raises(ValueError, match="one item at least"):
            Buffer(0)
        with pytest.raises(ValueError, match="drop_oldest"):
            Buffer(1, "explode")

    asyncio.run(run())
