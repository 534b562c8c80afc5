"""The contract of event targets, kept by Redis: the same tests, on a real server.

Left out is what rests on transactions, with which Redis has nothing to do: what is dispatched is sent at once.
"""

import pytest

pytest.importorskip("redis", reason="redis-py is not installed: the extra `redis`")

from peewee_honker.events import CompositeEventTarget, LocalEventTarget
from peewee_honker.servers.redis import RedisTarget
from tests.test_target_contract import (  # noqa: F401  (tests, which run here on the fixtures of this module)
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
    test_threads_are_heard_in_the_order_of_their_commits,
    test_what_cannot_travel_is_refused_and_the_transaction_goes_on,
    test_what_was_said_before_is_not_heard,
)

pytestmark = pytest.mark.services

TARGETS = {
    "redis ephemeral": RedisTarget,
    "redis durable": lambda url, **options: RedisTarget(url, "durable", consumer="test", **options),
    "redis local and ephemeral": lambda url, **options: CompositeEventTarget(
        LocalEventTarget(**options), RedisTarget(url, **options)
    ),
}


@pytest.fixture(params=TARGETS)
def make_target(request, redis_url):
    made = []

    def make(**options):
        made.append(TARGETS[request.param](redis_url, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
