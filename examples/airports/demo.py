"""Import 28,000 airports in one process, hear of every committed one in two others, and see that all agree.

    python examples/airports/demo.py [--airports N]

This process writes through Peewee models, in transactions of 200 (importer.py). Some transactions are rolled back on
purpose, and some savepoints within committed ones: nobody may hear of those rows. Two processes count what they hear
(receiver.py). Ends with exit code 1, and what differs, unless the importer, the receivers and the table agree.
"""

import ctrl_c  # isort: skip  # first: the other imports take long enough to be interrupted

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from typing import Any

import airportsdata
from child import Receiver, ReceiverGoneError, receivers
from importer import Imported, Row, import_airports
from models import Airport, db
from peewee import fn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

RECEIVERS = ("north", "south")

console = Console()


class DisagreementError(Exception):
    """What the processes counted is not the same; the message names the differences."""


def airport_rows(limit: int | None) -> list[Row]:
    """All the airports of the package, or as many as wanted, from all over the world."""
    data = list(airportsdata.load("ICAO").values())
    if limit is not None:
        data = random.Random(1).sample(data, min(limit, len(data)))
    same = ("icao", "name", "city", "country")
    return [{**{name: a[name] for name in same}, "latitude": a["lat"], "longitude": a["lon"]} for a in data]


def import_with_progress(rows: list[Row], running: list[Receiver]) -> Imported:
    """Import the rows, as long as the receivers live."""
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("importing", total=len(rows))

        def after_each(number: int) -> None:
            ctrl_c.check()
            progress.advance(task, number)
            for receiver in running:
                receiver.check()

        return import_airports(rows, after_each)


def compare(table: dict[str, int], imported: Imported, heard: dict[str, dict[str, Any]]) -> None:
    """Raise DisagreementError unless all have the same counts, and nobody heard of a row that was rolled back."""
    problems = []
    for name, result in heard.items():
        if ghosts := sorted(imported.undone & result["heard_at"].keys()):
            problems.append(f"{name} heard of {len(ghosts)} rows that were rolled back ({', '.join(ghosts[:5])})")
        if (number := len(result["heard_at"])) != (total := imported.by_country.total()):
            problems.append(f"{name} heard of {number:,} airports, but {total:,} were committed")
    counts = {"the importer": imported.by_country, **{name: result["by_country"] for name, result in heard.items()}}
    for name, count in counts.items():
        if wrong := sorted(code for code in {*table, *count} if table.get(code, 0) != count.get(code, 0)):
            shown = ", ".join(f"{code}: table {table.get(code, 0)}, {name} {count.get(code, 0)}" for code in wrong[:5])
            problems.append(f"{name} and the table differ in {len(wrong)} countries ({shown})")
    if problems:
        raise DisagreementError("; ".join(problems))


def delays(imported: Imported, heard_at: dict[str, int]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds, from a commit until its last event is received.

    A delay may be negative: the receiver can be faster than the importer, which reads the clock once it runs again.
    """
    taken = [(heard_at[key] - at) / 1e6 for key, at in imported.committed_at.items()]
    cuts = statistics.quantiles(taken, n=100, method="inclusive") if len(taken) > 1 else taken * 99
    return cuts[49], cuts[98]


def report(imported: Imported, seconds: float, heard: dict[str, dict[str, Any]]) -> None:
    """Print what was measured: a table on a terminal, plain lines elsewhere."""
    title = "from a commit to the receiver of its last event"
    table = Table("receiver", title=title)
    for column in ("airports heard of", "p50", "p99"):
        table.add_column(column, justify="right")
    for name, result in heard.items():
        p50, p99 = (f"{delay:.2f} ms" for delay in delays(imported, result["heard_at"]))
        number = f"{len(result['heard_at']):,}"
        table.add_row(name, number, p50, p99)
        if not console.is_terminal:
            print(f"{name} heard of {number} airports; {title}: p50 {p50}, p99 {p99}")
    if console.is_terminal:
        console.print(table)
    rows = imported.by_country.total()
    print(f"{rows:,} airports in {seconds:.1f} s: {rows / seconds:,.0f} rows a second, each with its event")
    print(f"{len(imported.undone):,} rows were rolled back, and nobody heard of them")
    agreed = f"The table, the importer and both receivers agree on {len(imported.by_country)} countries."
    console.print(agreed, style="bold green", soft_wrap=True, highlight=False)


def run(limit: int | None) -> None:
    """Raises DisagreementError or ReceiverGoneError; in any case the receivers have ended and the file is gone."""
    rows = airport_rows(limit)
    with tempfile.TemporaryDirectory(prefix="airports-") as folder:
        database = os.path.join(folder, "airports.db")
        db.init(database)
        try:
            with receivers(database, RECEIVERS) as running:
                started = time.monotonic()
                imported = import_with_progress(rows, running)
                seconds = time.monotonic() - started
                for receiver in running:
                    receiver.tell(len(rows))
                heard = {receiver.name: receiver.result() for receiver in running}
            table = dict(Airport.select(Airport.country, fn.COUNT(Airport.icao)).group_by(Airport.country).tuples())
        finally:
            db.close_engine()
    compare(table, imported, heard)
    report(imported, seconds, heard)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--airports", type=int, metavar="N", help="import only N of them")
    limit = parser.parse_args().airports
    if limit is not None and limit < 1:
        parser.error("there is nothing to import")
    try:
        with ctrl_c.held():
            run(limit)
    except (DisagreementError, ReceiverGoneError) as problem:
        print(f"The demo failed: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
