"""`migrate`: Peewee's migrations, for one database file or for all tenants of a directory."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from peewee_honker.cli.opening import VARIABLE, opened
from peewee_honker.cli.screen import CommandError, Screen
from peewee_honker.database import HonkerDatabase

__all__ = ["add_to"]


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "migrate",
        help="apply and revert migrations, of one database or of all tenants",
        description="Scripts 0001_name.py with up(migrator, db) and down(migrator, db), as of playhouse.migrations.",
    )
    actions = parser.add_subparsers(metavar="WHAT", title="what", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--directory", default="migrations", metavar="DIR", help="of the scripts (default: migrations)")
    shared.add_argument("--tenants", metavar="DIR", help="all tenants of a directory, instead of one database")

    status = actions.add_parser("status", parents=[common, shared], help="which are applied, and which pending")
    status.set_defaults(run=_status)

    up = actions.add_parser("up", parents=[common, shared], help="apply what is pending")
    up.add_argument("--to", metavar="NAME", help="the last to apply; default: all")
    up.add_argument("--dry-run", action="store_true", help="only say which")
    up.add_argument("--create", action="store_true", help="make the database file if it is missing")
    up.add_argument("--fail-fast", action="store_true", help="of tenants: stop at the first that fails")
    up.set_defaults(run=_up)

    down = actions.add_parser("down", parents=[common, shared], help="revert the last one")
    down.add_argument("--to", metavar="NAME", help="all back to this one, and this one too")
    down.add_argument("--dry-run", action="store_true", help="only say which")
    down.set_defaults(run=_down)

    create = actions.add_parser("create", parents=[shared], help="write an empty script with the next number")
    create.add_argument("name", metavar="NAME")
    create.set_defaults(run=_create)


def _status(arguments: argparse.Namespace, screen: Screen) -> int:
    from peewee_honker.storage.migrations import migration_status

    rows = []
    for org_id, database in _databases(arguments):
        for row in migration_status(database, arguments.directory):
            when = "pending" if row.applied is None else f"{row.applied:%Y-%m-%d %H:%M}"
            told = {"migration": row.name, "applied": when if row.path else f"{when} (its script is gone)"}
            rows.append({"tenant": org_id, **told} if arguments.tenants else told)
    screen.table(rows, "no migrations")
    return 0


def _up(arguments: argparse.Namespace, screen: Screen) -> int:
    from peewee_honker.storage.migrations import migrate

    if arguments.tenants:
        return _up_tenants(arguments, screen)
    with _opened_or_made(arguments) as database:
        names = _scripts_errors(partial(migrate, database, arguments.directory, to=arguments.to, dry_run=arguments.dry_run))
    _tell(screen, "would be applied" if arguments.dry_run else "applied", names)
    return 0


def _down(arguments: argparse.Namespace, screen: Screen) -> int:
    from peewee_honker.storage.migrations import revert

    failed = False
    for org_id, database in _databases(arguments):
        try:
            names = _scripts_errors(
                partial(revert, database, arguments.directory, to=arguments.to, dry_run=arguments.dry_run)
            )
        except CommandError as error:
            if org_id is None:
                raise
            failed = True
            screen.line(f"{org_id}: {screen.coloured(str(error), 'red')}")
            continue
        _tell(screen, "would be reverted" if arguments.dry_run else "reverted", names, org_id)
    return int(failed)


def _create(arguments: argparse.Namespace, screen: Screen) -> int:
    from playhouse.migrations import Runner

    screen.line(Runner(HonkerDatabase(None), arguments.directory).create(arguments.name))
    return 0


def _up_tenants(arguments: argparse.Namespace, screen: Screen) -> int:
    from peewee_honker.storage.migrations import migrate_tenants

    done, failed, count = 0, 0, 0
    with _tenants(arguments) as tenants, _progress(screen, len(tenants.ids())) as advance:
        for result in migrate_tenants(
            tenants, arguments.directory, to=arguments.to, dry_run=arguments.dry_run, fail_fast=arguments.fail_fast
        ):
            count += 1
            advance()
            if result.names:
                _tell(screen, "would be applied" if arguments.dry_run else "applied", result.names, result.org_id)
            if result.error is not None:
                failed += 1
                told = f"{type(result.error).__name__}: {result.error}"
                screen.line(f"{result.org_id}: {screen.coloured(told, 'red')}")
            elif result.names:
                done += 1
    what = "with pending migrations" if arguments.dry_run else "migrated"
    screen.line(f"{count} tenants: {done} {what}, {count - done - failed} up to date, {failed} failed")
    return 1 if failed else 0


@contextlib.contextmanager
def _progress(screen: Screen, total: int) -> Iterator[Callable[[], None]]:
    """A bar where there is a terminal and rich is installed."""
    if screen.is_terminal:
        with contextlib.suppress(ImportError):
            from rich.progress import Progress

            with Progress(transient=True) as progress:
                task = progress.add_task("tenants", total=total)
                yield lambda: progress.advance(task)
            return
    yield lambda: None


@contextlib.contextmanager
def _tenants(arguments: argparse.Namespace) -> Iterator[Any]:
    from peewee_honker.storage.tenants import Tenants

    if getattr(arguments, "database", None):
        raise CommandError("--database or --tenants: say one of them", 2)
    if not os.path.isdir(arguments.tenants):
        raise CommandError(f"{arguments.tenants} is no directory")
    with Tenants(arguments.tenants, most_open=1) as tenants:
        yield tenants


def _databases(arguments: argparse.Namespace) -> Iterator[tuple[str | None, HonkerDatabase]]:
    """The databases that a command is about, one after another, each open for as long as it is worked on."""
    if arguments.tenants:
        with _tenants(arguments) as tenants:
            for org_id in tenants.ids():
                with tenants.use(org_id) as database:
                    yield org_id, database
    else:
        with opened(arguments) as database:
            yield None, database


@contextlib.contextmanager
def _opened_or_made(arguments: argparse.Namespace) -> Iterator[HonkerDatabase]:
    path = getattr(arguments, "database", None) or os.environ.get(VARIABLE)
    if arguments.create and path and not os.path.exists(path):
        database = HonkerDatabase(path)
        try:
            yield database
        finally:
            database.close_engine()
    else:
        with opened(arguments) as database:
            yield database


def _scripts_errors(work: Callable[[], list[str]]) -> list[str]:
    """What the work gives; an error of a script in one line, whatever its class."""
    try:
        return work()
    except Exception as error:
        raise CommandError(f"{type(error).__name__}: {error}") from error


def _tell(screen: Screen, what: str, names: list[str], org_id: str | None = None) -> None:
    head = "" if org_id is None else f"{org_id}: "
    for name in names:
        screen.line(f"{head}{what}: {name}")
    if not names and org_id is None:
        screen.line("nothing to do")
