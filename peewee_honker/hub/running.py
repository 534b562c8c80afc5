"""Running until Ctrl-C or SIGTERM."""

import logging
import signal
import threading
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["run"]

logger = logging.getLogger("peewee_honker.hub")


def run(what: AbstractContextManager[Any]) -> None:
    """Enter a context, wait for Ctrl-C or SIGTERM (in the main thread), and leave it."""
    stopped = threading.Event()
    in_main_thread = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {}
    if in_main_thread:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda *_: stopped.set())
    try:
        with what:
            while not stopped.wait(0.5):  # with a limit, so that signals are seen on every system
                pass
            logger.info("stopped by a signal")
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)
