"""Looking at a database, and working on it, from other processes."""

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

DEADLINE = 20.0  # seconds that anything may take on a slow machine


def rows(path: str, sql: str) -> list[list[Any]]:
    """What Python's sqlite3 sees in the file, in a process of its own."""
    code = "import json, sqlite3, sys; print(json.dumps(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchall()))"
    done = subprocess.run(
        [sys.executable, "-c", code, path, sql], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    found: list[list[Any]] = json.loads(done.stdout)
    return found


def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait until the condition holds and give what it returned; fails after the deadline."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"{what} did not come true in {DEADLINE} s")


class Script:
    """Python code in a process of its own that prints lines; a context manager that leaves no process behind."""

    def __init__(self, code: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", "-c", textwrap.dedent(code), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise AssertionError(f"the process ended with {self.process.returncode}:\n{errors}")
        return line.rstrip("\n")

    def say(self, text: str) -> None:
        """Write it a line."""
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Wait for its end, which has to be a success, and give the rest of what it printed."""
        output, errors = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0, f"exit code {self.process.returncode}:\n{errors}"
        return output
