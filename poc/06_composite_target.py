"""Can a listener hear its own process at once and other processes through Honker, each event once?

A composite target of peewee_honker (local and Honker together) listens here, while this process and another one publish,
both with transactions that are rolled back.

Fails (exit code 1) if
- an event is heard twice, or not at all, or one of a rollback is heard;
- an event of this process is not heard by the time that its commit has returned;
- the events of one process are not heard in their order.

Measured as well, and no condition: from the commit to the local listener.
"""

import argparse
import statistics
import sys
import time

from shared.honker_helpers import Child, Report, prove, temporary_path, until

from peewee_honker import Event, HonkerDatabase
from peewee_honker.events import CompositeEventTarget, HonkerEventTarget, LocalEventTarget

OTHER = """
import sys
from peewee_honker import Event, HonkerDatabase
from peewee_honker.events import CompositeEventTarget, HonkerEventTarget, LocalEventTarget
db = HonkerDatabase(sys.argv[1], timeout=30)
target = CompositeEventTarget(LocalEventTarget(db), HonkerEventTarget(db))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2])):
    with db.atomic() as transaction:
        target.dispatch(Event("tick", "there", number))
        if number % 10 == 9:
            transaction.rollback()
print("done", flush=True)
"""


def measure(report: Report, options: argparse.Namespace) -> str:
    heard: dict[str, list[int]] = {"here": [], "there": []}
    at: dict[int, float] = {}
    delays = []
    late = 0
    with temporary_path() as path:
        database = HonkerDatabase(path, timeout=30)
        target = CompositeEventTarget(LocalEventTarget(database), HonkerEventTarget(database))

        def hear(event: Event) -> None:
            heard[event.id].append(event.payload)
            if event.id == "here":
                at[event.payload] = time.perf_counter()

        target.add_listener("tick", hear)
        with Child(OTHER, path, options.events) as other:
            other.line()
            other.say("go")
            for number in range(options.events):
                with database.atomic() as transaction:
                    target.dispatch(Event("tick", "here", number))
                    if number % 10 == 9:
                        transaction.rollback()
                    committed: list[float] = []
                    database.at_commit(lambda committed=committed: committed.append(time.perf_counter()))
                if number % 10 != 9:
                    # Another thread delivers at this moment, and this event in its turn: no wait is what is asked for.
                    late += number not in at
                    delays += [(at[number] - committed[0]) * 1e6] if number in at and committed else []
            other.line()
        expected = [number for number in range(options.events) if number % 10 != 9]
        until(lambda: len(heard["there"]) >= len(expected), "the events of the other process")
        target.close()
        database.close_engine()
    rows = [
        [who, len(numbers), len(numbers) - len(set(numbers)), len(set(expected) - set(numbers))]
        for who, numbers in heard.items()
    ]
    report.table(["published", "heard", "twice", "lost"], rows)
    for who, numbers in heard.items():
        report.must(numbers == expected, f"what was published {who} was not heard once, in order, and nothing else")
    report.must(not late, f"{late} events of this process were not heard when their commit had returned")
    report.show("from the commit to the local listener, median", f"{statistics.median(delays):.0f} us")
    return "YES: at once here, through Honker from elsewhere, each event once, and nothing of a rollback."


if __name__ == "__main__":
    sys.exit(prove(measure, __doc__, events=(500, "events that each of the two processes publishes")))
