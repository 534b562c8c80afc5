"""One database file for each tenant, opened by need."""

import contextlib
import logging
import os
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peewee_honker.database import HonkerDatabase
from peewee_honker.storage.binding import graph_database
from peewee_honker.storage.databases import create_tenant_database, tenant_database
from peewee_honker.storage.errors import StorageError
from peewee_honker.storage.modules import GraphModule

__all__ = [
    "NoTenantError",
    "TenantExistsError",
    "TenantIdError",
    "TenantInUseError",
    "Tenants",
    "TenantsFullError",
    "check_tenant_id",
]

logger = logging.getLogger("peewee_honker.storage")

_ID = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?", re.ASCII)
# Names that Windows keeps for devices, with any ending.
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))})
_PREFIX, _ENDING = "tenant-", ".db"


class TenantIdError(StorageError, ValueError):
    """A text is no tenant's id."""


class NoTenantError(StorageError, LookupError):
    """There is no tenant of that id."""


class TenantExistsError(StorageError):
    """There is a tenant of that id already."""


class TenantInUseError(StorageError):
    """A tenant is used right now, in this process."""


class TenantsFullError(StorageError):
    """As many tenants are used right now as may be open. The way out is to wait, or a larger `most_open`."""


def check_tenant_id(org_id: str) -> str:
    """Give an id back that names a file in every file system, and no other tenant's in any.

    1 to 64 of a-z, 0-9, `-` and `_`, with a letter or digit at both ends: a UUID is one. Raises TenantIdError for all else:
    capitals (which some file systems do not tell apart), other alphabets' letters, dots and slashes, names that Windows
    keeps for devices.
    """
    if not _is_id(org_id):
        raise TenantIdError(
            f"{org_id!r:.100} is no tenant's id: 1 to 64 of a-z, 0-9, '-' and '_', with a letter or digit at both ends"
        )
    return org_id


def _is_id(org_id: object) -> bool:
    return isinstance(org_id, str) and _ID.fullmatch(org_id) is not None and org_id not in _RESERVED


@dataclass(slots=True)
class _Open:
    database: HonkerDatabase
    users: int = 0
    last_used: float = 0.0


