"""Do rows and notifications commit and roll back together?

A listener in this process, a listener and a stream subscription in another one hear of what one writer does. What must not
be heard is followed by a marker that commits: notifications come in order, so who has heard the marker would have heard what
was before it.

Fails (exit code 1) if anything is heard
- before its commit, or not at all after it;
- after a rollback: of the transaction, of an exception, of a savepoint in a transaction that commits;
- of a process that was killed before its commit;
or if, after processes were killed at random moments, a row has no notification or a notification no row.
"""

import argparse
import json
import random
import sys
import time

from shared.honker_helpers import Child, Ears, Report, prove, temporary_database, until

LISTENER = """
import asyncio, json, sys, honker
database = honker.open(sys.argv[1])
async def hear(name, source):
    async for event in source:
        print(json.dumps([name, event.payload]), flush=True)
async def main():
    sources = [database.listen("orders"), database.stream("orders").subscribe()]
    print("ready", flush=True)
    await asyncio.gather(*(hear(name, source) for name, source in zip(["listener", "stream"], sources)))
asyncio.run(main())
"""

WRITER = """
import sys, honker
database = honker.open(sys.argv[1])
number = int(sys.argv[2])
while True:
    number += 1
    with database.transaction() as transaction:
        transaction.execute("INSERT INTO orders (name) VALUES (?)", [f"w{number}"])
        transaction.notify("orders", f"w{number}")
        database.stream("orders").publish(f"w{number}", tx=transaction)
        if len(sys.argv) > 3:
            print("open", flush=True)
            sys.stdin.readline()
    print(number, flush=True)
"""


class Shop:
    """Writes a row, a notification and a stream's event in one transaction, and keeps what should be heard."""

    def __init__(self, database, ears: Ears, other: Child) -> None:
        self.database = database
        self.ears = ears
        self.other = other
        self.expected: list[str] = []
        self.elsewhere: dict[str, list[str]] = {"listener": [], "stream": []}

    def write(self, transaction, name: str, *, lasts: bool) -> None:
        transaction.execute("INSERT INTO orders (name) VALUES (?)", [name])
        transaction.notify("orders", name)
        self.database.stream("orders").publish(name, tx=transaction)
        if lasts:
            self.expected.append(name)

    def marker(self, name: str) -> None:
        """Commit one more and wait until everyone has heard it."""
        with self.database.transaction() as transaction:
            self.write(transaction, name, lasts=True)
        self.wait_for(name)

    def wait_for(self, name: str) -> None:
        until(lambda: name in self.ears.heard, f"the listener's hearing of {name}")
        while any(name not in heard for heard in self.elsewhere.values()):
            receiver, payload = json.loads(self.other.line())
            self.elsewhere[receiver].append(payload)

    def committed(self) -> list[str]:
        return [row["name"] for row in self.database.query("SELECT name FROM orders ORDER BY id")]


def commits(shop: Shop) -> None:
    with shop.database.transaction() as transaction:
        shop.write(transaction, "committed", lasts=True)


def rolls_back(shop: Shop) -> None:
    with shop.database.transaction() as transaction:
        shop.write(transaction, "rolled back", lasts=False)
        transaction.execute("ROLLBACK")
        transaction.execute("BEGIN IMMEDIATE")  # Honker ends the transaction that it finds


def raises(shop: Shop) -> None:
    try:
        with shop.database.transaction() as transaction:
            shop.write(transaction, "raised", lasts=False)
            raise LookupError
    except LookupError:
        pass


def savepoint_rolled_back(shop: Shop) -> None:
    with shop.database.transaction() as transaction:
        shop.write(transaction, "before the savepoint", lasts=True)
        transaction.execute("SAVEPOINT s")
        shop.write(transaction, "in the savepoint", lasts=False)
        transaction.execute("ROLLBACK TO s")
        transaction.execute("RELEASE s")
        shop.write(transaction, "after the savepoint", lasts=True)


def savepoint_released(shop: Shop) -> None:
    with shop.database.transaction() as transaction:
        transaction.execute("SAVEPOINT s")
        shop.write(transaction, "released", lasts=True)
        transaction.execute("RELEASE s")


def killed_before_commit(path: str) -> None:
    with Child(WRITER, path, 0, "waits in the transaction") as writer:
        assert writer.line() == "open"


def killed_at_random(shop: Shop, path: str, kills: int) -> int:
    """Processes that write all the time are killed; what they had committed is expected."""
    done = 0
    for number in range(1, kills + 1):
        with Child(WRITER, path, number * 1_000_000) as writer:
            for _ in range(random.randint(1, 100)):
                writer.line()
    names = [name for name in shop.committed() if name.startswith("w")]
    shop.expected += names
    done += len(names)
    return done


def measure(report: Report, options: argparse.Namespace) -> str:
    with temporary_database() as (database, path):
        with database.transaction() as transaction:
            transaction.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT)")
        with Ears(database, "orders") as ears, Child(LISTENER, path) as other:
            other.line()
            shop = Shop(database, ears, other)
            early = open_for_a_while(shop)
            killed = story(shop, path, options.kills)
        rows = shop.committed()
    report.show("heard while the transaction was open", early or "nothing")
    receivers = {"listener here": ears.heard, "listener elsewhere": shop.elsewhere["listener"]}
    receivers["stream elsewhere"] = shop.elsewhere["stream"]
    plain = [name for name in shop.expected if not name.startswith("w")]
    report.show("committed", f"{', '.join(plain)}, and {killed} rows of {options.kills} killed writers")
    report.table(
        ["", "has", "missing", "should not have"],
        [
            [name, len(has), len(set(shop.expected) - set(has)), ", ".join(sorted(set(has) - set(shop.expected))) or 0]
            for name, has in {"table": rows, **receivers}.items()
        ],
    )
    report.must(not early, "something was heard before the commit")
    report.must(rows == shop.expected, "the rows are not those that were committed")
    for name, has in receivers.items():
        report.must(has == rows, f"the {name} did not hear exactly the committed rows, in order")
    return "YES: whoever listens hears of exactly the rows that committed, in their order, and not before."


def open_for_a_while(shop: Shop) -> list[str]:
    """What is heard in a fifth of a second while the transaction is open."""
    with shop.database.transaction() as transaction:
        shop.write(transaction, "held open", lasts=True)
        time.sleep(0.2)
        return [*shop.ears.heard]


def story(shop: Shop, path: str, kills: int) -> int:
    for number, chapter in enumerate([commits, rolls_back, raises, savepoint_rolled_back, savepoint_released]):
        chapter(shop)
        shop.marker(f"marker {number}")
    killed_before_commit(path)
    shop.marker("marker after the kill")
    written = killed_at_random(shop, path, kills)
    shop.marker("the end")
    return written


if __name__ == "__main__":
    sys.exit(prove(measure, __doc__, kills=(10, "writers killed at a random moment")))
