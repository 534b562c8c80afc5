"""A process that runs receiver.py, as demo.py sees it: started, asked, and ended. Every wait has a limit."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ctrl_c

PATIENCE = 40.0  # seconds that a receiver may take for anything: longer than it waits for events itself


class ReceiverGoneError(Exception):
    """A receiver has ended, or does not answer; the message says which."""


class Receiver:
    """Asking it anything ends in an answer or a ReceiverGoneError, never in a hang."""

    def __init__(self, name: str, database: str) -> None:
        self.name = name
        self._is_late = False
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("receiver.py")), database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C goes to the demo alone, which ends its receivers
        )

    def line(self) -> str:
        """The next line that it writes."""
        with self._in_time():
            line = self._process.stdout.readline()
            if not line.endswith("\n"):
                raise self._gone(self._process.wait())
        return line.strip()

    def tell(self, number: int) -> None:
        """Write it a number."""
        with contextlib.suppress(BrokenPipeError):  # the next line() says what has become of it
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it has heard, once it has been told how much to expect."""
        result = json.loads(self.line())
        with self._in_time():
            code = self._process.wait()
        if code != 0:
            raise self._gone(code)
        return result

    def check(self) -> None:
        """Raise if it has ended."""
        code = self._process.poll()
        if code is not None:
            raise self._gone(code)

    def kill(self) -> None:
        """Leave no process behind."""
        self._process.kill()
        self._process.communicate()

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """Kill the process, which ends what is read from it, if the block takes too long."""
        timer = threading.Timer(PATIENCE, self._give_up)
        timer.start()
        try:
            with ctrl_c.interruptible():
                yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._is_late = True
        self._process.kill()

    def _gone(self, code: int) -> ReceiverGoneError:
        if self._is_late:
            return ReceiverGoneError(f"receiver {self.name} did not answer within {PATIENCE:.0f} seconds")
        return ReceiverGoneError(f"receiver {self.name} is gone, with exit code {code}")


@contextlib.contextmanager
def receivers(database: str, names: Sequence[str]) -> Iterator[list[Receiver]]:
    """The receivers, each of which hears everything from now on; none is left at the end of the block."""
    running: list[Receiver] = []
    try:
        for name in names:
            running.append(Receiver(name, database))
        for receiver in running:
            if (said := receiver.line()) != "ready":
                raise ReceiverGoneError(f'receiver {receiver.name} said "{said}" instead of "ready"')
        yield running
    finally:
        for receiver in running:
            receiver.kill()
