"""`peewee-honker ops`, in processes of its own, with an application's module and real handlers."""

import json
import signal
import textwrap

import pytest

from peewee_honker.operations import CallGraphProjection
from peewee_honker.operations.openapi import openapi
from tests.support.outside import Script
from tests.test_callgraph import registry_of_sums, requested, told
from tests.test_cli import environment, lines, run, start  # noqa: F401  (fixtures)

SHOP = """
import asyncio, os
from peewee import CharField
from peewee_honker import HonkerDatabase
from peewee_honker.operations import OperationError, OperationRegistry, OperationSpec, OperationType, operations_for
from peewee_honker.signals import Model

db = HonkerDatabase(os.environ.get("PEEWEE_HONKER_DATABASE", "shop.db"), timeout=20)

class Order(Model):
    customer = CharField()
    class Meta:
        database = db

db.create_tables([Order])
registry = OperationRegistry()
operations_for(Order).register(registry)
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

async def count(data, context):
    for number in range(data["n"]):
        yield number
        if number == 4:
            await asyncio.sleep(60)

def refuse(data, context):
    raise OperationError("TOO_LARGE", "n is too large", {"most": 9})

async def double(data, context):
    return {"n": data["n"] * 2, "by": context.identity and context.identity.id}

for name, handler, kind in (
    ("count", count, "subscription"), ("refuse", refuse, "query"), ("double", double, "query"),
    ("set", lambda data, context: {1, 2}, "query"), ("elsewhere", None, "query"),
):
    registry.register(OperationSpec("math", name, OperationType(kind), NUMBER, {}, title=name.title()), handler)
"""

HANDLER = """
import sys
sys.path.insert(0, sys.argv[1])
from shop import db, registry
from peewee_honker.events import HonkerEventTarget
from peewee_honker.operations import CallHandler
with CallHandler(registry, HonkerEventTarget(db), database=db, durable=sys.argv[2] == "durable"):
    print("ready")
    sys.stdin.readline()
db.close_engine()
"""

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def shop(tmp_path, path, monkeypatch):
    (tmp_path / "shop.py").write_text(textwrap.dedent(SHOP))
    monkeypatch.setenv("PEEWEE_HONKER_DATABASE", path)


@pytest.fixture
def handler(tmp_path):
    """`handler("events")` starts a process that executes calls."""
    started = []

    def begin(mode="events"):
        script = Script(HANDLER, str(tmp_path), mode)
        started.append(script)
        assert script.line() == "ready"
        return script

    yield begin
    for script in started:
        script.__exit__()


HERE = ("--registry", "shop:registry")


def test_operations_are_listed(run):  # noqa: F811
    table = run("ops", "list", *HERE).splitlines()
    assert table[0].split() == ["operation", "type", "version", "handler", "scopes", "title"]
    rows = {row.split()[0]: row.split()[1:] for row in table[1:]}
    assert rows["math.count"] == ["subscription", "1.0.0", "yes", "-", "Count"]
    assert rows["math.elsewhere"][2] == "no"
    assert rows["orders.create"][3] == "orders:write"
    as_json = json.loads(run("ops", "list", "--json", PEEWEE_HONKER_REGISTRY="shop:registry"))
    assert [spec["name"] for spec in as_json if spec["namespace"] == "math"] == [
        "count",
        "double",
        "elsewhere",
        "refuse",
        "set",
    ]


def test_schemas_are_shown(run):  # noqa: F811
    document = json.loads(run("ops", "schema", *HERE))
    assert document["openapi"] == openapi(registry_of_sums())["openapi"]
    assert "/orders/create" in document["paths"]
    one = json.loads(run("ops", "schema", "math.double", *HERE))
    assert one["input_schema"]["required"] == ["n"]
    told = run("ops", "schema", "math.triple", *HERE, code=1)
    assert told == "peewee-honker: OPERATION_NOT_FOUND: there is no operation math.triple\n"


def test_an_operation_is_called_here(run):  # noqa: F811
    assert json.loads(run("ops", "call", "math.double", '{"n": 21}', "--identity", "ada", *HERE)) == {"n": 42, "by": "ada"}
    assert json.loads(run("ops", "call", "math.double", "-", *HERE, stdin='{"n": 2}')) == {"n": 4, "by": None}
    may = ("--identity", "ada", "--scope", "orders:write", "--scope", "orders:read")
    made = json.loads(run("ops", "call", "orders.create", '{"customer": "Grace"}', *HERE, *may))
    assert made == {"id": 1, "customer": "Grace"}
    assert json.loads(run("ops", "call", "orders.find", '{"id": 1}', *HERE, "--trusted")) == made
    assert lines(run("ops", "call", "math.count", '{"n": 4}', *HERE)) == [0, 1, 2, 3]
    assert lines(run("ops", "call", "math.count", '{"n": 9}', "--count", "2", *HERE)) == [0, 1]


