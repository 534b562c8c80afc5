"""Can a Peewee Database route its queries through Honker?

Fails (exit code 1) if Peewee needs what Honker cannot give: the last row's id, the names of columns, columns of equal names.
Uses the bare honker package and Peewee's SQL compiler, nothing of peewee_honker: this is the question that came before it.
"""

import importlib.metadata
import os
import sys
import tempfile

import honker
from peewee import ForeignKeyField, Model, SqliteDatabase, TextField

compiler = SqliteDatabase(None)  # compiles; never connects


class Person(Model):
    name = TextField()

    class Meta:
        database = compiler


class Pet(Model):
    owner = ForeignKeyField(Person)
    name = TextField()

    class Meta:
        database = compiler


def main() -> int:
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        database = honker.open(os.path.join(folder, "adapter.db"))
        with database.transaction() as transaction:
            for model in (Person, Pet):
                sql, _ = model._schema._create_table().query()
                transaction.execute(sql)
            sql, values = Person.insert(name="Ada").sql()
            transaction.query(sql, values)
            person = transaction.query("SELECT last_insert_rowid() AS id")[0]["id"]
            sql, values = Pet.insert(owner=person, name="Rex").sql()
            transaction.query(sql, values)
        print(f"last row's id: {person}")
        if person != 1:
            failures.append("no last row's id")

        sql, values = Pet.select(Pet.id, Person.id, Pet.name, Person.name).join(Person).sql()
        plain = database.query(sql, values)[0]
        wrapped = database.query(f"WITH r(a, b, c, d) AS ({sql}) SELECT * FROM r", values)[0]
        print(f"a join of two models: {plain} - two of four columns are lost")
        print(f"wrapped, each column with a name of its own: {wrapped}")
        if list(wrapped.values()) != [1, 1, "Rex", "Ada"]:
            failures.append("columns of equal names are lost")

        question = f"SELECT * FROM (SELECT NULL AS none_) LEFT JOIN (SELECT * FROM ({sql}) LIMIT 0)"
        names = list(database.query(question, values)[0])[1:]
        print(f"names without running it: {names}")
        if len(names) != 4:
            failures.append("the names of columns cannot be had")
        database.close()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("honker", "peewee"))
    print(f"{'no: ' + '; '.join(failures) if failures else 'yes'} ({versions})")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
