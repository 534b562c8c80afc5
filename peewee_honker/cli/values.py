"""What users write on the command line, read: positions, durations, JSON."""

import argparse
import datetime
import json
import math
import re
from typing import Any

from peewee_honker.events import Position
from peewee_honker.events.stream import check_position

__all__ = ["duration", "json_value", "number", "position"]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def position(text: str) -> Position:
    """`now`, `beginning`, an offset, or an ISO 8601 time (local unless it has a zone)."""
    if text == "now":
        return "now"
    if text == "beginning":
        return "beginning"
    try:
        if text.isdecimal():
            check_position(int(text))
            return int(text)
        moment = datetime.datetime.fromisoformat(text)
        moment.timestamp()  # fails for what is too far away
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no position: say now, beginning, an offset, or a time such as 2026-01-31T12:00"
        ) from None
    return moment


def duration(text: str) -> float:
    """Seconds: `90`, `90s`, `10m`, `2h`, `7d`."""
    match = _DURATION.fullmatch(text)
    seconds = math.inf if match is None else float(match[1]) * _UNITS[match[2]]
    if match is None or not math.isfinite(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: say 90s, 10m, 2h or 7d")
    return seconds


def number(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def json_value(text: str) -> Any:
    """The value that a JSON text is."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"the payload is not JSON: {error}") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")
