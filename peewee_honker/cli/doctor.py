"""`doctor`: is all well with this installation and this file?"""

import argparse
import importlib.metadata
import os
import platform
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import peewee

from peewee_honker.cli.latency import measure
from peewee_honker.cli.opening import opened
from peewee_honker.cli.screen import Colour, CommandError, Screen, plain, size_text
from peewee_honker.database import HonkerDatabase
from peewee_honker.errors import HonkerError
from peewee_honker.events import dead_letters
from peewee_honker.events.wake import WITH_WATCH, Waker

__all__ = ["Finding", "add_to"]

_PACKAGES = ("peewee-honker", "honker", "peewee", "marshmallow", "blinker")
_PRAGMAS = ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint", "page_size", "cache_size", "mmap_size")
_SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
_FIXED = (3, 51, 3)  # the first SQLite without the corruption at the reset of a WAL
_LARGE_WAL = 256 * 1024 * 1024
_SLOW = 50.0  # milliseconds
_TIMEOUT = 5.0

_COLOURS: dict[str, Colour] = {"ok": "green", "warning": "yellow", "wrong": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was seen, and what that means; `advice` says the way out."""

    subject: str
    value: str
    state: Literal["ok", "warning", "wrong"] = "ok"
    advice: str = ""


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="is all well with this installation and this file?",
        description="Looks at the versions, the SQLite libraries, the file's settings and sizes, measures how soon a commit "
        "is heard, and checks the file's integrity, which reads all of it. Exit code 1 when something is wrong, 0 also with "
        "warnings.",
    )
    parser.add_argument("--json", action="store_true", help="the findings as a JSON array")
    parser.add_argument(
        "--no-latency", action="store_true", help="do not measure the latency, for which notifications are written"
    )
    parser.add_argument("--no-integrity", action="store_true", help="do not read the whole file")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, screen: Screen) -> int:
    found: list[Finding] = []
    with opened(arguments) as database:
        checks: list[Callable[[HonkerDatabase], Iterator[Finding]]] = [_versions, _sqlite, _pragmas, _sizes, _watch]
        if not arguments.no_latency:
            checks.append(_latency)
        checks.append(_dead)
        if not arguments.no_integrity:
            checks.append(_integrity)
        for check in checks:
            for finding in _told(check, database):
                found.append(finding)
                if not arguments.json:
                    _show(finding, screen)
    wrong = sum(finding.state == "wrong" for finding in found)
    if arguments.json:
        screen.json([asdict(finding) for finding in found])
    else:
        warnings = sum(finding.state == "warning" for finding in found)
        screen.line(f"{wrong} wrong, {warnings} warning{'' if warnings == 1 else 's'}")
    return 1 if wrong else 0


def _told(check: Callable[[HonkerDatabase], Iterator[Finding]], database: HonkerDatabase) -> Iterator[Finding]:
    """The findings of a check; that it failed is one, too."""
    try:
        yield from check(database)
    except (RuntimeError, HonkerError, CommandError, OSError, sqlite3.Error, peewee.PeeweeException) as error:
        yield Finding(check.__name__.strip("_"), str(error), "wrong", "this could not be looked at")


def _show(finding: Finding, screen: Screen) -> None:
    state = screen.coloured(f"{finding.state:<7}", _COLOURS[finding.state])
    screen.line(f"{state}  {finding.subject:<22}  {plain(finding.value)}")
    if finding.advice:
        screen.line(" " * 33 + screen.coloured(finding.advice, _COLOURS[finding.state]))


def _versions(_database: HonkerDatabase) -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()} ({sys.platform}, {platform.machine()})")
    for package in _PACKAGES:
        try:
            yield Finding(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            if package == "peewee-honker":
                yield Finding(package, "run from its source")
            else:
                yield Finding(package, "not installed", "wrong", f"pip install {package}")


def _sqlite(database: HonkerDatabase) -> Iterator[Finding]:
    row = database.engine.read("SELECT sqlite_version() AS version, sqlite_source_id() AS source", (), _TIMEOUT)[0]
    version, source = row["version"], row["source"]
    if tuple(int(part) for part in version.split(".")) < _FIXED:
        yield Finding(
            "SQLite of Honker",
            f"{version} ({source[:10]})",
            "warning",
            "before 3.51.3 a checkpoint while a WAL is reset can, rarely, corrupt the file: upgrade, and keep backups",
        )
    else:
        yield Finding("SQLite of Honker", f"{version} ({source[:10]})")
    own = sqlite3.connect(":memory:")
    try:
        source_of_python = own.execute("SELECT sqlite_source_id()").fetchone()[0]
    finally:
        own.close()
    same = "the same build" if source_of_python == source else "another library"
    yield Finding("SQLite of Python", f"{sqlite3.sqlite_version} ({source_of_python[:10]}), {same}")
    libraries = _libraries()
    if libraries is not None:
        yield Finding("SQLite libraries", ", ".join(libraries) or "built into the extension modules")


def _libraries() -> list[str] | None:
    """The SQLite libraries that this process has loaded; None where the system does not tell."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {match[0] for line in maps if (match := re.search(r"/\S*sqlite3[^/\s]*\.so[.\d]*$", line.rstrip()))}
    except OSError:
        return None
    return sorted(path for path in paths if "_sqlite3" not in path)


def _pragmas(database: HonkerDatabase) -> Iterator[Finding]:
    for name in _PRAGMAS:
        rows = database.engine.read(f"PRAGMA {name}", (), _TIMEOUT)
        value: Any = next(iter(rows[0].values())) if rows else "off"
        if name == "journal_mode" and value != "wal":
            yield Finding(name, str(value), "wrong", "Honker's readers and watchers need WAL")
        elif name == "synchronous":
            state: Literal["ok", "warning"] = "warning" if value == 0 else "ok"
            yield Finding(
                name, _SYNCHRONOUS.get(value, str(value)), state, "a crash can corrupt the file" if value == 0 else ""
            )
        else:
            yield Finding(name, str(value))


def _sizes(database: HonkerDatabase) -> Iterator[Finding]:
    path = database.engine.path
    free = database.engine.read(
        "SELECT freelist_count * page_size AS n FROM pragma_freelist_count, pragma_page_size", (), 5.0
    )
    yield Finding("file", f"{path}, {size_text(os.path.getsize(path))}, of which {size_text(free[0]['n'])} free")
    wal = os.path.getsize(path + "-wal") if os.path.exists(path + "-wal") else 0
    large = wal > _LARGE_WAL
    yield Finding(
        "WAL",
        size_text(wal),
        "warning" if large else "ok",
        "a reader that never ends keeps it from being emptied: look for a transaction left open" if large else "",
    )


def _watch(database: HonkerDatabase) -> Iterator[Finding]:
    if not sys.platform.startswith("linux"):
        yield Finding("waking", "looks for commits every millisecond: inotify is Linux's")
        return
    waker = Waker(database.engine.path)
    try:
        watching = waker.interval == WITH_WATCH
    finally:
        waker.close()
    if watching:
        yield Finding("waking", "inotify on the WAL")
    else:
        yield Finding(
            "waking",
            "looks for commits every millisecond",
            "warning",
            "inotify was refused: see fs.inotify.max_user_instances",
        )


def _latency(database: HonkerDatabase) -> Iterator[Finding]:
    latency = measure(database)
    value = f"median {latency.median:.2f} ms, worst of {latency.count} {latency.worst:.2f} ms, the commit included"
    if latency.median > _SLOW:
        yield Finding("commit to listener", value, "warning", "the machine is busy, or another process keeps the write lock")
    else:
        yield Finding("commit to listener", value)


def _dead(database: HonkerDatabase) -> Iterator[Finding]:
    letters = len(dead_letters(database))
    advice = "receivers have failed: see peewee-honker dead-letters" if letters else ""
    yield Finding("dead letters", str(letters), "warning" if letters else "ok", advice)


def _integrity(database: HonkerDatabase) -> Iterator[Finding]:
    rows = database.engine.read("PRAGMA integrity_check(10)", (), 60.0)
    told = [str(next(iter(row.values()))) for row in rows]
    if told == ["ok"]:
        yield Finding("integrity", "ok")
    else:
        for problem in told:
            yield Finding("integrity", problem, "wrong", "stop writing, copy file and WAL, and restore a backup or .recover")
