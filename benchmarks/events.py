"""How long after a commit a receiver in another process is called: the bus beside Honker's own listener.

    python benchmarks/events.py [--events N] [--json FILE]

One process commits single notifications at random moments; two others receive each of them, one by a bus, one by Honker's
`listen()`. Both hear the same commits on the same file, so that a slow moment of the machine slows both. Times are from the
return of the commit, by the machine's clock, to the first line of the receiver.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peewee import IntegerField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model

BUS = """
import json, sys, time
from peewee import IntegerField
from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model
db = HonkerDatabase(sys.argv[1])
class Tick(Model):
    number = IntegerField()
    class Meta:
        database = db
ticks = EventBus(db)
bridge = ticks.bridge(Tick)
heard = {}
@bridge.saved.connect
def hear(sender, event):
    heard[event.payload["number"]] = time.time_ns()
with ticks:
    print("ready", flush=True)
    sys.stdin.readline()
print(json.dumps(heard))
"""

HONKER = """
import asyncio, json, sys, threading, time
import honker
db = honker.open(sys.argv[1])
heard = {}
def listen():
    async def run():
        listener = db.listen("tick.saved")
        print("ready", flush=True)
        async for notification in listener:
            heard[notification.payload["payload"]["number"]] = time.time_ns()
    asyncio.run(run())
threading.Thread(target=listen, daemon=True).start()
sys.stdin.readline()
print(json.dumps(heard), flush=True)
"""


class Tick(Model):
    number = IntegerField()


class Receiver:
    """A process that notes when it hears of each tick."""

    def __init__(self, code: str, path: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def finish(self) -> dict[int, int]:
        output, _ = self.process.communicate("done\n", timeout=60)
        return {int(number): at for number, at in json.loads(output).items()}


def measure(events: int) -> dict[str, list[float]]:
    """Microseconds from each commit to each receiver."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "events.db")
        database = HonkerDatabase(path)
        committed: dict[int, int] = {}
        with database.bind_ctx([Tick]):
            database.create_tables([Tick])
            EventBus(database).bridge(Tick)
            receivers = {"bus": Receiver(BUS, path), "honker": Receiver(HONKER, path)}
            for number in range(events):
                Tick.create(number=number)
                committed[number] = time.time_ns()
                time.sleep(random.uniform(0.001, 0.005))
            time.sleep(0.5)  # the last ones are on their way
            heard = {name: receiver.finish() for name, receiver in receivers.items()}
        database.close_engine()
    return {name: [(at[number] - committed[number]) / 1e3 for number in committed] for name, at in heard.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    print(f"{'':24}{'p50':>12}{'p99':>12}")
    for name, delays in measure(arguments.events).items():
        cuts = statistics.quantiles(delays, n=100)
        figures[name] = {"p50_us": cuts[49], "p99_us": cuts[98]}
        label = {"bus": "the bus", "honker": "Honker's listener"}[name]
        print(f"{label:24}{cuts[49]:9.0f} us{cuts[98]:9.0f} us")
    for cut in ("p50_us", "p99_us"):
        figures[f"{cut} ratio"] = figures["bus"][cut] / figures["honker"][cut]
    print(f"{'ratio':24}{figures['p50_us ratio']:12.2f}{figures['p99_us ratio']:12.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
