"""The contract of event targets, kept by NATS: the same tests, on a real server."""

import pytest

pytest.importorskip("nats", reason="nats-py is not installed: the extra `nats`")

from peewee_honker.events import CompositeEventTarget, LocalEventTarget
from peewee_honker.servers.nats import NatsTarget
from tests.test_target_contract import (  # noqa: F401  (tests, which run here on the fixtures of this module)
    say,
    target,
    test_a_filter_is_asked_first_and_one_that_fails_hears_nothing,
    test_a_listener_can_dispatch,
    test_a_listener_can_remove_itself_and_others,
    test_a_listener_hears_an_event_once_however_many_topics_match,
    test_a_listener_that_raises_does_not_stop_the_others,
    test_a_listener_that_was_removed_hears_nothing_more,
    test_a_topic_hears_what_it_says,
    test_coroutine_functions_run_on_the_loop_in_which_they_were_added,
    test_events_come_in_order_as_they_were_sent,
    test_many_thousand_topics,
    test_the_thread_goes_with_the_last_listener,
    test_what_cannot_travel_is_refused_and_the_transaction_goes_on,
    test_what_was_said_before_is_not_heard,
)

# Left out, since NATS takes no part in a database's transactions (events are sent at once, and a rollback does not call them
# back): test_what_was_rolled_back_is_never_heard_and_what_committed_not_before, test_threads_are_heard_in_the_order_of_
# their_commits, test_transactions_that_sql_begins_and_ends_hold_for_events, test_manual_commit_holds_for_events,
# test_a_savepoint_that_is_committed_and_goes_on_keeps_what_was_committed. What is said of `db` here is of any database.

pytestmark = pytest.mark.services


def composite(db, url, **options):
    remote = NatsTarget(url, **options)
    return CompositeEventTarget(LocalEventTarget(db, **options), remote), remote


TARGETS = {
    "nats ephemeral": lambda _, url, **options: [NatsTarget(url, **options)],
    "nats durable": lambda _, url, **options: [NatsTarget(url, "durable", consumer="test", **options)],
    "nats local and ephemeral": composite,
}


@pytest.fixture(params=TARGETS)
def make_target(request, db, nats_url):
    made = []

    def make(**options):
        created = TARGETS[request.param](db, nats_url, **options)
        made.extend(created)
        return created[0]

    yield make
    for each in made:
        each.close()
