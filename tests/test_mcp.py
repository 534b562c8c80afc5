"""Operations as tools for agents: the `mcp` package's own client, over stdio to a process and over HTTP to a server."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft202012Validator
from mcp import MCPError

from peewee_honker.contrib.mcp_tools import input_of, tool_name, tool_of
from peewee_honker.operations import OperationError, OperationSpec, OperationType
from peewee_honker.storage import Account, ApiKeys, create_system_database, system_database
from tests.support.agents import ROOT, STDIO, Agent, StdioServer, ToolServer, over_http, over_stdio
from tests.support.outside import DEADLINE, Script, until
from tests.support.shop import HIDDEN, MEETING

OPEN = {
    "feed-ended", "feed-hang", "math-double", "math-echo", "math-fail", "math-meet", "math-meet_async", "math-refuse",
    "math-shout", "math-unsent", "math-where", "math-where_async", "math-whoami", "math-wrong",
}  # fmt: skip
TOOLS = {
    "nobody": OPEN,
    "reader": OPEN | {"orders-find", "orders-list"},
    "clerk": OPEN | {f"orders-{name}" for name in ("create", "delete", "find", "list", "update")} | {"math-either"},
    "owner": OPEN | {"math-resource"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server over HTTP for all tests that leave it as it was."""
    with ToolServer(str(tmp_path_factory.mktemp("mcp") / "shop.db")) as served:
        yield served


LEGACY = pytest.mark.parametrize("kind", ["stdio", "stdio-legacy", "http", "http-legacy"])


@pytest.fixture(params=["stdio", "http"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def open_agent(server, tmp_path_factory):
    """`open_agent(kind, user)` is a client of that identity. Legacy: of the protocol before 2026, with a handshake."""
    made = {}
    with contextlib.ExitStack() as opened:

        def open_agent(kind, user="clerk"):
            if (kind, user) not in made:
                door, _, legacy = kind.partition("-")
                mode = "legacy" if legacy else "auto"
                path = str(tmp_path_factory.mktemp("agent") / "shop.db")
                is_stdio = door == "stdio"
                client = over_stdio(path, user, mode) if is_stdio else over_http(server.url, mode, **{"X-User": user})
                made[kind, user] = opened.enter_context(Agent(client))
            return made[kind, user]

        yield open_agent


def told(result):
    """What an error says."""
    assert result.is_error
    return json.loads(result.content[0].text)


# Tools


@LEGACY
def test_an_agent_lists_and_calls(open_agent, kind):
    agent = open_agent(kind)
    assert (agent.client.server_info.name, agent.client.instructions) == ("shop", "Sell.")
    tools = agent.tools()
    assert set(tools) == TOOLS["clerk"]
    for tool in tools.values():
        assert tool.input_schema["type"] == "object"
        Draft202012Validator.check_schema(tool.input_schema)
        Draft202012Validator.check_schema(tool.output_schema or {})
    made = agent.call("orders-create", {"number": kind, "total": 5})
    assert not made.is_error
    assert made.structured_content["total"] == 5
    assert json.loads(made.content[0].text) == made.structured_content
    assert (made.meta["source"], made.meta["operation_id"]) == ("mcp", "orders.create")
    listed = agent.call("orders-list", {"order": ["-id"], "limit": 1})
    assert listed.structured_content["items"] == [made.structured_content]
    assert agent.call("math-double", {"n": 4}).structured_content == {"result": 8}
    assert agent.call("math-echo", {"input": [1]}).content[0].text == "[1]"


@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("orders-create", {"number": "x"}, "VALIDATION_ERROR"),
        ("orders-find", {"id": 10**9}, "NOT_FOUND"),
        ("math-echo", {}, "VALIDATION_ERROR"),
        ("math-echo", {"input": 1, "more": 2}, "VALIDATION_ERROR"),
        ("orders-delete", None, "VALIDATION_ERROR"),
        ("math-fail", {}, "EXECUTION_ERROR"),
        ("math-refuse", {"details": [1]}, "TOO_LATE"),
        ("math-unsent", {}, "EXECUTION_ERROR"),
        ("math-wrong", {}, "EXECUTION_ERROR"),
    ],
)
def test_an_error_is_told_and_no_sql(open_agent, kind, tool, arguments, code):
    result = open_agent(kind).call(tool, arguments)
    assert told(result)["code"] == code
    assert HIDDEN not in f"{result}"
    assert "Traceback" not in f"{result}"
    assert ("details" in told(result)) == (code in ("VALIDATION_ERROR", "TOO_LATE"))
    assert ("was executed" in told(result)["message"]) == (tool in ("math-unsent", "math-wrong"))


