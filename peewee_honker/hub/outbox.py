"""What waits to be sent over one WebSocket, up to a limit."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed

__all__ = ["Outbox"]


class Outbox:
    """Messages in the order in which they were put, sent by a task. Belongs to one event loop.

    Arguments:
        socket: the WebSocket.
        limit: bytes that may wait. Whoever puts more is told so (`full` is called, once) and nothing is taken any more.
        full: what to do then.
    """

    def __init__(self, socket: Any, limit: int, full: Callable[[int], None]) -> None:
        self._socket = socket
        self._limit = limit
        self._full = full
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._is_open = True
        self._something = asyncio.Event()
        self._room = asyncio.Event()

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._size

    def put(self, message: bytes) -> bool:
        """Send a message when those before it were sent; False when it is not taken."""
        if not self._is_open:
            return False
        if self._size > self._limit:  # so one message of any size goes through
            self.close()
            self._full(self._size)
            return False
        self._waiting.append(message)
        self._size += len(message)
        self._something.set()
        return True

    @property
    def is_open(self) -> bool:
        """Whether messages are taken."""
        return self._is_open

    @property
    def is_filling(self) -> bool:
        """Whether more than half of the limit waits."""
        return self._size > self._limit // 2

    async def room(self) -> None:
        """Wait until less than an eighth of the limit waits: for those who can wait."""
        while self._is_open and self._size > self._limit // 8:
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        """Take and send no more."""
        self._is_open = False
        self._waiting.clear()
        self._something.set()
        self._room.set()

    async def run(self) -> None:
        """Send until the WebSocket ends."""
        with contextlib.suppress(ConnectionClosed):
            while self._is_open:
                while self._waiting:
                    message = self._waiting.popleft()
                    await self._socket.send(message, text=True)
                    self._size -= len(message)
                    if self._size <= self._limit // 8:
                        self._room.set()
                self._something.clear()
                await self._something.wait()
        self.close()
