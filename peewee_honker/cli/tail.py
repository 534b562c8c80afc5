"""`tail`: events as they commit, of channels by a topic's pattern, or of a durable stream."""

import argparse
import contextlib
import json
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from typing import Any

from peewee_honker.cli.opening import opened
from peewee_honker.cli.screen import CommandError, Screen, event_value, local_time, plain
from peewee_honker.cli.values import number, position
from peewee_honker.database import HonkerDatabase
from peewee_honker.errors import TopicError
from peewee_honker.events import GAP, Event, Follower, HonkerEventTarget, Position
from peewee_honker.events.event import gap_event
from peewee_honker.events.stream import offset_of, pruned_offset, read_stream
from peewee_honker.events.topic import Topics

__all__ = ["add_to"]

_PAGE = 200
_TIMEOUT = 5.0
_LOOK = 0.5  # seconds between two looks whether somebody still reads what is written
_AHEAD = 1000  # events that may wait to be written

_NOTIFICATIONS = "SELECT id, channel, payload FROM _honker_notifications WHERE id > ? ORDER BY id LIMIT ?"
_NEWEST = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '_honker_notifications'), 0) AS id"
_OLDEST = "SELECT coalesce(min(id), 0) AS id FROM _honker_notifications"
_SINCE_TIME = "SELECT min(id) AS id FROM _honker_notifications WHERE created_at >= ?"


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "tail",
        parents=[common],
        help="events as they commit",
        description="Writes events as they commit: coloured lines on a terminal, one JSON object a line elsewhere. Ends "
        "with Ctrl-C, or when nobody reads any more what it writes.",
    )
    parser.add_argument(
        "topic",
        nargs="?",
        default="*",
        metavar="TOPIC",
        help="a type, type:id, or a pattern such as 'order.*' (default: everything but reserved types)",
    )
    parser.add_argument("--stream", metavar="NAME", help="a durable stream's events (default: the ephemeral channels')")
    parser.add_argument("--prefix", default="", help="of the channels, where the application's target has one")
    parser.add_argument(
        "--from",
        dest="position",
        type=position,
        default="now",
        metavar="POSITION",
        help="now (default), beginning, an offset, or an ISO 8601 time",
    )
    parser.add_argument("--count", type=number, metavar="N", help="end after N events")
    parser.add_argument("--no-follow", action="store_true", help="end with the last event that there is now")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON lines, on a terminal too")
    form.add_argument("--text", action="store_true", help="lines for people, in a pipe too")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, screen: Screen) -> int:
    wanted: Topics[str] = Topics()
    try:
        wanted.add(arguments.topic, arguments.topic)
    except TopicError as error:
        raise CommandError(str(error), 2) from None
    if arguments.stream and arguments.prefix:
        raise CommandError("a stream has no channels: leave --prefix out", 2)
    as_json = arguments.json or not (arguments.text or screen.is_terminal)
    if screen.is_terminal and not as_json and not arguments.no_follow:
        where = f"the stream {arguments.stream}" if arguments.stream else "the ephemeral channels"
        screen.line(screen.coloured(f"{plain(arguments.topic)} in {plain(where)}; Ctrl-C ends", "dim"))
    with opened(arguments) as database:
        tailed: _Tailed
        if arguments.stream:
            tailed = _StreamTail(database, arguments.stream)
        else:
            tailed = _ChannelTail(database, wanted, arguments.topic, arguments.prefix)
        left = arguments.count
        if left == 0:
            return 0
        with contextlib.closing(_events(tailed, arguments.position, not arguments.no_follow, screen)) as events:
            for event in events:
                if not event.is_gap:
                    if not wanted.match(event.type, event.id):
                        continue
                    if left is not None:
                        left -= 1
                screen.line(_json_line(event) if as_json else _text_line(event, screen))
                if left == 0:
                    break
    return 0


def _events(tailed: "_Tailed", start: Position, follow: bool, screen: Screen) -> Generator[Event, None, None]:
    """What there is from the position on, then what comes, until nobody reads it any more."""
    after = tailed.offset_of(start)
    if start != "now" or not follow:
        for event in tailed.stored(after):
            after = _passed(event, after)
            yield event
    if not follow:
        return
    with _Inbox() as inbox:
        yield from tailed.follow(after, inbox)
        while not screen.reader_is_gone():
            event_or_none = inbox.take(_LOOK)
            if event_or_none is not None:
                yield event_or_none


class _Inbox:
    """Events on their way from the dispatcher's thread to this one. A full one makes that thread wait."""

    def __init__(self) -> None:
        self._events: queue.Queue[Event] = queue.Queue(_AHEAD)
        self._closed = threading.Event()

    def __enter__(self) -> "_Inbox":
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()

    def put(self, event: Event) -> None:
        while not self._closed.is_set():
            try:
                self._events.put(event, timeout=_LOOK)
            except queue.Full:
                continue
            return

    def take(self, seconds: float) -> Event | None:
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None


