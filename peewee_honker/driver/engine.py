"""The engine of a file: Honker's handle, opened once in a process and shared by all its threads.

Honker has one writer connection and a pool of readers. The engine takes the writer from Honker once and keeps it, in
SQLite's autocommit mode, behind a lock of its own; so a write alone is one statement, what SQLite refuses inside a
transaction can run, a commit that fails can be tried again, and the wait for the writer has a limit and lets other
threads run. Honker's own queues, streams and locks reach the writer through `HonkerFace`.
"""

import atexit
import contextlib
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

from honker._honker_native import open as open_native

from peewee_honker.driver import foreign_locks, guard
from peewee_honker.driver.errors import is_busy, is_closed, operational, translate
from peewee_honker.driver.face import HonkerFace
from peewee_honker.driver.location import Location
from peewee_honker.driver.rows import Row
from peewee_honker.driver.writer_slot import WriterSlot
from peewee_honker.errors import EngineClosedError

__all__ = ["Engine", "engine_for", "sqlite_version"]

logger = logging.getLogger("peewee_honker.engine")

_T = TypeVar("_T")
_LONGEST_PAUSE = 0.01  # seconds between two tries for a lock that another process holds


class Engine:
    """One file, one Honker handle, one writer. Made by `engine_for`; opens itself at first use.

    An engine survives the close of all connections, so that an application which connects for every request does not
    pay for opening. It closes by `close()`, at exit, when the last `HonkerDatabase` on it is gone, and when the file
    was replaced by another; a private database with its last connection.
    """

    def __init__(
        self,
        location: Location,
        *,
        max_readers: int = 8,
        watcher_poll_interval_ms: int | None = None,
        sqlite3_guard: bool = True,
    ) -> None:
        self.location = location
        self.max_readers = max_readers
        self.watcher_poll_interval_ms = watcher_poll_interval_ms
        self.sqlite3_guard = sqlite3_guard
        self.path = location.path or ""
        self.number = next(_numbers)  # tells it from the process's other engines
        self.connections = 0
        self._open_connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self.leases = 0
        self.generation = 0
        self.transactions = 0  # how many holds of the writer have ended
        self.attached: dict[str, str] = {}
        self.settings: dict[str, str] = {}
        self.temporary: frozenset[str] = frozenset()  # names of temporary tables and views, in lower case
        self.has_captures = (0.0, False)  # until when (as of time.monotonic), and whether the file has captured tables
        self.changed_by_hand = False  # a setting differs from what connections ask for when they open
        self.after_commit: list[Callable[[], None]] = []
        self.before_close: list[Callable[[], None]] = []
        self.services: dict[type, Any] = {}  # what higher floors keep one of for an engine
        self.refused: str | None = None  # why this process may not use the engine
        self.retired = False  # another engine has taken the path over
        self._folder: str | None = None
        self._identity: tuple[int, int] | None = None
        self.current: HonkerFace | None = None  # Honker's handle while it is open
        self._make_locks()
        _engines.add(self)

    def _make_locks(self) -> None:
        self.slot = WriterSlot()
        self.holder_thread: int | None = None
        self._opening = threading.RLock()

    # Opening and closing

    @property
    def is_open(self) -> bool:
        """Whether Honker's handle is open now."""
        return self.current is not None

    @property
    def face(self) -> HonkerFace:
        """Honker's database, opened if it is not open. Raises `sqlite3.OperationalError` when it cannot be."""
        return self.current or self.open(time.monotonic() + 5)

    def needs_writer(self, sql: str) -> bool:
        """Whether a query may be about what the writer alone sees: a temporary table, an attached file."""
        if not self.temporary and not self.attached:
            return False
        text = sql.lower()
        return any(name in text for name in (*self.temporary, *self.attached, "temp")) or "database_list" in text

    def note_local_schemas(self) -> None:
        """Look up what the writer alone sees, after it has changed. The caller holds the writer."""
        write = self.face.write
        listed = write(f"PRAGMA database_list /* {time.monotonic_ns()} */", ())
        self.attached = {row["name"].lower(): row["file"] for row in listed if row["name"] not in ("main", "temp")}
        names = write("SELECT name FROM temp.sqlite_master WHERE type IN ('table', 'view')", ())
        self.temporary = frozenset(row["name"].lower() for row in names)

    def open(self, deadline: float) -> HonkerFace:
        """Open Honker's handle, if it is not open, before `deadline` (as of `time.monotonic`)."""
        with self._opening:
            if self.current is not None:
                return self.current
            if self.refused:
                raise EngineClosedError(self.refused)
            self._prepare_file()
            self.location.check()
            guarded = self.sqlite3_guard and self.location.path is not None
            if guarded:
                guard.check_not_open(self.path)
            # Honker's wait for a lock holds the GIL: wait here, where other threads can run.
            foreign_locks.wait_until_free(self.path, deadline)
            face = self._open_face(deadline)
            try:
                self._set_up(face)
            except BaseException:
                face.release()
                raise
            status = os.stat(self.path)
            self._identity = (status.st_dev, status.st_ino)
            if guarded:
                guard.watch(self.path)
            self.current = face
            self.generation += 1
            self.has_captures = (0.0, False)
            return face

    def _prepare_file(self) -> None:
        if self.location.path is None:
            import tempfile  # only for private databases: half a millisecond of the package's import

            self._folder = tempfile.mkdtemp(prefix="peewee-honker-")
            self.path = os.path.join(self._folder, "memory.db")

    def _open_face(self, deadline: float) -> HonkerFace:
        def attempt() -> HonkerFace:
            native = open_native(
                self.path,
                max_readers=self.max_readers,
                watcher_backend=None,
                watcher_poll_interval_ms=self.watcher_poll_interval_ms,
            )
            return HonkerFace(native, self)

        try:
            return _retried(attempt, deadline)
        except RuntimeError as error:
            raise translate(error) from error

    def _set_up(self, face: HonkerFace) -> None:
        """Bring the new handle to where the engine's last one was."""
        face.write("PRAGMA busy_timeout=0", ())
        face.read("PRAGMA busy_timeout=0", ())
        if self._folder is not None:
            face.write("PRAGMA synchronous=OFF", ())  # a private database has no crash to survive
        for text in self.settings.values():
            self._set(face, text)

    def set(self, name: str, text: str) -> None:
        """Run a pragma that sets something for a connection, on the writer and on the reader, and keep it.

        Honker's calls hold the GIL from end to end, so that one reader serves all threads and is the one that is set;
        tests/test_pragmas.py watches that this stays so. The caller holds the writer.
        """
        self._set(self.face, text)
        self.settings[name] = text

    def _set(self, face: HonkerFace, text: str) -> None:
        face.write(text, ())
        face.read(text, ())

    def was_replaced(self) -> bool:
        """Whether the path now leads to another file than the one that is open, or to none."""
        if self._identity is None or self.current is None or self.location.path is None:
            return False
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def close(self) -> None:
        """Close Honker's handle; an open transaction is rolled back. The next use opens it anew."""
        for stop in list(self.before_close):
            stop()
        with self._opening:
            self._close_handle()
            self.attached, self.settings, self.temporary, self.changed_by_hand = {}, {}, frozenset(), False
            if self._folder is not None:
                import shutil

                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None

    def _close_handle(self) -> None:
        face, self.current = self.current, None
        if face is not None:
            face.release()
            if self.sqlite3_guard and self.location.path is not None:
                guard.forget(self.path)

    def retire(self) -> None:
        """Give the path over to another engine, since it leads to another file now. Connections that are open stay with
        the old file until they are closed."""
        self.retired = True
        if self.connections <= 0:
            self.close()
        self.refused = f"{self.path} was replaced by another file: close the connection and connect again"

    # Who uses it

    def connection_opened(self, connection: Any) -> None:
        with self._opening:
            self.connections += 1
            self._open_connections.add(connection)

    def connection_closed(self) -> None:
        with self._opening:
            self.connections -= 1
            idle = self.connections <= 0
        # With sqlite3 these end with the connection that made them; here with the last one.
        ends = self.changed_by_hand or self.temporary or self.attached
        if idle and (self.location.path is None or self.leases <= 0 or ends):
            self.close()

    def lease(self, owner: object) -> Callable[[], object]:
        """Keep the engine for `owner` until that is garbage, or until what this returns is called."""
        with self._opening:
            self.leases += 1
        end = weakref.finalize(owner, self._lease_ended)
        end.atexit = False
        return end

    def _lease_ended(self) -> None:
        self.leases -= 1
        if self.leases <= 0 and self.connections <= 0:
            self.close()

    # Reading and writing

    def read(self, sql: str, parameters: Sequence[Any], timeout: float) -> list[Row]:
        """Run a query on a reader, with what is committed now; waits at most `timeout` seconds where SQLite is busy."""
        while True:
            face = self.current or self.open(time.monotonic() + timeout)
            try:
                return face.read(sql, parameters)
            except RuntimeError as error:
                if is_busy(error):
                    return _retried(lambda: self.face.read(sql, parameters), time.monotonic() + timeout)
                if not (is_closed(error) and face is not self.current):
                    raise
                # A fork in another thread closed the handle under us: go on with a new one.

    def write(self, sql: str, parameters: Sequence[Any] = (), deadline: float = 0) -> list[Row]:
        """Run a statement on the writer, which the caller holds, trying again until `deadline` while it is locked.

        Only for what may be run again as a whole: the begin of a transaction, or a statement that is one.
        """
        face = self.current or self.open(deadline)
        try:
            return face.write(sql, parameters)
        except RuntimeError as error:
            if not is_busy(error):
                raise
            return _retried(lambda: face.write(sql, parameters), deadline)

    def take_writer(self, owner: object, timeout: float) -> None:
        """Make `owner` the holder of the writer, after at most `timeout` seconds, else `OperationalError`."""
        if not self.slot.take_if_free(owner):
            if self.holder_thread == threading.get_ident():
                raise operational(
                    "database is locked: this thread has a transaction open through another HonkerDatabase object on "
                    "the same file, or through db.honker. Finish it first, or do both within one db.atomic().",
                    "SQLITE_BUSY",
                )
            if not self.slot.acquire(owner, timeout):
                raise operational("database is locked", "SQLITE_BUSY")

    def give_writer_back(self, owner: object) -> None:
        """End the hold that `take_writer` gave; nothing when `owner` has it no more."""
        if self.slot.owner is owner:
            self.holder_thread = None
            self.transactions += 1
            self.slot.release(owner)

    def abandon(self, owner: object) -> None:
        """Roll back what may be open on the writer that `owner` holds, and give it back: for whoever was interrupted."""
        if self.slot.owner is not owner:
            return
        if self.current is not None:
            with contextlib.suppress(RuntimeError):  # no transaction was open
                self.current.write("ROLLBACK", ())
        self.give_writer_back(owner)

    def committed(self) -> None:
        """Tell those who wait for it that this process has committed."""
        for wake in self.after_commit:
            wake()

    # Fork

    def before_fork(self) -> bool:
        """Close the handle if that is possible now, since nothing of SQLite may cross a fork.

        When it returns True, the handle is closed and stays so until `after_fork_in_parent`.
        """
        busy = self.holder_thread == threading.get_ident() or self.temporary or self.attached
        if self.current is None or busy or not self.slot.acquire(self, 1.0):
            return False
        self._opening.acquire()
        self._close_handle()
        return True

    def after_fork_in_parent(self) -> None:
        """Let the engine open again."""
        self._opening.release()
        self.slot.release(self)

    def after_fork_in_child(self, was_closed: bool) -> None:
        """Make the engine usable in the child, or say why it is not."""
        self._make_locks()
        self.after_commit, self.before_close = [], []
        if self._folder is not None:
            self.refused = (
                "a ':memory:' database stays with the process that made it: in the child of a fork close() it and "
                "connect() again, or use a file"
            )
            self._folder = None
        elif self.current is not None and not was_closed:
            self.refused = (
                f"{self.path} was forked with a transaction, a temporary table or an attached file open, and SQLite's "
                "state cannot be shared by two processes: fork without them, or start the child by spawn"
            )
        for connection in self._open_connections:
            connection.forget_transaction()
        if self.current is not None:
            _not_ours.append(self.current)  # closing it, garbage collection included, would harm the parent
            self.current = None


