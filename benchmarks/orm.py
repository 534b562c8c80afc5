"""HonkerDatabase beside SqliteDatabase: the same Peewee calls, on two files, taking turns in one process.

Run `python benchmarks/orm.py`; benchmarks/README.md tells what is measured and how to read it.
"""

import argparse
import gc
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import peewee

PRAGMAS = {
    "journal_mode": "wal",
    "foreign_keys": 1,
    "synchronous": 1,
    "cache_size": -32000,
    "temp_store": 2,
    "wal_autocheckpoint": 10000,
}
AUTHORS = 1_000
BOOKS = 10_000
MANY = 1_000
SINGLE = 300
GETS = 300
WARM_UPS = 2
ROUNDS, QUICK_ROUNDS = 61, 7
IMPORT_ROUNDS, QUICK_IMPORT_ROUNDS = 15, 5
MEMORY_ROUNDS = 3

IMPORT_BASE = "import peewee, honker, blinker"
IMPORT_PACKAGE = "import peewee_honker"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two databases that are compared, with models of its own."""

    name: str
    database: Any
    author: Any
    book: Any
    entry: Any


@dataclass(frozen=True, slots=True)
class Operation:
    """What is timed: `run(side, prepare(side))`, of which `run` alone counts; it does `times` operations (or rows)."""

    name: str
    limit: float
    times: int
    run: Callable[[Side, Any], object]
    prepare: Callable[[Side], Any] = lambda _side: None


@dataclass(frozen=True, slots=True)
class Result:
    """Medians of the samples; `ratio` is the median of the ratios of neighbouring samples, between its quartiles."""

    name: str
    unit: str
    sqlite: float
    honker: float
    ratio: float
    quartiles: tuple[float, float]
    limit: float | None

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        return "pass" if self.ratio <= self.limit else "OVER"


# The two sides


def make_side(name: str, database: Any) -> Side:
    class Author(peewee.Model):
        name = peewee.CharField()
        city = peewee.CharField()

    class Book(peewee.Model):
        author = peewee.ForeignKeyField(Author, backref="books")
        title = peewee.CharField()
        pages = peewee.IntegerField()
        price = peewee.FloatField()
        published = peewee.DateTimeField()

    class Entry(peewee.Model):
        title = peewee.CharField(index=True)
        pages = peewee.IntegerField()
        price = peewee.FloatField()
        published = peewee.DateTimeField()

    database.bind([Author, Book, Entry])
    database.connect()
    database.create_tables([Author, Book, Entry])
    with database.atomic():
        insert_all(Author, [{"name": f"Author {n}", "city": f"City {n % 50}"} for n in range(AUTHORS)])
        insert_all(Book, [{"author": n % AUTHORS + 1, **entry_row(n)} for n in range(BOOKS)])
    return Side(name, database, Author, Book, Entry)


def insert_all(model: Any, rows: list[dict[str, Any]]) -> None:
    for batch in peewee.chunked(rows, MANY):
        model.insert_many(batch).execute()


def entry_row(number: int) -> dict[str, Any]:
    published = datetime.fromisoformat("2020-01-01") + timedelta(hours=number)
    return {"title": f"Title of {number}", "pages": 100 + number % 400, "price": number / 4, "published": published}


def open_stock(path: Path) -> Any:
    return peewee.SqliteDatabase(str(path), pragmas=PRAGMAS)


def open_honker(path: Path) -> Any:
    # Here and not above: `--noise` needs neither the package nor Honker.
    from peewee_honker import HonkerDatabase

    return HonkerDatabase(str(path), pragmas=PRAGMAS)


@contextmanager
def two_sides(noise: bool) -> Iterator[tuple[Side, Side]]:
    """Stock and Honker, each on a file of its own; with `noise`, stock twice."""
    with tempfile.TemporaryDirectory(prefix="orm-bench-") as folder:
        stock = make_side("stock", open_stock(Path(folder, "stock.db")))
        other_path = Path(folder, "honker.db")
        other = make_side("honker", open_stock(other_path) if noise else open_honker(other_path))
        try:
            yield stock, other
        finally:
            stock.database.close()
            other.database.close()


# The operations


def no_entries(side: Side) -> list[dict[str, Any]]:
    """An empty table, and the rows to put into it."""
    side.entry.delete().execute()
    return [entry_row(number) for number in range(MANY)]


def no_entries_but_instances(side: Side) -> list[Any]:
    return [side.entry(**row) for row in no_entries(side)]


def full_table(side: Side) -> None:
    """As many entries as books, with the keys from 1."""
    if side.entry.select().count() != BOOKS:
        book, entry = side.book, side.entry
        entry.delete().execute()
        columns = ("id", "title", "pages", "price", "published")
        query = book.select(*[getattr(book, column) for column in columns])
        entry.insert_from(query, [getattr(entry, column) for column in columns]).execute()


def some_entries(side: Side) -> list[Any]:
    full_table(side)
    return list(side.entry.select().limit(SINGLE))


def create_in_one_transaction(side: Side, rows: list[dict[str, Any]]) -> None:
    with side.database.atomic():
        for row in rows:
            side.entry.create(**row)


def create_singly(side: Side, rows: list[dict[str, Any]]) -> None:
    for row in rows[:SINGLE]:
        side.entry.create(**row)


def save_singly(_side: Side, entries: list[Any]) -> None:
    for entry in entries:
        entry.pages += 1
        entry.save()


def update_singly(side: Side, _nothing: None) -> None:
    for key in range(1, SINGLE + 1):
        side.entry.update(pages=side.entry.pages + 1).where(side.entry.id == key).execute()


def delete_singly(side: Side, _nothing: None) -> None:
    for key in range(1, SINGLE + 1):
        side.entry.delete().where(side.entry.id == key).execute()


def insert_many(side: Side, rows: list[dict[str, Any]]) -> None:
    side.entry.insert_many(rows).execute()


def bulk_create(side: Side, instances: list[Any]) -> None:
    side.entry.bulk_create(instances)


def update_many(side: Side, _nothing: None) -> None:
    side.entry.update(pages=side.entry.pages + 1, title=side.entry.title.concat("")).execute()


def delete_many(side: Side, _nothing: None) -> None:
    side.entry.delete().where(side.entry.id > SINGLE).execute()


def get_by_key(side: Side, _nothing: None) -> None:
    for key in range(1, GETS + 1):
        side.book.get_by_id(key * 7)


def select_models(side: Side, _nothing: None = None) -> list[Any]:
    return list(side.book.select())


def select_dicts(side: Side, _nothing: None = None) -> list[Any]:
    return list(side.book.select().dicts())


def select_tuples(side: Side, _nothing: None = None) -> list[Any]:
    return list(side.book.select().tuples())


def join(side: Side, _nothing: None) -> list[Any]:
    return list(side.book.select(side.book, side.author).join(side.author).where(side.author.id <= AUTHORS // 4))


OPERATIONS = [
    Operation("creates, one transaction", 1.08, MANY, create_in_one_transaction, no_entries),
    Operation("insert_many", 1.08, MANY, insert_many, no_entries),
    Operation("bulk_create", 1.08, MANY, bulk_create, no_entries_but_instances),
    Operation("update of many", 1.08, BOOKS, update_many, full_table),
    Operation("delete of many", 1.08, BOOKS - SINGLE, delete_many, full_table),
    Operation("single creates", 1.15, SINGLE, create_singly, no_entries),
    Operation("single saves", 1.15, SINGLE, save_singly, some_entries),
    Operation("single updates", 1.15, SINGLE, update_singly, full_table),
    Operation("single deletes", 1.15, SINGLE, delete_singly, full_table),
    Operation("get by primary key", 1.05, GETS, get_by_key),
    Operation("select models", 1.15, BOOKS, select_models),
    Operation("select dicts", 1.15, BOOKS, select_dicts),
    Operation("select tuples", 1.15, BOOKS, select_tuples),
    Operation("join of two models", 1.15, BOOKS // 4, join),
]
MEMORY: list[tuple[str, float | None, Callable[[Side], object]]] = [
    ("memory of select models", 1.3, select_models),
    ("memory of select dicts", None, select_dicts),
    ("memory of select tuples", None, select_tuples),
]
IMPORT_NAME, IMPORT_LIMIT = "import of the package", 1.5


# Measuring


def compare(rounds: int, stock: Callable[[], float], honker: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Sample both sides `rounds` times, in turns, each going first in every other round."""
    samples: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            samples[which].append((stock, honker)[which]())
    return samples


