"""What a type checker says of operators: read by mypy, never run."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import assert_type

from peewee_honker.events import operators as ops
from peewee_honker.events.buffer import Buffer
from peewee_honker.events.operators import Flow


@dataclass
class Order:
    total: int


def total(order: Order) -> int:
    return order.total


async def saved(orders: list[Order]) -> str:
    return f"{len(orders)} orders"


async def is_paid(order: Order) -> bool:
    return order.total > 0


async def added(so_far: int, order: Order) -> int:
    return so_far + order.total


async def streams(orders: AsyncIterator[Order], lists: AsyncIterator[list[Order]], buffer: Buffer[Order]) -> None:
    assert_type(ops.pipe(orders, ops.filter(lambda order: order.total > 3), ops.take(3)), Flow[Order])
    assert_type(ops.pipe(orders, ops.filter(is_paid), ops.map(total)), Flow[int])
    assert_type(ops.pipe(orders, ops.batch(100, timeout=1), ops.map(saved), ops.take(3)), Flow[str])
    assert_type(ops.pipe(orders, ops.map(lambda order: str(order.total))), Flow[str])
    assert_type(ops.pipe(orders, ops.dedupe(total), ops.window(3)), Flow[list[Order]])
    assert_type(ops.pipe(orders, ops.group_by(total)), Flow[tuple[int, list[Order]]])
    assert_type(ops.pipe(lists, ops.flat()), Flow[Order])
    assert_type(ops.pipe(buffer, ops.take(3)), Flow[Order])
    assert_type(ops.pipe(ops.join(orders, buffer), ops.take(3)), Flow[Order])
    assert_type(ops.pipe(ops.chain(orders, orders), ops.dedupe(), ops.batch(3)), Flow[list[Order]])
    assert_type(await ops.pipe(orders, ops.filter(is_paid), ops.to_list()), list[Order])
    assert_type(await ops.pipe(orders, ops.reduce(added, 0)), int)
    async with ops.pipe(orders, ops.take(3)) as flow:
        assert_type(flow, Flow[Order])
        async for order in flow:
            assert_type(order, Order)
