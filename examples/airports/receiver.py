"""Counts the airports by country as their events come in: `receiver.py DATABASE`.

Says "ready" once it hears everything; when told a number of airports, it waits until it has heard of as many, then writes
its counts and the time at which it heard of each airport as a line of JSON. Started by demo.py.
"""

import collections
import json
import sys
import threading
import time

from models import airports, bus

WAIT = 60.0  # seconds that the events may take to come in

by_country: collections.Counter[str] = collections.Counter()
heard_at: dict[str, int] = {}
one_more = threading.Condition()


@airports.saved.connect
def count(sender, event):
    """Called after the commit of each airport, in commit order."""
    with one_more:
        heard_at[event.id] = time.time_ns()
        by_country[event.payload["country"]] += 1
        one_more.notify()


with bus:
    print("ready", flush=True)
    expected = int(sys.stdin.readline() or 0)
    with one_more:
        one_more.wait_for(lambda: len(heard_at) >= expected, WAIT)

print(json.dumps({"counts": by_country, "heard_at": heard_at}), flush=True)