def test_what_is_no_tool_is_an_error_of_the_protocol(open_agent, kind):
    for name in ("orders-watch", "orders.create", "math-elsewhere", "x" * 10_000):
        with pytest.raises(MCPError, match="there is no tool"):
            open_agent(kind).call(name)


@pytest.mark.parametrize(("kind", "user"), [*(("http", user) for user in TOOLS), ("stdio", "clerk"), ("stdio", "reader")])
def test_an_identity_sees_the_tools_that_it_may_call(open_agent, kind, user):
    agent = open_agent(kind, user)
    assert set(agent.tools()) == TOOLS[user]
    for name in (TOOLS["clerk"] | TOOLS["owner"]) - TOOLS[user]:
        assert told(agent.call(name))["code"] == "ACCESS_DENIED"


def test_calls_do_not_wait_for_one_another(open_agent, kind):
    agent = open_agent(kind)
    for tool in ("math-meet", "math-meet_async"):
        calls = [agent.begin(tool, {}) for _ in range(MEETING)]
        assert not any(call.result(DEADLINE).is_error for call in calls)


@LEGACY
def test_a_call_that_is_cancelled_ends_its_handler(open_agent, kind):
    agent = open_agent(kind)

    def calls():
        found = agent.call("feed-ended").structured_content
        return len(found["running"]), len(found["ended"])

    running, ended = calls()
    call = agent.begin("feed-hang", {})
    until(lambda: calls() == (running + 1, ended), "the handler runs")
    call.cancel()
    until(lambda: calls() == (running + 1, ended + 1), "the handler has ended")


# Contracts as tools


def spec(namespace="orders", name="create", type_=OperationType.QUERY, **more):
    return OperationSpec(namespace, name, type_, more.pop("input_schema", {}), more.pop("output_schema", {}), **more)


def test_a_name_is_one_operations_own():
    ids = [
        ("a_b", "c"), ("a", "b_c"), ("a-b", "c"), ("a", "b-c"), ("a b"[:1], "ü"), ("a", "ö"), ("ü", "a"),
        ("x" * 40, "y" * 40), ("x" * 40, "y" * 39 + "z"), ("a", "b"), ("A", "b"), ("a\n", "b"),
    ]  # fmt: skip
    found = [tool_name(spec(*one)) for one in ids]
    assert len(set(found)) == len(ids)
    assert all(
        1 <= len(name) <= 64 and name.isascii() and name.replace("-", "").replace("_", "").isalnum() for name in found
    )
    assert tool_name(spec("orders", "list_all")) == "orders-list_all"


def test_annotations_say_what_a_tool_does():
    mutation = OperationType.MUTATION
    hints = lambda one: (one.read_only_hint, one.destructive_hint, one.idempotent_hint)  # noqa: E731
    assert hints(tool_of(spec()).annotations) == (True, False, True)
    assert hints(tool_of(spec(type_=mutation)).annotations) == (False, True, False)
    assert hints(tool_of(spec(type_=mutation, idempotent=True)).annotations) == (False, True, True)
    assert hints(tool_of(spec(type_=mutation, meta={"destructive": False})).annotations) == (False, False, False)


def test_an_input_that_is_no_object_is_the_one_argument():
    number = spec(input_schema={"$defs": {"N": {"type": "integer"}}, "$ref": "#/$defs/N"})
    schema = tool_of(number).input_schema
    assert Draft202012Validator(schema).is_valid({"input": 1})
    assert not Draft202012Validator(schema).is_valid({"input": "x"})
    assert not Draft202012Validator(schema).is_valid({})
    assert input_of(number, {"input": 1}) == 1
    with pytest.raises(OperationError, match="no JSON"):
        input_of(number, {"input": float("nan")})


# Standard input and output


def test_standard_output_is_the_protocols(path):
    with StdioServer(path) as server:
        assert server.begin()["result"]["serverInfo"]["name"] == "shop"
        shouted = server.ask("tools/call", {"name": "math-shout", "arguments": {}}, 2)
        assert json.loads(shouted["result"]["content"][0]["text"]) == {"printed": True}
        output, errors = server.process.communicate(timeout=DEADLINE)  # closes its input
        assert (server.process.returncode, output) == (0, "")
        assert errors == "not protocol\nended\n"


