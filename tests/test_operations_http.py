"""Operations over HTTP: the same in Flask and in Starlette, each a real server in a process of its own."""

import http.client
import json
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from openapi_spec_validator import validate

from peewee_honker.operations.openapi import openapi
from peewee_honker.storage import Account, ApiKeys, create_system_database, system_database
from tests.support.doors import FRAMEWORKS, Door
from tests.support.outside import DEADLINE, until
from tests.support.shop import HIDDEN, MEETING, shop


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture(scope="module")
def door(framework, tmp_path_factory):
    """One server for all tests that leave it as it was."""
    path = str(tmp_path_factory.mktemp(framework) / "shop.db")
    with Door(framework, path, max_body=10_000, keep_alive=0.1) as served:
        yield served


def subscriptions(door):
    return door.call("feed.ended").body["data"]


# The document


def test_the_document_is_valid_and_names_every_call(db, door):
    document = openapi(shop(db))
    served = door.send("GET", "/api/openapi.json").body
    validate(served)
    assert {f"/api{path}" for path in document["paths"]} == set(served["paths"])
    assert {f"/api/orders/{name}" for name in ("create", "find", "list", "update", "delete", "watch")} < set(served["paths"])
    found = served["paths"]["/api/orders/find"]
    assert set(found) == {"post"}
    assert set(found["post"]["responses"]) == {"200", "400", "401", "403", "404", "413", "415", "422", "500", "504"}
    assert set(served["paths"]["/api/orders/watch"]) == {"get", "post"}
    assert "410" in served["paths"]["/api/math/refuse"]["post"]["responses"]


# Answers


def test_an_answer_says_where_it_is_from(door):
    answer = door.call("orders.create", {"number": "A", "total": 1})
    assert answer.status == 200
    assert {**answer.body["data"], "id": 1} == {"id": 1, "number": "A", "total": 1}
    assert answer.body["meta"]["source"] == "http"
    assert answer.body["meta"]["operation_id"] == "orders.create"


@pytest.mark.parametrize(
    ("operation", "data", "status", "code"),
    [
        ("orders.create", {"number": "B"}, 422, "VALIDATION_ERROR"),
        ("orders.find", {"id": 999}, 404, "NOT_FOUND"),
        ("orders.nothing", {}, 404, "OPERATION_NOT_FOUND"),
        ("nothing.at_all", {}, 404, "OPERATION_NOT_FOUND"),
        ("math.elsewhere", {}, 404, "OPERATION_NOT_FOUND"),
        ("math.fail", {}, 500, "EXECUTION_ERROR"),
        ("math.unsent", {}, 500, "EXECUTION_ERROR"),
        ("math.refuse", {}, 410, "TOO_LATE"),
        ("math.refuse", {"code": "ITS_OWN"}, 400, "ITS_OWN"),
        ("math.refuse", {"code": "TIMEOUT"}, 504, "TIMEOUT"),
    ],
)
def test_an_error_has_its_status_and_tells_no_sql(door, operation, data, status, code):
    answer = door.call(operation, data)
    assert (answer.status, answer.code) == (status, code)
    assert HIDDEN not in json.dumps(answer.body)
    assert "Traceback" not in json.dumps(answer.body)


def test_a_value_that_is_taken_is_an_error_of_the_input(door):
    door.call("orders.create", {"number": "twice", "total": 1})
    answer = door.call("orders.create", {"number": "twice", "total": 1})
    assert (answer.status, answer.body["details"][0]["path"]) == (422, "/number")


def test_a_whole_number_may_be_written_as_a_float(door):
    assert door.call("orders.list", {"limit": 5.0}).status == 200


def test_details_are_told(door):
    assert door.call("math.refuse", {"details": {"until": 5}}).body["details"] == {"until": 5}


# Who may

MATRIX = {
    "math.double": {"clerk", "reader", "owner", "other", "nobody"},
    "orders.list": {"clerk", "reader"},
    "orders.create": {"clerk"},
    "math.either": {"clerk"},
    "math.resource": {"owner"},
    "orders.watch": {"clerk", "reader"},
    "feed.resources": {"owner"},
    "feed.count": {"clerk", "reader", "owner", "other", "nobody"},
}


@pytest.mark.parametrize("operation", MATRIX)
def test_who_may(door, operation):
    data = {"orders.create": {"number": "x"}, "orders.list": {}, "orders.watch": {}}.get(operation, {"n": 1})
    for user in ("clerk", "reader", "owner", "other", "nobody"):
        with door.subscribe(operation, data, user) as answer:
            if user in MATRIX[operation]:
                assert answer.status == (422 if operation == "orders.create" else 200)
            else:
                assert (answer.status, json.loads(answer.response.read())["code"]) == (403, "ACCESS_DENIED")


def test_who_may_not_is_refused_before_the_input_is_looked_at(door):
    assert door.send("POST", "/api/orders/create", "{", {"Content-Type": "application/json"}).status == 403


def test_what_goes_wrong_in_finding_out_who_asks_is_not_told(door):
    answer = door.call("math.double", {"n": 1}, "crash")
    assert (answer.status, answer.code) == (500, "EXECUTION_ERROR")
    assert HIDDEN not in json.dumps(answer.body)
    assert door.call("math.double", {"n": 1}, "abort").status == 418


