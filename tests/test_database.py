"""HonkerDatabase where it stands between Peewee and the engine: opening, closing, options, errors, introspection."""

import datetime
import decimal
import logging
import os
import sqlite3
import uuid
from pathlib import Path

import peewee
import pytest
from peewee import (
    BigIntegerField,
    BlobField,
    CharField,
    DatabaseProxy,
    DateTimeField,
    DecimalField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    Model,
    TextField,
    UUIDField,
    fn,
)
from playhouse import db_url

from peewee_honker import HonkerDatabase, PooledHonkerDatabase, SharedFileError
from tests.support import outside

database_ = DatabaseProxy()


class Person(Model):
    name = CharField(unique=True)
    age = IntegerField(null=True)

    class Meta:
        database = database_


class Pet(Model):
    owner = ForeignKeyField(Person, backref="pets")
    name = CharField()

    class Meta:
        database = database_


@pytest.fixture(autouse=True)
def _tables(db):
    database_.initialize(db)
    db.create_tables([Person, Pet])


# What commits is in the file


def test_rows_are_in_the_file_for_every_other_program(db, path):
    Person.create(name="Ada", age=36)
    assert outside.rows(path, "SELECT name, age FROM person") == [["Ada", 36]]


def test_what_another_program_writes_is_seen(db, path):
    with outside.Script(
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "c.execute(\"INSERT INTO person (name) VALUES ('Grace')\"); c.commit(); c.close(); print('done')",
        path,
    ) as other:
        other.line()
    assert [person.name for person in Person.select()] == ["Grace"]


def test_a_transaction_reads_its_own_writes_and_others_do_not(db, open_database):
    other = open_database()
    with db.atomic():
        Person.create(name="Ada")
        assert Person.select().count() == 1
        assert other.execute_sql("SELECT COUNT(*) FROM person").fetchone() == (0,)
    assert other.execute_sql("SELECT COUNT(*) FROM person").fetchone() == (1,)


def test_all_columns_come_back_when_names_are_equal(db):
    ada = Person.create(name="Ada", age=36)
    Pet.create(owner=ada, name="Rex")
    cursor = db.execute_sql("SELECT a.id, b.id, a.name, b.name FROM person a JOIN pet b ON b.owner_id = a.id")
    assert cursor.fetchall() == [(1, 1, "Ada", "Rex")]
    assert [column[0] for column in cursor.description] == ["id", "id", "name", "name"]


def test_an_empty_result_names_its_columns(db):
    assert [column[0] for column in db.execute_sql("SELECT id, name, 1 + 1 FROM person").description] == [
        "id",
        "name",
        "1 + 1",
    ]


def test_returning_with_equal_names_keeps_every_column(db):
    query = Person.insert(name="Ada").returning(Person.id, Person.name, Person.id).tuples()
    assert list(query.execute()) == [(1, "Ada", 1)]


def test_values_of_every_kind_come_back_as_they_went_in(db):
    class Thing(db.Model):
        big = BigIntegerField()
        price = DecimalField(max_digits=20, decimal_places=6)
        at = DateTimeField()
        key = UUIDField()
        data = BlobField()
        doc = JSONField()
        text = TextField(null=True)

    db.create_tables([Thing])
    values = {
        "big": 2**63 - 1,
        "price": decimal.Decimal("1234.567891"),
        "at": datetime.datetime(2020, 1, 2, 3, 4, 5, 678901),
        "key": uuid.uuid4(),
        "data": b"\x00\xff",
        "doc": {"a": [1, None, "é"]},
        "text": None,
    }
    Thing.create(**values)
    stored = Thing.get()
    assert {name: getattr(stored, name) for name in values} == {**values, "data": stored.data}
    assert bytes(stored.data) == values["data"]


def test_parts_of_dates_and_json_containment_are_plain_sql(db):
    class Note(db.Model):
        at = DateTimeField()
        doc = JSONField()

    db.create_tables([Note])
    Note.create(at=datetime.datetime(2021, 5, 6, 7, 8), doc={"tags": ["x", "y"], "deep": {"a": [{"b": 1}]}})
    assert Note.select().where(Note.at.year == 2021, Note.at.hour == 7).count() == 1
    assert Note.select(Note.at.truncate("month")).scalar() == datetime.datetime(2021, 5, 1)
    assert Note.select().where(Note.doc.contains({"tags": ["y"], "deep": {"a": [{"b": 1}]}})).count() == 1
    assert Note.select().where(Note.doc["tags"].contained_by(["x", "y", "z"])).count() == 1


