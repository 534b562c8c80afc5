"""The bus on Peewee's PostgresqlDatabase: the same bridges, signals, receivers and consumers as on a HonkerDatabase."""

import signal
import threading

import peewee
import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: the extra `postgres`")

from peewee_honker import EventBus, HonkerError, Retention
from peewee_honker.servers.postgres import PostgresUnavailableError, store_for
from peewee_honker.signals import Model, in_transaction
from tests.support import outside
from tests.test_bridge_options import (  # noqa: F401  (tests, which run here on PostgreSQL)
    make_bus,
    test_a_bridge_made_while_the_bus_runs_is_heard,
    test_a_durable_signal_waits_for_its_consumer_and_takes_effect_once,
    test_a_receiver_can_have_the_payload_loaded_and_checked,
    test_a_schema_or_a_function_makes_the_payload,
    test_blinkers_ways_work_on_a_named_signal,
    test_changes_tell_old_and_new_values_as_they_are_in_the_database,
    test_only_the_operations_that_were_asked_for,
    test_reserved_and_malformed_types_are_refused,
    test_what_cannot_travel_is_refused_by_a_named_signal,
)
from tests.test_bus import (  # noqa: F401  (the same)
    Order,
    bus,
    heard,
    names,
    test_a_receiver_can_use_the_database_and_save,
    test_a_receiver_that_raises_is_logged_and_the_others_hear,
    test_a_row_whose_event_cannot_be_sent_is_not_written,
    test_an_async_receiver_without_a_loop_is_told_what_it_needs,
    test_async_receivers_are_awaited_on_the_callers_loop,
    test_composite_keys_and_updates_of_no_row,
    test_nothing_is_heard_before_the_commit,
    test_signals_of_this_process_run_inside_the_transaction,
    test_the_bus_goes_on_in_the_parent_after_a_fork,
    test_values_travel_as_json,
    test_what_cannot_be_bridged_is_refused,
    test_what_commits_once_start_has_returned_is_heard,
)

