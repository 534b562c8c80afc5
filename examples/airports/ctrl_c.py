"""Ctrl-C and SIGTERM end the demo with no process and no file left behind, whenever they come.

Once imported, they end the program at once; within `held()` only where the program waits (`interruptible()`) or asks
(`check()`), so that neither a transaction nor the tidying up is cut in two.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_asked = 0  # the number of the signal that came
_at_once = True


def check() -> None:
    """End the program if it was asked to."""
    global _at_once
    if _asked:
        _at_once = False
        sys.exit(128 + _asked)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let the block end the program where it wants to, at the latest when it is through."""
    global _at_once
    _at_once = False
    yield
    check()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within `held()`: a block that may be ended at any point."""
    global _at_once
    _at_once = True
    try:
        check()  # it may have come before
        yield
    finally:
        _at_once = False


def _end(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = number
    if _at_once:
        check()


signal.signal(signal.SIGINT, _end)
signal.signal(signal.SIGTERM, _end)