# Opening and closing


def test_close_keeps_the_engine_and_close_engine_lets_the_file_go(db, path):
    engine = db.engine
    db.close()
    db.connect()
    assert db.engine is engine
    assert engine.is_open
    db.close_engine()
    sqlite3.connect(path).close()
    assert Person.select().count() == 0


def test_two_objects_on_one_file_share_one_engine(db, open_database, path, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(path)
    assert open_database(str(link)).engine is db.engine
    assert open_database(Path(path)).engine is db.engine


def test_a_file_that_was_replaced_is_opened_anew(db, path):
    Person.create(name="old")
    db.close_engine()
    os.replace(path, path + ".old")
    db.connect()
    assert db.get_tables() == []


def test_a_deleted_file_is_made_again(db, path):
    db.close()
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)
    db.connect()
    assert db.get_tables() == []


def test_init_later_and_again(open_database, tmp_path):
    late = open_database(None)
    with pytest.raises(peewee.InterfaceError):
        late.connect()
    with pytest.raises(peewee.InterfaceError):
        _ = late.honker
    late.init(str(tmp_path / "one.db"))
    late.execute_sql("CREATE TABLE one (a)")
    late.init(tmp_path / "two.db")
    assert late.get_tables() == []


def test_a_uri_names_its_file(db, open_database, path):
    Person.create(name="Ada")
    by_uri = open_database(f"file:{path}?mode=rw", uri=True)
    assert by_uri.execute_sql("SELECT name FROM person").fetchone() == ("Ada",)


def test_mode_ro_reads_and_refuses_to_write(db, open_database, path):
    Person.create(name="Ada")
    reader = open_database(f"file:{path}?mode=ro", uri=True)
    assert reader.execute_sql("SELECT name FROM person").fetchone() == ("Ada",)
    with pytest.raises(peewee.OperationalError, match="readonly"):
        reader.execute_sql("DELETE FROM person")


@pytest.mark.parametrize("parameter", ["immutable=1", "vfs=unix-none", "nolock=1"])
def test_a_uri_parameter_that_cannot_be_had_is_named(open_database, path, parameter):
    name = parameter.split("=")[0]
    with pytest.raises(peewee.NotSupportedError, match=name):
        open_database(f"file:{path}?{parameter}", uri=True).connect()


def test_a_path_that_cannot_be_opened_says_why(open_database, tmp_path):
    with pytest.raises(peewee.OperationalError, match="no directory"):
        open_database(str(tmp_path / "missing" / "a.db")).connect()
    with pytest.raises(peewee.OperationalError, match="is a directory"):
        open_database(str(tmp_path)).connect()
    with pytest.raises(peewee.OperationalError, match="does not exist"):
        open_database(f"file:{tmp_path}/none.db?mode=rw", uri=True).connect()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_without_write_permission_says_what_to_do(open_database, tmp_path):
    plain = tmp_path / "plain.db"
    plain.write_bytes(b"")
    plain.chmod(0o444)
    with pytest.raises(peewee.OperationalError, match="SqliteDatabase"):
        open_database(str(plain)).connect()


def test_a_file_that_is_no_database_is_a_database_error(open_database, tmp_path):
    text = tmp_path / "text.db"
    text.write_text("this is no database " * 100)
    with pytest.raises(peewee.DatabaseError, match="not a database"):
        open_database(str(text)).connect()


def test_a_parameter_of_sqlite3_alone_is_refused_by_name(open_database):
    with pytest.raises(peewee.NotSupportedError, match="detect_types"):
        open_database(detect_types=sqlite3.PARSE_DECLTYPES).connect()


# Memory


def test_memory_is_private_shared_by_threads_and_gone_at_close(open_database):
    one, two = open_database(":memory:"), open_database(":memory:")
    one.execute_sql("CREATE TABLE t (a)")
    assert two.get_tables() == []
    folder = os.path.dirname(one.engine.path)
    assert os.path.isdir(folder)
    one.close()
    assert not os.path.exists(folder)
    assert one.get_tables() == []


# The guard


def test_sqlite3_on_the_same_file_is_refused_with_the_way_out(db, path):
    for name in (path, Path(path), f"file:{path}?mode=ro"):
        with pytest.raises(SharedFileError, match="close_engine"):
            sqlite3.connect(name, uri=True)
    sqlite3.connect(":memory:").close()


def test_a_file_that_sqlite3_has_open_is_refused(open_database, tmp_path):
    name = str(tmp_path / "taken.db")
    connection = sqlite3.connect(name)
    connection.execute("CREATE TABLE t (a)")
    with pytest.raises(SharedFileError):
        open_database(name).connect()
    connection.close()
    open_database(name).connect()


