"""Publish and subscribe with async iterators: bounded, in order, and closed when they end."""

import asyncio
import gc

import pytest

from peewee_honker.errors import BufferFullError
from peewee_honker.events import (
    CompositeEventTarget,
    HonkerEventTarget,
    LocalEventTarget,
    create_pubsub,
)
from peewee_honker.events import operators as ops
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
            while not ticks._buffer.closed:
                await asyncio.sleep(0.005)
            with pytest.raises(BufferFullError, match="slower than what it consumes"):
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
