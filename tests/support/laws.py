"""How many examples Hypothesis tries of a law: a quarter of them in each run, all in `make test-slow`."""

import os

__all__ = ["examples"]

_ALL = os.environ.get("PEEWEE_HONKER_LAWS") == "all"


def examples(number: int) -> int:
    """The `max_examples` of a law that was found to need so many."""
    return number if _ALL else max(10, number // 4)
