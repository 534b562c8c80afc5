"""`relay`: a durable stream forwarded to another engine."""

import argparse
import json
import time
from typing import Any

from peewee_honker.cli.opening import opened
from peewee_honker.cli.screen import CommandError, Screen, plain
from peewee_honker.cli.values import duration, number, position
from peewee_honker.relay import Relay
from peewee_honker.servers.connect import connect

__all__ = ["add_to"]

_LOOK = 0.25  # seconds between two looks at how it goes
_TELL = 2.0  # seconds between two lines, unless something has changed but the lag


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "relay",
        parents=[common],
        help="forward a durable stream to another engine",
        description="Forwards the events of a durable stream, in order, to a stream of another engine, from where it "
        "stopped the last time. Goes on until Ctrl-C, also while the other engine is away. Writes how it goes: lines on a "
        "terminal, one JSON object a line elsewhere.",
    )
    parser.add_argument("stream", metavar="STREAM", help="the stream's name")
    parser.add_argument(
        "url", metavar="URL", help="redis://..., nats://..., postgresql://... or honker:///other.db; see connect()"
    )
    parser.add_argument("--to", metavar="NAME", help="the stream's name there (default: the same)")
    parser.add_argument("--name", metavar="NAME", help="the relay's name, its consumer's (default: relay:STREAM)")
    parser.add_argument(
        "--from",
        dest="position",
        type=position,
        default="beginning",
        metavar="POSITION",
        help="where a new relay begins: beginning (default), now, an offset, or an ISO 8601 time",
    )
    parser.add_argument("--batch", type=number, default=500, metavar="N", help="events that are sent at a time (500)")
    parser.add_argument("--once", action="store_true", help="end when all was forwarded that is in the stream at the start")
    parser.add_argument(
        "--timeout", type=duration, metavar="DURATION", help="with --once: fail when that takes longer (60s, 10m)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, screen: Screen) -> int:
    if arguments.timeout is not None and not arguments.once:
        raise CommandError("--timeout is for --once", 2)
    with opened(arguments) as database:
        try:
            target = connect(arguments.url, "durable", stream=arguments.to or arguments.stream)
            relay = Relay(
                database,
                arguments.stream,
                target,
                name=arguments.name,
                start_at=arguments.position,
                batch=arguments.batch,
            )
        except (ValueError, ImportError) as error:
            raise CommandError(str(error), 2) from None
        with target, relay:
            if screen.is_terminal:
                there = plain(f"{arguments.to or arguments.stream} of {_without_secrets(arguments.url)}")
                screen.line(screen.coloured(f"{plain(arguments.stream)} to {there}; Ctrl-C ends", "dim"))
            if arguments.once:
                return _once(relay, arguments.timeout, screen)
            _follow(relay, screen)
    return 0


def _once(relay: Relay, timeout: float | None, screen: Screen) -> int:
    if not relay.catch_up(float("inf") if timeout is None else timeout):
        raise CommandError(f"{relay.lag:,} events wait to be forwarded: {_why(relay) or 'the time is over'}")
    _tell(relay, screen)
    return 0


def _follow(relay: Relay, screen: Screen) -> None:
    """Tell how it goes whenever that changes, until nobody reads it any more."""
    told: tuple[Any, ...] | None = None
    told_at = 0.0
    while not screen.reader_is_gone():
        state = (relay.is_active, _why(relay), relay.missed)
        now = time.monotonic()
        if told is None or state != told[:3] or (now - told_at >= _TELL and relay.lag != told[3]):
            told, told_at = (*state, _tell(relay, screen)), now
        time.sleep(_LOOK)


def _tell(relay: Relay, screen: Screen) -> int:
    """Write how it goes; gives the lag."""
    lag, why = relay.lag, _why(relay)
    if not screen.is_terminal:
        screen.line(json.dumps({"active": relay.is_active, "lag": lag, "missed": relay.missed, "error": why}))
        return lag
    missed = f", {relay.missed:,} missed: they were pruned" if relay.missed else ""
    if why:
        screen.line(screen.coloured(f"{lag:,} events wait{missed}: {plain(why)}", "yellow"))
    elif not relay.is_active:
        screen.line(f"{lag:,} events wait{missed}; another process may be forwarding them")
    else:
        screen.line(f"{lag:,} events wait{missed}" if lag else f"all is forwarded{missed}")
    return lag


def _why(relay: Relay) -> str | None:
    error = relay.error
    return None if error is None else f"{type(error).__name__}: {str(error).strip()}"


def _without_secrets(url: str) -> str:
    """Where a URL leads: without users, of which NATS has tokens in their place, passwords, and what follows a `?`."""
    scheme, _, rest = url.partition("://")
    if scheme == "honker":
        return url  # a file, which may have any name
    places = [each.rpartition("@")[2].removeprefix(f"{scheme}://").partition("?")[0] for each in rest.split(",")]
    return f"{scheme}://{','.join(places)}"