def test_the_guard_can_be_switched_off_by_name(open_database, tmp_path):
    name = str(tmp_path / "unguarded.db")
    open_database(name, sqlite3_guard=False).connect()
    sqlite3.connect(name).close()


# Errors


@pytest.mark.parametrize(
    ("sql", "kind", "code"),
    [
        ("INSERT INTO person (name) VALUES ('Ada')", peewee.IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),
        ("INSERT INTO person (name) VALUES (NULL)", peewee.IntegrityError, "SQLITE_CONSTRAINT_NOTNULL"),
        ("INSERT INTO pet (owner_id, name) VALUES (9, 'x')", peewee.IntegrityError, "SQLITE_CONSTRAINT_FOREIGNKEY"),
        ("INSERT INTO person (id, name) VALUES ('a', 'b')", peewee.IntegrityError, "SQLITE_MISMATCH"),
        ("SELEC 1", peewee.OperationalError, "SQLITE_ERROR"),
        ("SELECT * FROM nowhere", peewee.OperationalError, "SQLITE_ERROR"),
        ("SELECT zeroblob(3000000000)", peewee.DataError, "SQLITE_TOOBIG"),
        ("SELECT ?", peewee.ProgrammingError, None),
        ("SELECT 1; SELECT 2", peewee.ProgrammingError, None),
    ],
)
def test_errors_are_peewees_with_sqlites_text(db, sql, kind, code):
    Person.create(name="Ada")
    with pytest.raises(kind) as caught:
        db.execute_sql(sql)
    stock = sqlite3.connect(":memory:")
    stock.execute("PRAGMA foreign_keys=1")
    stock.execute("CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, age)")
    stock.execute("CREATE TABLE pet (id INTEGER PRIMARY KEY, owner_id NOT NULL REFERENCES person, name)")
    stock.execute("INSERT INTO person (name) VALUES ('Ada')")
    with pytest.raises(sqlite3.Error) as expected:
        stock.execute(sql)
    stock.close()
    assert str(caught.value) == str(expected.value)
    assert type(caught.value.orig) is expected.type
    assert getattr(caught.value.orig, "sqlite_errorname", None) == code


def test_what_a_trigger_raises_is_an_integrity_error(db):
    db.execute_sql("CREATE TRIGGER keep BEFORE DELETE ON person BEGIN SELECT RAISE(ABORT, 'it''s kept'); END")
    Person.create(name="Ada")
    with pytest.raises(peewee.IntegrityError, match="it's kept"):
        Person.delete().execute()


def test_an_integer_beyond_64_bits_is_refused_not_rounded(db):
    with pytest.raises(OverflowError):
        Person.create(name="Ada", age=2**63)


def test_a_python_function_is_refused_when_sql_uses_it(db):
    db.register_function(lambda text: text[::-1], "backwards", 1)

    def by_length(one, other):
        return len(one) - len(other)

    db.register_collation(by_length, "mine")
    assert Person.select().count() == 0
    with pytest.raises(peewee.NotSupportedError, match="backwards"):
        Person.select(fn.backwards(Person.name)).scalar()
    with pytest.raises(peewee.NotSupportedError, match="mine"):
        db.execute_sql("SELECT name FROM person ORDER BY name COLLATE mine")
    with pytest.raises(peewee.NotSupportedError, match="extension"):
        db.load_extension("x")
    with pytest.raises(peewee.OperationalError, match="no such function: unknown"):
        Person.select(fn.unknown(Person.name)).scalar()


# Introspection


def test_honkers_tables_are_hidden_unless_asked_for(db):
    assert db.get_tables() == ["person", "pet"]
    assert "_honker_notifications" in db.get_tables(include_honker=True)
    db.queue("jobs")
    assert db.get_views() == []
    assert [view.name for view in db.get_views(include_honker=True)] == ["_honker_jobs"]


