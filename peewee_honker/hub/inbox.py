"""Events that have come over a WebSocket, on their way to the thread that gives them to listeners."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from peewee_honker.events import Event
from peewee_honker.events.listener import running_loop

__all__ = ["Inbox"]

_AT_ONCE = 500

logger = logging.getLogger("peewee_honker.hub")


class Inbox:
    """Gives events to `take`, in order, in a thread of its own.

    Arguments:
        limit: bytes that may wait; who puts more is to stop.
        take: is called with some events.
        drained: is called when no more than half of the limit waits, after it was full.
    """

    def __init__(self, limit: int, take: Callable[[Sequence[Event]], None], drained: Callable[[], None]) -> None:
        self._limit = limit
        self._take = take
        self._drained = drained
        self._waiting: deque[tuple[Event, int]] = deque()
        self._size = 0
        self._was_full = False
        self._is_open = True
        self._changing = threading.Condition()
        self._busy = threading.RLock()  # held while events are given
        self._thread = threading.Thread(target=self._run, name="peewee-honker-hub-inbox", daemon=True)
        self._thread.start()

    def put(self, event: Event, size: int) -> bool:
        """Take an event of so many bytes; False when it is time to stop."""
        with self._changing:
            self._waiting.append((event, size))
            self._size += size
            self._changing.notify()
            if self._size > self._limit:
                self._was_full = True
            return not self._was_full

    def settle(self) -> None:
        """Wait until what is being given now was; not where that would be waiting for oneself."""
        if threading.current_thread() is not self._thread and running_loop() is None:
            with self._busy:
                pass

    def close(self) -> None:
        """Give no more; returns when `take` runs no more."""
        with self._changing:
            self._is_open = False
            self._waiting.clear()
            self._changing.notify()
        if threading.current_thread() is not self._thread and running_loop() is None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changing:
                while self._is_open and not self._waiting:
                    self._changing.wait()
                if not self._is_open:
                    return
                some = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            try:
                with self._busy:
                    self._take([event for event, _ in some])
            except Exception:
                logger.exception("what has come from the hub could not be taken")
            with self._changing:
                self._size -= sum(size for _, size in some)
                drained = self._was_full and self._size <= self._limit // 2
                if drained:
                    self._was_full = False
            if drained:
                self._drained()
