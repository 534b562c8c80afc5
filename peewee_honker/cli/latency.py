"""How soon a listener in this process hears what another process commits, measured on the file itself."""

import multiprocessing
import statistics
import threading
import time
from dataclasses import dataclass

from peewee_honker.cli.screen import CommandError
from peewee_honker.database import HonkerDatabase
from peewee_honker.events import Event, HonkerEventTarget

__all__ = ["CHANNEL", "Latency", "measure"]

CHANNEL = "__doctor__"
"""The channel of the notifications that are measured: a reserved type, which no `*` hears."""

_PAUSE = 0.01  # seconds between two notifications: longer than what is measured, so that they do not help each other
_LONGEST = 15.0  # seconds for all of it, the other process's start included


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from just before a notification's transaction began in another process to the call of a listener here:
    the commit is in it."""

    median: float
    worst: float
    count: int


def measure(database: HonkerDatabase, count: int = 25) -> Latency:
    """Let another process commit `count` notifications, and hear them.

    They stay in the file until retention deletes them: to delete them here would look like a loss to who listens.

    Raises CommandError when they do not arrive.
    """
    heard: list[float] = []
    complete = threading.Event()

    def hear(event: Event) -> None:
        if event.type != CHANNEL:
            return
        sender, sent = event.payload
        if sender == process.pid:
            heard.append((time.monotonic_ns() - sent) / 1e6)
            if len(heard) == count:
                complete.set()

    # Started anew and not forked: no thread or handle of this process is in it.
    process = multiprocessing.get_context("spawn").Process(target=_send, args=(database.engine.path, count), daemon=True)
    target = HonkerEventTarget(database)
    target.add_listener(CHANNEL, hear)
    try:
        process.start()
        deadline = time.monotonic() + _LONGEST
        while not complete.wait(0.05) and time.monotonic() < deadline:
            if process.exitcode:
                raise CommandError("another process could not write the file")
        if not complete.is_set():
            raise CommandError(f"of {count} commits of another process {len(heard)} were heard in {_LONGEST:.0f} s")
    finally:
        target.close()
        if process.pid is not None:
            process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join()
    return Latency(statistics.median(heard), max(heard), count)


def _send(path: str, count: int) -> None:
    import os

    database = HonkerDatabase(path)
    for _ in range(count):
        time.sleep(_PAUSE)
        database.notify(CHANNEL, [os.getpid(), time.monotonic_ns()])
    database.close_engine()
