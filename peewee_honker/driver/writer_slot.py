"""The right to write: one holder at a time, in the order of asking, with a limit on the wait.

Honker has one writer connection for a file in a process, and waits for it without limit. A `threading.Lock` lets the
thread that just released it take it again before a waiting one has woken up, so that a busy thread starves the
others; here the holder hands the slot to the one that has waited longest.
"""

import threading
from collections import deque

__all__ = ["WriterSlot"]


class WriterSlot:
    """A first-come-first-served lock that knows its owner.

    The owner is set and cleared in one step with the lock itself: whoever was interrupted (Ctrl-C) can ask `owner` whether
    the slot is theirs, and `release` what is not theirs without harm.
    """

    __slots__ = ("_mutex", "_waiting", "owner")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[threading.Lock, object]] = deque()
        self.owner: object = None

    def acquire(self, owner: object, timeout: float) -> bool:
        """Wait at most `timeout` seconds; True when the slot is `owner`'s."""
        if self.take_if_free(owner):
            return True
        if timeout <= 0:
            return False
        # Made outside the mutex: a garbage collection in there could close a connection, which gives its slot back.
        gate = threading.Lock()
        gate.acquire()
        if self.take_if_free(owner, gate):
            return True
        try:
            handed_over = gate.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))
        except BaseException:  # KeyboardInterrupt: a slot handed over by now would never be released
            if not self._give_up(gate):
                self.release(owner)
            raise
        return handed_over or not self._give_up(gate)

    def take_if_free(self, owner: object, gate: "threading.Lock | None" = None) -> bool:
        """Take the slot if nobody has it, else queue up at the gate, if there is one."""
        with self._mutex:
            if self.owner is None:
                self.owner = owner
                return True
            if gate is not None:
                self._waiting.append((gate, owner))
            return False

    def _give_up(self, gate: threading.Lock) -> bool:
        """Leave the queue; False when the slot was handed over in the last moment."""
        with self._mutex:
            for waiting in self._waiting:
                if waiting[0] is gate:
                    self._waiting.remove(waiting)
                    return True
            return False

    def release(self, owner: object) -> None:
        """Hand the slot to the longest-waiting thread, or free it; nothing when it is not `owner`'s."""
        with self._mutex:
            if self.owner is not owner:
                return
            if self._waiting:
                gate, self.owner = self._waiting.popleft()
                gate.release()
            else:
                self.owner = None
