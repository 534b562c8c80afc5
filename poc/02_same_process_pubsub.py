"""Does a notification reach a listener of the same process, and how fast?

One event loop commits a notification, waits until a listener on that loop has it, and commits the next. Measured is the time
from the return of the commit to the listener's next step, `--iterations` times.

Fails (exit code 1) if
- a notification is lost, comes twice, or out of order;
- the median is above 10 ms.

Honker's watcher looks at the file every millisecond. Each commit here follows the delivery of the one before, so it comes
just after a look and waits the longest: a program that commits at random moments sees about half a millisecond less.
"""

import argparse
import asyncio
import sys
import time

from shared.honker_helpers import DEADLINE, Report, ended, milliseconds, prove, temporary_database

LIMIT = 0.010  # seconds, of the median


async def ping(database, iterations: int) -> tuple[list[float], list[float], list[int]]:
    """Seconds of each commit, seconds from its return to the listener, and what was heard."""
    commits: list[float] = []
    delays: list[float] = []
    heard: list[int] = []
    arrived = asyncio.Event()

    async def listen(listener) -> None:
        async for notification in listener:
            heard.append(notification.payload)
            arrived.set()

    async with ended(listen(database.listen("ping"))):
        for number in range(iterations):
            arrived.clear()
            begun = time.perf_counter()
            with database.transaction() as transaction:
                transaction.notify("ping", number)
            committed = time.perf_counter()
            async with asyncio.timeout(DEADLINE):
                await arrived.wait()
            delays.append(time.perf_counter() - committed)
            commits.append(committed - begun)
    return commits, delays, heard


def measure(report: Report, options: argparse.Namespace) -> str:
    with temporary_database() as (database, _):
        commits, delays, heard = asyncio.run(ping(database, options.iterations))
    report.table(
        ["ms", "median", "p95", "p99", "max"],
        [["commit of a notification", *milliseconds(commits)], ["from there to the listener", *milliseconds(delays)]],
    )
    report.show("\nheard", f"{len(heard)} of {options.iterations}, in order: {heard == sorted(heard)}")
    report.must(heard == list(range(options.iterations)), "a notification was lost, came twice or out of order")
    median = float(milliseconds(delays)[0])
    report.must(median <= LIMIT * 1000, f"the median is {median} ms, above {LIMIT * 1000:.0f} ms")
    return f"YES: every one of {options.iterations}, in order, {median} ms after the commit in the median."


if __name__ == "__main__":
    sys.exit(prove(measure, __doc__, iterations=(10_000, "how many notifications, one after another")))
