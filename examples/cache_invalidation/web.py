"""One of many processes that answer from memory. Reads names, prints prices and where they came from."""

import sys
import threading
from typing import Any

from models import Price, bus, db, prices

cache: dict[str, int] = {}
changes = 0  # how many changes were heard of
changing = threading.Lock()


@prices.saved.connect
@prices.deleted.connect
def forget(_sender: type[Price], event: Any) -> None:
    global changes
    with changing:
        changes += 1
        cache.pop(event.id, None)


@bus.missed.connect
def forget_all(_bus: Any, event: Any) -> None:
    """Events were deleted before this process had them: anything may have changed."""
    global changes
    with changing:
        changes += 1
        cache.clear()


def price(name: str) -> tuple[int, str]:
    with changing:
        before, found = changes, cache.get(name)
    if found is not None:
        return found, "(memory)"
    found = Price.get_by_id(name).cents
    with changing:
        if changes == before:  # else what was read may be older than the change that was heard of
            cache[name] = found
    return found, "(file)"


with bus:
    for line in sys.stdin:
        print(*price(line.strip()), flush=True)
db.close_engine()
