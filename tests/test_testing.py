"""What applications test with: the recording of events, as a pytest plugin and without."""

from pathlib import Path

import pytest

from peewee_honker import Event, EventBus
from peewee_honker.events import HonkerEventTarget
from peewee_honker.testing import record
from tests.support import outside

pytest_plugins = ["pytester"]


def test_committed_and_rolled_back_events_are_told_apart(db):
    targets = [HonkerEventTarget(db), HonkerEventTarget(db, "durable", stream="kept")]
    with record(db) as events:
        for target in targets:
            target.dispatch(Event("alone"))
            with pytest.raises(ZeroDivisionError), db.atomic():
                target.dispatch(Event("rolled back"))
                _ = 1 / 0
            with db.atomic():
                target.dispatch(Event("in a transaction"))
                with db.atomic() as savepoint:
                    target.dispatch(Event("undone"))
                    savepoint.rollback()
                assert "in a transaction" not in [event.type for event in events.rolled_back]
        assert events.wait_for("in a transaction").type == "in a transaction"
        assert [event.type for event in events.rolled_back] == ["rolled back", "undone"] * 2
        assert sorted(event.type for event in events.committed) == ["alone"] * 2 + ["in a transaction"] * 2


def test_events_of_other_processes_are_recorded(db, path):
    with record(db) as events:
        code = """
            import sys
            from peewee_honker import EventBus, HonkerDatabase
            EventBus(HonkerDatabase(sys.argv[1])).signal("ready").send("there", pages=3)
        """
        with outside.Script(code, path) as script:
            script.finish()
        found = events.wait_for("ready", "there", where=lambda event: event.payload["named"]["pages"] == 3)
        assert found.id == "there"


def test_waiting_in_vain_says_what_has_come(db):
    with record(db) as events:
        EventBus(db).signal("other").send("x")
        with pytest.raises(AssertionError, match=r"no event ready:1 has committed within 0.01 s(.|\n)*other:x"):
            events.wait_for("ready", "1", timeout=0.01)
        events.clear()
        assert events.committed == []


def test_the_plugin(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.makeconftest('pytest_plugins = ["peewee_honker.testing"]')
    pytester.makepyfile(
        """
        from peewee import CharField
        from peewee_honker import EventBus
        from peewee_honker.signals import Model

        class Order(Model):
            customer = CharField()

        def test_an_order_is_told_of(honker_db, recorded_events):
            with honker_db.bind_ctx([Order]):
                honker_db.create_tables([Order])
                bridge = EventBus(honker_db).bridge(Order)
                Order.create(customer="Ada")
                bridge.unpublish()
            assert recorded_events.wait_for("order.saved").payload["customer"] == "Ada"
            assert recorded_events.rolled_back == []

        def test_each_test_has_its_own(recorded_events):
            assert recorded_events.committed == []
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)
