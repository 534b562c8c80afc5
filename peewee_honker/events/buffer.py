"""A bounded buffer between threads that produce items and one asyncio task that takes them."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Literal, TypeVar, get_args

from peewee_honker.errors import BufferFullError

__all__ = ["Buffer", "WhenFull"]

T = TypeVar("T")

WhenFull = Literal["block", "drop_oldest", "raise"]

_LOOK = 0.5  # seconds between two looks of a waiting producer whether the loop is gone


class Buffer(AsyncIterator[T]):
    """Items on their way from any thread to one consumer on an event loop; an async iterator for the consumer.

        buffer = Buffer(100, "drop_oldest")    # on the loop
        thread: buffer.put(item)
        async for item in buffer: ...

    Arguments:
        size: most items that wait in it, at least 1.
        when_full: what a `put` does when `size` items wait.
            "block": it waits for room, so that the consumer sets the producers' pace.
            "drop_oldest": it drops the oldest item and counts it in `dropped`.
            "raise": it ends the buffer: the consumer gets the items that are there, then BufferFullError.
        loop: the consumer's event loop; by default the one that runs here.

    Guarantee: the items of one producer come in its order. An item for which `put` returned True is taken by the consumer,
    unless it was dropped and counted, or the consumer closed the buffer (`aclose`) or its loop first. Cancelling a
    consumer that waits loses no item. No producer waits for a consumer that is gone: `close`, and the end of the loop,
    wake it.

    Raises ValueError for a size below 1 or an unknown `when_full`, RuntimeError where there is no running loop.
    """

    def __init__(self, size: int, when_full: WhenFull = "block", loop: asyncio.AbstractEventLoop | None = None) -> None:
        if size < 1:
            raise ValueError(f"a buffer has room for at least one item, not for {size!r}")
        if when_full not in get_args(WhenFull):
            raise ValueError(f"when_full is one of {', '.join(get_args(WhenFull))}, not {when_full!r}")
        self._loop = asyncio.get_running_loop() if loop is None else loop
        self._thread = threading.get_ident() if _is_running_here(self._loop) else None  # the loop's
        self._size = size
        self._when_full = when_full
        self._items: deque[T] = deque()
        self._has_room = threading.Condition()  # its lock guards all that follows
        self._closed = False
        self._overflowed = False
        self._dropped = 0
        # What waits on the loop; set there, cleared under the lock by who is about to wait.
        self._consumer_waits = False
        self._consumer = asyncio.Event()
        self._producers = asyncio.Event()

    @property
    def dropped(self) -> int:
        """How many items were dropped because the buffer was full."""
        return self._dropped

    @property
    def closed(self) -> bool:
        """Whether it takes no more items."""
        return self._closed

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._items)

    def put(self, item: T) -> bool:
        """Add an item, from any thread; whether it was taken. False: the buffer has ended (closed, overflowed, loop gone).

        With "block" it waits in the calling thread for room. Raises RuntimeError where it would have to wait in the loop's
        own thread, which would stop the consumer it waits for: `await aput(item)` there.
        """
        with self._has_room:
            while (taken := self._offer(item)) is None:
                if threading.get_ident() == self._thread or _is_running_here(self._loop):
                    raise RuntimeError(
                        "the buffer is full, and put() would wait in the thread of the consumer's loop for ever: "
                        "use `await buffer.aput(item)` there, or when_full='drop_oldest'"
                    )
                self._has_room.wait(_LOOK)
        return self._woken(taken)

    async def aput(self, item: T) -> bool:
        """Add an item, on the consumer's loop, as `put` does elsewhere: with "block" it awaits room."""
        while True:
            with self._has_room:
                taken = self._offer(item)
                if taken is None:
                    self._producers.clear()
            if taken is not None:
                return self._woken(taken)
            await self._producers.wait()

    async def get(self) -> T:
        """Take the oldest item; waits for one.

        Raises StopAsyncIteration when the buffer is closed and empty, BufferFullError when it has overflowed and is empty.
        """
        self._thread = threading.get_ident()
        while True:
            with self._has_room:
                if self._items:
                    item = self._items.popleft()
                    self._has_room.notify()
                    break
                if self._overflowed:
                    raise BufferFullError(
                        f"the consumer of a buffer of {self._size} items was slower than what it consumes: make the buffer "
                        "larger, let its producers wait (when_full='block') or let it drop (when_full='drop_oldest')"
                    )
                if self._closed:
                    raise StopAsyncIteration
                self._consumer_waits = True
                self._consumer.clear()
            await self._consumer.wait()
        self._producers.set()
        return item

    async def __anext__(self) -> T:
        return await self.get()

    def close(self) -> None:
        """Take no more items, from any thread. The consumer gets what is there, then the end; who waits in `put` returns."""
        with self._has_room:
            self._closed = True
            self._has_room.notify_all()
        self._wake(everybody=True)

    def overflow(self) -> None:
        """End it as a `put` does with "raise", from any thread: the consumer gets what is there, then BufferFullError."""
        with self._has_room:
            self._overflowed = self._closed = True
            self._has_room.notify_all()
        self._wake(everybody=True)

    async def aclose(self) -> None:
        """Close it for the consumer: what is left is dropped uncounted, and the iteration is over."""
        with self._has_room:
            self._items.clear()
            self._overflowed = False
        self.close()

    def _offer(self, item: T) -> bool | None:
        """Take the item or refuse it; None if it has to wait. Under the lock."""
        if self._loop.is_closed():
            self._closed = True
        if self._closed:
            return False
        if len(self._items) >= self._size:
            if self._when_full == "block":
                return None
            if self._when_full == "raise":
                self._overflowed = self._closed = True
                return False
            self._items.popleft()
            self._dropped += 1
        self._items.append(item)
        return True

    def _woken(self, taken: bool) -> bool:
        """Wake a waiting consumer after an offer, once for all that is put before it runs; whether the item was taken."""
        with self._has_room:
            wake, self._consumer_waits = self._consumer_waits, False
        if wake:
            return self._wake() and taken
        return taken

    def _wake(self, everybody: bool = False) -> bool:
        """Wake the consumer, or all who wait on the loop; False if the loop is closed, so that nobody does."""
        try:
            self._loop.call_soon_threadsafe(self._consumer.set)
            if everybody:
                self._loop.call_soon_threadsafe(self._producers.set)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            with self._has_room:
                self._closed = True
                self._has_room.notify_all()
            return False
        return True


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
