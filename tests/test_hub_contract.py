"""The contract of event targets, kept by the two ends of a WebSocket: the same tests, over real sockets."""

import pytest

pytest.importorskip("websockets", reason="websockets is not installed: the extra `hub`")

from peewee_honker.events import EventTarget
from peewee_honker.hub import WebSocketClientTarget, WebSocketServerTarget, anyone
from tests.support import outside
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
    test_manual_commit_holds_for_events,
    test_threads_are_heard_in_the_order_of_their_commits,
    test_transactions_that_sql_begins_and_ends_hold_for_events,
    test_what_cannot_travel_is_refused_and_the_transaction_goes_on,
    test_what_was_rolled_back_is_never_heard_and_what_committed_not_before,
    test_what_was_said_before_is_not_heard,
)

# Left out: `test_many_thousand_topics`, where each is a round trip (`test_thousands_of_topics_are_asked_for_at_once_...`
# asks for them together), `test_the_thread_goes_with_the_last_listener`, as a server reads while it serves, and
# `test_listeners_that_come_while_others_publish_miss_nothing`, which makes Honker's targets itself: here it is
# `test_listeners_over_a_socket_that_come_while_others_publish_miss_nothing` in test_hub_targets.py.


class Through(EventTarget):
    """What is dispatched at the server is heard by the client."""

    def __init__(self, server, client, **options):
        super().__init__(**options)
        self._server, self._client = server, client
        self.add_listener, self.remove_listener = client.add_listener, client.remove_listener

    def _dispatch(self, event):
        self._server.dispatch(event)


def served(db, **options):
    server = WebSocketServerTarget(db, authenticate=anyone, **options)
    server.start()
    return server


def connected(server, **options):
    client = WebSocketClientTarget(server.url, **options)
    client.start()
    client.wait_connected(outside.DEADLINE)
    return client


KINDS = ["server", "client", "from server to client"]


@pytest.fixture(params=KINDS)
def make_target(request, db):
    made = []

    def make(**options):
        server = served(db, **options)
        made.append(server)
        if request.param == "server":
            return server
        client = connected(server, database=db, **options)
        made.insert(0, client)
        return client if request.param == "client" else Through(server, client, **options)

    yield make
    for each in made:
        each.close()
