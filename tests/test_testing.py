"""peewee_honker.testing: what a test can see of what was published."""

import asyncio
import re
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peewee import CharField

from peewee_honker import EngineClosedError, EventBus, HonkerDatabase
from peewee_honker.capture import Capture
from peewee_honker.events import CompositeEventTarget, Event, HonkerEventTarget, LocalEventTarget
from peewee_honker.signals import Model
from peewee_honker.testing import record
from tests.support import outside
from tests.support.laws import examples

pytest_plugins = ["pytester"]


@pytest.fixture
def order(db):
    class Order(Model):
        customer = CharField()

        class Meta:
            database = db

    db.create_tables([Order])
    return Order


def topics(events):
    return [event.topic for event in events]


class OopsError(Exception):
    pass


def test_what_a_bus_publishes_is_recorded_whether_it_runs_or_not(db, order):
    EventBus(db).bridge(order)
    with record(db) as recorded:
        ada = order.create(customer="Ada")
        ada.delete_instance()
        assert topics(recorded.committed) == ["order.saved:1", "order.deleted:1"]
        assert recorded.committed[0].payload == {"id": 1, "customer": "Ada"}
        assert (recorded.rolled_back, recorded.pending, recorded.gaps) == ([], [], [])


def test_what_was_rolled_back_is_told_apart(db, order):
    EventBus(db).bridge(order)
    with record(db) as recorded:
        with pytest.raises(OopsError), db.atomic():
            order.create(customer="Eve")
            raise OopsError
        order.create(customer="Ada")
        assert [event.payload["customer"] for event in recorded.rolled_back] == ["Eve"]
        assert [event.payload["customer"] for event in recorded.committed] == ["Ada"]


def test_of_a_transaction_the_savepoint_that_was_rolled_back_is_told_apart(db, order):
    EventBus(db).bridge(order)
    with record(db) as recorded, db.atomic():
        order.create(customer="before")
        with pytest.raises(OopsError), db.atomic():
            order.create(customer="within")
            with db.atomic():
                order.create(customer="deeper")
            raise OopsError
        order.create(customer="after")
        assert [event.payload["customer"] for event in recorded.pending] == ["before", "after"]
        assert [event.payload["customer"] for event in recorded.rolled_back] == ["within", "deeper"]
        assert recorded.committed == []
    assert [event.payload["customer"] for event in recorded.committed] == ["before", "after"]
    assert recorded.pending == []


class Rollback(Exception):  # noqa: N818  (what the block ends with, no error)
    pass


# A bool publishes, durable or not; a pair is a transaction or savepoint: how it ends, and what is done in it.
doings = st.recursive(
    st.booleans(),
    lambda inner: st.tuples(st.sampled_from(["commit", "roll back"]), st.lists(inner, max_size=4)),
    max_leaves=12,
)


@given(program=st.lists(doings, max_size=6))
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_event_of_nested_transactions_is_either_committed_or_rolled_back(db, program):
    ephemeral, durable = HonkerEventTarget(db), HonkerEventTarget(db, "durable")
    kept, undone = [], []

    def do(doing):
        if isinstance(doing, bool):
            event = Event("durable" if doing else "ephemeral")
            (durable if doing else ephemeral).dispatch(event)
            return [event.event_id]
        end, inner = doing
        try:
            with db.atomic():
                done = [event_id for each in inner for event_id in do(each)]
                if end == "roll back":
                    raise Rollback
        except Rollback:
            undone.extend(done)
            return []
        return done

    with record(db) as recorded:
        for doing in program:
            kept += do(doing)
            assert recorded.pending == []
        for type_ in ("ephemeral", "durable"):
            told = [event.event_id for event in recorded.committed if event.type == type_]
            assert told == sorted(told)  # ids sort by the time at which they were made
        assert {event.event_id for event in recorded.committed} == set(kept)
        assert len(recorded.committed) == len(kept)
        assert sorted(event.event_id for event in recorded.rolled_back) == sorted(undone)