def summarize(name: str, unit: str, limit: float | None, samples: tuple[list[float], list[float]], scale: float) -> Result:
    ratios = [honker / stock for stock, honker in zip(*samples, strict=True)]
    low, _middle, high = quantiles(ratios, n=4)
    stock_median, honker_median = (median(side) * scale for side in samples)
    return Result(name, unit, stock_median, honker_median, median(ratios), (low, high), limit)


def seconds(operation: Operation, side: Side) -> float:
    """The time of one run, without the collector: each run starts from a clean heap, and drops its rows afterwards."""
    state = operation.prepare(side)
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        kept = operation.run(side, state)
        elapsed = time.perf_counter() - start
    finally:
        gc.enable()
    del kept
    return elapsed


def measure_time(operation: Operation, stock: Side, honker: Side, rounds: int) -> Result:
    samples = compare(rounds + WARM_UPS, lambda: seconds(operation, stock), lambda: seconds(operation, honker))
    counted = (samples[0][WARM_UPS:], samples[1][WARM_UPS:])
    return summarize(operation.name, "us", operation.limit, counted, 1e6 / operation.times)


def peak_bytes(select: Callable[[Side], object], side: Side) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        kept = select(side)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del kept
    return float(peak)


def measure_memory(name: str, limit: float | None, select: Callable[[Side], object], stock: Side, honker: Side) -> Result:
    select(stock)
    select(honker)
    samples = compare(MEMORY_ROUNDS, lambda: peak_bytes(select, stock), lambda: peak_bytes(select, honker))
    return summarize(name, "MB", limit, samples, 1e-6)


