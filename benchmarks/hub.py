"""A hub with 100 spokes: 10,000 events fanned out to all of them, over sockets on this machine.

    python benchmarks/hub.py [--spokes 100] [--events 10000] [--processes 4]

The hub is a process of its own; the spokes' connections are spread over others. It prints how long it takes until all have
heard all, what was lost, and the hub's memory before and at its peak.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


def say(*words: Any) -> None:
    print(*words, flush=True)


def memory(process: int, what: str) -> float:
    """Megabytes, `VmRSS` or `VmHWM`; only on Linux."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def hub(path: str) -> None:
    from peewee_honker import Event, HonkerDatabase
    from peewee_honker.hub import Hub, Peer, anyone

    def tell(_peer: Peer, behind: int) -> None:
        say("dropped", behind)

    database = HonkerDatabase(path)
    with Hub(database, authenticate=anyone, on_slow=tell) as served:
        say(served.url)
        for line in sys.stdin:
            first, last = map(int, line.split())
            with database.atomic():
                for number in range(first, last):
                    served.server.dispatch(Event("order.saved", str(number), {"number": number, "customer": "Ada" * 10}))
            say("committed")
    database.close_engine()


def spokes(url: str, count: int, events: int) -> None:
    from peewee_honker.hub import WebSocketClientTarget

    heard: list[list[int]] = [[] for _ in range(count)]
    targets = [WebSocketClientTarget(url) for _ in range(count)]
    for target, numbers in zip(targets, heard, strict=True):
        target.start()
        target.wait_connected(60)
        target.add_listener("order.*", lambda event, numbers=numbers: numbers.append(int(event.id)))
    say("ready")
    while any(len(numbers) < events for numbers in heard):
        time.sleep(0.05)
    say("all", sum(numbers == list(range(events)) for numbers in heard))
    sys.stdin.read()
    for target in targets:
        target.stop()


def start(*arguments: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    while (line := process.stdout.readline().strip()).startswith("dropped"):
        say("a connection was dropped:", line.split()[1], "bytes behind")
    return line


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("spokes", 100), ("events", 10_000), ("processes", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start("hub", os.path.join(folder, "hub.db"))
        others: list[subprocess.Popen[str]] = []
        try:
            url = line_of(server)
            share, rest = divmod(options.spokes, options.processes)
            counts = [share + (number < rest) for number in range(options.processes)]
            others = [start("spokes", url, count, options.events) for count in counts]
            for other in others:
                line_of(other)
            before = memory(server.pid, "VmRSS")
            assert server.stdin
            began = time.perf_counter()
            for first in range(0, options.events, 100):  # transactions of 100
                server.stdin.write(f"{first} {min(first + 100, options.events)}\n")
                server.stdin.flush()
                line_of(server)
            committed = time.perf_counter() - began
            whole = sum(int(line_of(other).split()[1]) for other in others)
            took = time.perf_counter() - began
            deliveries = options.spokes * options.events
            say(f"{options.spokes} spokes, {options.events:,} events: {whole} have heard all of them, once and in order")
            say(
                f"committed in {committed:.1f} s, heard by all in {took:.1f} s: {deliveries / took:,.0f} deliveries a second"
            )
            say(f"the hub's memory: {before:.0f} MB before, {memory(server.pid, 'VmHWM'):.0f} MB at most")
        finally:
            for process in (*others, server):
                if process.stdin:
                    process.stdin.close()
                process.wait(30)


if __name__ == "__main__":
    if sys.argv[1:2] == ["hub"]:
        hub(sys.argv[2])
    elif sys.argv[1:2] == ["spokes"]:
        spokes(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
