"""Tenants: a file each, opened by need, and nothing of one is seen in another."""

import asyncio
import os
import random
import subprocess
import sys
import threading

import peewee
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peewee_honker import EventBus
from peewee_honker.signals import Model
from peewee_honker.storage import CallGraph, ContextModel, GraphRepository, NoDatabaseError, Node, OtherDatabaseError
from peewee_honker.storage.databases import tenant_database
from peewee_honker.storage.tenants import (
    NoTenantError,
    TenantExistsError,
    TenantIdError,
    TenantInUseError,
    Tenants,
    TenantsFullError,
    check_tenant_id,
)
from tests.support import outside


class Order(ContextModel):
    name = peewee.CharField()

    class Meta:
        database = tenant_database


class Line(ContextModel):
    order = peewee.ForeignKeyField(Order, backref="lines")

    class Meta:
        database = tenant_database


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "tenants"


@pytest.fixture
def tenants(directory):
    with Tenants(directory, models=[Order, Line], modules=[CallGraph], most_open=3, timeout=0.2) as tenants:
        for name in ("a", "b", "c", "d", "e"):
            tenants.create(name)
        yield tenants


def open_files(directory):
    """Which tenants' files this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.startswith(str(directory)):
            found.add(os.path.basename(target).removesuffix("-wal").removesuffix("-shm"))
    return found


# Ids


@pytest.mark.parametrize("org_id", ["a", "0", "acme", "a-b_c", "0196f1c2-7d6a-7c3e-8f00-0123456789ab", "x" * 64])
def test_an_id_names_a_file(org_id):
    assert check_tenant_id(org_id) == org_id


@pytest.mark.parametrize(
    "org_id",
    [
        "", ".", "..", "../x", "a/b", "a\\b", "/etc/passwd", "a.b", "a\0b", "a b", " a", "a ", "a.", "-a", "a-", "_a", "a\n",
        "A", "Acme", "x" * 65, "\u00e4", "\u0430", "\uff41", "\u2170", "\u017f", "\u212a", "\u0661", "a%2fb", "~",
        "con", "nul", "com1", "lpt9", "aux", "prn", None, 7, b"a",
    ],
)  # fmt: skip
def test_what_is_no_id_is_refused_everywhere(tenants, directory, org_id):
    before = sorted(directory.iterdir())
    for call in (check_tenant_id, tenants.create, tenants.remove, tenants.path, lambda one: tenants.use(one).__enter__()):
        with pytest.raises(TenantIdError, match="is no tenant's id"):
            call(org_id)
    assert org_id not in tenants
    assert sorted(directory.iterdir()) == before


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=6))
def test_two_ids_never_name_one_file(texts):
    taken = {}
    for text in texts:
        try:
            name = f"tenant-{check_tenant_id(text)}.db".casefold()
        except TenantIdError:
            continue
        assert taken.setdefault(name, text) == text
        assert os.path.basename(name) == name


# Isolation


def test_a_model_reads_and_writes_the_tenant_in_use(tenants, directory):
    for name in ("a", "b"):
        with tenants.use(name) as db:
            Order.create(name=f"of {name}")
            GraphRepository.create(db, "g").add_node(name)
    with tenants.use("a"):
        assert [order.name for order in Order.select()] == ["of a"]
        assert [node.key for node in Node.select()] == ["a"]
        with tenants.use("b"):
            assert Order.get().name == "of b"
        assert Order.get().name == "of a"
    assert outside.rows(str(directory / "tenant-b.db"), 'SELECT name FROM "order"') == [["of b"]]


def test_outside_of_any_tenant_there_is_no_database(tenants):
    with pytest.raises(NoDatabaseError, match="no tenant database is in use"):
        Order.get()
    with pytest.raises(NoDatabaseError):
        Order.create(name="nobody's")


def test_what_was_read_of_one_tenant_does_not_reach_another(tenants):
    for name in ("a", "b"):
        with tenants.use(name):
            Line.create(order=Order.create(name=f"of {name}"))
    with tenants.use("a"):
        order, line, query = Order.get(), Line.get(), Order.select()
    with tenants.use("b"):
        for leak in (order.save, order.delete_instance, lambda: line.order, lambda: list(order.lines)):
            with pytest.raises(OtherDatabaseError):
                leak()
        assert [each.name for each in query] == ["of a"]  # made there
        assert Line.get().order.name == "of b"


def test_threads_do_not_see_each_others_tenants(directory):
    wrong = []
    with Tenants(directory, models=[Order, Line], most_open=3, timeout=30) as tenants:
        names = [f"t{number}" for number in range(6)]
        for name in names:
            tenants.create(name)

        def work(seed):
            chosen = random.Random(seed)
            try:
                for _ in range(40):
                    name = chosen.choice(names)
                    with tenants.use(name):
                        Order.create(name=name)
                        wrong.extend(order.name for order in Order.select() if order.name != name)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        total = 0
        for name in names:
            with tenants.use(name):
                total += Order.select().count()
        assert total == 6 * 40


def test_tasks_do_not_see_each_others_tenants(tenants):
    async def work(name):
        for _ in range(20):
            with tenants.use(name):
                await asyncio.sleep(0)
                Order.create(name=name)
                await asyncio.sleep(0)
                found = {order.name for order in Order.select()}
                assert found == {name}
                assert await asyncio.to_thread(lambda: Order.get().name) == name

    async def all_of_them():
        await asyncio.gather(*(work(name) for name in ("a", "b", "c")))

    asyncio.run(all_of_them())


def test_a_bus_hears_only_its_tenant(tenants):
    heard = []

    class Note(Model):
        text = peewee.CharField()

    with tenants.use("a") as a, tenants.use("b") as b:
        buses = []
        for database in (a, b):
            with database.bind_ctx([Note]):
                database.create_tables([Note])
                bus = EventBus(database)
                buses.append(bus)
        signals = [bus.signal("note") for bus in buses]
        signals[0].connect(lambda sender: heard.append(("a", sender)), weak=False)
        signals[1].connect(lambda sender: heard.append(("b", sender)), weak=False)
        with buses[0], buses[1]:
            signals[0].send("of a")
            signals[1].send("of b")
            outside.until(lambda: len(heard) == 2)
    assert sorted(heard) == [("a", "of a"), ("b", "of b")]


# How many are open


def test_no_more_files_are_open_than_may_be_and_the_least_used_goes(tenants, directory):
    for name in ("a", "b", "c", "a", "d"):
        with tenants.use(name):
            Order.create(name=name)
    assert tenants.open_ids == ["c", "a", "d"]
    assert open_files(directory) == {"tenant-c.db", "tenant-a.db", "tenant-d.db"}
    with tenants.use("b"):
        assert Order.get().name == "b"


def test_one_that_is_used_is_not_closed_for_another(tenants):
    with tenants.use("a"), tenants.use("b"), tenants.use("c"):
        with pytest.raises(TenantsFullError, match="most_open="):
            tenants.use("d").__enter__()
        with tenants.use("a"):
            Order.create(name="again")
    with tenants.use("d"):
        assert "d" in tenants.open_ids


def test_who_waits_gets_the_place_that_becomes_free(directory):
    with Tenants(directory, models=[Order], most_open=1, timeout=30) as tenants:
        tenants.create("a")
        tenants.create("b")
        entered, leave, got = threading.Event(), threading.Event(), []

        def first():
            with tenants.use("a"):
                entered.set()
                leave.wait(20)

        def second():
            with tenants.use("b"):
                got.append("b")

        threads = [threading.Thread(target=first), threading.Thread(target=second)]
        threads[0].start()
        assert entered.wait(20)
        threads[1].start()
        leave.set()
        for thread in threads:
            thread.join()
        assert got == ["b"]


def test_idle_files_are_closed(directory):
    with Tenants(directory, models=[Order], idle=0.0) as tenants:
        for name in ("a", "b"):
            tenants.create(name)
        with tenants.use("a"):
            pass
        with tenants.use("b"):
            assert tenants.open_ids == ["b"]


def test_all_are_closed_at_the_end(tenants, directory):
    with tenants.use("a"):
        Order.create(name="x")
        with pytest.raises(TenantInUseError, match="a"):
            tenants.close()
    tenants.close()
    assert open_files(directory) == set()


# Making and removing


def test_a_tenant_is_made_once_with_all_its_tables(tenants, directory):
    assert tenants.ids() == ["a", "b", "c", "d", "e"]
    assert "a" in tenants
    tables = {name for (name,) in outside.rows(str(tenants.path("a")), "SELECT name FROM sqlite_master")}
    assert {"order", "line", "nodes", "graph_types"} <= tables
    assert outside.rows(str(tenants.path("a")), "SELECT name FROM graph_types") == [["CallGraph"]]
    with pytest.raises(TenantExistsError):
        tenants.create("a")
    with pytest.raises(NoTenantError, match=r"create\('z'\)"):
        tenants.use("z").__enter__()
    assert not [path for path in directory.iterdir() if not path.name.startswith("tenant-")]


def test_of_two_processes_that_make_a_tenant_one_does(directory):
    code = """
        import sys
        from peewee_honker.storage.tenants import TenantExistsError, Tenants
        tenants = Tenants(sys.argv[1])
        print("ready"); sys.stdin.readline()
        for number in range(5):
            try:
                tenants.create(f"t{number}"); print("made")
            except TenantExistsError:
                print("there")
    """
    with outside.Script(code, str(directory)) as one, outside.Script(code, str(directory)) as other:
        for script in (one, other):
            assert script.line() == "ready"
            script.say("go")
        said = [script.line() for script in (one, other) for _ in range(5)]
        one.finish()
        other.finish()
    assert sorted(said) == ["made"] * 5 + ["there"] * 5


def test_a_tenant_whose_making_was_killed_is_not_there(directory):
    code = """
        import os, signal, sys
        from peewee_honker.storage import databases, tenants
        def die(*args, **options):
            database = databases.create_tenant_database(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        tenants.create_tenant_database = die
        tenants.Tenants(sys.argv[1]).create("a")
    """
    with outside.Script(code, str(directory)) as script:
        script.process.wait(20)
    with Tenants(directory) as tenants:
        assert tenants.ids() == []
        tenants.create("a")
        assert tenants.ids() == ["a"]


def test_a_removed_tenant_is_gone_with_all_its_files(tenants, directory):
    with tenants.use("a"):
        Order.create(name="x")
        with pytest.raises(TenantInUseError):
            tenants.remove("a")
    tenants.remove("a")
    assert "a" not in tenants
    assert not [path.name for path in directory.iterdir() if not path.name.startswith("tenant-") or "-a." in path.name]
    with pytest.raises(NoTenantError):
        tenants.remove("a")
    tenants.create("a")
    with tenants.use("a"):
        assert Order.select().count() == 0


def test_a_backup_is_one_state_while_others_write(tenants, tmp_path):
    code = """
        import sys
        from peewee_honker import HonkerDatabase
        db = HonkerDatabase(sys.argv[1], timeout=30)
        print("writing")
        for number in range(100000):
            with db.atomic():
                db.execute_sql('INSERT INTO "order" (name) VALUES (?)', (str(number),))
                db.execute_sql('INSERT INTO line (order_id) VALUES (last_insert_rowid())')
    """
    with outside.Script(code, str(tenants.path("a"))) as writer:
        assert writer.line() == "writing"
        outside.until(lambda: outside.rows(str(tenants.path("a")), "SELECT count(*) > 50 FROM line")[0][0])
        tenants.backup("a", tmp_path / "copy.db")
    copy = str(tmp_path / "copy.db")
    assert outside.rows(copy, "PRAGMA integrity_check") == [["ok"]]
    orders, lines = outside.rows(copy, 'SELECT (SELECT count(*) FROM "order"), (SELECT count(*) FROM line)')[0]
    assert orders == lines > 50
    with pytest.raises(FileExistsError):
        tenants.backup("a", copy)
    with pytest.raises(NoTenantError):
        tenants.backup("z", tmp_path / "other.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "tenants"]


def test_the_files_are_plain_sqlite(tenants):
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode').fetchone()[0])"
    done = subprocess.run([sys.executable, "-c", code, tenants.path("b")], capture_output=True, text=True, check=True)
    assert done.stdout == "wal\n"
