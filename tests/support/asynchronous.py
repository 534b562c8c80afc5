"""Running coroutines so that whatever they leave behind is a failure, and sources that know whether they were closed."""

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from tests.support.outside import DEADLINE

asyncio.constants.DEBUG_STACK_DEPTH = 1  # frames kept of each callback in debug mode: a quarter of the time went into ten


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """What `main` gives, on a new loop in debug mode. Fails on a task that it leaves and on what asyncio reports of it."""
    reports: list[dict[str, Any]] = []

    async def watched() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        async with asyncio.timeout(DEADLINE):
            result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    try:
        return asyncio.run(watched(), debug=True)
    finally:
        gc.collect(1)  # what was never retrieved or awaited is reported when it is collected
        assert not reports, reports


async def settle() -> None:
    """Let every task go on until it waits for something that does not come by itself."""
    for _ in range(50):
        await asyncio.sleep(0)


class Tracked:
    """An async iterator over items that counts how often it is closed.

    pauses: how many steps of the loop pass before each item. then: what happens after the last one: it "ends", "fails"
    with a ValueError, or "hangs" until it is cancelled.
    """

    def __init__(self, items: list[Any], pauses: list[int] | None = None, then: str = "ends") -> None:
        self.left = list(items)
        self.pauses = list(pauses or [])
        self.then = then
        self.closed = 0
        self.given = 0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        for _ in range(self.pauses.pop(0) if self.pauses else 0):
            await asyncio.sleep(0)
        if self.left:
            self.given += 1
            return self.left.pop(0)
        if self.then == "fails":
            raise ValueError("the source failed")
        if self.then == "hangs":
            await asyncio.Event().wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1
        await asyncio.sleep(0)


async def generated(source: Tracked) -> AsyncIterator[Any]:
    """The same as an async generator, which only closes if it was begun."""
    try:
        async for item in source:
            yield item
    finally:
        await source.aclose()
