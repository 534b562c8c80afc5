"""Can a Peewee Database route its queries through Honker?

Fails (exit code 1) if Peewee needs what Honker cannot give:
- the id of the row that an INSERT made;
- the names of a SELECT's columns, also when no row comes;
- every column of a join, although some have equal names: Honker's rows are dicts;
- an error that can be told to be a broken constraint.

Uses the bare honker package and Peewee's SQL compiler, nothing of peewee_honker: this is the question that came before it.
"""

import argparse
import sys

from peewee import ForeignKeyField, Model, SqliteDatabase, TextField
from shared.honker_helpers import Report, prove, temporary_database

compiler = SqliteDatabase(None)  # compiles; never connects


class Person(Model):
    name = TextField(unique=True)

    class Meta:
        database = compiler


class Pet(Model):
    owner = ForeignKeyField(Person)
    name = TextField()

    class Meta:
        database = compiler


def route(report: Report, _: argparse.Namespace) -> str:
    with temporary_database() as (database, _path):
        with database.transaction() as transaction:
            for model in (Person, Pet):
                for context in (model._schema._create_table(), *model._schema._create_indexes()):
                    transaction.execute(context.query()[0])
        inserting(report, database)
        naming(report, database)
        refusing(report, database)
    return "YES: a SELECT is wrapped to name its columns, an INSERT is asked for its id in its own transaction."


def inserting(report: Report, database) -> None:
    with database.transaction() as transaction:
        transaction.query(*Person.insert(name="Bo").sql())
        transaction.query(*Person.insert(name="Ada").sql())
        person = transaction.query("SELECT last_insert_rowid() AS id")[0]["id"]
        report.show("the last row's id", person)
        report.must(person == 2, "no last row's id")
        transaction.query(*Pet.insert(owner=person, name="Rex").sql())


def naming(report: Report, database) -> None:
    select = Pet.select(Pet.id, Person.id, Pet.name, Person.name).join(Person)
    sql, values = select.sql()
    plain = database.query(sql, values)[0]
    report.show("a join of two models, as it is (two of four columns are lost)", plain)

    wrapped = database.query(f"SELECT * FROM ({sql})", values)[0]
    report.show("the same, wrapped: SQLite itself makes the names unlike", wrapped)
    report.must(list(wrapped.values()) == [1, 2, "Rex", "Ada"], "columns of equal names are lost")

    sql, values = select.where(Pet.name == "nobody").sql()
    found = database.query(f"SELECT * FROM (SELECT NULL) LEFT JOIN ({sql})", values)
    names = list(found[0])[1:] if found else []
    report.show("the names of the columns when no row comes", names)
    report.must(len(names) == 4, "an empty result has no names of columns")


def refusing(report: Report, database) -> None:
    message = ""
    try:
        with database.transaction() as transaction:
            transaction.query(*Person.insert(name="Ada").sql())
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    report.show("a broken constraint", message)
    report.must("UNIQUE constraint failed" in message, "a broken constraint cannot be told")


if __name__ == "__main__":
    sys.exit(prove(route, __doc__))
