"""What change capture costs: the same changes of the same table, captured and not, taking turns in one process.

    python benchmarks/capture.py [--rounds N] [--json FILE] [--check]

Each side is a file of its own with the same model; nobody listens. Times are the process's CPU time, which other programs
disturb little (nothing here waits for the disk); the ratios are medians, over the rounds, of those of neighbouring samples.
What is timed: 1,000 `Model.create` in a transaction, beside those of a table that is not captured, and beside those that are
followed by Honker's `tx.notify` of the same event; 300 single creates; statements that change 20,000 rows, with their
commit; creates in a table that is not captured, in a file with captured ones; and what SQLite takes to compile a statement
that it has not met.

The floors are triggers that do less than a capture has to: one that writes a constant text as long as an event; the same
with the look, before each row, whether it takes another's place; and this with the row as a bare json_array(), the
cheapest JSON that SQLite makes of it, which rounds a REAL and fails for a blob.
"""

import argparse
import gc
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from peewee import BooleanField, CharField, DateTimeField, FloatField, IntegerField, Model, TextField

from peewee_honker import HonkerDatabase
from peewee_honker.capture import Capture
from peewee_honker.events import Event

MANY = 20_000
CREATES = 1_000
SINGLE = 300
WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Side:
    """A file with an order table and the rows to copy into it."""

    database: HonkerDatabase
    order: Any
    source: Any
    other: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two ways to do one thing: `run` on `side` beside `base_run` on `base`; both do it `times` times."""

    name: str
    limit: float | None
    times: int
    side: str
    run: Callable[[Side], object]
    base: str
    base_run: Callable[[Side], object]
    prepare: Callable[[Side], object]


@dataclass(frozen=True, slots=True)
class Result:
    """Medians in microseconds for one row; the ratio's between its quartiles."""

    name: str
    base: float
    here: float
    ratio: float
    quartiles: tuple[float, float]
    limit: float | None

    @property
    def passed(self) -> bool:
        """Whether the ratio is within the limit, if there is one."""
        return self.limit is None or self.ratio <= self.limit


WRITE = (
    "CREATE TRIGGER floor AFTER INSERT ON orders BEGIN INSERT INTO _honker_notifications (channel, payload) VALUES ({}); END"
)
CONSTANT = WRITE.format(f"'orders.saved', '{'x' * 260}'")
ARRAY = WRITE.format("'orders.saved', json_array(NEW.id, NEW.customer, NEW.total, NEW.note, NEW.paid, NEW.pieces, NEW.at)")
WATCH = (
    "CREATE TRIGGER watch BEFORE INSERT ON orders "
    "WHEN EXISTS (SELECT 1 FROM orders AS o WHERE o.rowid = NEW.rowid) BEGIN SELECT 1; END"
)


def open_side(path: Path, *captures: dict[str, Any], indexed: bool = False, triggers: tuple[str, ...] = ()) -> Side:
    """Make a file; each of `captures` are the options of a capture of its order table, which may have two indexes, and
    other triggers."""
    database = HonkerDatabase(path)

    class Row(Model):
        customer = CharField()
        total = FloatField()
        note = TextField(null=True)
        paid = BooleanField(default=False)
        pieces = IntegerField(default=1)
        at = DateTimeField(default=None, null=True)

    class Order(Row):
        class Meta:
            table_name = "orders"

    class Source(Row):
        pass

    class Other(Row):
        pass

    database.bind([Order, Source, Other])
    database.create_tables([Order, Source, Other])
    if indexed:
        database.execute_sql("CREATE UNIQUE INDEX orders_pieces ON orders (pieces)")
        database.execute_sql("CREATE INDEX orders_customer ON orders (customer)")
    rows = [row(number) for number in range(MANY)]
    with database.atomic():
        for start in range(0, MANY, 1000):
            Source.insert_many(rows[start : start + 1000]).execute()
    for options in captures:
        Capture(Order, **options).install(database)
    for trigger in triggers:
        database.execute_sql(trigger)
    return Side(database, Order, Source, Other)


def row(number: int) -> dict[str, Any]:
    """The fields of a row."""
    return {
        "customer": f"customer {number}",
        "total": number * 1.1,
        "note": "a note of a usual length, some fifty characters",
        "paid": number % 2 == 0,
        "pieces": number,
        "at": "2024-05-06 07:08:09",
    }


def creates(model: str) -> Callable[[Side], object]:
    """Rows one by one, in a transaction."""

    def run(side: Side) -> None:
        create = getattr(side, model).create
        with side.database.atomic():
            for number in range(CREATES):
                create(**row(number))

    return run


def creates_and_notify(side: Side) -> None:
    """The same, each with the event that a program would publish by itself."""
    with side.database.atomic():
        tx = side.database.honker_transaction
        assert tx is not None
        for number in range(CREATES):
            fields = row(number)
            made = side.order.create(**fields)
            event = Event("orders.saved", str(made.id), {"id": made.id, **fields}, operation="insert")
            tx.notify("orders.saved", event.to_json())


def singles(side: Side) -> None:
    """Rows one by one, each in a transaction of its own."""
    for number in range(SINGLE):
        side.order.create(**row(number))


COLUMNS = "customer, total, note, paid, pieces, at"


def insert_select(side: Side) -> None:
    """One statement for many rows."""
    side.database.execute_sql(f"INSERT INTO orders ({COLUMNS}) SELECT {COLUMNS} FROM source")


def update(side: Side) -> None:
    """One statement that changes every row."""
    side.database.execute_sql("UPDATE orders SET pieces = pieces + 1")


def delete(side: Side) -> None:
    """One statement that deletes every row."""
    side.database.execute_sql("DELETE FROM orders WHERE id > 0")


