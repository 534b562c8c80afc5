"""What the command writes: lines, aligned tables, colours on a terminal, JSON elsewhere."""

import dataclasses
import datetime
import json
import os
import select
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TextIO

from peewee_honker.errors import PayloadError
from peewee_honker.events import Event

__all__ = ["Colour", "CommandError", "Screen", "event_value", "local_time", "plain", "size_text"]

Colour = Literal["dim", "red", "green", "yellow", "cyan", "bold"]

_CODES: dict[Colour, str] = {"dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1"}


class CommandError(Exception):
    """What the user is told in one line before the command ends with `code`: 1 for a failure, 2 for wrong usage."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Screen:
    """Where a command's answer goes: `out` (stdout unless said otherwise)."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self.is_terminal = self._out.isatty()
        self.has_colours = self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def coloured(self, text: str, colour: Colour) -> str:
        """The text, in a colour where there are colours."""
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if self.has_colours else text

    def line(self, text: str) -> None:
        """Write a line, for the reader to have now. Raises BrokenPipeError when there is no reader any more."""
        self._out.write(text + "\n")
        self._out.flush()

    def json(self, value: Any) -> None:
        """Write a value as indented JSON."""
        self.line(json.dumps(value, ensure_ascii=False, indent=2))

    def table(self, rows: Sequence[Mapping[str, Any]], nothing: str) -> None:
        """Write rows under their keys, numbers to the right; the text `nothing` when there are none."""
        if not rows:
            self.line(nothing)
            return
        names = list(rows[0])
        cells = [[_cell(row[name]) for name in names] for row in rows]
        widths = [max(len(name), *(len(cell[i]) for cell in cells)) for i, name in enumerate(names)]
        right = [all(isinstance(row[name], (int, float, _Right)) or row[name] is None for row in rows) for name in names]

        def aligned(texts: Iterable[str]) -> str:
            parts = (t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True))
            return "  ".join(parts).rstrip()

        self.line(self.coloured(aligned(names), "bold"))
        for cell in cells:
            self.line(aligned(cell))

    def reader_is_gone(self) -> bool:
        """Whether this writes to a pipe that nobody reads any more: known before the next line is written."""
        try:
            descriptor = self._out.fileno()
            if not hasattr(select, "poll") or not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
                return False
        except (OSError, ValueError):
            return False
        poll = select.poll()
        poll.register(descriptor, 0)  # errors are told of unasked
        return any(happened & (select.POLLERR | select.POLLHUP) for _, happened in poll.poll(0))


class _Right(str):
    """A text that is aligned as a number is."""

    __slots__ = ()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(value) if isinstance(value, str) else f"{value:,}"


def plain(text: str) -> str:
    """The text with what would steer a terminal, or break the line, written out as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def event_value(event: Event) -> dict[str, Any]:
    """An event as a JSON object, whatever its size. A payload that has no form in JSON (a NaN, which Honker takes) is given
    as text."""
    try:
        text = event.to_json(max_bytes=sys.maxsize)
    except PayloadError:
        text = dataclasses.replace(event, payload=json.dumps(event.payload), changes=None).to_json(max_bytes=sys.maxsize)
    value: dict[str, Any] = json.loads(text)
    return value


def size_text(size: int) -> str:
    """So many bytes for a reader: `17 B`, `1.5 KiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return _Right(f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}")
        value /= 1024
    return _Right(f"{value:.1f} TiB")


def local_time(seconds: float | None, timespec: str = "seconds") -> str | None:
    """Seconds since 1970 as local date and time, as they are where there is no such year; None stays None."""
    if seconds is None:
        return None
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).astimezone()
    except (ValueError, OverflowError, OSError):  # of a program that counts in milliseconds, for instance
        return f"{seconds:.0f}"
    return moment.replace(tzinfo=None).isoformat(" ", timespec)
