"""`dead-letters`: what receivers could not take; shown, given to them again, or deleted."""

import argparse
import asyncio
import json
import os
from typing import Any

from peewee_honker.bus import EventBus
from peewee_honker.cli.imported import imported
from peewee_honker.cli.listings import add_json
from peewee_honker.cli.opening import database_path, opened
from peewee_honker.cli.screen import CommandError, Screen, event_value, local_time, plain
from peewee_honker.cli.values import number
from peewee_honker.events import DeadLetter, dead_letters
from peewee_honker.events.dead_letter import forget

__all__ = ["add_to"]


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("dead-letters", parents=[common], help="events that receivers could not take")
    parser.add_argument("--consumer", metavar="NAME", default=None, help="only this consumer's")
    add_json(parser)
    parser.set_defaults(run=_list)
    actions = parser.add_subparsers(metavar="ACTION", title="actions (default: list)")

    listing = actions.add_parser("list", parents=[common], help="all dead letters, oldest first")
    listing.add_argument("--consumer", metavar="NAME", default=argparse.SUPPRESS, help="only this consumer's")
    listing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as a JSON array")

    showing = actions.add_parser("show", parents=[common], help="one dead letter, with its traceback and payload")
    showing.add_argument("number", metavar="NUMBER", type=number)
    showing.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as a JSON object")
    showing.set_defaults(run=_show)

    replaying = actions.add_parser(
        "replay",
        parents=[common],
        help="give dead letters to the receiver that failed, again",
        description="Calls the application's receiver that failed, with the event, in a transaction, and deletes the dead "
        "letter when it has succeeded.",
    )
    _add_choice(replaying)
    replaying.add_argument(
        "--app",
        required=True,
        metavar="MODULE:BUS",
        help="the application's EventBus, its receivers connected, for instance shop.events:bus",
    )
    replaying.set_defaults(run=_replay)

    dropping = actions.add_parser("drop", parents=[common], help="delete dead letters")
    _add_choice(dropping)
    dropping.set_defaults(run=_drop)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("numbers", metavar="NUMBER", type=number, nargs="*", help="as `dead-letters list` shows them")
    parser.add_argument("--all", action="store_true", help="all of them, or with --consumer all of that one")
    parser.add_argument("--consumer", metavar="NAME", default=argparse.SUPPRESS, help="with --all: only this consumer's")


def _list(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        letters = dead_letters(database, arguments.consumer)
    if arguments.json:
        screen.json([_as_json(letter) for letter in letters])
        return 0
    rows = [
        {
            "number": letter.id,
            "died": local_time(letter.died_at),
            "consumer": letter.consumer,
            "stream": letter.stream,
            "event": letter.event.topic,
            "receiver": letter.receiver,
            "error": letter.error if len(letter.error) <= 60 else letter.error[:57] + "...",
        }
        for letter in letters
    ]
    screen.table(rows, "no dead letters")
    return 0


def _show(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        letter = _chosen(dead_letters(database), [arguments.number])[0]
    if arguments.json:
        screen.json(_as_json(letter))
        return 0
    event = letter.event
    facts = {
        "dead letter": str(letter.id),
        "event": event.topic,
        "event id": event.event_id,
        "stream": f"{letter.stream}, offset {letter.offset}",
        "published": f"{local_time(event.time)} by {event.origin or 'an unnamed process'}",
        "consumer": letter.consumer,
        "receiver": letter.receiver,
        "died": f"{local_time(letter.died_at)} after {letter.attempts} attempts",
        "error": letter.error,
    }
    for name, value in facts.items():
        screen.line(f"{screen.coloured(f'{name:<12}', 'bold')}  {plain(value)}")
    for title, text in (
        ("payload", json.dumps(event.payload, ensure_ascii=False, indent=2)),
        ("traceback", letter.traceback.rstrip()),
    ):
        screen.line("")
        screen.line(screen.coloured(title, "bold"))
        for line in text.splitlines():
            screen.line(plain(line))
    return 0


def _replay(arguments: argparse.Namespace, screen: Screen) -> int:
    path = database_path(arguments) if getattr(arguments, "database", None) else None
    bus = imported(arguments.app, EventBus, "--app", "shop.events:bus")
    if path is not None and os.path.realpath(path) != bus.database.engine.path:
        raise CommandError(f"{arguments.app} is a bus of {bus.database.engine.path}, not of {path}")
    if not os.path.exists(bus.database.engine.path):
        raise CommandError(f"the database of {arguments.app} does not exist: {bus.database.database}")
    try:
        letters = _chosen_by(arguments, dead_letters(bus.database))
        failed = asyncio.run(_replay_each(bus, letters, screen))
    finally:
        bus.database.close_engine()
    if failed:
        raise CommandError(f"{failed} of {len(letters)} could not be replayed, and stay dead letters")
    return 0


async def _replay_each(bus: EventBus, letters: list[DeadLetter], screen: Screen) -> int:
    """Replay as a bus that serves does: coroutines on this loop, functions in a thread. Gives how many have failed."""
    failed = 0
    bus.loop = asyncio.get_running_loop()
    try:
        for letter in letters:
            try:
                await asyncio.to_thread(_replay_one, bus, letter)
            except Exception as error:  # of the application's receiver, whatever it is
                failed += 1
                screen.line(f"{letter.id}: {screen.coloured('failed', 'red')}: {plain(repr(error))}")
            else:
                screen.line(f"{letter.id}: {screen.coloured('replayed', 'green')}")
    finally:
        bus.loop = None
    return failed


def _replay_one(bus: EventBus, letter: DeadLetter) -> None:
    try:
        bus.replay(letter)
    finally:
        if not bus.database.is_closed():
            bus.database.close()  # this thread's connection


def _drop(arguments: argparse.Namespace, screen: Screen) -> int:
    with opened(arguments) as database:
        for letter in _chosen_by(arguments, dead_letters(database)):
            forget(database, letter)
            screen.line(f"{letter.id}: dropped")
    return 0


def _chosen_by(arguments: argparse.Namespace, letters: list[DeadLetter]) -> list[DeadLetter]:
    if arguments.all == bool(arguments.numbers):
        raise CommandError("which dead letters? Say their numbers, or --all", 2)
    if arguments.all:
        return [letter for letter in letters if arguments.consumer in (None, letter.consumer)]
    return _chosen(letters, arguments.numbers)


def _chosen(letters: list[DeadLetter], numbers: list[int]) -> list[DeadLetter]:
    by_number = {letter.id: letter for letter in letters}
    missing = [str(wanted) for wanted in numbers if wanted not in by_number]
    if missing:
        raise CommandError(f"there is no dead letter {', '.join(missing)}")
    return [by_number[wanted] for wanted in dict.fromkeys(numbers)]


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "consumer": letter.consumer,
        "stream": letter.stream,
        "offset": letter.offset,
        "event": event_value(letter.event),
        "receiver": letter.receiver,
        "error": letter.error,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "died_at": letter.died_at,
    }