def test_who_asks_may_be_found_out_by_a_coroutine_function(path):
    with Door("starlette", path, identify="async") as door:
        assert door.call("math.whoami", {}, "reader").body["data"]["id"] == "2"
        assert door.call("orders.list", {}, "nobody").status == 403


def test_an_api_key_is_an_identity_with_its_scopes(framework, path):
    system = create_system_database(f"{path}.system")
    keys = ApiKeys(system)
    with system_database.use(system):
        ada = Account.create(email="ada@example.org", name="Ada")
    made = keys.create(ada, "reports", scopes=["orders:read"], actor=ada)
    revoked = keys.create(ada, "old", scopes=["orders:read"], actor=ada)
    keys.revoke(revoked.row, actor=ada)
    with Door(framework, path, identify="keys") as door:
        who = door.call("math.whoami", Authorization=f"bearer {made.text}").body["data"]
        assert who == {"id": ada.id, "scopes": ["orders:read"], "resources": {}}
        assert door.call("orders.list", Authorization=f"Bearer {made.text}").status == 200
        assert door.call("orders.delete", {"id": 1}, Authorization=f"Bearer {made.text}").status == 403
        assert door.call("math.whoami").body["data"] is None
        bad = [f"Bearer {revoked.text}", "Bearer nonsense", "Bearer", f"Basic {made.text}", "Bearer " + "x" * 5000, "\xff"]
        answers = [door.call("math.whoami", Authorization=header) for header in bad]
        assert {(one.status, one.code, one.body["message"]) for one in answers} == {
            (401, "ACCESS_DENIED", "the API key is not valid")
        }
        assert answers[0].headers["WWW-Authenticate"] == "Bearer"
    with Door(framework, path, identify="keys", required=True) as door:
        assert door.call("math.whoami").status == 401
    system.close_engine()


# What is sent wrongly

HEAD = "POST /api/math/double HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("body", "type_", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"NaN", "application/json", 400),
        (b'{"n": -Infinity}', "application/json", 400),
        (b"[" * 9_000, "application/json", 400),
        (b"9" * 9_000, "application/json", 400),
        (b'"\xff"', "application/json", 400),
        (b'{"n": "\\ud800"}', "application/json", 400),
        (b"null", "application/json", 422),
        (b"[]", "application/json; charset=utf-8", 422),
        (b'{"n": 1}', "text/plain", 415),
        (b"n=1", "application/x-www-form-urlencoded", 415),
        (b'{"n": 1}', None, 415),
        (b'"' + b"x" * 10_000 + b'"', "application/json", 413),
    ],
)
def test_a_body_that_is_not_right_is_refused(door, body, type_, status):
    answer = door.send("POST", "/api/math/double", body, {} if type_ is None else {"Content-Type": type_})
    assert (answer.status, answer.code) == (status, "VALIDATION_ERROR")


def test_a_huge_body_is_refused_before_it_is_sent(door):
    with socket.create_connection(("127.0.0.1", door.port), DEADLINE) as connection:
        connection.sendall(f"{HEAD}Content-Length: 10000000000\r\n\r\n".encode())
        assert b" 413 " in connection.recv(1000)


def test_a_body_of_unknown_length_is_refused_when_it_is_too_long(door):
    with socket.create_connection(("127.0.0.1", door.port), DEADLINE) as connection:
        connection.sendall(
            f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + (b"1000\r\n" + b" " * 0x1000 + b"\r\n") * 3
        )
        assert b" 413 " in connection.recv(1000)


def test_one_that_leaves_in_the_middle_of_its_body_harms_nobody(framework, path):
    with Door(framework, path) as door:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", door.port), DEADLINE) as connection:
                connection.sendall(f"{HEAD}Content-Length: 100\r\n\r\n{{".encode())
        assert door.call("math.double", {"n": 1}).status == 200
        door.process.send_signal(signal.SIGTERM)
        _, errors = door.process.communicate(timeout=DEADLINE)
        assert "Traceback" not in errors


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_a_wrong_method_is_refused(door, method):
    answer = door.send(method, "/api/math/double", headers={"X-User": "clerk"})
    assert (answer.status, answer.headers["Allow"]) == (405, "POST, OPTIONS")
    if method in ("PUT", "HEAD"):
        assert door.send(method, "/api/feed/count").headers["Allow"] == "POST, GET, OPTIONS"


def test_a_page_of_another_origin_is_told_which_methods_there_are(door):
    answer = door.send("OPTIONS", "/api/math/double")
    assert (answer.status, answer.headers["Allow"], answer.body) == (204, "POST, OPTIONS", b"")
    assert "Access-Control-Allow-Origin" not in answer.headers


# Many at a time


@pytest.mark.parametrize("operation", ["math.meet", "math.meet_async"])
def test_calls_do_not_wait_for_one_another(door, operation):
    with ThreadPoolExecutor(MEETING) as pool:
        answers = list(pool.map(lambda _: door.call(operation), range(MEETING)))
    assert [one.body["data"] for one in answers] == [{"met": True}] * MEETING


