"""Moves the shop from a file to PostgreSQL, or back: rows, streams, consumers' places, dead letters.

    python move.py shop.db postgresql://user@host/shop

The source takes no writes while it is copied, and none afterwards: whoever still writes there is told that it has moved.
The target has to be new. Offsets stay what they are, so every consumer goes on where it was.
"""

import sys
from typing import Any

import peewee
from shop import MODELS, open_database

from peewee_honker import HonkerDatabase
from peewee_honker.events.dead_letter import make_table
from peewee_honker.events.stream import PRUNED_TABLE
from peewee_honker.servers.postgres import store_for

ROWS = 500
WORD = "this shop has moved to another database: start the program with its new address"

# By table of the events: its name in the file, in PostgreSQL, and its columns.
TABLES = {
    "stream": ("_honker_stream", "peewee_honker.stream", ['"offset"', "topic", "key", "payload", "created_at"]),
    "places": ("_honker_stream_consumers", "peewee_honker.consumers", ["name", "topic", '"offset"']),
    "pruned": ("_honker_peewee_pruned", "peewee_honker.pruned", ["stream", '"offset"']),
    "letters": (
        "_honker_peewee_dead_letters",
        "peewee_honker.dead_letters",
        ["consumer", "stream", '"offset"', "payload", "receiver", "error", "traceback", "attempts", "died_at"],
    ),
}


class File:
    """A HonkerDatabase, as source or target."""

    mark = "?"

    def __init__(self, database: HonkerDatabase) -> None:
        self.db = database
        self.begin = ("IMMEDIATE",)

    def prepare(self) -> None:
        make_table(self.db)
        self.db.execute_sql(PRUNED_TABLE)

    def hold_writers(self) -> None:
        """Nothing: BEGIN IMMEDIATE does."""

    def table(self, name: str) -> str:
        return TABLES[name][0]

    def read_column(self, column: str) -> str:
        return "coalesce(key, '')" if column == "key" else column

    def write_column(self, column: str) -> str:
        return self.mark

    def last_offset(self) -> int:
        row = self.db.execute_sql("SELECT seq FROM sqlite_sequence WHERE name = '_honker_stream'").fetchone()
        return row[0] if row else 0

    def go_on_behind(self, offset: int) -> None:
        if self.last_offset() < offset:
            self.db.execute_sql("DELETE FROM sqlite_sequence WHERE name = '_honker_stream'")
            self.db.execute_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('_honker_stream', ?)", (offset,))

    def count_keys_on(self, model: Any) -> None:
        """Nothing: a file counts from the largest key."""

    def refuse_writes(self) -> None:
        tables = [model._meta.table_name for model in MODELS] + [self.table("stream"), self.table("places")]
        for table in tables:
            for operation in ("INSERT", "UPDATE", "DELETE"):
                self.db.execute_sql(
                    f'CREATE TRIGGER "moved_{table}_{operation}" BEFORE {operation} ON "{table}" '
                    f"BEGIN SELECT RAISE(ABORT, '{WORD}'); END"
                )


class Server:
    """A PostgreSQL database, as source or target."""

    mark = "%s"

    def __init__(self, database: peewee.PostgresqlDatabase) -> None:
        self.db: Any = database
        self.begin = ()

    def prepare(self) -> None:
        store_for(self.db).prepare()

    def hold_writers(self) -> None:
        tables = [f'"{model._meta.table_name}"' for model in MODELS] + [self.table("stream"), self.table("places")]
        self.db.execute_sql(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")

    def table(self, name: str) -> str:
        return TABLES[name][1]

    def read_column(self, column: str) -> str:
        return "extract(epoch FROM created_at)::bigint" if column == "created_at" else column

    def write_column(self, column: str) -> str:
        return "to_timestamp(%s)" if column == "created_at" else self.mark

    def last_offset(self) -> int:
        sequence = "pg_get_serial_sequence('peewee_honker.stream', 'offset')::regclass"
        row = self.db.execute_sql(f"SELECT coalesce(pg_sequence_last_value({sequence}), 0)").fetchone()
        return int(row[0])

    def go_on_behind(self, offset: int) -> None:
        if offset:
            self.db.execute_sql("SELECT setval(pg_get_serial_sequence('peewee_honker.stream', 'offset'), %s)", (offset,))

    def count_keys_on(self, model: Any) -> None:
        key, table = model._meta.primary_key, model._meta.table_name
        if isinstance(key, peewee.AutoField):
            self.db.execute_sql(
                f'SELECT setval(pg_get_serial_sequence(%s, %s), max("{key.column_name}")) FROM "{table}"',
                (f'"{table}"', key.column_name),
            )

    def refuse_writes(self) -> None:
        self.db.execute_sql(
            "CREATE OR REPLACE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{WORD}'; END $$"
        )
        tables = [f'"{model._meta.table_name}"' for model in MODELS] + [self.table("stream"), self.table("places")]
        for table in tables:
            self.db.execute_sql(
                f"CREATE TRIGGER moved BEFORE INSERT OR UPDATE OR DELETE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION moved()"
            )


def side(where: str) -> File | Server:
    database = open_database(where)
    return File(database) if isinstance(database, HonkerDatabase) else Server(database)


def move(source: File | Server, target: File | Server) -> dict[str, int]:
    """Copy all from one to the other, in one transaction of each. Gives how many rows by table."""
    source.prepare()
    target.prepare()
    counts = {}
    with target.db.bind_ctx(MODELS):
        target.db.create_tables(MODELS)
    with source.db.atomic(*source.begin):
        source.hold_writers()
        # Within the source's transaction, so that the target's commits first: a failure leaves the source as it was.
        with target.db.atomic():
            for model in peewee.sort_models(MODELS):
                counts[model._meta.table_name] = copy_model(model, source, target)
            for name in TABLES:
                counts[name] = copy_events(name, source, target)
            target.go_on_behind(source.last_offset())
        source.refuse_writes()
    return counts


def copy_model(model: Any, source: File | Server, target: File | Server) -> int:
    if model.select().bind(target.db).count():
        raise SystemExit(f"the table {model._meta.table_name} of the target is not empty: move into a new database")
    count = 0
    for rows in peewee.chunked(model.select().order_by(model._meta.primary_key).dicts().bind(source.db).iterator(), ROWS):
        model.insert_many(rows).execute(target.db)
        count += len(rows)
    if count:
        target.count_keys_on(model)
    return count


def copy_events(name: str, source: File | Server, target: File | Server) -> int:
    columns = TABLES[name][2]
    read = f"SELECT {', '.join(map(source.read_column, columns))} FROM {source.table(name)}"
    write = (
        f"INSERT INTO {target.table(name)} ({', '.join(columns)}) VALUES ({', '.join(map(target.write_column, columns))})"
    )
    count = 0
    for row in source.db.execute_sql(read + (" ORDER BY 1" if name == "stream" else "")):
        target.db.execute_sql(write, tuple(row))
        count += 1
    return count


if __name__ == "__main__":
    source, target = side(sys.argv[1]), side(sys.argv[2])
    try:
        for table, count in move(source, target).items():
            print(f"{table}: {count}")
    finally:
        for each in (source, target):
            each.db.close()