FAILURES = [
    (["math.double", "{}"], "VALIDATION_ERROR: the input of math.double is not right: /n is required"),
    (["math.refuse", '{"n": 1}'], 'TOO_LARGE: n is too large: {"most": 9}'),
    (["orders.find", '{"id": 1}'], "ACCESS_DENIED: orders.find is not allowed"),
    (["math.triple"], "OPERATION_NOT_FOUND: there is no operation math.triple"),
    (["math.elsewhere", '{"n": 1}'], "OPERATION_NOT_FOUND: math.elsewhere has no handler here"),
    (["math.set", '{"n": 1}'], "the answer has no form in JSON"),
]
USAGE = [
    (["call", "math.double", "{n", *HERE], "the input is not JSON"),
    (["call", "math.double"], "which operations?"),
    (["list", "--registry", "shop"], "--registry is MODULE:NAME"),
    (["call", "math.double", "--remote", "--trusted"], "--trusted never travels"),
    (["call", "math.double", "--scope", "a", *HERE], "whose scopes?"),
    ([], "ACTION"),
]


def test_what_fails_is_told_in_a_line(start):  # noqa: F811
    running = [(start("ops", "call", *arguments, *HERE), 1, message) for arguments, message in FAILURES]
    running += [(start("ops", *arguments), 2, message) for arguments, message in USAGE]
    running += [
        (start("ops", "list", "--registry", "shop:nothing"), 1, "shop:nothing cannot be imported"),
        (start("ops", "list", "--registry", "shop:db"), 1, "shop:db is a HonkerDatabase, not an OperationRegistry"),
    ]
    for process, code, message in running:
        out, error = process.communicate(timeout=60)
        assert (process.returncode, out, error.count("\n")) == (code, "", 1), error
        assert message in error


@pytest.mark.parametrize("mode", ["events", "durable"])
def test_an_operation_is_called_in_the_process_of_its_handler(run, handler, mode):  # noqa: F811
    handler(mode)
    how = ("--remote", *(["--durable"] if mode == "durable" else []))
    assert json.loads(run("ops", "call", "math.double", '{"n": 21}', "--identity", "ada", *how)) == {"n": 42, "by": "ada"}
    assert "TOO_LARGE: n is too large" in run("ops", "call", "math.refuse", '{"n": 1}', *how, code=1)
    assert lines(run("ops", "call", "math.count", '{"n": 3}', "--subscribe", *how)) == [0, 1, 2]
    assert lines(run("ops", "call", "math.count", '{"n": 9}', "--count", "2", *how, *HERE)) == [0, 1]


def test_a_call_that_nobody_answers_says_so(run, db):  # noqa: F811
    db.connect()
    told = run("ops", "call", "math.double", '{"n": 1}', "--remote", "--timeout", "0.2s", code=1)
    assert "TIMEOUT: math.double did not answer in time (does a CallHandler" in told


@pytest.mark.parametrize("where", ["here", "remote"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_subscription_goes_on_until_it_is_ended(start, handler, where, number, code):  # noqa: F811
    if where == "remote":
        handler()
    process = start("ops", "call", "math.count", '{"n": 9}', *HERE, *(["--remote"] if where == "remote" else []))
    assert [process.stdout.readline() for _ in range(5)] == [f"{number}\n" for number in range(5)]
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == code


def test_what_became_of_calls_is_shown(run, db):  # noqa: F811
    db.connect()
    assert "there is no call graph 'calls'" in run("ops", "calls", code=1)
    graph = CallGraphProjection(db)
    for event in (
        requested("a", 1),
        requested("b", 2, parentRequestId="a", operation="math.half"),
        told("started", "b", 2),
        told("error", "b", 2.5, code="TOO_LARGE", message="no"),
    ):
        graph.apply(event)
    rows = [row.split() for row in run("ops", "calls").splitlines()]
    assert [row[2:5] for row in rows[1:]] == [["failed", "math.half", "500.0"], ["pending", "math.double", "-"]]
    one = json.loads(run("ops", "calls", "--status", "failed", "--operation", "math.half", "--limit", "1", "--json"))
    assert [call["request_id"] for call in one] == ["b"]
    tree = run("ops", "calls", "a").splitlines()
    assert [line.split() for line in tree] == [
        ["pending", "-", "math.double", "a"],
        ["failed", "500.0", "ms", "math.half", "b", "TOO_LARGE"],
    ]
    assert json.loads(run("ops", "calls", "a", "--json"))["children"][0]["error"]["code"] == "TOO_LARGE"
    assert "no call c is known" in run("ops", "calls", "c", code=1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_a_signal_breaks_off_may_fail_in_its_own_way(start, tmp_path, number, code):  # noqa: F811
    ending = f"import signal\ntry:\n    signal.raise_signal({int(number)})\nfinally:\n    raise RuntimeError('unlocked')\n"
    (tmp_path / "ending.py").write_text(ending)
    command = start("ops", "list", "--registry", "ending:registry")
    assert command.communicate(timeout=60) == ("", "")
    assert command.returncode == code


def test_an_exit_of_the_application_is_not_taken_for_a_signal(run, tmp_path):  # noqa: F811
    ending = "try:\n    raise SystemExit('bye')\nfinally:\n    raise RuntimeError('no shop today')\n"
    (tmp_path / "ending.py").write_text(ending)
    assert "no shop today" in run("ops", "list", "--registry", "ending:registry", code=1)
