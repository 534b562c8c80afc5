"""Writing to a stream for many connections: what has come meanwhile is committed together."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from peewee_honker.events.store import Store
from peewee_honker.events.target import Forwarded

__all__ = ["Writer"]

logger = logging.getLogger("peewee_honker.hub")

_MOST = 500  # events in a transaction

Written = Callable[[Exception | int], None]
"""Is told the offset at or before which an event was committed, or why it was not."""


class Writer:
    """Appends to a stream, in a thread of its own. To be used in one event loop.

    Arguments:
        store: where the stream is.
        stream: its name.
    """

    def __init__(self, store: Store, stream: str) -> None:
        self._store = store
        self._stream = stream
        self._waiting: list[tuple[str, str, Written]] = []
        self._is_ending = False

    def start(self) -> None:
        """Begin. In the event loop."""
        self._is_ending = False
        self._something = asyncio.Event()  # of this loop: a server that starts again has another
        self._executor = ThreadPoolExecutor(1, "peewee-honker-hub-writer")
        self._task = asyncio.create_task(self._write_on())

    async def stop(self) -> None:
        """End when everything was written that was put."""
        self._is_ending = True
        self._something.set()
        await self._task
        await self.run(self._store.close_thread)
        self._executor.shutdown()

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives that uses the database, called in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def put(self, key: str, text: str, written: Written) -> None:
        """Append an event, as its key and its JSON; `written` is called in the loop."""
        self._waiting.append((key, text, written))
        self._something.set()

    async def forward(self, relay: str, rows: Sequence[tuple[str, str]], after: Any, last: Any) -> None:
        """Append events of a relay, once. Raises ForwardConflictError."""
        known = None if after is None else Forwarded(*after)
        await self.run(self._store.append_forwarded, self._stream, relay, rows, known, Forwarded(*last))

    async def _write_on(self) -> None:
        while self._waiting or not self._is_ending:
            if not self._waiting:
                self._something.clear()
                await self._something.wait()
                continue
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            outcome: Exception | int
            try:
                outcome = await self.run(self._append, [(key, text) for key, text, _ in batch])
            except Exception as error:  # whatever the database raises: it is told, and others go on
                outcome = error
            for _, _, written in batch:
                written(outcome)

    def _append(self, rows: Sequence[tuple[str, str]]) -> int:
        with self._store.atomic():
            for key, text in rows:
                self._store.append(self._stream, key, text)
        return self._store.offset_of(self._stream, "now")
