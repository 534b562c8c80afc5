"""`publish`: one event, as an application would send it."""

import argparse
import sys
from typing import Any

from peewee_honker.cli.opening import opened
from peewee_honker.cli.screen import CommandError, Screen
from peewee_honker.cli.values import json_value
from peewee_honker.errors import TopicError
from peewee_honker.events import Event, HonkerEventTarget
from peewee_honker.events.composite import new_origin
from peewee_honker.events.event import check_type

__all__ = ["add_to"]


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "publish",
        parents=[common],
        help="publish an event",
        description="Publishes one event, commits it, and writes its event id.",
    )
    parser.add_argument("type", metavar="TYPE", help="for instance order.saved")
    parser.add_argument(
        "id", metavar="ID", nargs="?", default="", help="what it is about, for instance a row's key ('' for none)"
    )
    parser.add_argument("payload", metavar="PAYLOAD", nargs="?", default="null", help="JSON, or - for JSON from stdin")
    parser.add_argument("--durable", action="store_true", help="keep it in a stream, for consumers that are not there now")
    parser.add_argument("--stream", metavar="NAME", help="the stream, with --durable (default: events)")
    parser.add_argument("--prefix", default="", help="of the channel, where the application's target has one")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, screen: Screen) -> int:
    if arguments.stream and not arguments.durable:
        raise CommandError("--stream is for durable events: say --durable, too", 2)
    if arguments.durable and arguments.prefix:
        raise CommandError("a stream has no channels: leave --prefix out", 2)
    try:
        check_type(arguments.type)
        payload = json_value(sys.stdin.read() if arguments.payload == "-" else arguments.payload)
    except (TopicError, argparse.ArgumentTypeError) as error:
        raise CommandError(str(error), 2) from None
    event = Event(arguments.type, arguments.id, payload, origin=new_origin())
    with opened(arguments) as database:
        if arguments.durable:
            target = HonkerEventTarget(database, "durable", stream=arguments.stream or "events")
        else:
            target = HonkerEventTarget(database, prefix=arguments.prefix)
        target.dispatch(event)
    screen.line(event.event_id)
    return 0
