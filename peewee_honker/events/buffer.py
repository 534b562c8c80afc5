"""A bounded buffer between threads that put and one coroutine that gets."""

import asyncio
import contextlib
import threading
from collections import deque
from typing import Generic, Literal, TypeVar

from peewee_honker.errors import BufferFullError
from peewee_honker.events.listener import running_loop

__all__ = ["Buffer", "WhenFull"]

T = TypeVar("T")
WhenFull = Literal["block", "drop_oldest", "raise"]


class Buffer(Generic[T]):
    """Holds at most `size` items for a coroutine that iterates over it; made in that coroutine's event loop.

    What happens when it is full:

    - `block`: `put` waits in its thread until there is room. In the loop's own thread, where that would be for ever, the
      buffer fails as by `raise`.
    - `drop_oldest`: the oldest item is dropped, and counted in `dropped`.
    - `raise`: the buffer fails: who iterates gets what is there, then BufferFullError.
    """

    def __init__(self, size: int, when_full: WhenFull = "block") -> None:
        if size < 1:
            raise ValueError(f"a buffer has room for one item at least, not {size}")
        if when_full not in ("block", "drop_oldest", "raise"):
            raise ValueError(f"a full buffer can 'block', 'drop_oldest' or 'raise', not {when_full!r}")
        self._size = size
        self._when_full = when_full
        self._loop = asyncio.get_running_loop()
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BufferFullError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Add an item, from any thread. Whether it was taken: not by a buffer that is closed or has failed."""
        with self._changed:
            if len(self._items) >= self._size and self._when_full == "block" and running_loop() is not self._loop:
                self._changed.wait_for(lambda: len(self._items) < self._size or self._closed)
            if self._closed or self._failure is not None:
                return False
            if len(self._items) >= self._size:
                if self._when_full != "drop_oldest":
                    self._failure = BufferFullError(
                        f"{self._size} events wait and more have come: take them faster, make the buffer larger, or choose "
                        "another way of what happens when it is full"
                    )
                    self._wake()
                    return False
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._wake()
            return True

    def close(self) -> None:
        """Take nothing more; who iterates gets what is there, then the end. From any thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._wake()

    def _wake(self) -> None:
        """Wake the coroutine that waits. The caller holds the lock."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_finish, waiter)

    def __aiter__(self) -> "Buffer[T]":
        return self

    async def __anext__(self) -> T:
        """The next item. Raises BufferFullError when the buffer has failed. A cancellation loses no item."""
        while True:
            with self._changed:
                if self._items:
                    item = self._items.popleft()
                    self._changed.notify()
                    return item
                if self._failure is not None:
                    raise self._failure
                if self._closed:
                    raise StopAsyncIteration
                if self._waiter is not None and not self._waiter.done():
                    raise RuntimeError("two coroutines iterate over one subscription: give each its own")
                waiter = self._waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                with self._changed:
                    if self._waiter is waiter:
                        self._waiter = None


def _finish(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
