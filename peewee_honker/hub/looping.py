"""An event loop in a thread of its own, which one object owns."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """Runs an event loop until it is stopped.

    Arguments:
        name: the thread's.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            self._stopping = runner.get_loop().create_future()
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stopping

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """What a coroutine gives that runs in the loop. Raises what it raises, TimeoutError after so many seconds (it is
        cancelled then)."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def soon(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function in the loop; nothing when that has ended."""
        try:
            self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # closed
            return

    def stop(self) -> None:
        """Cancel what runs in the loop, and end it and its thread."""
        self.soon(self._end)
        self._thread.join()

    def _end(self) -> None:
        if not self._stopping.done():
            self._stopping.set_result(None)
