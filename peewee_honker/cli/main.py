"""The command's parser, and what every command has in common: errors, signals, exit codes."""

import argparse
import importlib
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import peewee

import peewee_honker
from peewee_honker.cli.opening import VARIABLE
from peewee_honker.cli.screen import CommandError, Screen, plain
from peewee_honker.errors import HonkerError

__all__ = ["main"]

_NAME = "peewee-honker"
_COMMANDS = {
    "tail": "tail",
    "publish": "publish",
    "streams": "listings",
    "queues": "listings",
    "consumers": "listings",
    "dead-letters": "deadletters",
    "prune": "prune",
    "relay": "relay",
    "migrate": "migrate",
    "ops": "ops",
    "doctor": "doctor",
}
"""Which module of this package has a command."""
_TERMINATED = 128 + signal.SIGTERM
_EPILOG = """exit codes: 0 done (also when the reader of a pipe has had enough), 1 failed or, for doctor, something is wrong,
2 wrong usage, 130 ended by Ctrl-C, 143 by SIGTERM"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default the process's. Gives the exit code.

    For a process of its own: it looks into the database file, handles SIGTERM, and closes the file's engine.
    """
    logging.basicConfig(format=f"{_NAME}: %(message)s", level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # whatever the terminal can show
    signal.signal(signal.SIGTERM, _terminate)
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        for text in given:
            if text.encode(errors="replace").decode() != text:  # no name in a database is of such bytes
                raise CommandError(f"{text!r} is not UTF-8", 2)
        parsed = _parser(_command(given)).parse_args(given)
        done: int = parsed.run(parsed, Screen())
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except CommandError as error:
        return _fail(str(error), error.code)
    except (HonkerError, peewee.PeeweeException, sqlite3.Error, OSError, RuntimeError) as error:  # Honker's are bare
        code = _signalled(error)
        return _fail(str(error) or type(error).__name__, 1) if code is None else code
    return done


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(_TERMINATED)


def _signalled(error: BaseException) -> int | None:
    """The exit code of the signal while whose handling this was raised, if any: what is broken off may fail in a way of its
    own, as `threading.Condition.wait` does with "release unlocked lock"."""
    context = error.__context__
    if isinstance(context, SystemExit) and context.code == _TERMINATED:
        return _TERMINATED
    if isinstance(context, KeyboardInterrupt):
        return 130
    return None if context is None else _signalled(context)


def _forget_stdout() -> None:
    """Let the interpreter's last flush have somewhere to write to."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"{_NAME}: {plain(message)}\n")
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{_NAME}: {plain(message)} (see {self.prog} --help)\n")
        raise SystemExit(2)


def _command(arguments: Sequence[str]) -> str | None:
    """The command that is asked for, if it is one."""
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-d", "--database"):
            next(rest, None)
        elif not argument.startswith("-"):
            return argument if argument in _COMMANDS else None
    return None


def _parser(command: str | None) -> argparse.ArgumentParser:
    """The parser: of one command alone where it is known, since the modules of all take long to import."""
    common = _Parser(add_help=False)
    common.add_argument(
        "-d", "--database", metavar="FILE", default=argparse.SUPPRESS, help=f"the database file (default: ${VARIABLE})"
    )
    parser = _Parser(
        prog=_NAME,
        parents=[common],
        description="Looks into a database file of Honker's and peewee_honker's, and works on its events.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"{_NAME} {peewee_honker.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for module in dict.fromkeys([_COMMANDS[command]] if command else _COMMANDS.values()):
        importlib.import_module(f"peewee_honker.cli.{module}").add_to(commands, common)
    return parser
