"""Writes real airports into the file, as another program would: the map's server is not asked.

python importer.py [--rate 100] [--limit 1000] [--rollback]
"""

import argparse
import random
import time

import airportsdata
from models import Airport, db

TRANSACTION = 10  # airports


class UndoError(Exception):
    """Raised on purpose, to have the import rolled back."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100, help="airports a second; 0: as fast as it goes")
    parser.add_argument("--limit", type=int, help="how many; by default all that are not there yet")
    parser.add_argument("--rollback", action="store_true", help="roll all of it back at the end: the map shows nothing")
    arguments = parser.parse_args()

    db.create_tables([Airport])
    known = {ident for (ident,) in Airport.select(Airport.ident).tuples()}
    rows = [row for ident, row in airportsdata.load("ICAO").items() if ident not in known]
    random.Random(1).shuffle(rows)  # all over the world from the beginning
    rows = rows[: arguments.limit]
    try:
        if arguments.rollback:
            with db.atomic():
                write(rows)
                raise UndoError
        for start in range(0, len(rows), TRANSACTION):
            batch = rows[start : start + TRANSACTION]
            with db.atomic():  # they appear together, or none of them
                write(batch)
            if arguments.rate:
                time.sleep(len(batch) / arguments.rate)
    except UndoError:
        print(f"{len(rows)} airports written and rolled back")
    else:
        print(f"{len(rows)} airports committed")
    finally:
        db.close_engine()


def write(rows):
    for row in rows:
        Airport.create(
            ident=row["icao"],
            name=row["name"],
            city=row["city"],
            country=row["country"],
            latitude=row["lat"],
            longitude=row["lon"],
        )


if __name__ == "__main__":
    main()
