"""The contract of event targets, kept by PostgreSQL: the same tests, on a real server."""

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: the extra `postgres`")

from peewee_honker.events import CompositeEventTarget
from peewee_honker.servers.postgres import PostgresLocalTarget, PostgresTarget
from tests.test_target_contract import (  # noqa: F401  (tests, which run here on the fixtures of this module)
    say,
    target,
    test_a_filter_is_asked_first_and_one_that_fails_hears_nothing,
    test_a_listener_can_dispatch,
    test_a_listener_can_remove_itself_and_others,
    test_a_listener_hears_an_event_once_however_many_topics_match,
    test_a_listener_that_raises_does_not_stop_the_others,
    test_a_listener_that_was_removed_hears_nothing_more,
    test_a_savepoint_that_is_committed_and_goes_on_keeps_what_was_committed,
    test_a_topic_hears_what_it_says,
    test_coroutine_functions_run_on_the_loop_in_which_they_were_added,
    test_events_come_in_order_as_they_were_sent,
    test_many_thousand_topics,
    test_the_thread_goes_with_the_last_listener,
    test_what_cannot_travel_is_refused_and_the_transaction_goes_on,
    test_what_was_rolled_back_is_never_heard_and_what_committed_not_before,
    test_what_was_said_before_is_not_heard,
)
from tests.test_target_contract import (
    test_manual_commit_holds_for_events as manual_commit_holds,
)
from tests.test_target_contract import (
    test_threads_are_heard_in_the_order_of_their_commits as threads_are_heard_in_order,
)

pytestmark = [
    pytest.mark.services,
    # Threads that the tests start leave Peewee's connections of theirs to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TARGETS = {
    "postgres ephemeral": PostgresTarget,
    "postgres durable": lambda db, **options: PostgresTarget(db, "durable", consumer="test", **options),
    "postgres local": PostgresLocalTarget,
    "postgres local and ephemeral": lambda db, **options: CompositeEventTarget(
        PostgresLocalTarget(db, **options), PostgresTarget(db, **options)
    ),
}
REMOTE = ["postgres ephemeral", "postgres durable"]


@pytest.fixture
def db(pg):
    return pg


@pytest.fixture(params=TARGETS)
def make_target(request, db):
    made = []

    def make(**options):
        made.append(TARGETS[request.param](db, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("make_target", REMOTE, indirect=True)
def test_threads_are_heard_in_the_order_of_their_commits(db, target, path):  # noqa: F811
    threads_are_heard_in_order(db, target, path)


@pytest.mark.parametrize("make_target", REMOTE, indirect=True)
def test_manual_commit_holds_for_events(db, target):  # noqa: F811
    manual_commit_holds(db, target)
