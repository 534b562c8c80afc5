"""Does a named stream consumer of Honker go on where it stopped, after SIGKILL too?

A consumer process writes each event that it handles into a table, and is killed again and again while events come; the last
one is asked to stop, and a new one handles what is then still open. Three ways to save the consumer's place:
- `subscribe(consumer)`, as it comes: Honker saves every 1,000 events or every second, before it gives out the next event;
- `subscribe(consumer, save_every_n=1)`: before each next event;
- by hand, in the transaction of the work: `subscribe(consumer, save_every_n=0, save_every_s=0)` and
  `SELECT honker_stream_save_offset(...)` beside the consumer's own writes.

Fails (exit code 1) if
- an event is lost in any of them;
- an event takes effect twice where place and work commit together, or more than once a restart where each event saves;
- after a restart something is handled out of order, but for what is handled again.

Measured as well, and no condition: a stop without a kill, and two processes with one name.
"""

import argparse
import itertools
import random
import sys

from shared.honker_helpers import Child, Report, prove, temporary_database

CONSUMER = """
import asyncio, sys, threading, honker
path, way, name = sys.argv[1:4]
database = honker.open(path)
stream = database.stream("events")
saving = {"default": {}, "each": {"save_every_n": 1}, "work": {"save_every_n": 0, "save_every_s": 0}}[way]

def handle(event):
    with database.transaction() as transaction:
        transaction.execute("INSERT INTO handled (consumer, number) VALUES (?, ?)", [name, event.payload])
        if way == "work":
            transaction.query("SELECT honker_stream_save_offset(?, ?, ?)", [name, "events", event.offset])
    print(event.payload, flush=True)

async def main():
    async for event in stream.subscribe(name, **saving):
        handle(event)
        if stopping.is_set():
            break

def stop():
    sys.stdin.readline()
    stopping.set()
    print("stopping", flush=True)

stopping = threading.Event()
threading.Thread(target=stop, daemon=True).start()
print("ready", flush=True)
asyncio.run(main())
"""

WAYS = {"default": "every 1,000 or 1 s", "each": "every event", "work": "with the work"}


def publish(database, numbers: range) -> None:
    with database.transaction() as transaction:
        for number in numbers:
            database.stream("events").publish(number, tx=transaction)


def handled(database, consumer: str) -> list[int]:
    rows = database.query("SELECT number FROM handled WHERE consumer = ? ORDER BY id", [consumer])
    return [row["number"] for row in rows]


def read_until(consumer: Child, line: object) -> None:
    while consumer.line() != str(line):
        pass


def killed_again_and_again(database, path: str, way: str, kills: int, events: int) -> tuple[list[int], int]:
    """What was handled, and how many of it twice because of a stop without a kill."""
    share = events // (kills + 2)
    published = 0
    for _ in range(kills):
        publish(database, range(published, published + share))
        published += share
        with Child(CONSUMER, path, way, way) as consumer:
            consumer.line()
            for _ in range(random.randint(1, share)):
                consumer.line()
    publish(database, range(published, published + share))
    with Child(CONSUMER, path, way, way) as consumer:
        read_until(consumer, published + share - 1)
        consumer.say("stop")
        read_until(consumer, "stopping")  # or it might handle all before it reads that, and wait for more
        publish(database, range(published + share, events))
        consumer.finish()
    before = len(set(handled(database, way)))
    seen = len(handled(database, way))
    with Child(CONSUMER, path, way, way) as consumer:
        read_until(consumer, events - 1)
    again = len(handled(database, way)) - seen - (events - before)
    return handled(database, way), again


def runs(numbers: list[int]) -> int:
    """How many ascending runs the numbers make: one, and one more for each time that something was handled again."""
    return 1 + sum(later != earlier + 1 for earlier, later in itertools.pairwise(numbers))


def two_with_one_name(database, path: str, events: int) -> int:
    """How many events both of two processes with one name handled."""
    with Child(CONSUMER, path, "each", "pair") as one, Child(CONSUMER, path, "each", "pair") as two:
        read_until(one, events - 1)
        read_until(two, events - 1)
    numbers = handled(database, "pair")
    return len(numbers) - len(set(numbers))


def measure(report: Report, options: argparse.Namespace) -> str:
    rows = []
    for way, words in WAYS.items():
        with temporary_database() as (database, path):
            with database.transaction() as transaction:
                transaction.execute("CREATE TABLE handled (id INTEGER PRIMARY KEY, consumer TEXT, number INTEGER)")
            numbers, again = killed_again_and_again(database, path, way, options.kills, options.events)
        lost = options.events - len(set(numbers))
        twice = len(numbers) - len(set(numbers))
        rows.append([words, options.events, options.kills, lost, twice, again])
        report.must(not lost, f"{lost} events are lost when the place is saved {words}")
        report.must(runs(numbers) <= options.kills + 2, f"events came out of order when the place is saved {words}")
        if way == "work":
            report.must(not twice, f"{twice} events took effect twice although place and work commit together")
        if way == "each":
            report.must(twice <= options.kills + 1, "more than one event for each restart was handled again")
    report.table(["place saved", "events", "kills", "lost", "handled again", "of them after a plain stop"], rows)

    with temporary_database() as (database, path):
        with database.transaction() as transaction:
            transaction.execute("CREATE TABLE handled (id INTEGER PRIMARY KEY, consumer TEXT, number INTEGER)")
        publish(database, range(100))
        both = two_with_one_name(database, path, 100)
    report.show("\ntwo processes with one name: handled by both", f"{both} of 100 events")
    return (
        "YES: nothing is lost. What was handled since the last save comes again, after a plain stop too; exactly once in\n"
        "effect when place and work commit together. One name does not keep a second process out: that needs a lock."
    )


if __name__ == "__main__":
    sys.exit(
        prove(measure, __doc__, kills=(6, "how often each consumer is killed"), events=(2_400, "events for each consumer"))
    )
