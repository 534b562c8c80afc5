"""Peewee's extensions do on HonkerDatabase what they do on SqliteDatabase.

Each piece of work runs on both; Peewee's own class uses a file of its own, and sqlite3.
"""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import peewee
import pytest
from peewee import (
    CharField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Load,
    Model,
    SqliteDatabase,
    TextField,
    fn,
    prefetch,
)
from playhouse import dataset, kv, migrations, reflection, schema_diff, shortcuts, sqlite_changelog, sqlite_ext, test_utils
from playhouse.hybrid import hybrid_property
from playhouse.migrate import SqliteMigrator, migrate
from pwiz import print_models


class User(Model):
    name = CharField(unique=True, max_length=20)
    age = IntegerField(default=3, index=True)

    @hybrid_property
    def adult(self):
        return self.age >= 18

    class Meta:
        table_name = "users"


class Post(Model):
    user = ForeignKeyField(User, backref="posts", on_delete="CASCADE")
    text = TextField()
    meta = JSONField(null=True)


class Search(sqlite_ext.FTS5Model):
    title = sqlite_ext.SearchField()
    body = sqlite_ext.SearchField()

    class Meta:
        options = {"tokenize": "porter"}  # noqa: RUF012  # Peewee reads it as a dict


MODELS = [User, Post]
Work = Callable[[SqliteDatabase, Any], Any]


def fill() -> None:
    for name, age in [("ada", 36), ("bo", 12), ("cy", 50)]:
        user = User.create(name=name, age=age)
        for number in range(age % 5):
            Post.create(user=user, text=f"{name} {number}", meta={"n": number, "tags": [name, "all"]})


def by_migrate(db, folder):
    migrator = SqliteMigrator(db)
    with db.atomic():
        migrate(
            migrator.add_column("users", "city", CharField(default="Paris")),
            migrator.rename_column("users", "age", "years"),
            migrator.add_not_null("post", "meta"),
            migrator.drop_not_null("post", "meta"),
            migrator.drop_column("post", "text"),
            migrator.add_index("users", ("city", "name"), True),
            migrator.alter_column_type("users", "years", TextField()),
            migrator.rename_table("post", "posts"),
        )
    return (
        [db.get_columns(table) for table in ("users", "posts")],
        db.get_indexes("users"),
        db.get_foreign_keys("posts"),
        db.execute_sql("SELECT * FROM users ORDER BY id").fetchall(),
        db.execute_sql("SELECT * FROM posts ORDER BY id").fetchall(),
        db.get_tables(),
    )


def by_migrations(db, folder):
    (folder / "migrations").mkdir()
    (folder / "migrations" / "0001_first.py").write_text(
        "def up(migrator, db):\n    db.execute_sql('CREATE TABLE made (a)')\n"
        "def down(migrator, db):\n    db.execute_sql('DROP TABLE made')\n"
    )
    runner = migrations.Runner(db, str(folder / "migrations"))
    runner.up()
    made = db.get_tables()
    runner.down()
    return made, db.get_tables()


def by_reflection(db, folder):
    models = reflection.generate_models(db)
    introspected = {
        name: [(field.name, type(field).__name__, field.null) for field in model._meta.sorted_fields]
        for name, model in models.items()
    }
    return introspected, [user.name for user in models["users"].select().order_by(models["users"].name)]


def by_schema_diff(db, folder):
    class Renamed(Model):
        name = CharField()
        city = CharField(null=True)

        class Meta:
            database = db
            table_name = "users"

    diff = schema_diff.diff_models(db, [Renamed])
    return str(diff)


def by_pwiz(db, folder):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_models(reflection.Introspector.from_database(db))
    return printed.getvalue().split("\n", 3)[3]  # behind the line that names the class


def by_dataset(db, folder):
    data = dataset.DataSet(db)
    table = data["things"]
    table.insert(name="x", size=1)
    table.insert(name="y", color="red")
    table.update(name="x", size=2, columns=["name"])
    return list(table.all()), sorted(data.tables), table.columns, list(data["users"].find(name="ada"))


def by_kv(db, folder):
    store = kv.KeyValue(database=db)
    store["a"], store["b"], store["c"] = 1, {"x": [1, 2]}, 7
    store.update(a=5, d="d")
    del store["c"]
    return sorted(store.items(), key=str), store.pop("b"), "b" in store, store[store.key < "b"], len(store)