def test_sqlite_sequence_shows_when_a_table_of_the_users_needs_it(db):
    db.execute_sql("CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    assert db.get_tables() == ["counted", "person", "pet", "sqlite_sequence"]


# After DDL


def test_a_star_sees_the_columns_of_now(db, path):
    Person.create(name="Ada")
    star = "SELECT * FROM person"
    assert db.execute_sql(star).fetchone() == (1, "Ada", None)
    db.execute_sql("ALTER TABLE person ADD COLUMN city DEFAULT 'Paris'")
    assert db.execute_sql(star).fetchone() == (1, "Ada", None, "Paris")
    with outside.Script(
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('ALTER TABLE person DROP COLUMN age');"
        "c.execute('ALTER TABLE person RENAME COLUMN city TO town'); c.commit(); c.close(); print('done')",
        path,
    ) as other:
        other.line()
    cursor = db.execute_sql(star)
    assert cursor.fetchone() == (1, "Ada", "Paris")
    assert [column[0] for column in cursor.description] == ["id", "name", "town"]
    assert [column.name for column in db.get_columns("person")] == ["id", "name", "town"]
    with db.atomic():
        db.execute_sql("ALTER TABLE person ADD COLUMN last")
        assert [column[0] for column in db.execute_sql(star).description] == ["id", "name", "town", "last"]
        returned = db.execute_sql("INSERT INTO person (name) VALUES ('Bo') RETURNING *")
        assert returned.fetchone() == (2, "Bo", "Paris", None)


def test_one_text_on_two_files_has_the_columns_of_each(db, open_database, tmp_path):
    other = open_database(str(tmp_path / "other.db"))
    db.execute_sql("CREATE TABLE thing (a, b)")
    other.execute_sql("CREATE TABLE x (a)")
    other.execute_sql("CREATE TABLE y (a)")
    other.execute_sql("CREATE TABLE thing (c, d, e)")
    for database, columns in ((db, ["a", "b"]), (other, ["c", "d", "e"]), (db, ["a", "b"])):
        cursor = database.execute_sql("SELECT * FROM thing")
        assert [column[0] for column in cursor.description] == columns


# Schemas beside main


def test_attached_files_and_temporary_tables(db, tmp_path):
    assert db.attach(str(tmp_path / "other.db"), "other")
    db.execute_sql("CREATE TABLE other.logs (a)")
    db.execute_sql("INSERT INTO other.logs VALUES (1)")
    assert db.execute_sql("SELECT * FROM other.logs").fetchall() == [(1,)]
    assert db.execute_sql("SELECT a FROM logs").fetchall() == [(1,)]
    assert db.get_tables(schema="other") == ["logs"]
    db.execute_sql("CREATE TEMP TABLE scratch (b)")
    db.execute_sql("INSERT INTO scratch VALUES (2)")
    assert db.execute_sql("SELECT * FROM scratch").fetchall() == [(2,)]
    assert db.detach("other")
    db.close()
    with pytest.raises(peewee.OperationalError, match="no such table: scratch"):
        db.execute_sql("SELECT * FROM scratch")


def test_statements_that_sqlite_refuses_in_a_transaction_run(db, tmp_path):
    Person.create(name="Ada")
    db.execute_sql("VACUUM")
    db.execute_sql("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    assert outside.rows(str(tmp_path / "copy.db"), "SELECT name FROM person") == [["Ada"]]
    assert db.pragma("wal_checkpoint(TRUNCATE)") == 0


# Honker


def test_what_is_sent_inside_a_transaction_belongs_to_it(db):
    stream, queue = db.stream("s"), db.queue("q")
    with pytest.raises(ZeroDivisionError), db.atomic():
        Person.create(name="Ada")
        stream.publish({"n": 1})
        queue.enqueue({"n": 1})
        db.notify("c", {"n": 1})
        _ = 1 / 0
    counts = "SELECT (SELECT COUNT(*) FROM _honker_stream), (SELECT COUNT(*) FROM _honker_live), "
    counts += "(SELECT COUNT(*) FROM _honker_notifications WHERE channel = 'c')"
    assert db.execute_sql(counts).fetchone() == (0, 0, 0)
    with db.atomic():
        db.stream("s").publish({"n": 1})
        db.queue("first seen in a transaction").enqueue({"n": 1})
        db.notify("c", {"n": 1})
        db.queue("q").enqueue({"n": 2}, tx=db.honker_transaction)
    assert db.execute_sql(counts).fetchone() == (1, 2, 1)
    assert db.queue("q").claim_one("w").payload == {"n": 2}
    assert db.honker_transaction is None


def test_a_honker_transaction_is_over_when_the_models_is(db):
    with db.atomic():
        transaction = db.honker_transaction
        transaction.execute("INSERT INTO person (name) VALUES ('Ada')")
    assert Person.select().count() == 1
    with pytest.raises(RuntimeError, match="ended"):
        transaction.query("SELECT 1")


def test_locks_and_rate_limits(db):
    import honker

    with db.lock("job"), pytest.raises(honker.LockHeld), db.lock("job"):
        pass
    assert [db.try_rate_limit("calls", 2, 60) for _ in range(3)] == [True, True, False]


# Peewee's own surroundings


def test_urls_and_the_pool(path, tmp_path):
    database = db_url.connect(f"honker:///{tmp_path}/url.db")
    assert type(database) is HonkerDatabase
    database.close_engine()
    pooled = db_url.connect(f"honker+pool:///{tmp_path}/url.db?max_connections=2&stale_timeout=30")
    assert type(pooled) is PooledHonkerDatabase
    with pooled.connection_context():
        pooled.execute_sql("CREATE TABLE t (a)")
    with pooled:
        pooled.execute_sql("INSERT INTO t VALUES (1)")
    assert pooled.execute_sql("SELECT a FROM t").fetchall() == [(1,)]
    pooled.close_all()
    pooled.close_engine()


def test_sql_is_logged_and_hooks_are_told(db, caplog):
    heard = []
    db.query_hooks.append(heard.append)
    with caplog.at_level(logging.DEBUG, logger="peewee"):
        Person.create(name="Ada")
    db.query_hooks.clear()
    assert [event.sql for event in heard] == ['INSERT INTO "person" ("name") VALUES (?)']
    assert ('INSERT INTO "person" ("name") VALUES (?)', ["Ada"]) in [record.msg for record in caplog.records]


def test_counts_belong_to_the_connection(db, open_database):
    other = open_database()
    db.execute_sql("INSERT INTO person (name) VALUES ('a')")
    cursor = other.execute_sql("INSERT OR IGNORE INTO person (name) VALUES ('a')")
    assert (cursor.lastrowid, cursor.rowcount) == (0, 0)
    assert other.execute_sql("SELECT last_insert_rowid()").fetchone() == (0,)
    assert db.execute_sql("SELECT last_insert_rowid(), changes()").fetchone() == (1, 1)


def test_a_cursor_that_is_used_again_shows_the_last_statement_alone(db):
    cursor = db.connection().cursor()
    cursor.execute("INSERT INTO person (name) VALUES ('a'), ('b')")
    assert (cursor.rowcount, cursor.lastrowid) == (2, 2)
    cursor.execute("SELECT name FROM person ORDER BY name")
    assert (cursor.rowcount, cursor.fetchone()) == (-1, ("a",))
    cursor.execute("UPDATE person SET age = 1")
    assert (cursor.rowcount, cursor.fetchone(), cursor.description) == (2, None, None)
    assert list(cursor.execute("SELECT name FROM person ORDER BY name")) == [("a",), ("b",)]
    cursor.execute("CREATE TABLE other (a)")
    assert (cursor.rowcount, cursor.fetchall(), cursor.description) == (-1, [], None)


def test_scripts_and_executemany_through_the_connection(db):
    connection = db.connection()
    connection.executescript(
        "CREATE TABLE log (a); -- a comment; with a semicolon\n"
        "CREATE TRIGGER t AFTER INSERT ON person BEGIN INSERT INTO log VALUES (new.name); SELECT 1; END;\n"
    )
    cursor = connection.executemany("INSERT INTO person (name) VALUES (?)", [("a",), ("b",)])
    assert cursor.rowcount == 2
    assert connection.execute("SELECT a FROM log").fetchall() == [("a",), ("b",)]
    with pytest.raises(sqlite3.NotSupportedError):
        connection.create_function("f", 1, str)


# Trouble with the disk


def test_a_full_disk_is_an_operational_error_and_the_database_goes_on(db):
    pages = db.pragma("page_count")
    db.pragma("max_page_count", pages + 2)
    with pytest.raises(peewee.OperationalError, match="full"), db.atomic():
        Person.insert_many([{"name": f"{number} {'x' * 500}"} for number in range(200)]).execute()
    db.pragma("max_page_count", pages + 1000)
    Person.create(name="Ada")
    assert [person.name for person in Person.select()] == ["Ada"]


def test_a_corrupt_file_is_a_database_error(open_database, tmp_path):
    name = str(tmp_path / "corrupt.db")
    with outside.Script(
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]);"
        "c.execute('CREATE TABLE t (a)'); c.executemany('INSERT INTO t VALUES (?)', [('x' * 100,)] * 500);"
        "c.commit(); c.close(); print('done')",
        name,
    ) as maker:
        maker.line()
    with open(name, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    with pytest.raises(peewee.DatabaseError, match="malformed"):
        open_database(name).execute_sql("SELECT COUNT(*), MAX(a) FROM t").fetchall()
