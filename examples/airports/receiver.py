"""Counts the airports by country as their events come in: `receiver.py DATABASE`. Started by demo.py.

Says "ready" once it hears everything; when told a number of airports, it waits until it has heard of as many, then writes
its counts and the time at which it heard of each airport as a line of JSON.
"""

import collections
import json
import sys
import threading
import time

from models import airports, bus, db

WAIT = 20.0  # seconds that the last events may take to come in

by_country: collections.Counter[str] = collections.Counter()
heard_at: dict[str, int] = {}
one_more = threading.Condition()


@airports.saved.connect
def count(sender, event):
    """Called in the bus's thread after the commit of each airport, in commit order."""
    with one_more:
        heard_at[event.id] = time.time_ns()
        by_country[event.payload["country"]] += 1
        one_more.notify()


db.init(sys.argv[1])
with bus:  # what commits from here on is heard
    print("ready", flush=True)
    expected = sys.stdin.readline()
    if not expected:
        sys.exit("the demo has gone away")
    with one_more:
        # Heard of fewer in the end? Then the counts say so, and demo.py names the difference.
        one_more.wait_for(lambda: by_country.total() >= int(expected), WAIT)

print(json.dumps({"by_country": by_country, "heard_at": heard_at}), flush=True)
