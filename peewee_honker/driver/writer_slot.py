"""The right to write: one holder at a time, in the order of asking, with a limit on the wait.

Honker has one writer connection for a file in a process, and waits for it without limit. A `threading.Lock` lets the
thread that just released it take it again before a waiting one has woken up, so that a busy thread starves the
others; here the holder hands the slot to the one that has waited longest.
"""

import threading
from collections import deque

__all__ = ["WriterSlot"]


class WriterSlot:
    """A first-come-first-served lock that any thread may release."""

    __slots__ = ("_held", "_mutex", "_waiting")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Lock] = deque()

    def acquire(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; True when the slot is the caller's."""
        if self._take_if_free(None):
            return True
        if timeout <= 0:
            return False
        # Made outside the mutex: a garbage collection in there could close a connection, which gives its slot back.
        gate = threading.Lock()
        gate.acquire()
        if self._take_if_free(gate):
            return True
        try:
            handed_over = gate.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
        except BaseException:  # KeyboardInterrupt: a slot handed over by now would never be released
            if not self._give_up(gate):
                self.release()
            raise
        return handed_over or not self._give_up(gate)

    def _take_if_free(self, gate: "threading.Lock | None") -> bool:
        with self._mutex:
            if not self._held:
                self._held = True
                return True
            if gate is not None:
                self._waiting.append(gate)
            return False

    def _give_up(self, gate: threading.Lock) -> bool:
        """Leave the queue; False when the slot was handed over in the last moment."""
        with self._mutex:
            if gate in self._waiting:
                self._waiting.remove(gate)
                return True
            return False

    def release(self) -> None:
        """Hand the slot to the longest-waiting thread, or free it."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
