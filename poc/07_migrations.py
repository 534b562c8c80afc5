"""Do Peewee's migrations work through HonkerDatabase, on tables with data and with foreign keys on?

SQLite can add, rename and drop a column by itself. For the rest, and for a new column that is not null, playhouse.migrate
makes the table anew: it copies the rows, drops the old table and renames the new one. Each step below runs on a fresh file
of authors and books (ON DELETE CASCADE) with indexes and a trigger, by HonkerDatabase and by SqliteDatabase with the same
pragmas.

Fails (exit code 1) if, within `migrator.migration_context()`, which is how Peewee says to migrate,
- a row is lost or changed, a foreign key broken, or enforcement not back on afterwards;
- HonkerDatabase leaves another schema or other rows than SqliteDatabase;
- a migration that raises leaves anything behind;
- playhouse.migrations (up, down, generate) or schema_diff do not lead to the models' schema;
- a bus that listens in another process during all that misses a write after it.

Said as well, and no condition: what a table made anew loses, with SqliteDatabase too; what happens outside of
`migration_context()`: foreign keys are on by default in Honker, and dropping a table deletes its rows, which cascades; and
what another thread may write while they are off.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from peewee import (
    CharField,
    ForeignKeyField,
    IntegerField,
    IntegrityError,
    Model,
    OperationalError,
    SqliteDatabase,
    TextField,
)
from playhouse import migrations, schema_diff
from playhouse.migrate import SqliteMigrator
from shared.honker_helpers import Child, Report, prove, temporary_path

from peewee_honker import HonkerDatabase

BEFORE = [
    "CREATE TABLE author (id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(20) NOT NULL, born INTEGER)",
    """CREATE TABLE book (id INTEGER PRIMARY KEY, author_id INTEGER NOT NULL, title TEXT NOT NULL, note TEXT,
    FOREIGN KEY (author_id) REFERENCES author (id) ON DELETE CASCADE)""",
    "CREATE TABLE log (id INTEGER PRIMARY KEY, what TEXT)",
    "CREATE UNIQUE INDEX author_name ON author (name)",
    "CREATE INDEX author_born ON author (born) WHERE born > 1800",
    "CREATE INDEX book_author ON book (author_id)",
    "CREATE TRIGGER author_added AFTER INSERT ON author BEGIN INSERT INTO log (what) VALUES (new.name); END",
    "INSERT INTO author (id, name, born) VALUES (1, 'Ada', 1815), (2, 'Bo', 1980), (9, 'gone', NULL)",
    "DELETE FROM author WHERE id = 9",
    "INSERT INTO book (author_id, title) VALUES (1, 'Notes'), (1, 'Letters'), (2, 'Poems')",
]
VIEW = "CREATE VIEW titles AS SELECT author.name, book.title FROM author JOIN book ON book.author_id = author.id"

Step = Callable[[SqliteMigrator], Any]
STEPS: dict[str, Step] = {
    "add_column": lambda m: m.add_column("author", "city", CharField(default="Paris")),
    "add_column, foreign key": lambda m: m.add_column(
        "author", "friend_id", ForeignKeyField(Author, Author.id, null=True, on_delete="SET NULL")
    ),
    "rename_column": lambda m: m.rename_column("author", "born", "year"),
    "drop_column": lambda m: m.drop_column("book", "note"),
    "drop_column, indexed": lambda m: [m.drop_index("author", "author_born"), m.drop_column("author", "born")],
    "rename_table": lambda m: m.rename_table("author", "writer"),
    "add_index": lambda m: m.add_index("book", ("author_id", "title"), True),
    "add_not_null (anew)": lambda m: m.add_not_null("author", "born"),
    "drop_not_null (anew)": lambda m: m.drop_not_null("author", "name"),
    "add_column_default (anew)": lambda m: m.add_column_default("author", "born", 1900),
    "alter_column_type (anew)": lambda m: m.alter_column_type("author", "born", TextField(null=True)),
    "rename_column, legacy (anew)": lambda m: m.rename_column("author", "born", "year", legacy=True),
}


class Author(Model):
    name = CharField(max_length=20)
    born = IntegerField(null=True)


class Book(Model):
    author = ForeignKeyField(Author, on_delete="CASCADE", index=False)
    title = TextField()
    note = TextField(null=True)


def honker(path: str) -> HonkerDatabase:
    return HonkerDatabase(path)


def stock(path: str) -> SqliteDatabase:
    return SqliteDatabase(path, pragmas={"foreign_keys": 1, "journal_mode": "wal", "recursive_triggers": 0})


class Case:
    """One file, filled, and what is in it."""

    def __init__(self, make: Callable[[str], SqliteDatabase], path: str, *more: str) -> None:
        self.database = make(path)
        for sql in (*BEFORE, *more):
            self.database.execute_sql(sql)
        self.migrator = SqliteMigrator(self.database)

    def __enter__(self) -> "Case":
        return self

    def __exit__(self, *error: object) -> None:
        self.database.close()
        if isinstance(self.database, HonkerDatabase):
            self.database.close_engine()

    def migrate(self, step: Step) -> str:
        """Run a step as Peewee says, and give the error if there is one."""
        try:
            with self.migrator.migration_context():
                self.run(step)
        except (OperationalError, ValueError) as error:
            return str(error)
        return ""

    def run(self, step: Step) -> None:
        operations = step(self.migrator)
        self.migrator.migrate(*(operations if isinstance(operations, list) else [operations]))

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        tables = [name for name in self.database.get_tables() if name != "sqlite_sequence"]
        return {table: list(self.database.execute_sql(f'SELECT * FROM "{table}" ORDER BY id')) for table in tables}

    def essence(self) -> list[list[tuple[Any, ...]]]:
        """What no step may touch: the authors' ids and names, and whose the books are, with their titles."""
        rows = self.rows()
        writers = rows["writer" if "writer" in rows else "author"]
        return [[row[:2] for row in writers], [row[:3] for row in rows["book"]]]

    def schema(self) -> dict[tuple[str, str], str]:
        """The SQL of what the user made, by type and name."""
        found = self.database.execute_sql(
            "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
            " AND name NOT LIKE '\\_honker%' ESCAPE '\\' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
        return {(kind, name): sql for kind, name, sql in found}

    def counter(self) -> int:
        """The id that AUTOINCREMENT will not give again."""
        found = self.database.execute_sql("SELECT MAX(seq) FROM sqlite_sequence WHERE name IN ('author', 'writer')")
        return found.fetchone()[0]

    def broken(self) -> list[Any]:
        return self.database.execute_sql("PRAGMA foreign_key_check").fetchall()


def each_step(report: Report, folder: str) -> None:
    table = []
    for number, (name, step) in enumerate(STEPS.items()):
        with (
            Case(honker, os.path.join(folder, f"h{number}.db")) as ours,
            Case(stock, os.path.join(folder, f"s{number}.db")) as theirs,
        ):
            before, counted = ours.essence(), ours.schema()
            errors = [case.migrate(step) for case in (ours, theirs)]
            kept = ours.essence() == before
            same = (ours.rows(), ours.schema(), ours.counter()) == (theirs.rows(), theirs.schema(), theirs.counter())
            lost = sorted(f"{kind} {thing}" for kind, thing in counted.keys() - ours.schema().keys() if kind != "table")
            if ours.counter() != 9:
                lost.append("AUTOINCREMENT's counter")
            enforced = ours.database.pragma("foreign_keys") == 1
            table.append([name, errors[0] or "done", kept, not ours.broken() and enforced, ", ".join(lost) or "-", same])
            report.must(errors[0] == errors[1] == "", f"{name} raised: {errors}")
            report.must(kept and not ours.broken(), f"{name} lost rows or broke a foreign key")
            report.must(enforced, f"foreign keys are off after {name}")
            report.must(same, f"{name} ends otherwise than with SqliteDatabase")
    head = ["step, in migration_context()", "", "rows kept", "foreign keys", "lost", "as SqliteDatabase"]
    report.table(head, [["yes" if cell is True else "NO" if cell is False else cell for cell in row] for row in table])


def with_a_view(report: Report, folder: str) -> None:
    """A view on a table that is made anew."""
    outcomes = []
    for make in (honker, stock):
        with Case(make, os.path.join(folder, f"view-{make.__name__}.db"), VIEW) as case:
            before = (case.rows(), case.schema())
            outcomes.append(case.migrate(STEPS["add_not_null (anew)"]) or "done")
            report.must((case.rows(), case.schema()) == before or outcomes[-1] == "done", "a failed step left something")
    report.show("\na table made anew under a view", outcomes[0])
    report.must(outcomes[0] == outcomes[1], f"with a view: {outcomes}")


def outside_of_context(report: Report, folder: str) -> None:
    """What the same step does without migration_context, and within atomic()."""
    table = []
    for make, words in [(honker, "HonkerDatabase"), (stock, "SqliteDatabase, foreign_keys=1")]:
        left = []
        for number in range(2):
            with Case(make, os.path.join(folder, f"outside{number}-{make.__name__}.db")) as case:
                step = STEPS["drop_not_null (anew)"]
                if number:
                    with case.database.atomic():
                        case.run(step)
                else:
                    case.run(step)
                left.append(f"{len(case.rows()['book'])} of 3")
        table.append([words, *left])
    report.show("\nbooks left when `author` is made anew")
    report.table(["", "bare migrate()", "within atomic()"], table)
    report.must(
        table[0][1:] == table[1][1:], "outside of migration_context, rows are left otherwise than with SqliteDatabase"
    )


def undone(report: Report, folder: str) -> None:
    """A migration that raises in its middle leaves nothing."""
    with Case(honker, os.path.join(folder, "undone.db")) as case:
        before = (case.rows(), case.schema())
        try:
            with case.migrator.migration_context():
                case.run(STEPS["add_column"])
                case.run(STEPS["drop_not_null (anew)"])
                raise LookupError
        except LookupError:
            pass
        same = (case.rows(), case.schema()) == before
        report.show("\na migration that raises after two steps", "all undone" if same else "LEFT SOMETHING")
        report.must(same and case.database.pragma("foreign_keys") == 1, "a migration that raised left something behind")


def another_thread(report: Report, folder: str) -> None:
    """What a thread may write while foreign keys are off for a migration."""
    outcomes = []
    for make in (honker, stock):

        def orphan() -> None:
            try:
                case.database.execute_sql("INSERT INTO book (author_id, title) VALUES (77, 'orphan')")
                outcomes.append("accepted")
            except IntegrityError:
                outcomes.append("refused")
            case.database.close()

        with (
            Case(make, os.path.join(folder, f"thread-{make.__name__}.db")) as case,
            case.migrator.migration_context(atomic=False),
        ):
            thread = threading.Thread(target=orphan)
            thread.start()
            thread.join()
    report.show("\nmeanwhile, in another thread, a book of no author is", f"{outcomes[0]} (SqliteDatabase: {outcomes[1]})")


def runner(report: Report, folder: str) -> None:
    """playhouse.migrations: a script made from the difference to the models, up and down."""

    class Author(Model):
        name = CharField(max_length=20, unique=True)
        born = IntegerField(null=True)
        city = CharField(default="Paris")

    class Publisher(Model):
        name = CharField()

    with Case(honker, os.path.join(folder, "runner.db")) as case, case.database.bind_ctx([Author, Publisher]):
        directory = os.path.join(folder, "migrations")
        difference = schema_diff.diff_models(case.database, [Author, Publisher])
        each = migrations.Runner(case.database, directory)
        each.create("cities", migrations.template(difference))
        before = case.rows()
        done = each.up()
        after = schema_diff.diff_models(case.database, [Author, Publisher])
        towns = {author.city for author in Author.select()}
        report.show("\nmigrations: generated and applied", ", ".join(done))
        report.show("difference to the models then", str(after).strip() or "none")
        added = case.database.get_tables()
        each.down()
        back = {name: rows for name, rows in case.rows().items() if name in before}
        report.show("reverted: rows as before", back == before)
        report.must(towns == {"Paris"} and "publisher" in added, "the generated migration did not lead to the models")
        report.must(not after, "the models and the schema differ after the generated migration")
        report.must(back == before and "publisher" not in case.database.get_tables(), "down() did not lead back")


LISTENER = """
import sys
from peewee import TextField
from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.signals import Model
database = HonkerDatabase(sys.argv[1])
class Author(Model):
    name = TextField()
    class Meta:
        database = database
bus = EventBus(database)
authors = bus.bridge(Author)
@authors.saved.connect
def hear(sender, event):
    print(event.payload["name"], flush=True)
with bus:
    print("ready", flush=True)
    sys.stdin.readline()
"""


def beside_a_bus(report: Report, folder: str) -> None:
    """A process listens while another one migrates and then writes."""
    from peewee_honker import EventBus
    from peewee_honker.signals import Model as Published

    path = os.path.join(folder, "bus.db")
    with Case(honker, path) as case:

        class Author(Published):
            name = TextField()
            city = CharField(default="Paris")

            class Meta:
                database = case.database

        EventBus(case.database).bridge(Author)
        with Child(LISTENER, path) as listener:
            listener.line()
            failed = case.migrate(STEPS["add_column"]) or case.migrate(STEPS["drop_not_null (anew)"])
            Author.create(name="after the migration")
            heard = listener.line()
            listener.say("stop")
            listener.finish()
    report.show("a bus in another process, after two steps, hears", heard)
    report.must(not failed and heard == "after the migration", f"the bus beside a migration: {failed or heard}")


def measure(report: Report, _: argparse.Namespace) -> str:
    with temporary_path() as path:
        folder = os.path.dirname(path)
        for part in (each_step, with_a_view, outside_of_context, another_thread, undone, runner, beside_a_bus):
            part(report, folder)
    return (
        "YES, within migration_context(). A table made anew loses its triggers and AUTOINCREMENT's counter: make the\n"
        "triggers again. Outside of it foreign keys are on: making a parent's table anew deletes the rows that refer to it."
    )


if __name__ == "__main__":
    sys.exit(prove(measure, __doc__))
