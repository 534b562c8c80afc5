"""Whether another process holds a lock on a file, asked before the engine opens it.

Honker waits for such a lock inside one call, with the GIL held: every thread of the process would stand still for
seconds. Once the engine is open its own writes ask SQLite not to wait; but opening itself writes. So the engine looks
first. To look takes a descriptor on the file, and closing one drops all locks that the process has on it: allowed only
while the process has no SQLite handle on the file, which the guard has checked.
"""

import os
import time

from peewee_honker.driver.errors import operational

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # asked for below

__all__ = ["wait_until_free"]

# Bytes that SQLite locks for writing: the reserved byte of the file, the write lock of the WAL index.
# https://sqlite.org/src/file/src/os.h (PENDING_BYTE + 1), https://sqlite.org/walformat.html#wal_locks
_LOCKED_BYTES = (("", 0x40000001), ("-shm", 120))


def wait_until_free(path: str, deadline: float) -> None:
    """Return when no other process is writing to `path`; `sqlite3.OperationalError` when `deadline` has passed."""
    if fcntl is None:
        return
    for suffix, byte in _LOCKED_BYTES:
        while not _is_free(path + suffix, byte):
            if time.monotonic() >= deadline:
                raise operational("database is locked", "SQLITE_BUSY")
            time.sleep(0.005)


def _is_free(path: str, byte: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True  # no such file yet, or one that Honker will have its own word on
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