def by_shortcuts(db, folder):
    user = User.get(name="ada")
    data = shortcuts.model_to_dict(user, backrefs=True)
    return data, shortcuts.dict_to_model(User, {"name": "new"}).name


def by_hybrid_and_loads(db, folder):
    with test_utils.count_queries() as counter:
        users = list(User.select().where(User.adult).order_by(User.id).with_related(Load(User.posts)))
        posts = [[post.text for post in user.posts] for user in users]
        prefetched = [len(user.posts) for user in prefetch(User.select().order_by(User.id), Post.select())]
    return posts, prefetched, counter.count


def by_changelog(db, folder):
    log = sqlite_changelog.ChangeLog(db)
    log.model._meta.database = db
    log.model.create_table()
    log.install(User)
    User.create(name="di")
    User.update(age=User.age + 1).where(User.name == "di").execute()
    User.delete().where(User.name == "di").execute()
    return [(row.action, row.table, row.primary_key, row.changes) for row in log.model.select()]


def by_fts5(db, folder):
    with db.bind_ctx([Search]):
        db.create_tables([Search])
        Search.insert_many([{"title": f"t{n}", "body": "running dogs " * n} for n in range(1, 5)]).execute()
        found = Search.search("run", with_score=True, score_alias="score").order_by(Search.rowid)
        scores = [round(row.score, 4) for row in found]
        lit = Search.select(Search.title, Search.body.highlight("<", ">")).where(Search.match("dog")).order_by(Search.rowid)
        return scores, list(lit.tuples())


def by_json(db, folder):
    query = Post.select().order_by(Post.id)
    Post.update(meta=Post.meta["n"].set(7)).where(Post.id == 1).execute()
    return (
        [post.meta for post in query],
        [post.id for post in query.where(Post.meta["tags"].contains(["ada"]))],
        list(query.select(Post.meta["n"], Post.meta["tags"].length()).tuples()),
    )


def by_windows_and_ctes(db, folder):
    rank = fn.RANK().over(order_by=[User.age.desc()]).alias("rank")
    ranked = list(User.select(User.name, rank).order_by(rank).tuples())
    cte = User.select(User.id, User.age).cte("aged")
    older = list(User.select(User.name, cte.c.age).join(cte, on=(cte.c.id == User.id)).with_cte(cte).namedtuples())
    union = User.select(User.name) | Post.select(Post.text)
    return ranked, [tuple(row) for row in older], sorted(union.tuples())


def by_upserts(db, folder):
    User.insert(name="ada", age=1).on_conflict(conflict_target=[User.name], preserve=[User.age]).execute()
    User.insert(name="ada", age=2).on_conflict_ignore().execute()
    User.replace(name="bo", age=99).execute()
    User.bulk_update([User(id=3, age=51, name="cy")], fields=[User.age])
    created = User.get_or_create(name="eve", defaults={"age": 5})
    return list(User.select().order_by(User.name).dicts()), created[1], Post.select().count()


@pytest.mark.parametrize(
    "work",
    [
        by_migrate,
        by_migrations,
        by_reflection,
        by_schema_diff,
        by_pwiz,
        by_dataset,
        by_kv,
        by_shortcuts,
        by_hybrid_and_loads,
        by_changelog,
        by_fts5,
        by_json,
        by_windows_and_ctes,
        by_upserts,
    ],
    ids=lambda work: work.__name__[3:],
)
def test_the_same_work_has_the_same_result(work, db, tmp_path):
    outcomes = []
    stock = SqliteDatabase(str(tmp_path / "stock.db"), pragmas={"foreign_keys": 1, "journal_mode": "wal"})
    for database in (db, stock):
        folder = tmp_path / type(database).__name__
        folder.mkdir()
        with database.bind_ctx(MODELS):
            database.create_tables(MODELS)
            fill()
            outcomes.append(work(database, folder))
        database.close()
    assert outcomes[0] == outcomes[1]


def test_bound_and_proxied_databases(db, open_database, tmp_path):
    proxy = peewee.DatabaseProxy()

    class Note(Model):
        text = TextField()

        class Meta:
            database = proxy

    proxy.initialize(db)
    db.create_tables([Note])
    Note.create(text="in the first")
    other = open_database(str(tmp_path / "other.db"))
    with other.bind_ctx([Note]):
        other.create_tables([Note])
        assert Note.select().count() == 0
    assert Note.get().text == "in the first"