def test_what_triggers_publish_is_recorded(db, order):
    capture = Capture(order)
    capture.install(db)
    with record(db) as recorded:
        order.insert_many([{"customer": "Ada"}, {"customer": "Eve"}]).execute()
        assert topics(recorded.committed) == ["order.saved:1", "order.saved:2"]
    capture.uninstall(db)


def test_durable_events_of_all_streams_are_recorded_in_commit_order(db):
    first, second = (HonkerEventTarget(db, "durable", stream=name) for name in ("first", "second"))
    first.dispatch(Event("before"))
    with record(db) as recorded:
        first.dispatch(Event("a"))
        second.dispatch(Event("b"))
        with pytest.raises(OopsError), db.atomic():
            second.dispatch(Event("c"))
            raise OopsError
        first.dispatch(Event("d"))
        assert topics(recorded.committed) == ["a", "b", "d"]
        assert topics(recorded.rolled_back) == ["c"]


def test_thousands_of_durable_events_are_complete_when_asked_for(db):
    target = HonkerEventTarget(db, "durable")
    with record(db) as recorded:
        with db.atomic():
            for number in range(3000):
                target.dispatch(Event("n", str(number)))
        assert [event.id for event in recorded.committed] == [str(number) for number in range(3000)]


def test_an_event_of_a_composite_target_is_recorded_once(db):
    target = CompositeEventTarget(LocalEventTarget(db), HonkerEventTarget(db))
    with record(db) as recorded:
        target.dispatch(Event("a"))
        with pytest.raises(OopsError), db.atomic():
            target.dispatch(Event("b"))
            raise OopsError
        assert (topics(recorded.committed), topics(recorded.rolled_back)) == (["a"], ["b"])


def test_a_bare_notify_is_recorded_as_an_event_of_its_channel(db):
    with record(db) as recorded:
        db.notify("bell", {"rings": 2})
        assert recorded.wait_for("bell").payload == {"rings": 2}


def test_another_process_is_heard(db, path):
    with record(db) as recorded:
        code = """
            import sys
            from peewee_honker import HonkerDatabase
            from peewee_honker.events import Event, HonkerEventTarget
            db = HonkerDatabase(sys.argv[1])
            HonkerEventTarget(db).dispatch(Event("order.saved", "7"))
            HonkerEventTarget(db, "durable").dispatch(Event("order.kept", "8"))
        """
        with outside.Script(code, path) as other:
            assert recorded.wait_for("order.saved", timeout=outside.DEADLINE).id == "7"
            assert recorded.wait_for("order.kept", timeout=outside.DEADLINE).id == "8"
            other.finish()


def test_what_another_process_has_committed_is_there_at_once(db, path):
    db.execute_sql("CREATE TABLE t (x)")
    code = """
        import sys
        from peewee_honker import HonkerDatabase
        HonkerDatabase(sys.argv[1]).notify("done")
    """
    with record(db) as recorded:
        with outside.Script(code, path) as other:
            other.finish()
        assert topics(recorded.committed) == ["done"]


def test_another_databases_events_are_not_recorded(db, tmp_path):
    other = HonkerDatabase(tmp_path / "other.db")
    with record(db) as recorded:
        with pytest.raises(OopsError), other.atomic():
            HonkerEventTarget(other).dispatch(Event("a"))
            raise OopsError
        other.notify("b")
        assert (recorded.committed, recorded.rolled_back) == ([], [])
    other.close_engine()


def test_two_databases_on_one_file_are_one(db, open_database):
    with record(db) as recorded:
        same = open_database()
        with pytest.raises(OopsError), same.atomic():
            HonkerEventTarget(same).dispatch(Event("a"))
            raise OopsError
        assert topics(recorded.rolled_back) == ["a"]


