"""Learning that somebody has committed, soon and at little cost.

A commit by any process writes the file's `-wal`. On Linux an inotify watch on that file wakes the waiting thread; the
write comes before the commit can be seen (the WAL's index is written after it, in shared memory, of which there is no
event), so whoever is woken looks again a few times. That begins with short sleeps that no write ends: a commit is several
writes, and each that wakes a thread slows the writer. Elsewhere, and as a net under the watch, the thread wakes by itself
in short intervals. A commit of this process wakes it at once.

A watch opens no descriptor on the database: closing one would drop SQLite's locks.
"""

import contextlib
import logging
import os
import select
import selectors
import socket
import sys
from functools import cache
from typing import Any

__all__ = ["Waker"]

logger = logging.getLogger("peewee_honker.events")

_IN_MODIFY, _IN_NONBLOCK, _IN_CLOEXEC = 0x2, 0o4000, 0o2000000  # <sys/inotify.h>

WITH_WATCH = 0.1  # seconds between two looks without an event
WITHOUT_WATCH = 0.001
# Python's sleep lasts some 50 us longer on Linux.
_WATCHED = (0.00001,) * 2
_UNWATCHED = (*[0.00001] * 4, *[0.0002] * 10, *[0.0005] * 4)


class Waker:
    """Waits for commits to one database file. Belongs to one thread; only `wake` may be called by others."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._wakes, self._wake = socket.socketpair()  # a pipe that Windows can wait for, too
        for end in (self._wakes, self._wake):
            end.setblocking(False)
        self._inotify = _open_inotify()
        self._poll = _Epoll() if hasattr(select, "epoll") else _Selector()
        self._poll.add(self._wakes.fileno())
        if self._inotify is not None:
            self._poll.add(self._inotify)
        self._watching: int | None = None
        self.watch()

    def watch(self) -> None:
        """Watch the file's `-wal`; again if it was made anew since."""
        if self._inotify is None:
            return
        if self._watching is not None:
            _libc().inotify_rm_watch(self._inotify, self._watching)
        watching = _libc().inotify_add_watch(self._inotify, os.fsencode(self._path + "-wal"), _IN_MODIFY)
        self._watching = watching if watching >= 0 else None

    @property
    def interval(self) -> float:
        """Seconds that `wait` lasts unless told otherwise."""
        return WITHOUT_WATCH if self._watching is None else WITH_WATCH

    @property
    def pauses(self) -> tuple[float, ...]:
        """Seconds between the looks after a wake, before it is worth while to wait again."""
        return _UNWATCHED if self._watching is None else _WATCHED

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep until something was written, or `wake` was called, or the time is over; False for the last.

        What was written or called before counts too, once: so `wait(0)` forgets it.
        """
        ready = self._poll.ready(self.interval if seconds is None else seconds)
        for descriptor in ready:
            try:
                if descriptor == self._inotify:
                    os.read(descriptor, 65536)
                else:
                    self._wakes.recv(4096)
            except BlockingIOError:
                pass
        return bool(ready)

    def wake(self) -> None:
        """Make `wait` return now. For any thread."""
        with contextlib.suppress(OSError):  # full: it will wake as it is; closed: nobody waits any more
            self._wake.send(b"!")

    def close(self) -> None:
        """Give the descriptors back."""
        self._poll.close()
        self._wakes.close()
        self._wake.close()
        if self._inotify is not None:
            os.close(self._inotify)
        self._inotify = self._watching = None


class _Selector:
    """Waits until one of some descriptors can be read, on any system."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, descriptor: int) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ)

    def ready(self, seconds: float) -> list[int]:
        return [key.fd for key, _ in self._selector.select(seconds)]

    def close(self) -> None:
        self._selector.close()


class _Epoll:
    """The same on Linux, with less Python between a wake and what it is for."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, descriptor: int) -> None:
        self._epoll.register(descriptor, select.EPOLLIN)

    def ready(self, seconds: float) -> list[int]:
        return [descriptor for descriptor, _ in self._epoll.poll(seconds)]

    def close(self) -> None:
        self._epoll.close()


@cache
def _libc() -> Any:
    import ctypes  # not needed until a bus runs

    return ctypes.CDLL(None, use_errno=True)


def _open_inotify() -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        descriptor: int = _libc().inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
    except (AttributeError, OSError) as error:
        logger.info("no inotify here (%s): looking for commits every %s s", error, WITHOUT_WATCH)
        return None
    if descriptor < 0:
        logger.warning("inotify refused (too many watchers?): looking for commits every %s s", WITHOUT_WATCH)
        return None
    return descriptor
