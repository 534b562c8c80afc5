"""Change capture on a real PostgreSQL: whoever changes a row, and by whatever statement, is heard."""

import datetime
import decimal
import uuid

import peewee
import pytest

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: the extra `postgres`")

from peewee_honker import EventBus
from peewee_honker.capture.postgres import PostgresCapture, installed_postgres_captures
from peewee_honker.events.payload import row_payload
from peewee_honker.signals import Model
from tests.support import outside

pytestmark = pytest.mark.services


class Order(Model):
    customer = peewee.CharField()
    total = peewee.DecimalField(default=0, decimal_places=2)
    note = peewee.TextField(null=True, column_name="remark")


class Everything(Model):
    key = peewee.UUIDField(primary_key=True)
    flag = peewee.BooleanField(null=True)
    number = peewee.BigIntegerField(null=True)
    real = peewee.DoubleField(null=True)
    price = peewee.DecimalField(null=True, decimal_places=3)
    day = peewee.DateField(null=True)
    hour = peewee.TimeField(null=True)
    moment = peewee.DateTimeField(null=True)
    raw = peewee.BlobField(null=True)
    address = peewee.IPField(null=True)
    binary_key = peewee.BinaryUUIDField(null=True)
    text = peewee.TextField(null=True)


@pytest.fixture
def bus(pg):
    with pg.bind_ctx([Order, Everything]):
        pg.create_tables([Order, Everything])
        made = EventBus(pg)
        yield made
        made.stop()
        for bridge in made._bridges.values():
            bridge.unpublish()


@pytest.fixture
def heard(bus):
    """`heard(capture, count)`: the first so many events that a capture's signals tell."""
    told = []

    def hear(sender, event):
        told.append(event)

    def connect(captured):
        captured.saved.connect(hear)
        captured.deleted.connect(hear)
        bus.start()

        def wait(count):
            outside.until(lambda: len(told) >= count)
            return told

        return wait

    return connect


def test_queries_raw_sql_and_other_programs_are_heard_after_their_commit(pg, bus, heard, postgres_url):
    wait = heard(bus.capture(Order, old_values=True))
    Order.insert_many([{"customer": "Ada", "total": "1.5"}, {"customer": "Bo"}]).execute()
    Order.update(note="paid").where(Order.customer == "Ada").execute()
    Order.update(note="paid").where(Order.customer == "Ada").execute()  # changes nothing
    with psycopg.connect(postgres_url) as other:
        other.execute("UPDATE \"order\" SET id = 7 WHERE customer = 'Bo'")
    with pytest.raises(ZeroDivisionError), pg.atomic():
        Order.delete().execute()
        _ = 1 / 0
    Order.delete().where(Order.id == 1).execute()
    events = wait(6)
    assert [(event.operation, event.id) for event in events] == [
        ("insert", "1"),
        ("insert", "2"),
        ("update", "1"),
        ("delete", "2"),
        ("insert", "7"),
        ("delete", "1"),
    ]
    assert events[0].payload == {"id": 1, "customer": "Ada", "total": "1.50", "note": None}
    assert events[2].changes == {"note": [None, "paid"]}
    assert events[0].transaction == events[1].transaction != events[2].transaction
    assert [event.event_id[14] for event in events] == ["7"] * 6


def test_a_captured_row_looks_as_a_bridged_one_that_was_read_from_the_table(bus, heard):
    wait = heard(bus.capture(Everything))
    moments = [datetime.datetime(2024, 2, 29, 1, 2, 3), datetime.datetime(2024, 2, 29, 1, 2, 3, 40)]
    for moment in moments:
        Everything.insert(
            key=uuid.uuid4(),
            flag=True,
            number=2**62,
            real=0.1,
            price=decimal.Decimal("1.250"),
            day=moment.date(),
            hour=moment.time(),
            moment=moment,
            raw=bytes(range(256)),
            address="10.0.0.255",
            binary_key=uuid.uuid4(),
            text='ä " \\ \n',
        ).execute()
    Everything.insert(key=uuid.uuid4()).execute()
    rows = [row_payload(row) for row in Everything.select()]
    for event in wait(3):
        assert event.payload in rows
        assert event.id == event.payload["key"]


def test_what_is_left_out_never_leaves_and_is_no_reason_for_an_event(bus, heard):
    wait = heard(bus.capture(Order, exclude=["note"], operations=["update"]))
    Order.create(customer="Ada")
    Order.update(note="secret").execute()
    Order.update(customer="Bo").execute()
    (event,) = wait(1)
    assert event.payload == {"id": 1, "customer": "Bo", "total": "0.00"}


def test_a_bridge_leaves_the_telling_to_the_triggers(pg, bus, heard):
    PostgresCapture(Order, durable=False).install(pg)
    wait = heard(bus.bridge(Order))
    Order.create(customer="Ada")
    Order.create(customer="Bo")
    assert [event.id for event in wait(2)] == ["1", "2"]


def test_installing_is_done_once_and_undone_without_a_trace(pg, bus):
    capture = PostgresCapture(Order, durable=True)
    assert not capture.is_current()
    assert capture.install()
    assert not capture.install()
    (installed,) = installed_postgres_captures(pg)
    assert (installed.name, installed.table, installed.options["durable"]) == ("order", "order", True)
    assert PostgresCapture(Order, durable=True, exclude=["note"]).install()
    assert not capture.is_current()
    assert capture.uninstall()
    assert not capture.uninstall()
    assert installed_postgres_captures(pg) == []
    assert pg.execute_sql("SELECT count(*) FROM pg_proc WHERE proname LIKE 'peewee_honker_capture%%'").fetchone() == (0,)


def test_tables_whose_names_are_alike_are_captured_each_for_itself(pg, postgres_url):
    common = "customer_relationship_management_contact_"  # as much of a name as PostgreSQL had room for

    class Phone(peewee.Model):
        phone = peewee.CharField()

        class Meta:
            database = pg
            table_name = f"{common}phone"

    class Mail(peewee.Model):
        mail = peewee.CharField()

        class Meta:
            database = pg
            table_name = f"{common}mail"

    class Other(peewee.Model):
        other = peewee.CharField()

        class Meta:
            database = pg
            schema = "elsewhere"
            table_name = Mail._meta.table_name

    pg.execute_sql("CREATE SCHEMA elsewhere")
    models = [Phone, Mail, Other]
    pg.create_tables(models)
    captures = [PostgresCapture(model, durable=True, stream=f"{model.__name__}s") for model in models]
    assert [capture.install() for capture in captures] == [True] * 3
    assert [capture.install() for capture in captures] == [False] * 3
    Phone.create(phone="1")
    Mail.create(mail="2")
    Other.create(other="3")
    rows = pg.execute_sql("SELECT topic, payload::json->'payload' FROM peewee_honker.stream ORDER BY topic")
    assert list(rows) == [
        ("Mails", {"id": 1, "mail": "2"}),
        ("Others", {"id": 1, "other": "3"}),
        ("Phones", {"id": 1, "phone": "1"}),
    ]
    assert [capture.uninstall() for capture in captures] == [True] * 3
    functions = pg.execute_sql("SELECT proname FROM pg_proc WHERE proname LIKE 'peewee_honker_capture_%%'")
    assert list(functions) == []


def test_what_cannot_be_had_is_refused(bus):
    class Stamp(Model):
        at = peewee.TimestampField()

    with pytest.raises(peewee.NotSupportedError, match="condition"):
        bus.capture(Order, where=Order.total > 1)
    with pytest.raises(peewee.NotSupportedError, match=r"Stamp\.at"):
        bus.capture(Stamp)
