"""Events through Honker's tables: to every process on the file, ephemeral or durable."""

import logging
from typing import TYPE_CHECKING

from peewee_honker.driver import Engine
from peewee_honker.events.database_target import DatabaseTarget
from peewee_honker.events.dispatcher import dispatcher_for
from peewee_honker.events.event import Event, gap_event
from peewee_honker.events.listener import Listener, Where
from peewee_honker.events.stream import Position, offset_of, pruned_offset, read_stream
from peewee_honker.events.target import EventTarget

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["Follower", "HonkerEventTarget"]

logger = logging.getLogger("peewee_honker.events")


class HonkerEventTarget(DatabaseTarget):
    """Events in Honker's own tables, written in the transaction that is open, heard in every process after the commit.

    Arguments:
        database: a HonkerDatabase; or a path, for one of the target's own (`target.database`).
        mode: `ephemeral`: the processes that listen at the commit hear it, once at most (channels, as Honker's
            `db.listen`). `durable`: it is kept in a stream, and every named consumer hears it, once at least.
        stream: the durable stream's name.
        prefix: is put before the type to give the channel's name; only for ephemeral events.
        consumer: the name of a durable consumer, or a Consumer that several targets share. Needed for listening to a
            stream.
        start_at, attempts, backoff: of the consumer, see `Consumer`.

    A stream is read from its first listener on, and what waits in it is for the listeners that are there: where there are
    several, let a bus connect them, or one listener tell the types apart.

    Listeners run in the dispatcher's thread, one for each file and process, whatever the number of topics. A listener of
    the topic `__gap__` hears of events that were deleted before they were read here, see `gap_event`.
    """


class Follower:
    """Reads a durable stream without a name: from a position on, as long as it is wanted; nothing is saved.

        with Follower(db, "orders", print, position="beginning"): ...

    Arguments:
        listener: called with each event in the dispatcher's thread, in order. One that raises is logged.
        position: where to begin, see `Position`; keep `event.offset` to go on there another time.
        where: hears only the events for which it is true.

    Events that were deleted before they were read are told of by a gap event (`event.is_gap`), in their place.
    """

    def __init__(
        self,
        database: "HonkerDatabase",
        stream: str,
        listener: Listener,
        *,
        position: Position = "now",
        where: Where | None = None,
    ) -> None:
        self._database = database
        self._engine = database.engine
        self._stream = stream
        self._target = _One(listener, where)
        self.offset = offset_of(self._engine, stream, position)
        if position != "beginning" and (pruned := pruned_offset(self._engine, stream)) > self.offset:
            self._gap: Event | None = gap_event(stream, self.offset, pruned + 1, "pruned")
            self.offset = pruned
        else:
            self._gap = None
        self._dispatcher = dispatcher_for(self._engine)

    def start(self) -> None:
        """Begin to call the listener."""
        self._dispatcher.add_source(self)

    def stop(self) -> None:
        """Nothing to undo; called by the dispatcher. To end a follower, `close` it."""

    def close(self) -> None:
        """Call the listener no more; returns when it runs no more."""
        self._dispatcher.remove_source(self)

    def __enter__(self) -> "Follower":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def poll(self) -> bool:
        """Deliver what there is; for the dispatcher."""
        if self._gap is not None:
            gap, self._gap = self._gap, None
            self._target.receive(gap)
        events = read_stream(self._engine, self._stream, self.offset, 200)
        if events and events[0].offset != self.offset + 1:
            pruned = pruned_offset(self._engine, self._stream)
            if pruned > self.offset:
                self._target.receive(gap_event(self._stream, self.offset, pruned + 1, "pruned"))
        for event in events:
            self._target.receive(event)
            self.offset = event.offset or self.offset
        return bool(events)

    def moved(self, engine: Engine) -> None:
        """Go on with another file, from now."""
        self._engine = engine
        gap = gap_event(self._stream, self.offset, None, "the file was replaced")
        self.offset = offset_of(engine, self._stream, "now")
        self._target.receive(gap)


class _One(EventTarget):
    """A single listener, called as those of targets are."""

    def __init__(self, listener: Listener, where: Where | None) -> None:
        super().__init__()
        self.add_listener("*", listener, where=where)
        self.add_listener("__*", listener)

    def receive(self, event: Event) -> None:
        self._deliver(event)

    def _dispatch(self, event: Event) -> None:
        raise NotImplementedError("a follower only reads")