class TestWaiting:
    def test_gives_the_event_that_has_come_before(self, db):
        with record(db) as recorded:
            HonkerEventTarget(db).dispatch(Event("order.saved", "7", payload=1))
            assert recorded.wait_for("order.saved", id=7).payload == 1

    def test_gives_the_event_that_comes_later_from_another_thread(self, db):
        target = HonkerEventTarget(db)
        with record(db) as recorded:

            def publish():
                for number in range(100):
                    target.dispatch(Event("order.saved", str(number)))
                db.close()

            thread = threading.Thread(target=publish)
            thread.start()
            assert recorded.wait_for("order.saved", id=99, timeout=outside.DEADLINE).id == "99"
            thread.join()

    @pytest.mark.parametrize("topic", ["order.saved", "order.*", "*", "order.saved:7"])
    def test_takes_topics_and_patterns(self, db, topic):
        with record(db) as recorded:
            HonkerEventTarget(db).dispatch(Event("order.saved", "7"))
            assert recorded.wait_for(topic).id == "7"

    def test_gives_the_first_for_which_the_condition_holds(self, db):
        target = HonkerEventTarget(db)
        with record(db) as recorded:
            for number in range(5):
                target.dispatch(Event("n", payload=number))
            assert recorded.wait_for("n", where=lambda event: event.payload > 2).payload == 3

    def test_fails_with_a_list_of_what_has_come_instead(self, db):
        target = HonkerEventTarget(db)
        with record(db) as recorded:
            target.dispatch(Event("order.saved", "8", payload={"customer": "Ada"}))
            with pytest.raises(OopsError), db.atomic():
                target.dispatch(Event("order.saved", "7"))
                raise OopsError
            with pytest.raises(AssertionError) as failure:
                recorded.wait_for("order.saved", id=7, timeout=0.01)
        told = str(failure.value)
        assert told.startswith("order.saved:7 has not come within 0.01 s")
        committed, rolled_back = told.split("rolled back:")
        assert "order.saved:8" in committed
        assert "{'customer': 'Ada'}" in committed
        assert "order.saved:7" in rolled_back

    def test_fails_by_saying_that_nothing_came(self, db):
        with record(db) as recorded, pytest.raises(AssertionError, match="nothing was committed"):
            recorded.wait_for("order.saved", timeout=0)

    def test_says_that_the_event_is_in_a_transaction_that_is_still_open(self, db):
        with record(db) as recorded, db.atomic():
            HonkerEventTarget(db).dispatch(Event("order.saved", "7"))
            with pytest.raises(AssertionError, match=r"pending:\n    order.saved:7"):
                recorded.wait_for("order.saved", timeout=0)

    def test_on_an_event_loop_is_refused_with_the_way_out(self, db):
        async def main():
            with record(db) as recorded:
                HonkerEventTarget(db).dispatch(Event("a"))
                with pytest.raises(RuntimeError, match="to_thread"):
                    recorded.wait_for("a")
                return await asyncio.to_thread(recorded.wait_for, "a")

        assert asyncio.run(main()).type == "a"


def test_clear_forgets_what_came_but_not_what_is_open(db):
    target = HonkerEventTarget(db)
    with record(db) as recorded:
        target.dispatch(Event("a"))
        with db.atomic():
            target.dispatch(Event("b"))
            recorded.clear()
            assert recorded.committed == []
            assert topics(recorded.pending) == ["b"]
        assert topics(recorded.committed) == ["b"]


def test_clear_takes_nothing_from_who_waits_in_another_thread(db):
    target, heard = HonkerEventTarget(db), []
    with record(db) as recorded:
        target.dispatch(Event("order.paid", "1"))
        recorded.wait_for("order.paid")
        asked = threading.Event()

        def is_shipped(event):
            asked.set()
            return event.type == "order.shipped"

        waiting = threading.Thread(target=lambda: heard.append(recorded.wait_for("*", where=is_shipped)))
        waiting.start()
        asked.wait(outside.DEADLINE)
        recorded.clear()
        target.dispatch(Event("order.shipped", "2"))
        waiting.join(outside.DEADLINE)
    assert [event.id for event in heard] == ["2"]


