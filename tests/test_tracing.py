"""Trace context in events: the receiver, in whichever process, works within the publisher's trace."""

import asyncio

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from peewee import CharField

from peewee_honker import EventBus
from peewee_honker.events import CompositeEventTarget, Event, HonkerEventTarget, LocalEventTarget
from peewee_honker.signals import Model
from tests.support import outside

tracer = TracerProvider().get_tracer("tests")


def current_trace_id():
    return trace.get_current_span().get_span_context().trace_id


def noting_trace(heard):
    """A receiver that appends the id of the trace that is current when it is called, 0 where there is none."""

    def receive(event):
        heard.append(current_trace_id())

    return receive


@pytest.fixture
def order(db):
    class Order(Model):
        customer = CharField()

        class Meta:
            database = db

    db.create_tables([Order])
    return Order


@pytest.mark.parametrize("options", [{}, {"durable": True}], ids=["ephemeral", "durable"])
def test_the_publishers_trace_is_current_in_the_receiver_of_another_process(db, path, order, options):
    code = """
        import sys
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from peewee import CharField
        from peewee_honker import EventBus, HonkerDatabase
        from peewee_honker.signals import Model

        db = HonkerDatabase(sys.argv[1])
        tracer = TracerProvider().get_tracer("other")

        class Order(Model):
            customer = CharField()
            class Meta:
                database = db

        bus = EventBus(db, consumer="other")

        @bus.bridge(Order, durable=bool(sys.argv[2:])).saved.connect
        def receive(sender, event):
            publisher = trace.get_current_span().get_span_context()
            with tracer.start_as_current_span("ship") as span:
                print(publisher.trace_id, publisher.span_id, publisher.is_remote, span.get_span_context().trace_id)

        with bus:
            print("ready")
            sys.stdin.readline()
    """
    EventBus(db).bridge(order, **options)
    with outside.Script(code, path, *options) as other:
        assert other.line() == "ready"
        with tracer.start_as_current_span("sell") as span:
            order.create(customer="Ada")
        here = span.get_span_context()
        assert other.line() == f"{here.trace_id} {here.span_id} True {here.trace_id}"
        other.say("")
        other.finish()


def test_a_span_of_the_receiver_is_a_child_of_the_publishers(db):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    spans = provider.get_tracer("tests")
    target = HonkerEventTarget(db)

    def receive(event):
        with spans.start_as_current_span("ship"):
            pass

    target.add_listener("a", receive)
    with spans.start_as_current_span("sell"):
        target.dispatch(Event("a"))
    outside.until(lambda: len(exporter.get_finished_spans()) == 2)
    target.close()
    sell, ship = sorted(exporter.get_finished_spans(), key=lambda span: span.name)
    assert ship.parent.span_id == sell.context.span_id
    assert ship.context.trace_id == sell.context.trace_id


def test_each_event_brings_its_own_trace_and_none_is_left_behind(db):
    target = HonkerEventTarget(db)
    heard = []
    target.add_listener("a", noting_trace(heard))
    expected = []
    for _ in range(2):
        with tracer.start_as_current_span("sell") as span:
            target.dispatch(Event("a"))
            expected.append(span.get_span_context().trace_id)
        target.dispatch(Event("a"))
        expected.append(0)  # outside any span
    outside.until(lambda: len(heard) == 4)
    target.close()
    assert heard == expected


def test_a_receiver_that_raises_leaves_no_trace_behind(db):
    target = LocalEventTarget(db)
    heard = []

    def fail(event):
        raise ValueError("no stamps")

    target.add_listener("a", fail)
    target.add_listener("b", noting_trace(heard))
    with tracer.start_as_current_span("sell"):
        target.dispatch(Event("a"))
    target.dispatch(Event("b"))
    assert heard == [0]


def test_an_async_receiver_is_awaited_within_the_trace(db):
    target = HonkerEventTarget(db)
    heard = []

    async def main():
        async def receive(event):
            await asyncio.sleep(0)
            heard.append(current_trace_id())

        target.add_listener("a", receive)
        with tracer.start_as_current_span("sell") as span:
            await asyncio.to_thread(target.dispatch, Event("a"))
        await asyncio.to_thread(outside.until, lambda: heard)
        await asyncio.to_thread(target.close)
        return span.get_span_context().trace_id

    assert asyncio.run(main()) == heard[0]


