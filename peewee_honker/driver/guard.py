"""No second SQLite on an engine's file in one process.

Honker's wheel brings its own SQLite and Python's sqlite3 is another. POSIX file locks belong to the process: each
library ignores the other's, and a close in one of them drops the other's. Measured: a sqlite3 connect, select and close
on an engine's file deletes its `-wal`, and later commits are lost to all others. So opening the file with sqlite3 is
refused while an engine has it open, through the audit event that `sqlite3.connect` raises, and an engine refuses a file
that something else in the process has open already (seen on Linux only).
"""

import contextlib
import gc
import os
import sys
import threading
from urllib.parse import unquote, urlsplit

from peewee_honker.errors import SharedFileError

__all__ = ["check_not_open", "forget", "watch"]

_guarded: dict[str, int] = {}
_lock = threading.Lock()
_installed = False

_WAY_OUT = (
    "Two SQLite libraries in one process ignore each other's locks and lose committed data. Read it through "
    "HonkerDatabase, or from another process; or call close_engine() on the HonkerDatabase first. If both are known to "
    "use one and the same libsqlite3, HonkerDatabase(..., sqlite3_guard=False) allows it."
)


def watch(path: str) -> None:
    """From now on refuse `sqlite3.connect` on `path`; as often as `forget` is called for it."""
    global _installed
    with _lock:
        _guarded[path] = _guarded.get(path, 0) + 1
        if not _installed:
            sys.addaudithook(_audit)
            _installed = True


def forget(path: str) -> None:
    """Undo one `watch`."""
    with _lock:
        left = _guarded.get(path, 0) - 1
        if left > 0:
            _guarded[path] = left
        else:
            _guarded.pop(path, None)


def check_not_open(path: str) -> None:
    """Raise `SharedFileError` when this process has `path` open already. Does nothing where there is no /proc."""
    if _is_open_here(path):
        gc.collect()  # a forgotten connection in a reference cycle is closed by this
        if _is_open_here(path):
            raise SharedFileError(f"{path} is open in this process by something else than this engine. {_WAY_OUT}")


def _is_open_here(path: str) -> bool:
    try:
        descriptors = os.listdir("/proc/self/fd")
        wanted = os.stat(path)
    except OSError:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # the listing's own descriptor is gone by now
            if os.path.samestat(os.stat(f"/proc/self/fd/{descriptor}"), wanted):
                return True
    return False


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event != "sqlite3.connect" or not _guarded:
        return
    database = arguments[0]
    if not isinstance(database, (str, bytes, os.PathLike)):
        return
    name = os.fsdecode(database)
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    if name and name != ":memory:" and os.path.realpath(name) in _guarded:
        raise SharedFileError(f"{name} is open through HonkerDatabase in this process. {_WAY_OUT}")
