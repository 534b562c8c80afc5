"""Import 28,000 airports in one process, hear of every committed one in two others, and see that all agree.

    python examples/airports/demo.py [--airports N]

The importer writes through Peewee models in transactions of 200. Some transactions are rolled back on purpose, and some
savepoints within committed ones; nobody may hear of those rows. Ends with an error if the counts of the two receivers and
the table differ.
"""

import argparse
import collections
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import airportsdata
from rich.console import Console
from rich.progress import track
from rich.table import Table

HERE = Path(__file__).parent
TRANSACTION = 200  # airports
RECEIVERS = ("north", "south")

console = Console()


class UndoError(Exception):
    """Raised on purpose, to have a block rolled back."""


class DemoFailedError(Exception):
    """The processes do not agree, or one of them is gone; the message says which."""


class Receiver:
    """A process that runs receiver.py."""

    def __init__(self, name: str, database: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "receiver.py"), database],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C goes to the demo, which ends its receivers
        )
        if self.line() != "ready":
            raise DemoFailedError(f"receiver {name} did not start")

    def line(self) -> str:
        """The next line that it writes."""
        line = self.process.stdout.readline()
        if not line:
            raise DemoFailedError(f"receiver {self.name} is gone, with exit code {self.process.wait()}")
        return line.strip()

    def finish(self, expected: int) -> dict:
        """What it has heard, once it has heard of `expected` airports or waited long enough."""
        with contextlib.suppress(BrokenPipeError):  # line() says what has become of it
            self.process.stdin.write(f"{expected}\n")
            self.process.stdin.flush()
        return json.loads(self.line())

    def end(self) -> None:
        """Leave no process behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def receivers(database: str) -> Iterator[list[Receiver]]:
    """Two receivers that hear everything from now on."""
    running: list[Receiver] = []
    try:
        for name in RECEIVERS:
            running.append(Receiver(name, database))
        yield running
    finally:
        for receiver in running:
            receiver.end()


def import_airports(rows: list[dict]) -> tuple[dict[str, int], int]:
    """Write the airports; for the last airport of each transaction the time after its commit, and how many were undone."""
    from models import Airport, Country, db  # opens the database: not before the receivers are told its name

    db.create_tables([Country, Airport])
    with db.atomic():
        Country.insert_many([{"code": code} for code in sorted({row["country"] for row in rows})]).execute()

    committed_at: dict[str, int] = {}
    undone = 0
    batches = [rows[start : start + TRANSACTION] for start in range(0, len(rows), TRANSACTION)]
    for number, batch in enumerate(track(batches, "importing", console=console)):
        if number % 5 == 1:  # first a try that fails: its rows are never heard of
            with contextlib.suppress(UndoError), db.atomic():
                for row in batch[:50]:
                    Airport.create(**row)
                    undone += 1
                raise UndoError
        with db.atomic():
            if number % 7 == 2:  # a savepoint that fails within a transaction that commits
                with contextlib.suppress(UndoError), db.atomic():
                    Airport.create(**batch[0])
                    undone += 1
                    raise UndoError
            for row in batch:
                Airport.create(**row)
        committed_at[batch[-1]["icao"]] = time.time_ns()
    return committed_at, undone


def in_the_table() -> dict[str, int]:
    from models import Airport
    from peewee import fn

    return dict(Airport.select(Airport.country, fn.COUNT(Airport.icao)).group_by(Airport.country).tuples())


def compare(table: dict[str, int], expected: dict[str, int], heard: dict[str, dict[str, int]]) -> None:
    """Raise DemoFailedError, naming the first differences, unless all have the same counts."""
    for name, counts in {"the importer": expected, **heard}.items():
        wrong = sorted(code for code in {*table, *counts} if table.get(code) != counts.get(code))
        if wrong:
            shown = ", ".join(f"{code}: table {table.get(code, 0)}, {name} {counts.get(code, 0)}" for code in wrong[:5])
            raise DemoFailedError(f"{name} and the table differ in {len(wrong)} countries ({shown})")


def report(rows: int, undone: int, seconds: float, committed_at: dict[str, int], heard: dict[str, dict]) -> None:
    """Print what was measured."""
    table = Table(title="from a commit to the call of the receiver")
    for column in ("receiver", "airports heard", "p50", "p99"):
        table.add_column(column, justify="left" if column == "receiver" else "right")
    for name, result in heard.items():
        delays = [(result["heard_at"][key] - at) / 1e6 for key, at in committed_at.items()]
        cuts = statistics.quantiles(delays, n=100) if len(delays) > 1 else delays * 99
        table.add_row(name, f"{len(result['heard_at']):,}", f"{cuts[49]:.2f} ms", f"{cuts[98]:.2f} ms")
    console.print(table)
    console.print(
        "(of the last airport of each transaction; negative when it was heard before the importer's own clock was read)"
    )
    console.print(f"{rows:,} airports in {seconds:.1f} s: {rows / seconds:,.0f} rows a second, each with its event")
    console.print(f"{undone:,} rows were rolled back, and heard of by nobody")
    console.print("The table, the importer and both receivers agree.", style="bold green")


def run(limit: int | None) -> None:
    data = sorted(airportsdata.load("ICAO").values(), key=lambda airport: airport["icao"])[:limit]
    rows = [
        {
            "icao": airport["icao"],
            "name": airport["name"],
            "city": airport["city"],
            "country": airport["country"],
            "latitude": airport["lat"],
            "longitude": airport["lon"],
        }
        for airport in data
    ]
    with tempfile.TemporaryDirectory(prefix="airports-") as folder:
        database = os.path.join(folder, "airports.db")
        sys.argv = [sys.argv[0], database]  # where models.py looks
        sys.path.insert(0, str(HERE))
        with receivers(database) as running:
            started = time.monotonic()
            try:
                committed_at, undone = import_airports(rows)
                seconds = time.monotonic() - started
                heard = {receiver.name: receiver.finish(len(rows)) for receiver in running}
                expected = collections.Counter(row["country"] for row in rows)
                compare(in_the_table(), expected, {name: result["counts"] for name, result in heard.items()})
            finally:
                from models import db

                db.close_engine()
        report(len(rows), undone, seconds, committed_at, heard)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--airports", type=int, metavar="N", help="import the first N only")
    arguments = parser.parse_args()
    try:
        run(arguments.airports)
    except DemoFailedError as problem:
        console.print(f"failed: {problem}", style="bold red")
        return 1
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
