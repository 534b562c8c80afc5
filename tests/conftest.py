"""A file for each test, and databases that are closed at its end."""

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from peewee_honker import HonkerDatabase
from tests.support.laws import examples
from tests.support.nats import nats_server, nats_url, new_nats_server  # noqa: F401  (fixtures)
from tests.support.postgres import open_postgres, pg, postgres_server, postgres_url  # noqa: F401  (fixtures)
from tests.support.redis import redis_server, redis_url  # noqa: F401  (fixtures)

settings.register_profile("project", max_examples=examples(100), deadline=None)
settings.load_profile("project")


# What a shell starts in the background ignores Ctrl-C, and so would all processes that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported stays: fixtures that collect garbage after each test need not walk over it again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Any:
    """What was logged may hold half a surrogate pair, with which a worker could not send its report."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the test's database lies."""
    return str(tmp_path / "test.db")


@pytest.fixture
def open_database(path: str) -> Iterator[Callable[..., HonkerDatabase]]:
    """`open_database()` gives a HonkerDatabase on the test's file; all are closed with their engine at the end."""
    made: list[HonkerDatabase] = []

    def make(database: Any = path, **options: Any) -> HonkerDatabase:
        made.append(HonkerDatabase(database, **options))
        return made[-1]

    yield make
    for database in made:
        with contextlib.suppress(Exception):
            database.close_engine()
    gc.collect()


@pytest.fixture
def db(open_database: Callable[..., HonkerDatabase]) -> HonkerDatabase:
    """A HonkerDatabase on the test's file."""
    return open_database()