def test_after_the_block_nothing_is_recorded_and_the_lists_stay(db):
    target = HonkerEventTarget(db)
    with record(db) as recorded:
        target.dispatch(Event("a"))
    target.dispatch(Event("b"))
    assert topics(recorded.committed) == ["a"]
    assert recorded.wait_for("a").type == "a"


def test_recordings_can_overlap(db):
    target = HonkerEventTarget(db)
    with record(db) as whole:
        target.dispatch(Event("a"))
        with record(db) as part:
            target.dispatch(Event("b"))
        target.dispatch(Event("c"))
        assert topics(whole.committed) == ["a", "b", "c"]
        assert topics(part.committed) == ["b"]


def test_a_recording_is_entered_once(db):
    recorded = record(db)
    with recorded, pytest.raises(RuntimeError, match="already"):
        recorded.__enter__()


def test_an_engine_that_is_closed_under_a_recording_is_not_passed_over(db):
    with record(db) as recorded:
        db.notify("a")
        db.close_engine()
        with pytest.raises(EngineClosedError, match="while its events were recorded"):
            recorded.wait_for("b")
    with pytest.raises(EngineClosedError):
        _ = recorded.committed


def test_deleted_before_they_were_read_is_a_gap(db):
    target = HonkerEventTarget(db, "durable")
    with record(db) as recorded:
        with db.atomic():
            target.dispatch(Event("a"))
            db.execute_sql("DELETE FROM _honker_stream")
            target.dispatch(Event("b"))
        assert topics(recorded.committed) == ["b"]
        assert len(recorded.gaps) == 1


def test_record_works_where_pytest_is_not(path):
    code = """
        import sys
        from peewee_honker import HonkerDatabase
        from peewee_honker.testing import record
        assert "pytest" not in sys.modules
        db = HonkerDatabase(sys.argv[1])
        with record(db) as recorded:
            db.notify("a")
            print(recorded.wait_for("a").type)
    """
    with outside.Script(code, path) as other:
        assert other.finish() == "a\n"


class TestPlugin:
    @pytest.fixture(autouse=True)
    def _this_package(self, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))

    def test_its_fixtures_give_a_database_and_its_events(self, pytester):
        pytester.makeconftest('pytest_plugins = ["peewee_honker.testing"]')
        pytester.makepyfile(
            """
            from peewee_honker.events import Event, HonkerEventTarget

            def test_first(honker_db, recorded_events, tmp_path):
                assert honker_db.get_tables() == []
                HonkerEventTarget(honker_db).dispatch(Event("order.saved", "7"))
                assert recorded_events.wait_for("order.saved", id=7)

            def test_second_starts_empty(honker_db, recorded_events):
                assert recorded_events.committed == []
            """
        )
        run(pytester).assert_outcomes(passed=2)

    def test_records_the_database_that_the_project_gives(self, pytester):
        pytester.makeconftest(
            """
            import pytest
            from peewee_honker import HonkerDatabase
            from peewee_honker.testing import record

            pytest_plugins = ["peewee_honker.testing"]

            @pytest.fixture
            def honker_db(tmp_path):
                database = HonkerDatabase(tmp_path / "mine.db")
                yield database
                database.close_engine()
            """
        )
        pytester.makepyfile(
            """
            def test_it(honker_db, recorded_events):
                honker_db.notify("a")
                assert "mine.db" in repr(recorded_events)
                assert len(recorded_events.committed) == 1
            """
        )
        run(pytester).assert_outcomes(passed=1)

    def test_runs_the_example_of_its_page(self, pytester):
        page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text()
        for name, code in re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
            pytester.path.joinpath(name).write_text(code)
        run(pytester).assert_outcomes(passed=2)

    def test_is_not_loaded_unless_named(self, pytester):
        pytester.makepyfile("def test_it(honker_db): pass")
        run(pytester).assert_outcomes(errors=1)


def run(pytester):
    """Run pytest as its users do: in a process of its own, with warnings as errors."""
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
