"""Does a watch on the `-wal` file see every commit of another process, and can the commit be seen when the watch wakes?

Linux only. This process has the file open with Honker and waits on an inotify watch alone, without any look by the clock.
Another process commits once, says so, and waits to be told to go on: by Honker, by Python's sqlite3, and by sqlite3 with
a checkpoint that empties the write-ahead log every ten commits, so that it begins anew. The watch opens no descriptor on
the database: closing one would drop SQLite's locks.

Fails (exit code 1) if
- a commit comes without an event;
- a row cannot be seen 50 ms after its commit has returned.

Measured as well: how often the event comes before its commit can be seen (the log is written first, its index, in shared
memory, after it and without an event), and how long that lasts. sqlite3 by itself waits for the disk between the two
(synchronous=FULL), Honker does not (NORMAL).
"""

import argparse
import ctypes
import os
import select
import sys
import time

from shared.honker_helpers import Child, Report, milliseconds, prove, temporary_database

MODIFIED, NONBLOCK, CLOEXEC = 0x2, 0o4000, 0o2000000  # <sys/inotify.h>
LATE = 0.05  # seconds

HONKER = """
import sys, honker
database = honker.open(sys.argv[1])
for line in sys.stdin:
    with database.transaction() as transaction:
        transaction.execute("INSERT INTO tick DEFAULT VALUES")
    print("done", flush=True)
"""
SQLITE3 = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
empties = len(sys.argv) > 2
for number, line in enumerate(sys.stdin, 1):
    connection.execute("INSERT INTO tick DEFAULT VALUES")
    print("done", flush=True)
    if empties and number % 10 == 0:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
"""
WRITERS = {"honker": (HONKER,), "sqlite3": (SQLITE3,), "sqlite3, log emptied": (SQLITE3, "empties the log")}


class Watch:
    """An inotify watch on one file."""

    def __init__(self, path: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(NONBLOCK | CLOEXEC)
        if self.descriptor < 0 or libc.inotify_add_watch(self.descriptor, os.fsencode(path), MODIFIED) < 0:
            raise OSError(ctypes.get_errno(), f"no watch on {path}")

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.descriptor)

    def wait(self, seconds: float) -> bool:
        """Whether the file was written within that time, or since the last `wait`."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return False
        os.read(self.descriptor, 65536)
        return True


def newest(database) -> int:
    return database.query("SELECT COALESCE(MAX(id), 0) AS newest FROM tick")[0]["newest"]


def look_until(database, expected: int, seconds: float) -> float | None:
    """Seconds until the row can be seen; 0 when the first look shows it, None when it does not come in time."""
    if newest(database) >= expected:
        return 0.0
    begun = time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        if newest(database) >= expected:
            return passed
    return None


def commits(database, path: str, code: tuple[str, ...], count: int) -> tuple[int, int, list[float]]:
    """Commits without an event, commits that could not be seen in time, and the seconds from each event to its commit."""
    silent = unseen = 0
    waits: list[float] = []
    with Watch(path + "-wal") as watch, Child(code[0], path, *code[1:]) as writer:
        for _ in range(count):
            while watch.wait(0.0005):  # what is left of the one before, or of a checkpoint
                pass
            expected = newest(database) + 1
            writer.say("go")
            woken = watch.wait(1)
            waited = look_until(database, expected, LATE) if woken else None
            writer.line()
            if not woken:
                silent += 1
                break  # one is enough, and each takes a second
            if waited is None:
                unseen += look_until(database, expected, LATE) is None
            else:
                waits.append(waited)
    return silent, unseen, waits


def measure(report: Report, options: argparse.Namespace) -> str:
    if not sys.platform.startswith("linux"):
        return "NOT ASKED: inotify is of Linux. Elsewhere peewee_honker looks by the clock."
    table = []
    for name, code in WRITERS.items():
        with temporary_database() as (database, path):
            with database.transaction() as transaction:
                transaction.execute("CREATE TABLE tick (id INTEGER PRIMARY KEY)")
            silent, unseen, waits = commits(database, path, code, options.commits)
        early = [wait for wait in waits if wait]
        table.append([name, options.commits, silent, unseen, len(early), *(milliseconds(early) if early else ["-"] * 4)])
        report.must(not silent, f"{silent} commits by {name} came without an event")
        report.must(not unseen, f"{unseen} commits by {name} could not be seen in time")
    report.table(["commits by", "", "no event", "not seen", "event too early", "by ms: median", "p95", "p99", "max"], table)
    return "YES, every commit. But the event can come before the commit can be seen: who is woken looks again for a while."


if __name__ == "__main__":
    sys.exit(prove(measure, __doc__, commits=(500, "commits by each writer")))
