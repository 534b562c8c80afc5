"""Migrations of one database and of all tenants, by Peewee's own playhouse.migrations, with an event for each that ran."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from playhouse.migrations import Migration, MigrationError, Runner

from peewee_honker.capture.migration import kept
from peewee_honker.database import HonkerDatabase
from peewee_honker.events import Event, HonkerEventTarget
from peewee_honker.storage.tenants import Tenants

__all__ = ["STREAM", "MigrationError", "TenantMigration", "migrate", "migrate_tenants", "migration_status", "revert"]

logger = logging.getLogger("peewee_honker.storage")

STREAM = "migrations"
"""The durable stream of `migration.applied` and `migration.reverted`, whose id is the migration's name."""


def migration_status(database: HonkerDatabase, directory: str | os.PathLike[str]) -> list[Migration]:
    """The migrations of a directory and of the database's history, in order: (idx, name, path, applied), with the time of
    `applied` None for what is pending, and `path` None where the script is gone."""
    found: list[Migration] = _Runner(database, directory).status()
    return found


def migrate(
    database: HonkerDatabase, directory: str | os.PathLike[str], *, to: str | None = None, dry_run: bool = False
) -> list[str]:
    """Apply the pending migrations of a directory, in order. Gives their names.

    Arguments:
        directory: of scripts `0001_name.py` with `up(migrator, db)` and `down(migrator, db)`, see playhouse.migrations.
        to: the name of the last to apply; by default all.
        dry_run: apply none, tell which would be.

    Each is one transaction with its line of the history and its event: it is applied with them or not at all, whatever is
    killed, and is applied once, also when two processes do this at a time. Scripts that say `atomic = False` are not: what
    they do is up to them.

    Raises MigrationError for a script that is none or a name that there is not, and what a script raises; the
    migrations before it stay.
    """
    runner = _Runner(database, directory)
    rows = [row for row in runner.status() if row.path is not None]
    if to is not None and to not in {row.name for row in rows}:
        raise MigrationError(f"there is no migration {to} in {os.fspath(directory)}")
    wanted = []
    for row in rows:
        if row.applied is None:
            wanted.append(row.name)
        if row.name == to:
            break
    if dry_run:
        return wanted
    done: list[str] = []
    for name in wanted:
        try:
            done += runner.up(name)
        except _AppliedMeanwhile:
            logger.info("%s was applied by another process", name)
    return done


def revert(
    database: HonkerDatabase, directory: str | os.PathLike[str], *, to: str | None = None, dry_run: bool = False
) -> list[str]:
    """Revert the last migration, or all back to and with `to`. Gives their names, the last first.

    Raises MigrationError for a name that is not applied, and for a script that is gone or has no `down`.
    """
    runner = _Runner(database, directory)
    if dry_run:
        applied = [row.name for row in reversed(runner.status()) if row.applied is not None]
        if to is not None and to not in applied:
            raise MigrationError(f"{to} is not applied")
        return applied[: 1 if to is None else applied.index(to) + 1]
    names: list[str] = runner.down(to)
    return names


@dataclass(frozen=True, slots=True)
class TenantMigration:
    """What was done with a tenant: the names of the migrations, and what stopped them, if something did."""

    org_id: str
    names: list[str] = field(default_factory=list)
    error: Exception | None = None


def migrate_tenants(
    tenants: Tenants,
    directory: str | os.PathLike[str],
    *,
    to: str | None = None,
    dry_run: bool = False,
    fail_fast: bool = False,
) -> Iterator[TenantMigration]:
    """Migrate all tenants, one after another, and yield what was done with each.

    One that fails keeps the migrations before the one that failed, and does not stop the others, unless `fail_fast`. What
    was stopped goes on when it is run again: who has nothing pending is passed over quickly.
    """
    for org_id in tenants.ids():
        names: list[str] = []
        try:
            with tenants.use(org_id) as database:
                before = {row.name for row in migration_status(database, directory) if row.applied is not None}
                try:
                    names = migrate(database, directory, to=to, dry_run=dry_run)
                except Exception:
                    after = migration_status(database, directory)
                    names = [row.name for row in after if row.applied is not None and row.name not in before]
                    raise
        except Exception as error:  # of a script, or of a file that is none; told, and the others go on
            logger.info("tenant %s was not migrated: %r", org_id, error)
            yield TenantMigration(org_id, names, error)
            if fail_fast:
                return
        else:
            yield TenantMigration(org_id, names)


class _AppliedMeanwhile(Exception):  # noqa: N818 # a signal inside this module
    """Another process has applied the migration since the history was read."""


class _Runner(Runner):  # type: ignore[misc]  # Peewee's stubs leave the playhouse out
    """Peewee's runner, whose scripts tell of themselves."""

    def __init__(self, database: HonkerDatabase, directory: str | os.PathLike[str]) -> None:
        if not os.path.isdir(directory):
            raise MigrationError(f"{os.fspath(directory)} is no directory of migrations")
        super().__init__(database, os.fspath(directory))
        self._events = HonkerEventTarget(database, "durable", stream=STREAM)

    def migrations(self) -> list[Any]:
        runner = self

        class Script(Migration):  # type: ignore[misc]  # likewise
            __slots__ = ()

            def load(self) -> SimpleNamespace:
                return runner.told(self.name, super().load())

        return [Script(*row) for row in super().migrations()]

    def told(self, name: str, module: Any) -> SimpleNamespace:
        """A script's module, whose functions publish an event when they are done, in their transaction."""
        made = SimpleNamespace(atomic=getattr(module, "atomic", True))
        for direction, type_ in (("up", "migration.applied"), ("down", "migration.reverted")):
            function = getattr(module, direction, None)
            if function is not None:
                setattr(made, direction, self._telling(name, function, type_, direction == "up" and made.atomic))
        return made

    def _telling(self, name: str, function: Any, type_: str, looks: bool) -> Any:
        def run(migrator: Any, database: Any) -> None:
            if looks and self.History.select().where(self.History.name == name).exists():
                raise _AppliedMeanwhile(name)
            with kept(database):
                function(migrator, database)
            self._events.dispatch(Event(type_, name, {"name": name}))

        return run