def test_writes_of_many_are_all_done(door):
    with ThreadPoolExecutor(8) as pool:
        rows = [{"number": f"n{number}", "total": number} for number in range(40)]
        answers = list(pool.map(lambda row: door.call("orders.create", row), rows))
    assert {one.status for one in answers} == {200}
    listed = door.call("orders.list", {"filter": {"number": {"in": [row["number"] for row in rows]}}})
    assert len(listed.body["data"]["items"]) == 40


def test_a_function_runs_beside_the_loop_and_a_coroutine_function_on_it(path):
    with Door("starlette", path) as door:
        assert door.call("math.where").body["data"] == {"main": False}
        assert door.call("math.where_async").body["data"] == {"main": True}


# Subscriptions


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_subscription_ends_with_its_generator(door, method):
    with door.subscribe("feed.count", {"n": 3}, method=method).opened() as page:
        assert page.response.headers.get_content_type() == "text/event-stream"
        sent = page.take(4)
        assert [one.data["data"] for one in sent[:3]] == [{"number": 0}, {"number": 1}, {"number": 2}]
        assert sent[0].data["meta"]["source"] == "http"
        assert (sent[3].name, sent[3].data) == ("end", {})
        with pytest.raises(EOFError):
            page.next()


def test_a_page_that_subscribes_hears_what_commits(door):
    with door.subscribe("orders.watch").opened() as page:
        made = door.call("orders.create", {"number": "watched", "total": 1}).body["data"]
        sent = page.next()
        assert (sent.data["data"]["operation"], sent.data["data"]["row"]) == ("insert", made)


def test_a_subscription_that_fails_says_so_and_tells_no_sql(door):
    with door.subscribe("feed.fails") as page:
        first, failed = page.take(2)
        assert first.data["data"] == {"number": 1}
        assert (failed.name, failed.data) == ("failed", {"code": "EXECUTION_ERROR", "message": "feed.fails failed"})


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_an_input_that_is_not_right_is_refused_before_a_subscription_begins(door, method):
    with door.subscribe("feed.count", {"n": "x"}, method=method) as page:
        assert page.status == 422
    assert door.send("GET", "/api/feed/count?input=%7B").status == 400


def test_the_generator_ends_when_its_page_has_gone(door):
    before = subscriptions(door)
    page = door.subscribe("feed.silent").opened()
    until(lambda: len(subscriptions(door)["running"]) > len(before["running"]), "the generator runs")
    assert subscriptions(door)["ended"] == before["ended"]
    page.close()
    until(lambda: len(subscriptions(door)["ended"]) > len(before["ended"]), "the generator has ended")


def test_silence_is_broken_by_comments(door):
    with door.subscribe("feed.silent").opened() as page:
        heard = [page.response.readline() for _ in range(4)]
        assert heard == [b": keep-alive\n", b"\n"] * 2


def test_as_many_subscriptions_as_are_allowed(framework, path):
    with Door(framework, path, subscriptions=2, keep_alive=0.05) as door:
        pages = [door.subscribe("feed.silent").opened() for _ in range(2)]
        with door.subscribe("feed.count", {"n": 1}) as refused:
            assert (refused.status, refused.response.headers["Retry-After"]) == (503, "5")
        pages[0].close()

        def admitted():
            with door.subscribe("feed.count", {"n": 1}) as page:
                return page.status == 200

        until(admitted, "the place of the page that has gone is free")
        pages[1].close()


def test_a_slow_page_slows_its_own_generator_only(door):
    with door.subscribe("feed.count", {"n": 10**9}) as slow, door.subscribe("feed.count", {"n": 2000}) as quick:
        assert [one.data["data"]["number"] for one in quick.take(2000)] == list(range(2000))
        assert slow.next().data["data"] == {"number": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_stopped_lets_its_subscriptions_go(framework, path, number):
    if framework == "flask" and number == signal.SIGINT:
        pytest.skip("werkzeug's own server ends at once at Ctrl-C, with its threads")
    with Door(framework, path) as door, door.subscribe("feed.silent").opened() as page:
        door.process.send_signal(number)
        if framework == "flask":
            assert page.next().data["code"] == "ABORTED"
        with pytest.raises((EOFError, ConnectionError, http.client.IncompleteRead)):
            page.next()
        output, errors = door.process.communicate(timeout=DEADLINE)
        assert (door.process.returncode, output) == (0, "stopped\n"), errors
        assert "Traceback" not in errors


def test_subscriptions_leave_no_threads_behind(path):
    """As many as are closed end, also when the server never read them."""
    from peewee_honker.contrib.subscriptions import Page, ThreadPage

    left = []

    async def ticks():
        while True:
            yield None

    before = threading.active_count()
    for reads in (0, 1, 5):
        page = ThreadPage(Page(None, ticks(), 1, lambda: left.append("place")), lambda _: left.append("page"))
        if reads:
            assert next(page) == b": open\n\n"
        page.close()
        page.close()
        assert list(page) == []
    assert left == ["place", "page"] * 3
    assert threading.active_count() == before
