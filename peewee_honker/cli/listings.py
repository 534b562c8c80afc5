"""`streams`, `queues`, and `consumers` with its `seek` and `forget`."""

import argparse
import time
from dataclasses import asdict
from typing import Any

from peewee_honker.cli.opening import opened
from peewee_honker.cli.screen import CommandError, Screen, local_time, size_text
from peewee_honker.cli.values import position
from peewee_honker.database import HonkerDatabase
from peewee_honker.events import consumer_places, forget_consumer, seek, streams

__all__ = ["add_json", "add_to"]

_QUEUES = """
SELECT queue, sum(state = 'pending') AS pending, sum(state = 'pending' AND run_at > unixepoch()) AS scheduled,
    sum(state = 'processing') AS processing, sum(state = 'dead') AS dead,
    min(CASE WHEN state = 'pending' AND run_at <= unixepoch() THEN run_at END) AS waiting_since
FROM (SELECT queue, state, run_at FROM _honker_live UNION ALL SELECT queue, 'dead', run_at FROM _honker_dead)
GROUP BY queue ORDER BY queue"""
_TIMEOUT = 5.0


def add_json(parser: argparse.ArgumentParser) -> None:
    """Let a listing be had as JSON."""
    parser.add_argument("--json", action="store_true", help="a JSON array, with times in seconds since 1970")


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to the parser's."""
    parser = commands.add_parser("streams", parents=[common], help="the durable streams, with their sizes")
    add_json(parser)
    parser.set_defaults(run=_streams)

    parser = commands.add_parser(
        "queues",
        parents=[common],
        help="Honker's queues: jobs pending, processing, dead",
        description="Honker's queues. Of the pending jobs, the scheduled ones are not due yet; under 'waiting since' is "
        "when the first that waits was due.",
    )
    add_json(parser)
    parser.set_defaults(run=_queues)

    parser = commands.add_parser("consumers", parents=[common], help="the durable consumers: lag, place; seek, forget")
    add_json(parser)
    parser.set_defaults(run=_consumers)
    actions = parser.add_subparsers(metavar="ACTION", title="actions (default: list)")
    listing = actions.add_parser("list", parents=[common], help="where every consumer is")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as a JSON array")
    seeking = actions.add_parser(
        "seek",
        parents=[common],
        help="put a consumer at a position of a stream",
        description="Puts a consumer at a position of a stream; where it runs it goes on there within seconds. Behind an "
        "earlier position its receivers get events again; what a later one leaps over they never get.",
    )
    seeking.add_argument("consumer", metavar="CONSUMER")
    seeking.add_argument("stream", metavar="STREAM")
    seeking.add_argument(
        "position", metavar="POSITION", type=position, help="now, beginning, an offset, or an ISO 8601 time"
    )
    seeking.add_argument("--create", action="store_true", help="also a consumer that is not known there yet")
    seeking.set_defaults(run=_seek)
    forgetting = actions.add_parser(
        "forget",
        parents=[common],
        help="forget a consumer's place, so that nothing is kept for it",
        description="Forgets a consumer's place in a stream, or in all: retention waits for it no longer, and when it comes "
        "again it begins as a new one.",
    )
    forgetting.add_argument("consumer", metavar="CONSUMER")
    forgetting.add_argument("stream", metavar="STREAM", nargs="?")
    forgetting.set_defaults(run=_forget)


def _streams(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        found = streams(database.engine)
    if arguments.json:
        screen.json([asdict(stream) for stream in found])
        return 0
    rows = [
        {
            "stream": stream.name,
            "events": stream.events,
            "size": size_text(stream.size),
            "first": stream.first,
            "last": stream.last,
            "oldest": local_time(stream.oldest),
            "newest": local_time(stream.newest),
        }
        for stream in found
    ]
    screen.table(rows, "no streams have events")
    return 0


def _queues(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        rows = [dict(row) for row in database.engine.read(_QUEUES, (), _TIMEOUT)]
    if arguments.json:
        screen.json(rows)
    else:
        shown = [{**row, "waiting_since": local_time(row["waiting_since"])} for row in rows]
        screen.table([{name.replace("_", " "): row[name] for name in row} for row in shown], "no queues have jobs")
    return 0


def _consumers(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        found = consumer_places(database.engine)
    if arguments.json:
        screen.json([asdict(place) for place in found])
        return 0
    now = time.time()
    rows = [
        {
            "consumer": place.consumer,
            "stream": place.stream,
            "offset": place.offset,
            "lag": place.lag,
            "behind": None if place.waiting_since is None else _age(now - place.waiting_since),
            "active": place.active,
        }
        for place in found
    ]
    screen.table(rows, "no consumers are known")
    return 0


def _age(seconds: float) -> str:
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def _seek(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        if not arguments.create:
            _check_known(database, arguments.consumer, arguments.stream, "; --create makes a new one")
        offset = seek(database, arguments.consumer, arguments.stream, arguments.position, create=True)
    screen.line(f"consumer {arguments.consumer} goes on behind offset {offset} of {arguments.stream}")
    return 0


def _forget(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        places = _check_known(database, arguments.consumer, arguments.stream)
        active = [place.stream for place in places if place.active]
        if active:
            raise CommandError(
                f"consumer {arguments.consumer} is active in a process, which would make its place again: stop that first"
            )
        forget_consumer(database, arguments.consumer, arguments.stream)
    screen.line(f"forgot consumer {arguments.consumer} in {', '.join(place.stream for place in places)}")
    return 0


def _check_known(database: HonkerDatabase, consumer: str, stream: str | None, way_out: str = "") -> list[Any]:
    """The consumer's places. Raises CommandError when there are none: a name mistyped would be a consumer for ever."""
    known = consumer_places(database.engine)
    found = [place for place in known if place.consumer == consumer and stream in (None, place.stream)]
    if not found:
        where = f" in the stream {stream}" if stream else ""
        names = ", ".join(sorted({f"{place.consumer} in {place.stream}" for place in known})) or "none"
        raise CommandError(f"there is no consumer {consumer}{where} (known: {names}){way_out}")
    return found