def test_async_local_receivers_of_events_of_several_traces_each_have_their_own(db):
    target = LocalEventTarget(db)
    heard = []

    async def main():
        async def receive(event):
            heard.append(current_trace_id())

        target.add_listener("a", receive)
        expected = []
        for _ in range(2):
            with tracer.start_as_current_span("sell") as span:
                target.dispatch(Event("a"))
            expected.append(span.get_span_context().trace_id)
        while len(heard) < 2:
            await asyncio.sleep(0)
        return expected

    assert asyncio.run(main()) == heard


def test_a_composite_targets_receivers_hear_within_the_trace_too(db):
    target = CompositeEventTarget(LocalEventTarget(db), HonkerEventTarget(db))
    heard = []
    target.add_listener("a", noting_trace(heard))
    with tracer.start_as_current_span("sell") as span:
        target.dispatch(Event("a"))
    target.close()
    assert heard == [span.get_span_context().trace_id]


def test_an_event_that_a_receiver_publishes_belongs_to_the_same_trace(db):
    target = HonkerEventTarget(db)
    heard = []

    def forward(event):
        target.dispatch(Event("b"))

    target.add_listener("a", forward)
    target.add_listener("b", noting_trace(heard))
    with tracer.start_as_current_span("sell") as span:
        target.dispatch(Event("a"))
    outside.until(lambda: heard)
    target.close()
    assert heard == [span.get_span_context().trace_id]


def test_a_dead_letter_is_replayed_within_its_trace(db, order):
    bus = EventBus(db, consumer="shipping", attempts=1)
    heard = []

    @bus.bridge(order, durable=True).saved.connect
    def ship(sender, event):
        heard.append(current_trace_id())
        if len(heard) == 1:
            raise ValueError("no stamps")

    with bus:
        with tracer.start_as_current_span("sell") as span:
            order.create(customer="Ada")
        outside.until(bus.dead_letters)
        bus.replay(bus.dead_letters()[0])
    assert heard == [span.get_span_context().trace_id] * 2


def test_the_publishers_own_headers_are_kept_beside_the_trace(db):
    target = LocalEventTarget(db)
    heard = []
    target.add_listener("a", heard.append)
    with tracer.start_as_current_span("sell"):
        target.dispatch(Event("a", headers={"tenant": "7"}))
    assert heard[0].headers["tenant"] == "7"
    assert "traceparent" in heard[0].headers


def test_baggage_travels_as_well(db):
    target = LocalEventTarget(db)
    heard = []

    def receive(event):
        heard.append(baggage.get_baggage("tenant"))

    target.add_listener("a", receive)
    token = context.attach(baggage.set_baggage("tenant", "7"))
    target.dispatch(Event("a"))
    context.detach(token)
    assert heard == ["7"]


def test_outside_a_span_nothing_is_added(db):
    target = LocalEventTarget(db)
    heard = []
    target.add_listener("a", heard.append)
    target.dispatch(Event("a"))
    assert heard[0].headers is None


@pytest.mark.parametrize(
    "headers",
    [
        '{"traceparent": "nonsense"}',
        '{"traceparent": 5}',
        '"text"',
        "[1]",
    ],
)
def test_headers_as_another_program_may_write_them_keep_no_event_from_its_receivers(db, headers):
    bus = EventBus(db)
    heard = []
    bus.target().add_listener("a", heard.append)
    with bus:
        sql = "INSERT INTO _honker_notifications (channel, payload) VALUES (?, ?)"
        db.execute_sql(sql, ("a", f'{{"type": "a", "event_id": "1", "headers": {headers}}}'))
    bus.target().close()
    assert len(heard) == 1


def test_a_process_that_does_not_trace_imports_and_adds_nothing(path):
    code = """
        import sys
        from peewee_honker import HonkerDatabase
        from peewee_honker.events import Event, HonkerEventTarget
        from peewee_honker.testing import record

        db = HonkerDatabase(sys.argv[1])
        target = HonkerEventTarget(db)
        heard = []
        target.add_listener("a", heard.append)
        with record(db) as recorded:
            target.dispatch(Event("a"))
            target.dispatch(Event("a", headers={"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}))
            assert len(recorded.committed) == 2
        target.close()
        assert [bool(event.headers) for event in heard] == [False, True]
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    """
    with outside.Script(code, path) as other:
        other.finish()
