"""The examples, each started as a reader would, in its own process."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

from tests.support.outside import DEADLINE, until
from tests.support.pages import Page

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def demo(name):
    """Run the demo of an example to its end; gives the lines it printed."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name / "demo.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.splitlines()


@contextmanager
def running(*command, **environment):
    """A process of an example, ended by Ctrl-C, which has to end it well."""
    with subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=DEADLINE)
            assert process.returncode in (0, -signal.SIGINT), errors
            assert "Traceback" not in errors
        finally:
            if process.poll() is None:
                process.kill()


def ask(port, method, path, body=None):
    """The status of an answer and its JSON."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def test_orders_are_packed_once_mailed_after_retries_and_what_cannot_be_mailed_is_a_dead_letter():
    sold_out, packed, mailed, *dead = demo("orders")
    assert sold_out == "Late: tea is sold out"
    assert packed == "packed: Ada, Grace, Nobody, Edsger"
    assert mailed == "e-mails taken: ada@example.org, edsger@example.org, grace@example.org"
    assert len(dead) == 1
    assert dead[0].startswith("dead letter: x@nowhere.example after 3 attempts: SMTPRecipientsRefused")


def test_the_audit_trail_is_exact_though_its_writer_is_killed():
    killed, rows, *_ = demo("audit_trail")
    times = re.fullmatch(r"543 changes committed, 60 rolled back; the auditor was killed (\d+) times", killed)
    assert times
    assert int(times[1]) > 1
    assert rows == "543 rows in the trail, of 543 events"


def test_caches_forget_what_anybody_changes():
    first, *heard, rollback = demo("cache_invalidation")
    assert first == "first: {'100 (file)'} then: {'100 (memory)'}"
    assert [line.split(":")[0] for line in heard] == ["save()", "an UPDATE query", "another program's SQL"]
    assert rollback == "after a rollback: {'7 (memory)'}"


def test_branches_of_two_companies_at_one_hub():
    assert demo("hub") == [
        "acme finds harbour, station",
        "harbour has sold 20",
        "acme calls abroad: OPERATION_NOT_FOUND",
        "acme hears 20 sales, of harbour",
        "globex finds abroad",
        "abroad has sold 3",
        "globex calls harbour: OPERATION_NOT_FOUND",
        "globex hears 3 sales, of abroad",
    ]


def test_the_map_tells_what_another_process_imports(tmp_path):
    example, database = EXAMPLES / "flask_live_map", str(tmp_path / "airports.db")
    with running(example / "app.py", "--port", "0", AIRPORTS_DB=database) as server:
        port = int(re.fullmatch(r"http://127.0.0.1:(\d+)/\n", server.stdout.readline())[1])
        status, state = ask(port, "GET", "/state")
        assert (status, state["airports"]) == (200, [])
        with Page(port, f"?after={state['position']}") as page:
            command = [sys.executable, example / "importer.py", "--rate", "0", "--limit", "30"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "AIRPORTS_DB": database}
            for option in (["--rollback"], []):
                subprocess.run([*command, *option], env=environment, check=True, timeout=DEADLINE, capture_output=True)
            sent = page.take(30)
        assert {one.data["type"] for one in sent} == {"airport.saved"}
        status, state = ask(port, "GET", "/state")
        assert sorted(row[0] for row in state["airports"]) == sorted(one.data["id"] for one in sent)


def test_the_api_checks_stores_and_tells(tmp_path):
    command = ("-m", "uvicorn", "--app-dir", str(EXAMPLES / "fastapi_app"), "--port", "0", "app:app")
    with running(*command, ORDERS_DB=str(tmp_path / "orders.db")) as server:
        port = None
        while port is None:
            line = server.stderr.readline()
            found = re.search(r"running on http://127.0.0.1:(\d+)", line)
            port = int(found[1]) if found else None
        assert ask(port, "POST", "/orders", {"number": "A-1", "customer": "Ada", "total": "-1"})[0] == 422
        with Page(port).opened() as page:
            order = {"number": "A-1", "customer": "Ada", "total": "12.50"}
            status, made = ask(port, "POST", "/orders", order)
            assert (status, made["state"], made["total"]) == (200, "new", "12.50")
            assert ask(port, "POST", "/orders", order) == (422, {"errors": {"number": ["Is taken."]}})
            created, packed = page.take(2)
            assert (created.data["operation"], packed.data["operation"]) == ("insert", "update")
            assert packed.data["payload"]["state"] == "packed"
        until(lambda: ask(port, "GET", f"/orders/{made['id']}")[1]["state"] == "packed")
        assert ask(port, "PATCH", f"/orders/{made['id']}", {"state": "sent"})[1]["state"] == "sent"
        assert ask(port, "PATCH", f"/orders/{made['id']}", {"state": "lost"})[0] == 422
        assert ask(port, "GET", "/orders/999")[0] == 404
        document = ask(port, "GET", "/openapi.json")[1]
        assert document["components"]["schemas"]["OrderIn"]["required"] == ["customer", "number", "total"]


def test_an_agent_sees_what_it_may_and_is_told_what_to_do_better():
    tools, changing, cheap, sold, many, number, denied, orders = demo("agent_tools")
    assert tools == "tools: items-find, items-list, orders-find, orders-list, shop-sell"
    assert changing == "these change something: shop-sell"
    assert cheap == "under 10 euros: tea (3)"
    assert sold == "sold: {'order': 1, 'cents': 900}"
    assert many == "too many: SOLD_OUT: there are 1 of tea"
    assert number == "no number: VALIDATION_ERROR: the input of shop.sell is not right"
    assert denied == "not for agents: ACCESS_DENIED: items.delete is not allowed"
    assert orders == "orders: [{'id': 1, 'customer': 'Ada', 'item': 1, 'pieces': 2}]"
