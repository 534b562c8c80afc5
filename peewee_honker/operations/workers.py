"""The threads in which a handler executes calls."""

import asyncio
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Workers"]

logger = logging.getLogger("peewee_honker.operations")

_IDLE = 1.0  # seconds without work, after which a thread gives back what it holds


class Workers:
    """Threads that run jobs, each with an event loop of its own for coroutines, which lasts as long as the thread: a loop
    for each call would take longer than most calls.

    Arguments:
        most: how many threads there are at most; one is started when a job comes and none is free.
        idle: is called in a thread that has had nothing to do for a second, and at its end.
    """

    def __init__(self, most: int, name: str, idle: Callable[[], None]) -> None:
        self._most, self._name, self._idle = most, name, idle
        self._jobs: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._under_way = 0  # jobs that wait or run
        self._counting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._local = threading.local()

    def submit(self, job: Callable[..., None], *arguments: Any) -> None:
        """Run a job, in its turn. Of one thread's, or locked."""
        with self._counting:
            self._under_way += 1
            is_enough = self._under_way <= len(self._threads)
        self._jobs.put((job, arguments))
        if is_enough or len(self._threads) >= self._most:
            return
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop of the calling thread, which is a worker's, and give its result.

        The tasks that it has left behind are cancelled, as `asyncio.run` does.
        """
        runner: asyncio.Runner | None = getattr(self._local, "runner", None)
        if runner is None:
            runner = self._local.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        try:
            return runner.run(coroutine, context=contextvars.copy_context())
        finally:
            left = asyncio.all_tasks(runner.get_loop())
            if left:
                for task in left:
                    task.cancel()
                runner.run(_ended(left))

    def close(self) -> None:
        """Wait for all jobs, also those that have not begun, and end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _next(self) -> tuple[Callable[..., None], tuple[Any, ...]] | None:
        try:
            return self._jobs.get(timeout=_IDLE)
        except queue.Empty:
            self._idle()
            return self._jobs.get()

    def _work(self) -> None:
        while True:
            taken = self._next()
            if taken is None:
                break
            job, arguments = taken
            try:
                job(*arguments)
            except Exception:
                logger.exception("a call could not be answered")
            finally:
                with self._counting:
                    self._under_way -= 1
            del taken, job, arguments
        runner: asyncio.Runner | None = getattr(self._local, "runner", None)
        if runner is not None:
            runner.close()
        self._idle()


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