class _Tailed(ABC):
    """What can be tailed: it stores events by growing offsets, and can be followed from one of them on."""

    def __init__(self, database: HonkerDatabase) -> None:
        self.database = database

    @abstractmethod
    def offset_of(self, start: Position) -> int:
        """The offset behind which the position's events are."""

    @abstractmethod
    def stored(self, after: int) -> Iterator[Event]:
        """The events that there are now behind an offset, and gaps."""

    @abstractmethod
    def follow(self, after: int, inbox: _Inbox) -> Iterator[Event]:
        """Give the events behind an offset: what is there until the inbox gets the rest, as it commits, until the engine is
        closed."""


class _StreamTail(_Tailed):
    def __init__(self, database: HonkerDatabase, stream: str) -> None:
        super().__init__(database)
        self._stream = stream

    def offset_of(self, start: Position) -> int:
        return offset_of(self.database.engine, self._stream, start)

    def stored(self, after: int) -> Iterator[Event]:
        engine = self.database.engine
        while True:
            events = read_stream(engine, self._stream, after, _PAGE)
            if (pruned := pruned_offset(engine, self._stream)) > after:
                yield gap_event(self._stream, after, pruned + 1, "pruned")
                after = pruned
                continue
            if not events:
                return
            yield from events
            after = _passed(events[-1], after)

    def follow(self, after: int, inbox: _Inbox) -> Iterator[Event]:
        Follower(self.database, self._stream, inbox.put, position=after).start()
        return iter(())


class _ChannelTail(_Tailed):
    """Notifications: kept for some minutes only, so that the beginning is not far."""

    def __init__(self, database: HonkerDatabase, wanted: Topics[str], topic: str, prefix: str) -> None:
        super().__init__(database)
        self._wanted = wanted
        self._topic = topic
        self._prefix = prefix

    def offset_of(self, start: Position) -> int:
        if isinstance(start, int):
            return start
        if start == "now":
            return self._id(_NEWEST)
        if start == "beginning":
            return max(0, self._id(_OLDEST) - 1)
        first = self._id(_SINCE_TIME, (start.timestamp(),))
        return first - 1 if first else self._id(_NEWEST)

    def stored(self, after: int) -> Iterator[Event]:
        engine = self.database.engine
        while rows := engine.read(_NOTIFICATIONS, (after, _PAGE), _TIMEOUT):
            for row in rows:
                channel = row["channel"]
                if channel.startswith(self._prefix) and self._wanted.may_match(channel.removeprefix(self._prefix)):
                    yield Event.from_json(row["payload"], channel, row["id"])  # as it would have been heard
            after = rows[-1]["id"]

    def follow(self, after: int, inbox: _Inbox) -> Iterator[Event]:
        caught_up = threading.Event()

        def hear(event: Event) -> None:
            nonlocal after
            caught_up.wait()
            if event.is_gap and event.payload["before"] is None:
                after = 0  # another file, with offsets of its own
            if event.is_gap or (event.offset or 0) > after:
                inbox.put(event)

        target = HonkerEventTarget(self.database, prefix=self._prefix)
        for topic in (self._topic, GAP):
            target.add_listener(topic, hear)
        try:
            for event in self.stored(after):  # committed before the listener was there
                after = _passed(event, after)
                yield event
        finally:
            caught_up.set()

    def _id(self, sql: str, values: tuple[Any, ...] = ()) -> int:
        return int(self.database.engine.read(sql, values, _TIMEOUT)[0]["id"] or 0)


def _passed(event: Event, after: int) -> int:
    """The offset that is passed with an event; a gap's is the first behind the gap, which has not been had."""
    return after if event.offset is None else event.offset - event.is_gap


def _json_line(event: Event) -> str:
    return json.dumps({"offset": event.offset, **event_value(event)}, ensure_ascii=False)


def _text_line(event: Event, screen: Screen) -> str:
    if event.is_gap:
        told = event.payload
        upto = "" if told["before"] is None else f" and before {told['before']}"
        return screen.coloured(f"... events after {told['after']}{upto} were missed: {told['reason']}", "yellow")
    moment = (local_time(event.time, "milliseconds") or "").rpartition(" ")[2] if event.time else "-" * 12
    parts = [
        screen.coloured(moment, "dim"),
        screen.coloured(f"#{event.offset}", "dim"),
        screen.coloured(plain(event.topic), "cyan"),
    ]
    if event.operation:
        parts.append(screen.coloured(plain(event.operation), _OPERATION_COLOURS.get(event.operation, "bold")))
    parts.append(plain(json.dumps(event.payload, ensure_ascii=False)))
    if event.changes:
        parts.append(plain("changed " + json.dumps(event.changes, ensure_ascii=False)))
    if event.origin:
        parts.append(screen.coloured(plain(event.origin), "dim"))
    return "  ".join(parts)


_OPERATION_COLOURS: dict[str, Any] = {"insert": "green", "update": "yellow", "delete": "red"}