def import_seconds(statement: str) -> float:
    """The time of an import statement in a new interpreter, without the interpreter's own start."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure_import(rounds: int, noise: bool) -> Result:
    package = IMPORT_BASE if noise else IMPORT_PACKAGE
    import_seconds(IMPORT_BASE), import_seconds(package)  # Writes the .pyc files.
    samples = compare(rounds, lambda: import_seconds(IMPORT_BASE), lambda: import_seconds(package))
    return summarize(IMPORT_NAME, "ms", IMPORT_LIMIT, samples, 1e3)


def measure(options: argparse.Namespace, stock: Side, honker: Side) -> Iterator[Result]:
    def wanted(name: str) -> bool:
        return not options.only or any(part in name for part in options.only)

    for operation in OPERATIONS:
        if wanted(operation.name):
            yield measure_time(operation, stock, honker, options.rounds)
    for name, limit, select in MEMORY:
        if wanted(name):
            yield measure_memory(name, limit, select, stock, honker)
    if wanted(IMPORT_NAME):
        yield measure_import(QUICK_IMPORT_ROUNDS if options.quick else IMPORT_ROUNDS, options.noise)


# Telling


def settings(side: Side) -> dict[str, Any]:
    return {name: side.database.execute_sql(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS}


def versions(honker: Side) -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "peewee": version("peewee"),
        "honker": version("honker"),
        "engine's SQLite": honker.database.execute_sql("SELECT sqlite_version()").fetchone()[0],
        "sqlite3's SQLite": sqlite3.sqlite_version,
    }


def heading() -> str:
    return f"{'operation':<26}{'sqlite':>14}{'honker':>14}{'ratio':>8}{'quartiles':>16}{'limit':>7}"


def line(result: Result) -> str:
    stock, honker = (f"{value:,.2f} {result.unit}" for value in (result.sqlite, result.honker))
    low, high = result.quartiles
    limit = "-" if result.limit is None else f"{result.limit:.2f}"
    spread = f"{low:.3f} - {high:.3f}"
    return f"{result.name:<26}{stock:>14}{honker:>14}{result.ratio:>8.3f}{spread:>16}{limit:>7}  {result.verdict}".rstrip()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare HonkerDatabase with SqliteDatabase.")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"samples of each time, at least 2 (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds: a rough look, in seconds")
    parser.add_argument("--only", action="append", metavar="NAME", help="only what has NAME in its name; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is exceeded")
    parser.add_argument("--noise", action="store_true", help="SqliteDatabase on both sides: how far from 1 is noise?")
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if options.rounds < 2:
        parser.error("--rounds must be at least 2")
    return options


def main() -> int:
    options = arguments()
    results = []
    with two_sides(options.noise) as (stock, honker):
        about = {"versions": versions(honker), "settings": settings(stock)}
        if settings(honker) != about["settings"]:
            sys.exit(f"the settings differ: {about['settings']} and {settings(honker)}")
        print(", ".join(f"{name} {number}" for name, number in about["versions"].items()))
        both = "; SqliteDatabase on both sides" if options.noise else ""
        print(f"{options.rounds} rounds; times are of one operation (or row){both}\n")
        print(heading())
        for result in measure(options, stock, honker):
            results.append(result)
            print(line(result), flush=True)
    over = [result.name for result in results if result.verdict == "OVER"]
    print(f"\n{len(over)} over the limit" + (f": {', '.join(over)}" if over else ""))
    if options.json:
        report = {**about, "rounds": options.rounds, "noise": options.noise}
        report["results"] = [{**asdict(result), "verdict": result.verdict} for result in results]
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if options.check and over else 0


if __name__ == "__main__":
    sys.exit(main())