def _retried(attempt: Callable[[], _T], deadline: float) -> _T:
    pause = 0.0005
    while True:
        try:
            return attempt()
        except RuntimeError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(pause)  # lets other threads run, which SQLite's own wait under Honker does not
        pause = min(pause * 2, _LONGEST_PAUSE)


_numbers = itertools.count(1)
_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_by_path: dict[str, Engine] = {}
_registry = threading.RLock()
_not_ours: list[HonkerFace] = []
_forking: list[tuple[Engine, bool]] = []


def engine_for(location: Location, **options: Any) -> Engine:
    """The process's engine for `location`, made if there is none yet or if its file was replaced.

    `options` are those of `Engine`; for an engine that exists they are not asked again.
    """
    if location.path is None:
        return Engine(location, **options)
    with _registry:
        engine = _by_path.get(location.path)
        if engine is not None and engine.was_replaced():
            logger.info("%s was replaced by another file: opening it anew", location.path)
            engine.retire()
            engine = None
        if engine is None or engine.refused:
            engine = _by_path[location.path] = Engine(location, **options)
        return engine


@cache
def sqlite_version() -> tuple[int, ...]:
    """The version of the SQLite library that Honker uses (not that of Python's sqlite3 module)."""
    native = open_native("file:/peewee-honker-version?vfs=memdb", max_readers=1)
    try:
        version: str = native.query("SELECT sqlite_version() AS v")[0]["v"]
    finally:
        native.close()
    return tuple(int(part) for part in version.split("."))


def _close_all() -> None:
    for engine in list(_engines):
        with contextlib.suppress(RuntimeError):  # at exit there is nobody left to tell
            engine.close()


def _before_fork() -> None:
    _registry.acquire()
    _forking[:] = [(engine, engine.before_fork()) for engine in list(_engines)]


def _after_fork_in_parent() -> None:
    for engine, was_closed in _forking:
        if was_closed:
            engine.after_fork_in_parent()
    _forking.clear()
    _registry.release()


def _after_fork_in_child() -> None:
    global _registry
    _registry = threading.RLock()
    for engine, was_closed in _forking:
        engine.after_fork_in_child(was_closed)
    _forking.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
