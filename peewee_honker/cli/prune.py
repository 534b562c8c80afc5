"""`prune`: delete notifications and events of streams that nobody needs any more, in small transactions."""

import argparse
from typing import Any

from peewee_honker.cli.opening import opened
from peewee_honker.cli.screen import CommandError, Screen
from peewee_honker.cli.values import duration, number
from peewee_honker.events import Retention, streams
from peewee_honker.events.retention import EPHEMERAL_SECONDS, prunable, prune_notifications, prune_stream

__all__ = ["add_to"]

_BATCH = 500
_OLD_NOTIFICATIONS = "SELECT count(*) AS n FROM _honker_notifications WHERE created_at < unixepoch() - ?"
_TIMEOUT = 5.0


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("prune", parents=[common], help="delete old notifications and events of streams")
    actions = parser.add_subparsers(metavar="WHAT", title="what", required=True)

    notifications = actions.add_parser("notifications", parents=[common], help="the ephemeral channels'")
    notifications.add_argument(
        "--older-than", type=duration, default=EPHEMERAL_SECONDS, metavar="AGE", help="90s, 10m (default), 2h, 7d"
    )
    notifications.add_argument("--dry-run", action="store_true", help="only say how many")
    notifications.set_defaults(run=_notifications)

    of_streams = actions.add_parser(
        "streams",
        parents=[common],
        help="durable streams' events",
        description="Deletes events of streams: of each, those that are older than an age, and those beyond a number. "
        "What a known consumer has not passed stays, unless --unconsumed is said.",
    )
    of_streams.add_argument("streams", nargs="*", metavar="STREAM", help="default: all")
    of_streams.add_argument("--older-than", type=duration, metavar="AGE", help="90s, 10m, 2h, 7d")
    of_streams.add_argument("--count", type=number, metavar="N", help="keep the newest N")
    of_streams.add_argument("--consumed", action="store_true", help="all that every consumer has passed")
    of_streams.add_argument(
        "--unconsumed", action="store_true", help="also what a consumer still needs; it gets a gap event instead"
    )
    of_streams.add_argument("--dry-run", action="store_true", help="only say how many")
    of_streams.set_defaults(run=_streams)


def _notifications(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        if arguments.dry_run:
            rows = database.engine.read(_OLD_NOTIFICATIONS, (int(arguments.older_than),), _TIMEOUT)
            screen.line(f"notifications: {rows[0]['n']} would be deleted")
            return 0
        deleted = 0
        while batch := prune_notifications(database.engine, arguments.older_than, _BATCH):
            deleted += batch
    screen.line(f"notifications: {deleted} deleted")
    return 0


def _streams(arguments: argparse.Namespace, screen: Screen) -> int:
    if arguments.older_than is None and arguments.count is None and not arguments.consumed:
        raise CommandError("prune by what? Say --older-than, --count or --consumed", 2)
    if arguments.consumed and (arguments.unconsumed or arguments.older_than is not None or arguments.count is not None):
        raise CommandError("--consumed stands alone: by age and count, what consumers need stays as it is", 2)
    retention = Retention(age=arguments.older_than, count=arguments.count, consumed=not arguments.unconsumed)
    with opened(arguments) as database:
        engine = database.engine
        known = [stream.name for stream in streams(engine)]
        for name in arguments.streams:
            if name not in known:
                raise CommandError(f"there is no stream {name} with events (known: {', '.join(known) or 'none'})")
        for name in arguments.streams or known:
            if arguments.dry_run:
                screen.line(f"{name}: {prunable(engine, name, retention)} would be deleted")
                continue
            deleted = 0
            while batch := prune_stream(engine, name, retention, _BATCH):
                deleted += batch
            screen.line(f"{name}: {deleted} deleted")
        if not known:
            screen.line("no streams have events")
    return 0