pytestmark = [
    pytest.mark.services,
    # Threads that the tests start leave Peewee's connections of theirs to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHOP = """
    import sys
    from peewee import *
    from peewee_honker import EventBus, HonkerDatabase
    from peewee_honker.signals import Model, in_transaction
    where = sys.argv[1]
    db = PostgresqlDatabase(where, prefer_psycopg3=True) if "://" in where else HonkerDatabase(where)
    class Order(Model):
        customer = CharField()
        total = DecimalField(default=0)
        class Meta:
            database = db
    class Shipment(Model):
        order = IntegerField()
        class Meta:
            database = db
    bus = EventBus(db, consumer="shipping", start_at="beginning")
"""
RECEIVER = (
    SHOP
    + """
    orders = bus.bridge(Order, durable=sys.argv[2] == "durable")
    @orders.saved.connect
    def saved(sender, event):
        print(event.operation, event.id, event.payload["customer"], event.payload["total"])
    @orders.deleted.connect
    def deleted(sender, event):
        print(event.operation, event.id)
    bus.start()
    print("ready")
    bus.run()
    print("ended")
"""
)
WORKER = (
    SHOP
    + """
    orders = bus.bridge(Order, durable=True)
    @orders.saved.connect
    @in_transaction
    def ship(sender, event):
        Shipment.create(order=int(event.id))
        print("shipping", event.id)
    bus.start()
    print("ready")
    bus.run()
"""
)


@pytest.fixture
def db(pg):
    return pg


class Shipment(Model):
    order = peewee.IntegerField()


@pytest.fixture(params=["honker", "postgres"])
def anywhere(request, open_database, path):
    """A database of either kind, and what an app is told to find it."""
    if request.param == "honker":
        return open_database(), path
    return request.getfixturevalue("pg"), request.getfixturevalue("postgres_url")


@pytest.mark.parametrize("mode", ["ephemeral", "durable"])
def test_an_app_says_and_hears_the_same_on_a_file_and_on_postgresql(anywhere, mode):
    database, where = anywhere
    with database.bind_ctx([Order]):
        database.create_tables([Order])
        publisher = EventBus(database)
        bridge = publisher.bridge(Order, durable=mode == "durable")
        with outside.Script(RECEIVER, where, mode) as receiver:
            assert receiver.line() == "ready"
            ada = Order.create(customer="Ada", total="1.50")
            with pytest.raises(ZeroDivisionError), database.atomic():
                Order.create(customer="rolled back")
                _ = 1 / 0
            with database.atomic():
                Order.create(customer="Bo")
                with pytest.raises(ZeroDivisionError), database.atomic():
                    Order.create(customer="savepoint rolled back")
                    _ = 1 / 0
                with database.savepoint() as point:
                    Order.create(customer="undone by hand")
                    point.rollback()
            ada.customer = "Ada L."
            ada.save()
            ada.delete_instance()
            said = [receiver.line().split(" ", 2) for _ in range(4)]
            receiver.process.send_signal(signal.SIGTERM)
            assert receiver.finish() == "ended\n"
        bridge.unpublish()
    assert [[words[0], *words[2:]] for words in said] == [
        ["insert", "Ada 1.50"],
        ["insert", "Bo 0"],
        ["update", "Ada L. 1.50"],
        ["delete"],
    ]


def test_transactional_receivers_take_effect_once_through_kills(db, postgres_url):
    database, where = db, postgres_url
    with database.bind_ctx([Order, Shipment]):
        database.create_tables([Order, Shipment])
        publisher = EventBus(database)
        bridge = publisher.bridge(Order, durable=True)
        for turn in range(4):
            with outside.Script(WORKER, where) as worker:
                assert worker.line() == "ready"
                for _ in range(25):
                    Order.create(customer="Ada")
                for _ in range(10 + turn):
                    worker.line()
                worker.process.kill()
                worker.process.wait()
        with outside.Script(WORKER, where) as worker:
            assert worker.line() == "ready"
            outside.until(lambda: Shipment.select().count() >= 100)
            worker.process.send_signal(signal.SIGTERM)
            worker.finish()
        shipped = [shipment.order for shipment in Shipment.select().order_by(Shipment.id)]
        bridge.unpublish()
    assert shipped == list(range(1, 101))


@pytest.mark.parametrize("durable", [False, True])
def test_local_receivers_hear_at_once_in_the_committing_thread_and_once(db, make_bus, durable):  # noqa: F811
    made = EventBus(db, consumer="test")
    with db.bind_ctx([Order]), made:
        db.create_tables([Order])
        bridge = made.bridge(Order, local=True, durable=durable)
        told = []

        @bridge.saved.connect
        def hear(sender, event):
            told.append((event.payload["customer"], threading.current_thread() is threading.main_thread()))

        with db.atomic():
            Order.create(customer="Ada")
            with pytest.raises(ZeroDivisionError), db.atomic():
                Order.create(customer="rolled back")
                _ = 1 / 0
            assert told == []
        assert told == [("Ada", True)]
        db.close()
        made.stop()  # what came by the server has been looked at
        bridge.unpublish()
    assert told == [("Ada", True)]


def test_dead_letters_are_listed_replayed_and_dropped(db):
    with db.bind_ctx([Order]):
        db.create_tables([Order])
        made = EventBus(db, consumer="test", attempts=2, backoff=0.01)
        orders = made.bridge(Order, durable=True)
        broken = [True]
        done = []

        @orders.saved.connect
        @in_transaction
        def ship(sender, event):
            Order.update(total=Order.total + 1).execute()
            if broken[0]:
                raise ValueError("cannot ship")
            done.append(event.id)

        with made:
            Order.create(customer="Ada")
            Order.create(customer="Bo")
            outside.until(lambda: len(made.dead_letters()) == 2)
        assert [order.total for order in Order.select()] == [0, 0]
        first, second = made.dead_letters("test")
        with pytest.raises(ValueError, match="cannot ship"):
            made.replay(first)
        broken[0] = False
        made.replay(first)
        assert done == [first.event.id]
        with pytest.raises(LookupError):
            made.replay(first)
        made.drop(second)
        assert made.dead_letters() == []
        orders.unpublish()


def test_stop_delivers_what_was_committed_before(bus, db):  # noqa: F811
    told = []

    def hear(sender, event):
        told.append(event.id)

    bus.bridge(Order).saved.connect(hear)
    for _ in range(10):
        with bus:
            for _ in range(20):
                Order.create(customer="Ada")
    assert len(told) == 200


def test_the_bus_keeps_its_tables_within_bounds(db):
    with db.bind_ctx([Order]):
        db.create_tables([Order])
        made = EventBus(db, consumer="test", ephemeral_seconds=0)
        orders = made.bridge(Order, durable=True, retention=Retention(age=None, count=0, consumed=True))
        ephemeral = made.signal("ping")
        with made:
            for _ in range(5):
                Order.create(customer="Ada")
                ephemeral.send()
            outside.until(lambda: db.execute_sql(ROWS).fetchone() == (0, 0))
        orders.unpublish()


ROWS = "SELECT (SELECT count(*) FROM peewee_honker.stream), (SELECT count(*) FROM peewee_honker.notifications)"


def test_the_absence_of_a_server_is_said_when_the_bus_starts():
    database = peewee.PostgresqlDatabase("shop", host="/nowhere", user="somebody", prefer_psycopg3=True)
    made = EventBus(database)  # an app may be imported while there is none
    with pytest.raises(PostgresUnavailableError, match="/nowhere"):
        made.start()
    assert not made.is_running


def test_the_bus_goes_on_when_the_server_comes_back(db, bus, heard, postgres_server, caplog):  # noqa: F811
    with bus:
        Order.create(customer="before")
        outside.until(lambda: heard)
        postgres_server.end()
        db.close()
        outside.until(lambda: "no events for now" in caplog.text)
        with pytest.raises((peewee.OperationalError, HonkerError)):
            Order.create(customer="lost")
        postgres_server.start()
        Order.create(customer="after")
        outside.until(lambda: len(heard) == 2)
    assert names(heard) == ["before", "after"]


def test_the_packages_tables_are_not_among_the_apps(db, bus):  # noqa: F811
    store_for(db).prepare()
    assert db.get_tables() == ["order"]
