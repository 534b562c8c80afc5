"""Processes that keep rows in memory, and forget a row the moment anybody changes it, in whatever way.

python demo.py
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
WEB = 3  # processes


def main(directory: str) -> None:
    path = os.environ["CACHE_DB"] = f"{directory}/shop.db"
    from models import Price, bus, db

    db.create_tables([Price])
    bus.capture(Price)  # triggers: queries, raw SQL and other programs are heard as well
    Price.insert_many([{"name": name, "cents": 100} for name in ("tea", "coffee", "cocoa")]).execute()
    workers = [
        subprocess.Popen(
            [sys.executable, HERE / "web.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for _ in range(WEB)
    ]

    def ask(name: str) -> set[str]:
        for worker in workers:
            worker.stdin.write(f"{name}\n")
        return {worker.stdout.readline().strip() for worker in workers}

    def wait_for(name: str, cents: int) -> float:
        """How long until all processes answer with the new price."""
        begun = time.perf_counter()
        while {answer.split()[0] for answer in ask(name)} != {str(cents)}:
            if time.perf_counter() - begun > 10:
                sys.exit(f"{name} is not {cents} everywhere: {ask(name)}")
        return time.perf_counter() - begun

    try:
        print("first:", ask("tea"), "then:", ask("tea"))
        price = Price.get(name="tea")
        price.cents = 120
        price.save()
        print(f"save(): everywhere after {wait_for('tea', 120) * 1000:.1f} ms")
        Price.update(cents=Price.cents * 2).where(Price.name == "tea").execute()
        print(f"an UPDATE query: everywhere after {wait_for('tea', 240) * 1000:.1f} ms")
        subprocess.run([sys.executable, "-c", OTHER, path], check=True)
        print(f"another program's SQL: everywhere after {wait_for('tea', 7) * 1000:.1f} ms")
        with db.atomic() as transaction:
            Price.update(cents=1).execute()
            transaction.rollback()
        print("after a rollback:", ask("tea"))
    finally:
        for worker in workers:
            worker.communicate()  # its input ends, and with it the process
        db.close_engine()


# Not through Peewee, and with no word of peewee_honker.
OTHER = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1])
file.execute("UPDATE price SET cents = 7 WHERE name = 'tea'")
file.commit()
"""

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(made)
