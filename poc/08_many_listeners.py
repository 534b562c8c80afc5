"""How many channels does one process hear through Honker's own listeners before they slow, and what is the way out?

One process commits `--events` notifications, spread over 1 to 1,000 channels, in transactions of ten, while a process
listens to all of the channels in one of two ways:
- `database.listen(channel)` for each channel: each wakes at each commit of anybody and looks for rows of its own;
- one `SELECT ... WHERE id > ?` over all channels at each commit, and a dict from the channel to who wants it.

Fails (exit code 1) if
- either way loses a notification;
- one SELECT for all takes more than three times as much of a processor over 1,000 channels as over one: then it would not
  be a way out, either.

Measured is the processor's time for each event in the listening process, and the delay from before the commit to its
receiver.
"""

import argparse
import json
import sys
import time

from shared.honker_helpers import Child, Report, milliseconds, prove, temporary_database

LISTENER = """
import asyncio, json, sys, time, honker
path, way, channels, events = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
database = honker.open(path)
delays = []

def hear(payload):
    delays.append(time.time() - payload)

async def listen(listener):
    async for notification in listener:
        hear(notification.payload)

async def select():
    updates, last = database.update_events(), 0
    receivers = {f"c{number}": hear for number in range(channels)}
    while True:
        found = database.query("SELECT id, channel, payload FROM _honker_notifications WHERE id > ? ORDER BY id", [last])
        for row in found:
            last = row["id"]
            receivers[row["channel"]](json.loads(row["payload"]))
        if not found:
            await updates.__anext__()

async def main():
    if way == "listeners":
        tasks = [asyncio.ensure_future(listen(database.listen(f"c{number}"))) for number in range(channels)]
    else:
        tasks = [asyncio.ensure_future(select())]
    await asyncio.sleep(0.05)
    begun = time.process_time()
    print("ready", flush=True)
    waits = 0
    while len(delays) < events and waits < 40:  # two seconds without one more: what is missing is lost
        known = len(delays)
        await asyncio.sleep(0.05)
        waits = waits + 1 if len(delays) == known else 0
    print(json.dumps([time.process_time() - begun, delays]), flush=True)
    sys.stdin.readline()  # to be killed: leaving asyncio.run with many listeners can hang

asyncio.run(main())
"""

WAYS = {"listeners": "listen() for each", "select": "one SELECT for all"}
BATCH = 10


def hear(way: str, channels: int, events: int) -> tuple[float, list[float]]:
    """Microseconds of a processor for each event, and the delays in seconds."""
    with temporary_database() as (database, path), Child(LISTENER, path, way, channels, events) as listener:
        listener.line()
        for batch in range(0, events, BATCH):
            with database.transaction() as transaction:
                for number in range(batch, batch + BATCH):
                    transaction.notify(f"c{number % channels}", time.time())
            time.sleep(0.002)
        cpu, delays = json.loads(listener.line())
    return cpu / events * 1e6, delays


def measure(report: Report, options: argparse.Namespace) -> str:
    events = options.events // BATCH * BATCH
    table = []
    cost: dict[tuple[str, int], float] = {}
    for channels in (1, 10, 100, 1000):
        for way, words in WAYS.items():
            cost[way, channels], delays = hear(way, channels, events)
            report.must(len(delays) == events, f"{words} lost notifications over {channels} channels")
            median, _, p99, _ = milliseconds(delays)
            table.append([channels, words, f"{cost[way, channels]:.0f}", median, p99])
    report.table(["channels", "way", "processor, us an event", "median delay, ms", "p99, ms"], table)
    report.must(
        cost["select", 1000] < 3 * max(cost["select", 1], 20), "one SELECT for all becomes dearer with the channels, too"
    )
    ratio = cost["listeners", 1000] / cost["select", 1000]
    return f"Some tens. Over 1,000 channels Honker's listeners take {ratio:.0f} times the processor of one SELECT for all."


if __name__ == "__main__":
    sys.exit(prove(measure, __doc__, events=(1_000, "notifications for each line of the table")))
