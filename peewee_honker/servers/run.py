"""What the threads that read events of a server have in common: waiting on its socket, and coming back after its loss."""

import contextlib
import logging
import os
import random
import select
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from peewee_honker.events.run import EventDispatcher, Run

__all__ = ["ServerRun", "SocketWaker"]

_IDLE = 2.0  # seconds between two looks without a word from the server
_SHORTEST = 0.01
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # between two attempts to connect again


class ServerRun(Run):
    """One life of such a thread. Subclasses say how to connect and where to read; `lost` is what they raise when there is
    no server: then they are asked again after pauses that grow to five seconds."""

    logger: ClassVar[logging.Logger]

    def __init__(self, dispatcher: EventDispatcher) -> None:
        self._pause = 0.0  # before the next attempt to connect; 0 while there is a connection
        self._not_before = 0.0
        super().__init__(dispatcher)

    @abstractmethod
    def _look(self, *, everywhere: bool) -> bool:
        """Connect where that has to be, hand over what is new and poll the sources; whether there may be more at once.

        With `everywhere` also what the server has not told of.
        """

    def patience(self) -> float:
        """Seconds that the thread may wait for news."""
        now = time.monotonic()
        if self._pause:
            return max(_SHORTEST, self._not_before - now)
        longest = _IDLE
        for source in self._dispatcher.sources:
            due_in: Callable[[], float | None] | None = getattr(source, "due_in", None)
            due = None if due_in is None else due_in()
            if due is not None:
                longest = min(longest, max(due, self._paused.get(id(source), 0.0) - now))
        return max(_SHORTEST, longest)

    def _turn(self, *, woken: bool, was_busy: bool, flushing: bool) -> bool:
        if self._pause and time.monotonic() < self._not_before:
            return False
        try:
            busy = self._look(everywhere=flushing or not woken)
        except self.lost as error:
            self._pause = min(self._pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
            self._not_before = time.monotonic() + self._pause * random.uniform(0.5, 1.0)
            self._poll_is_due = True
            self.logger.warning("no events for now, trying again in %.1f s: %s", self._pause, error)
            return False
        self._pause = 0.0
        return busy


class SocketWaker:
    """Waits for a server, a wake from another thread, or as long as it may.

    Arguments:
        fileno: gives what becomes readable when the server has something to say; None while there is no connection.
        patience: gives how many seconds it may wait.
    """

    def __init__(self, fileno: Callable[[], int | None], patience: Callable[[], float]) -> None:
        self._fileno = fileno
        self._patience = patience
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        self._closed = False
        self._closing = threading.Lock()
        self.server_spoke = False
        """Whether the server had something to say when the last wait ended."""

    def wait(self) -> bool:
        """Wait; whether somebody had something to say."""
        poll: Any = select.poll()
        poll.register(self._read_end, select.POLLIN)
        server = self._fileno()
        if server is not None:
            poll.register(server, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(self._patience() * 1000)]
        self.server_spoke = server in ready
        if self._read_end in ready:
            with contextlib.suppress(BlockingIOError):  # it is empty
                while os.read(self._read_end, 4096):
                    pass
        return bool(ready)

    def wake(self) -> None:
        """End the wait."""
        with self._closing:
            if self._closed:
                return
            try:
                os.write(self._write_end, b".")
            except BlockingIOError:
                pass  # full: it will not wait

    def close(self) -> None:
        """Give the pipe back."""
        with self._closing:
            self._closed = True
            os.close(self._write_end)
            os.close(self._read_end)
