"""Set-up and tear-down that the proofs of concept share; no proof of its own.

`prove` runs a proof: command line, report, exit code. `temporary_database` gives a file opened by Honker, `Child` a process
that is always ended, `Ears` a thread that listens, `ended` the end of a program's tasks.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, ClassVar

import honker

DEADLINE = 10.0  # seconds that a single thing may take, and that a child process lives at most
FAILED = 1
INTERRUPTED = 130


class Report:
    """What a proof measured, printed as it comes, and what it failed at."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def show(self, what: str, value: object = "") -> None:
        print(f"{what}: {value}" if value != "" else what, flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Columns as wide as their widest cell."""
        cells = [[str(cell) for cell in row] for row in (head, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        for number, row in enumerate(cells):
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            if not number:
                print("  " + "  ".join("-" * width for width in widths))
        sys.stdout.flush()

    def must(self, condition: object, otherwise: str) -> None:
        """A hard-fail condition: what is not so ends the script with exit code 1, after the rest was measured."""
        if not condition:
            self.failures.append(otherwise)


def prove(proof: Callable[[Report, argparse.Namespace], str], about: str | None, **options: tuple[int, str]) -> int:
    """Run a proof, print its answer, and give the exit code: 0 when every condition held, 1 when one did not.

    A proof returns its answer in a sentence. `options` are whole numbers for the command line: name=(default, help).
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, text) in options.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    arguments = parser.parse_args()
    report = Report()
    started = time.monotonic()
    answer = measured_with = ""
    try:
        report.show((about or "").split("\n")[0] + "\n")
        measured_with = versions()
        answer = proof(report, arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # an answer too, and what failed before it is said with it
        traceback.print_exc()
        report.failures.append(f"broke off with {type(error).__name__}: {error}")
    finally:
        for child in list(Child.alive):  # Ctrl-C between a child's start and its `with`
            child.kill()
    print(f"\n{'NO: ' + '; '.join(report.failures) if report.failures else answer}")
    print(f"({measured_with}; {time.monotonic() - started:.1f} s)")
    return FAILED if report.failures else 0


def versions() -> str:
    """What was measured: the packages, the SQLite that Honker uses (not Python's own), and Python."""
    with temporary_database() as (database, _):
        sqlite = database.query("SELECT sqlite_version() AS version")[0]["version"]
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("honker", "peewee")]
    return ", ".join([*packages, f"SQLite {sqlite}", f"Python {platform.python_version()}"])


@contextlib.contextmanager
def temporary_database() -> Iterator[tuple[Any, str]]:
    """A new file that Honker has open, and its path; closed and deleted at the end."""
    with temporary_path() as path:
        database = honker.open(path)
        try:
            yield database, path
        finally:
            database.close()


@contextlib.contextmanager
def temporary_path() -> Iterator[str]:
    """A path in a folder of its own, which is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="honker-poc-") as folder:
        yield os.path.join(folder, "poc.db")


def milliseconds(seconds: Sequence[float]) -> list[str]:
    """Median, 95th and 99th percentile and maximum, in ms."""
    ordered = sorted(seconds)
    at = [statistics.median(ordered), *(ordered[int(len(ordered) * share)] for share in (0.95, 0.99)), ordered[-1]]
    return [f"{value * 1000:.2f}" for value in at]


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Wait until the condition holds and give what it returned.

    Raises:
        TimeoutError: it did not in that time.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.001)
    return found


@contextlib.asynccontextmanager
async def ended(*coroutines: Any) -> AsyncIterator[list["asyncio.Task[Any]"]]:
    """Tasks that have ended when the block is left.

    Cancelled again until they have: Honker's iterators wait with asyncio.wait_for, which on Python 3.11 can swallow a
    cancellation, and asyncio.run, which cancels once, would then wait for ever.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        yield tasks
    finally:
        interrupted: asyncio.CancelledError | None = None
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            try:
                await asyncio.wait(pending, timeout=0.05)
            except asyncio.CancelledError as error:  # Ctrl-C just now: the tasks end first
                interrupted = error
        for task in tasks:
            if not task.cancelled() and (failure := task.exception()):
                raise failure
        if interrupted:
            raise interrupted


class Ears:
    """A thread that listens on a channel of an open database, with the time at which each payload came."""

    def __init__(self, database: Any, channel: str) -> None:
        self.heard: list[Any] = []
        self.times: list[float] = []
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._run(database, channel)])

    def __enter__(self) -> "Ears":
        self._thread.start()
        self._ready.wait(DEADLINE)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self, database: Any, channel: str) -> None:
        async with ended(self._listen(database.listen(channel))):
            self._ready.set()
            while not self._stop.is_set():
                await asyncio.sleep(0.01)

    async def _listen(self, listener: Any) -> None:
        async for notification in listener:
            self.times.append(time.perf_counter())
            self.heard.append(notification.payload)


class Child:
    """Python code in a process of its own that prints lines; a context manager that leaves no process behind.

    It is killed when it has lived for `DEADLINE`, so that waiting for a line that never comes ends with an error.
    """

    alive: ClassVar[set["Child"]] = set()

    def __init__(self, code: str, *arguments: object) -> None:
        command = [sys.executable, "-u", "-c", textwrap.dedent(code), *map(str, arguments)]
        # In a group of its own: Ctrl-C is for the parent, which ends the child; and not just while it starts it.
        interrupted: list[object] = []
        handler = signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
            )
            self._limit = threading.Timer(DEADLINE, self._process.kill)
            self._limit.daemon = True
            self._limit.start()
            self.alive.add(self)
        finally:
            signal.signal(signal.SIGINT, handler)
        if interrupted:
            self.kill()
            raise KeyboardInterrupt

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def line(self) -> str:
        """The next line that it prints.

        Raises:
            RuntimeError: it ended without one.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with {self._process.wait()} and did not say what was waited for")
        return line.rstrip("\n")

    def say(self, text: str) -> None:
        """Write it a line."""
        assert self._process.stdin
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def kill(self) -> list[str]:
        """SIGKILL, which a process cannot do anything about, and the lines that it had printed."""
        self.alive.discard(self)
        self._limit.cancel()
        self._process.kill()
        rest, _ = self._process.communicate()
        return rest.splitlines()

    def finish(self) -> list[str]:
        """Wait for its own end, and give the rest of its lines.

        Raises:
            RuntimeError: it ended with an error.
        """
        rest, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"the process ended with exit code {self._process.returncode}")
        return rest.splitlines()
