"""Do two listeners and a stream subscription work side by side on one event loop?

Two `listen()` channels and one `Stream.subscribe` share a loop. A thread commits to all three in one transaction, `--events`
times. First all receivers are quick; then one listener takes a second over its first notification.

Fails (exit code 1) if
- one of them loses an event, gets one twice, or out of order;
- the slow receiver holds up another, or the loop;
- the loop stands still for longer than half a second while they work.

Measured as well, and no condition: what another process's write lock does to the loop. Honker reads a stream in
a write transaction and keeps Python's interpreter lock while it waits for one, so a stream subscription stops the loop for
as long as it waits.
"""

import argparse
import asyncio
import sys
import time

from shared.honker_helpers import DEADLINE, Child, Report, ended, milliseconds, prove, temporary_database

SLOW = 1.0  # seconds that the slow receiver takes
STILL = 0.5  # seconds that the loop may stand still
HOLD = 1.0  # seconds for which another process holds the write lock
RECEIVERS = ("listener a", "listener b", "stream")

HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held")
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


class Round:
    """One round of events: what each receiver got, and when."""

    def __init__(self, database, events: int, slow: float = 0.0) -> None:
        self.database = database
        self.events = events
        self.slow = slow
        self.got: dict[str, list[int]] = {name: [] for name in RECEIVERS}
        self.delays: dict[str, list[float]] = {name: [] for name in RECEIVERS}
        self.complete: dict[str, float] = {}
        self.gaps: list[float] = []
        self.sent: dict[int, float] = {}

    async def receive(self, name: str, source) -> None:
        async for event in source:
            number = event.payload
            self.delays[name].append(time.perf_counter() - self.sent[number])
            self.got[name].append(number)
            if len(self.got[name]) == self.events:
                self.complete[name] = time.perf_counter()
            if name == "listener a" and number == 0 and self.slow:
                await asyncio.sleep(self.slow)

    async def watch(self) -> None:
        """How long the loop takes to come back to a task that sleeps for a millisecond."""
        while True:
            begun = time.perf_counter()
            try:
                await asyncio.sleep(0.001)
            finally:  # when it is cancelled, too: the loop may have stood still until the end
                self.gaps.append(time.perf_counter() - begun)

    def publish(self) -> None:
        stream = self.database.stream("c")
        for number in range(self.events):
            self.sent[number] = time.perf_counter()  # before, as a receiver may be quicker than the commit's return
            with self.database.transaction() as transaction:
                transaction.notify("a", number)
                transaction.notify("b", number)
                stream.publish(number, tx=transaction)
            time.sleep(0.001)

    async def run(self, lock: Child | None = None) -> None:
        stream = self.database.stream("c")
        newest = self.database.query("SELECT COALESCE(MAX(offset), 0) AS newest FROM _honker_stream")[0]["newest"]
        sources = [self.database.listen("a"), self.database.listen("b"), stream.subscribe(from_offset=newest)]
        receivers = [self.receive(name, source) for name, source in zip(RECEIVERS, sources, strict=True)]
        async with ended(self.watch(), *receivers), asyncio.timeout(DEADLINE):
            await asyncio.sleep(0.1)
            self.gaps.clear()
            if lock:
                await asyncio.to_thread(lock.line)
            await asyncio.to_thread(self.publish)
            while len(self.complete) < len(RECEIVERS):
                await asyncio.sleep(0.005)


def measure(report: Report, options: argparse.Namespace) -> str:
    with temporary_database() as (database, path):
        quick = Round(database, options.events)
        asyncio.run(quick.run())
        slow = Round(database, options.events, slow=SLOW)
        asyncio.run(slow.run())
        locked = Round(database, 3)
        with Child(HOLDER, path, HOLD) as holder:
            asyncio.run(locked.run(lock=holder))
            holder.finish()

    report.show("all quick, ms from before the commit to the receiver")
    report.table(
        ["receiver", "events", "median", "p95", "p99", "max"],
        [[name, len(quick.got[name]), *milliseconds(quick.delays[name])] for name in RECEIVERS],
    )
    report.show(f"\nlistener a takes {SLOW:.0f} s over its first notification")
    begun = slow.sent[0]
    report.table(
        ["receiver", "events", "has all after s"],
        [[name, len(slow.got[name]), f"{slow.complete[name] - begun:.2f}"] for name in RECEIVERS],
    )
    report.show("\nthe loop stands still for at most, ms")
    report.table(
        ["all quick", "one slow", f"another process holds the write lock for {HOLD:.0f} s"],
        [[f"{max(each.gaps) * 1000:.0f}" for each in (quick, slow, locked)]],
    )

    for each in (quick, slow):
        for name in RECEIVERS:
            report.must(
                each.got[name] == list(range(options.events)), f"{name} lost an event, or had one twice or out of order"
            )
    report.must(
        max(slow.complete["listener b"], slow.complete["stream"]) < slow.complete["listener a"],
        "a slow receiver held up the others",
    )
    report.must(max(quick.gaps + slow.gaps) < STILL, "the event loop stood still")
    return (
        "YES: each gets all, a slow one is alone in being late. But a foreign write lock stops a loop that reads a stream."
    )


if __name__ == "__main__":
    sys.exit(prove(measure, __doc__, events=(300, "transactions in each round")))