@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_ends_the_server(path, busy):
    with StdioServer(path) as server:
        server.begin()
        if busy:
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "feed-hang", "arguments": {}}}
            server.say(json.dumps(call))
            asked = {"name": "feed-ended", "arguments": {}}
            until(lambda: "hang" in server.ask("tools/call", asked, 3)["result"]["content"][0]["text"], "the call runs")
        server.process.send_signal(signal.SIGINT)
        output, errors = server.process.communicate(timeout=DEADLINE)
        assert (server.process.returncode, errors) == (0, "ended\n")
        assert all(json.loads(line)["jsonrpc"] == "2.0" for line in output.splitlines())


def test_what_is_no_message_harms_nobody(path):
    with StdioServer(path) as server:
        server.begin()
        for line in ("{", "[]", "null", "\ufffd", "[" * 5000, '{"jsonrpc": "2.0"}', '{"jsonrpc":"2.0","id":{},"method":1}'):
            server.say(line)
        server.say(json.dumps({"jsonrpc": "2.0", "id": 9, "method": "ping"}))
        while (answer := json.loads(server.line())).get("id") != 9:
            assert "Traceback" not in json.dumps(answer)
        assert answer["result"] == {}


def test_a_client_that_dies_ends_its_server(path):
    code = """
        import subprocess, sys
        server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        server.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\\n')
        server.stdin.flush()
        server.stdout.readline()
        print(server.pid, flush=True)
        sys.stdin.read()
    """
    with Script(code, sys.executable, "-c", STDIO, path, ROOT, "clerk") as client:
        pid = client.line()
        client.process.kill()

        def gone():
            listed = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
            return listed.stdout.strip()[:1] in ("", "Z")

        until(gone, "the server has ended")


# HTTP


def post(url, body, **headers):
    """The status, the body and the headers of an answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=DEADLINE)
    with contextlib.closing(connection):
        accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        connection.request("POST", parts.path, body, {**accept, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers


PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
BEGIN = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    }
)


def test_an_api_key_says_who_an_agent_is(path):
    system = create_system_database(f"{path}.system")
    keys = ApiKeys(system)
    with system_database.use(system):
        ada = Account.create(email="ada@example.org", name="Ada")
    made = keys.create(ada, "agent", scopes=["orders:read"], actor=ada)

    with ToolServer(path, keys=True) as server:
        for header in ({}, {"Authorization": "Bearer guessed"}):
            status, body, headers = post(server.url, PING, **header)
            assert (status, headers["WWW-Authenticate"], json.loads(body)["code"]) == (401, "Bearer", "ACCESS_DENIED")
        with Agent(over_http(server.url, "auto", Authorization=f"Bearer {made.text}")) as agent:
            assert set(agent.tools()) == TOOLS["reader"]
            who = json.loads(agent.call("math-whoami").content[0].text)
            assert (who["id"], who["scopes"]) == (ada.id, ["orders:read"])
        keys.revoke(made.row, actor=ada)
        assert post(server.url, PING, Authorization=f"Bearer {made.text}")[0] == 401
    system.close_engine()


def test_a_session_belongs_to_who_began_it(server):
    status, _, headers = post(server.url, BEGIN, **{"X-User": "clerk"})
    session = {"Mcp-Session-Id": headers["Mcp-Session-Id"], "MCP-Protocol-Version": "2025-06-18"}
    assert status == 200
    assert post(server.url, PING, **session, **{"X-User": "clerk"})[0] == 200
    assert post(server.url, PING, **session, **{"X-User": "reader"})[0] == 404
    assert post(server.url, PING, **session)[0] == 404


def test_what_goes_wrong_in_finding_out_who_asks_is_not_told(server):
    status, body, _ = post(server.url, PING, **{"X-User": "crash"})
    assert (status, json.loads(body)["code"]) == (500, "EXECUTION_ERROR")
    assert HIDDEN not in body


def test_a_page_of_another_site_is_refused(server):
    assert post(server.url, BEGIN, Host="shop.example")[0] == 421
    assert post(server.url, BEGIN, Origin="https://evil.example")[0] == 403


def test_other_hosts_are_let_where_they_are_named(path):
    with ToolServer(path, hosts=["shop.example"], max_body=1000, sessions=1) as server:
        assert post(server.url, BEGIN)[0] == 421
        assert post(server.url, BEGIN, Host="shop.example")[0] == 200
        assert post(server.url, BEGIN, Host="shop.example")[0] == 503  # one session is open
        assert post(server.url, json.dumps("x" * 1000), Host="shop.example")[0] == 413


def test_a_server_over_http_that_is_stopped_ends(path):
    with ToolServer(path) as server:
        assert post(server.url, BEGIN)[0] == 200
        server.process.send_signal(signal.SIGINT)
        output, errors = server.process.communicate(timeout=DEADLINE)
        assert (server.process.returncode, output, errors) == (0, "ended\n", "")