class Tenants:
    """The tenants of a directory: `tenant-{org_id}.db` each.

        tenants = Tenants("data/", models=[Order])
        tenants.create("acme")
        with tenants.use("acme"):
            Order.create(...)                  # class Order(ContextModel): class Meta: database = tenant_database

    Arguments:
        directory: is made if it is missing.
        models: the application's own, whose database is `tenant_database`; their tables are made with a tenant.
        modules: graph types that every tenant has.
        provision: is given the database of a new tenant, before the tenant is there; for instance
            `lambda db: migrate(db, "migrations")`. What it raises leaves no tenant.
        most_open: how many files may be open at a time. The one that was used least recently is closed for another; one
            that is used is never closed.
        idle: seconds after which a file that is not used is closed, when the tenants are used next.
        timeout: seconds that `use` waits when all open ones are used. In a program with an event loop, where who waits holds
            up the others, 0, and `most_open` above the number of tasks that use one at a time.
        options: of each HonkerDatabase.

    What is in use is of the context: of a thread, or of an asyncio task. `use` may be nested, also for another tenant: the
    innermost counts. A query runs on the tenant in whose `use` it was made; a row is saved to the tenant that it was read
    from. For any thread; `close()` closes all files.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        models: Iterable[type[Any]] = (),
        modules: Iterable[GraphModule] = (),
        provision: Callable[[HonkerDatabase], object] | None = None,
        most_open: int = 100,
        idle: float = 300.0,
        timeout: float = 5.0,
        **options: Any,
    ) -> None:
        if most_open < 1:
            raise ValueError("one tenant at least may be open")
        self.directory = Path(directory).absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.models, self.modules = tuple(models), tuple(modules)
        self._provision_more = provision
        self.most_open, self.idle, self.timeout = most_open, idle, timeout
        self._options = options
        self._open: OrderedDict[str, _Open] = OrderedDict()  # the least recently used first
        self._changing = threading.Condition()

    # Use

    @contextmanager
    def use(self, org_id: str) -> Iterator[HonkerDatabase]:
        """Use a tenant in this context until the end of the block. Gives its database, which stays open for so long.

        Raises TenantIdError, NoTenantError, and TenantsFullError.
        """
        found = self._take(check_tenant_id(org_id))
        try:
            with tenant_database.use(found.database), graph_database.use(found.database):
                yield found.database
        finally:
            self._give_back(found)

    def _take(self, org_id: str) -> _Open:
        deadline = time.monotonic() + self.timeout
        with self._changing:
            while True:
                found = self._open.get(org_id)
                if found is None and self._has_room():
                    if not self.path(org_id).is_file():
                        raise NoTenantError(f"there is no tenant {org_id}: create({org_id!r}) makes one")
                    found = self._open[org_id] = _Open(HonkerDatabase(f"{self.path(org_id)}", **self._options))
                if found is not None:
                    self._open.move_to_end(org_id)
                    found.users += 1
                    self._close_idle()
                    return found
                if not self._changing.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise TenantsFullError(f"all {len(self._open)} tenants that may be open are used: most_open=")

    def _has_room(self) -> bool:
        """Whether one more may be opened; closes the one that was used least recently for it."""
        if len(self._open) < self.most_open:
            return True
        unused = next((org_id for org_id, each in self._open.items() if not each.users), None)
        if unused is not None:
            self._close(unused)
        return unused is not None

    def _give_back(self, found: _Open) -> None:
        with self._changing:
            found.users -= 1
            found.last_used = time.monotonic()
            self._changing.notify()

    def _close_idle(self) -> None:
        limit = time.monotonic() - self.idle
        for org_id in [name for name, each in self._open.items() if not each.users and each.last_used < limit]:
            self._close(org_id)

    def _close(self, org_id: str) -> None:
        self._open.pop(org_id).database.close_engine()

    @property
    def open_ids(self) -> list[str]:
        """The tenants whose files are open, the least recently used first."""
        with self._changing:
            return list(self._open)

    def close(self) -> None:
        """Close all files. Raises TenantInUseError when one is used, and closes the others all the same."""
        with self._changing:
            used = [org_id for org_id, each in self._open.items() if each.users]
            for org_id in [name for name in self._open if name not in used]:
                self._close(org_id)
        if used:
            raise TenantInUseError(f"these tenants are used: {', '.join(used)}")

    def __enter__(self) -> "Tenants":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Which there are

    def path(self, org_id: str) -> Path:
        """The tenant's file, whether it is there or not. Raises TenantIdError."""
        return self.directory / f"{_PREFIX}{check_tenant_id(org_id)}{_ENDING}"

    def ids(self) -> list[str]:
        """The tenants that there are, sorted."""
        names = (
            path.name.removeprefix(_PREFIX).removesuffix(_ENDING) for path in self.directory.glob(f"{_PREFIX}*{_ENDING}")
        )
        return sorted(filter(_is_id, names))

    def __contains__(self, org_id: object) -> bool:
        return _is_id(org_id) and self.path(str(org_id)).is_file()

    def create(self, org_id: str) -> None:
        """Make a tenant, with all its tables: it is there with all of them, or not at all, whatever is killed.

        Raises TenantIdError, and TenantExistsError, also when another process makes it at the same time.
        """
        path = self.path(org_id)
        if path.exists():
            raise TenantExistsError(f"there is a tenant {org_id} already")
        made = self.directory / f".new-{uuid.uuid4().hex}{_ENDING}"
        try:
            self._provision(made)
            try:
                os.link(made, path)  # unlike a rename, it replaces nothing
            except FileExistsError:
                raise TenantExistsError(f"there is a tenant {org_id} already") from None
        finally:
            _delete(made)
        logger.info("tenant %s was made", org_id)

    def _provision(self, path: Path) -> None:
        database = create_tenant_database(path, models=self.models, modules=self.modules, **self._options)
        try:
            if self._provision_more is not None:
                with tenant_database.use(database), graph_database.use(database):
                    self._provision_more(database)
        finally:
            database.close_engine()  # which brings the WAL into the file

    def remove(self, org_id: str) -> None:
        """Remove a tenant's file for ever. Other processes must not use it any more.

        Raises NoTenantError, and TenantInUseError when this process uses it.
        """
        path = self.path(org_id)
        with self._changing:
            found = self._open.get(org_id)
            if found is not None:
                if found.users:
                    raise TenantInUseError(f"the tenant {org_id} is used")
                self._close(org_id)
            gone = self.directory / f".gone-{uuid.uuid4().hex}{_ENDING}"
            try:
                path.rename(gone)  # at once: it is there, or it is not
            except FileNotFoundError:
                raise NoTenantError(f"there is no tenant {org_id}") from None
            _delete(gone)
            _delete(path)
        logger.info("tenant %s was removed", org_id)

    def backup(self, org_id: str, path: str | os.PathLike[str]) -> None:
        """Copy a tenant's database, one state of it, while others read and write.

        Raises NoTenantError, and FileExistsError when there is such a file: nothing is overwritten.
        """
        wanted = Path(path).absolute()
        if wanted.exists():
            raise FileExistsError(f"{wanted} is there already")
        made = wanted.with_name(f".backup-{uuid.uuid4().hex}{_ENDING}")
        try:
            with self.use(org_id) as database:
                database.execute_sql("VACUUM INTO ?", (f"{made}",))
            os.link(made, wanted)
        finally:
            _delete(made)


def _delete(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{ending}").unlink()