def compile_new(side: Side) -> None:
    """Texts that no cache knows, which change nothing."""
    for number in range(SINGLE):
        side.database.execute_sql(f"UPDATE orders SET pieces = 1 WHERE id = -{time.monotonic_ns()}{number}")


def empty(side: Side) -> None:
    """Before a sample: no rows and no events."""
    for table in ("orders", "other", "_honker_notifications", "_honker_stream"):
        side.database.execute_sql(f"DELETE FROM {table}")
    # What is written before does not have to be checkpointed by the sample.
    side.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def fill(side: Side) -> None:
    """Before a sample: many rows and no events."""
    empty(side)
    insert_select(side)
    for table in ("_honker_notifications", "_honker_stream"):
        side.database.execute_sql(f"DELETE FROM {table}")
    side.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def beside_notify(name: str, side: str, limit: float | None = None) -> Comparison:
    """Creates beside those after each of which the program publishes."""
    return Comparison(name, limit, CREATES, side, creates("order"), "plain", creates_and_notify, empty)


COMPARISONS = [
    Comparison("create in a transaction", 2.0, CREATES, "captured", creates("order"), "plain", creates("order"), empty),
    beside_notify("create beside create + tx.notify", "captured", 0.6),
    beside_notify("  no trigger", "plain"),
    beside_notify("  floor: a constant", "constant"),
    beside_notify("  floor: and the look", "watched"),
    beside_notify("  floor: json_array and the look", "array"),
    Comparison("create, durable", 2.0, CREATES, "durable", creates("order"), "plain", creates("order"), empty),
    Comparison("single create", None, SINGLE, "captured", singles, "plain", singles, empty),
    Comparison("insert ... select", 8.0, MANY, "captured", insert_select, "plain", insert_select, empty),
    Comparison("  floor: a constant", None, MANY, "constant", insert_select, "plain", insert_select, empty),
    Comparison("  floor: and the look", None, MANY, "watched", insert_select, "plain", insert_select, empty),
    Comparison("  floor: json_array and the look", None, MANY, "array", insert_select, "plain", insert_select, empty),
    Comparison("the same with two indexes", None, MANY, "indexed captured", insert_select, "indexed", insert_select, empty),
    Comparison("update of all", None, MANY, "captured", update, "plain", update, fill),
    Comparison("update of all, old values", None, MANY, "old values", update, "plain", update, fill),
    Comparison("update outside the filter", None, MANY, "filtered", update, "plain", update, fill),
    Comparison("delete of all", None, MANY, "captured", delete, "plain", delete, fill),
    Comparison("a new text to compile", None, SINGLE, "captured", compile_new, "plain", compile_new, empty),
    Comparison("create, not captured", 1.05, CREATES, "captured", creates("other"), "plain", creates("other"), empty),
]


def sample(side: Side, run: Callable[[Side], object], prepare: Callable[[Side], object]) -> float:
    """Seconds of CPU time of one run."""
    prepare(side)
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        run(side)
        return time.process_time() - start
    finally:
        gc.enable()


def compare(sides: dict[str, Side], comparison: Comparison, rounds: int) -> Result:
    """Take turns, and begin with the other in every round."""
    pairs = []
    for number in range(WARM_UPS + rounds):
        ways = [(comparison.base, comparison.base_run), (comparison.side, comparison.run)]
        order = (0, 1) if number % 2 else (1, 0)
        times = {way: sample(sides[ways[way][0]], ways[way][1], comparison.prepare) for way in order}
        if number >= WARM_UPS:
            pairs.append((times[0], times[1]))
    ratios = [here / base for base, here in pairs]
    low, _middle, high = quantiles(ratios, n=4)
    microseconds = 1e6 / comparison.times
    return Result(
        comparison.name,
        median(base for base, _here in pairs) * microseconds,
        median(here for _base, here in pairs) * microseconds,
        median(ratios),
        (low, high),
        comparison.limit,
    )


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="samples of each side (15)")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a limit is exceeded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "plain": open_side(Path(folder, "plain.db")),
            "captured": open_side(Path(folder, "captured.db"), {}),
            "old values": open_side(Path(folder, "old.db"), {"old_values": True}),
            "durable": open_side(Path(folder, "durable.db"), {"durable": True}),
            "constant": open_side(Path(folder, "constant.db"), triggers=(CONSTANT,)),
            "watched": open_side(Path(folder, "watched.db"), triggers=(CONSTANT, WATCH)),
            "array": open_side(Path(folder, "array.db"), triggers=(ARRAY, WATCH)),
            "indexed": open_side(Path(folder, "indexed.db"), indexed=True),
            "indexed captured": open_side(Path(folder, "indexed_captured.db"), {}, indexed=True),
        }
        filtered = open_side(Path(folder, "filtered.db"))
        Capture(filtered.order, where=filtered.order.total < 0).install(filtered.database)
        sides["filtered"] = filtered
        engine = ".".join(map(str, sides["plain"].database.server_version))
        print(f"Python {platform.python_version()}, peewee {version('peewee')}, honker {version('honker')}, SQLite {engine}")
        print(f"{'us a row':34}{'plain':>9}{'captured':>10}{'ratio':>8}{'quartiles':>15}{'limit':>8}")
        results = []
        for comparison in COMPARISONS:
            result = compare(sides, comparison, options.rounds)
            results.append(result)
            low, high = result.quartiles
            limit = "" if result.limit is None else f"{result.limit:8.2f} {'pass' if result.passed else 'OVER'}"
            print(
                f"{result.name:34}{result.base:9.2f}{result.here:10.2f}{result.ratio:8.2f}{f'{low:.2f}-{high:.2f}':>15}{limit}"
            )
        for side in sides.values():
            side.database.close_engine()
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2))
    return int(options.check and not all(result.passed for result in results))


if __name__ == "__main__":
    sys.exit(main())
