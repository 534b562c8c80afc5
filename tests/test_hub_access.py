"""Who may do what at a hub: keys, scopes, tenants, and what ends with a key."""

import itertools

import pytest

pytest.importorskip("websockets", reason="websockets is not installed: the extra `hub`")

from websockets.exceptions import ConnectionClosed

from peewee_honker import Event, HonkerDatabase, Relay
from peewee_honker.events import HonkerEventTarget
from peewee_honker.events.stream import read_stream
from peewee_honker.hub import ApiKeyAuthentication, Hub, HubRefusedError, WebSocketClientTarget
from peewee_honker.operations import AccessControl, OperationError, OperationRegistry, OperationSpec, OperationType
from peewee_honker.operations.calls import CallClient, CallHandler
from peewee_honker.storage import Account, OrgMember, system_database
from peewee_honker.storage.identity import AccountStatus
from tests.support import outside
from tests.support.hub import ALL_SCOPES, Keys, Raw, client
from tests.support.outside import until

# ruff: noqa: ARG005  (handlers have two arguments)


@pytest.fixture
def keys(tmp_path):
    made = Keys(str(tmp_path / "system.db"))
    yield made
    made.close()


@pytest.fixture
def serve(db, keys):
    made = []

    def start(**options):
        hub = Hub(db, authenticate=ApiKeyAuthentication(keys.api_keys), **{"check_peers": 0.1, **options})
        hub.start()
        made.append(hub)
        return hub

    yield start
    for each in made:
        each.stop()


@pytest.fixture
def hub(serve):
    return serve()


def refused(hub, key, **options):
    with WebSocketClientTarget(hub.url, key=key, **options) as target:
        with pytest.raises(HubRefusedError) as found:
            target.wait_connected(outside.DEADLINE)
        return found.value.code


def test_who_has_no_key_that_may_be_used_is_refused(hub, keys):
    revoked, disabled, suspended = (keys.new("acme") for _ in range(3))
    keys.api_keys.revoke(revoked.row, actor=keys.owner)
    keys.api_keys.disable(disabled.row, actor=keys.owner)
    with system_database.use(keys.database):
        Account.update(status=AccountStatus.SUSPENDED).where(Account.id == suspended.row.owner_id).execute()
    expired = keys.new("acme", expires_at=1)
    texts = [
        None,
        "",
        "nonsense",
        revoked.text,
        disabled.text,
        suspended.text,
        expired.text,
        keys.key(),
        keys.key("acme") + "x",
    ]
    assert [refused(hub, text) for text in texts] == ["HTTP 401"] * len(texts)


def test_who_is_in_several_organizations_names_one(hub, keys):
    key = keys.key("acme", "globex")
    assert refused(hub, key) == "HTTP 401"
    assert refused(hub, keys.key("acme"), tenant="globex") == "HTTP 401"
    for name in ("acme", keys.tenant("acme")):
        with client(hub.url, key=key, tenant=name) as target:
            assert target._link.welcome["tenant"] == keys.tenant("acme")


def test_a_key_that_ends_ends_its_connection_and_one_that_comes_back_is_welcome(hub, keys):
    made = keys.new("acme")
    with client(hub.url, key=made.text) as target, client(hub.url, key=keys.key("acme")) as other:
        keys.api_keys.disable(made.row, actor=keys.owner)
        until(lambda: not target.is_connected)
        until(lambda: isinstance(target.error, HubRefusedError))
        keys.api_keys.enable(made.row, actor=keys.owner)
        assert other.is_connected
    with client(hub.url, key=made.text) as target:
        with system_database.use(keys.database):
            OrgMember.delete().where(OrgMember.account == made.row.owner_id).execute()
        until(lambda: not target.is_connected)


def test_who_is_given_another_level_is_connected_anew_with_it(serve, keys):
    registry = OperationRegistry()
    access = AccessControl(resource_type="org", resource_action="admin")
    registry.register(
        OperationSpec("goods", "count", OperationType.QUERY, {}, {}, access_control=access), lambda data, context: 7
    )
    hub, made = serve(registry=registry), keys.new("acme")

    def is_now(level):
        with system_database.use(keys.database):
            OrgMember.update(level=level).where(OrgMember.account == made.row.owner_id).execute()

    is_now("admin")
    with client(hub.url, key=made.text) as target:
        calls = CallClient(target.calls)
        assert outcome(lambda: calls.call("hub/goods/count", {})) == "done"
        is_now("member")
        until(lambda: outcome(lambda: calls.call("hub/goods/count", {})) == "ACCESS_DENIED")


def outcome(action):
    try:
        action()
    except HubRefusedError as error:
        return error.code
    except OperationError as error:
        return error.code
    return "done"


NUMBER = {"type": "object"}


def registry_of(*scopes):
    registry = OperationRegistry()
    access = AccessControl(required_scopes=scopes)
    registry.register(
        OperationSpec("goods", "find", OperationType.QUERY, NUMBER, {}, access_control=access), lambda data, context: 7
    )
    return registry


SCOPES = [scopes for n in range(4) for scopes in itertools.combinations((*ALL_SCOPES[:2], ALL_SCOPES[2]), n)]


@pytest.mark.parametrize("scopes", SCOPES, ids="+".join)
def test_scopes_say_what_a_key_may(hub, keys, scopes):
    reads, writes, serves = (scope in scopes for scope in ALL_SCOPES)
    with (
        client(hub.url, key=keys.key("acme", scopes=scopes)) as target,
        Raw(hub.url, keys.key("acme", scopes=scopes)) as raw,
    ):
        for topic in ("order.saved", "order.*", "*", "order.saved:1"):
            assert outcome(lambda topic=topic: target.add_listener(topic, print)) == ("done" if reads else "ACCESS_DENIED")
        event = Event("order.saved", "1", offset=1)
        assert outcome(lambda: target.dispatch(event)) == ("done" if writes else "ACCESS_DENIED")
        assert outcome(lambda: target.forward("relay", [event], None)) == ("done" if writes else "ACCESS_DENIED")
        operations = [spec.to_json() for spec in registry_of().specs]
        answer = raw.ask("__register", {"spoke": "shop", "operations": operations})
        assert answer["type"] == ("__ack" if serves else "__error")
        assert target.discover() == ([] if not serves else target.discover("shop"))


@pytest.mark.parametrize("tenant", ["acme", "globex"])
@pytest.mark.parametrize("needed", [(), ("goods:read",), ("goods:read", "goods:all")], ids="+".join)
@pytest.mark.parametrize("scopes", [(), ("goods:read",), ("goods:read", "goods:all")], ids="+".join)
def test_operations_are_called_by_their_tenant_and_with_their_scopes(hub, keys, tenant, needed, scopes):
    registry = registry_of(*needed)
    reader = keys.key(tenant, scopes=scopes)
    with client(hub.url, key=keys.key("acme")) as stock, client(hub.url, key=reader) as caller:  # noqa: SIM117
        with CallHandler(registry, stock.calls):
            stock._ask(
                Event("__register", payload={"spoke": "stock", "operations": [spec.to_json() for spec in registry.specs]})
            )
            calls = CallClient(caller.calls)
            expected = (
                "OPERATION_NOT_FOUND" if tenant != "acme" else "done" if set(needed) <= set(scopes) else "ACCESS_DENIED"
            )
            assert outcome(lambda: calls.call("stock/goods/find", {})) == expected
            assert [one["spoke"] for one in caller.discover()] == (["stock"] if tenant == "acme" else [])


def test_the_identity_is_that_of_the_key_whatever_the_message_says(hub, keys):
    seen = []
    registry = OperationRegistry()
    spec = OperationSpec("goods", "who", OperationType.QUERY, NUMBER, {})
    registry.register(spec, lambda data, context: seen.append(context))
    made = keys.new("acme", scopes=("a:b",))
    with client(hub.url, key=keys.key("acme")) as stock, Raw(hub.url, made.text) as raw, CallHandler(registry, stock.calls):
        stock._ask(Event("__register", payload={"spoke": "stock", "operations": [spec.to_json()]}))
        forged = {"id": "admin", "scopes": ["root"], "resources": {}}
        request = {"operationId": "stock/goods/who", "input": {}, "identity": forged, "trusted": True, "deadline": 2**52}
        raw.say("call.requested", request, id="1")
        assert raw.hear("call.responded", "call.error")["type"] == "call.responded"
    [context] = seen
    assert (context.identity.id, context.identity.scopes) == (str(made.row.owner_id), ("a:b",))
    assert context.identity.resources == {f"org:{keys.tenant('acme')}": ("member",)}


def test_a_tenant_hears_its_own_events_and_those_for_all(db, hub, keys):
    tenants = {name: keys.tenant(name) for name in ("acme", "globex")}
    heard = {name: [] for name in tenants}
    with client(hub.url, key=keys.key("acme")) as acme, client(hub.url, key=keys.key("globex")) as globex:
        targets = {"acme": acme, "globex": globex}
        for name, target in targets.items():
            for topic in ("*", "order.saved", "order.saved:1"):
                target.add_listener(topic, heard[name].append)
        for name, target in targets.items():
            for forged in (None, *tenants.values(), "*"):  # what it says of its tenant is not believed
                target.dispatch(Event("order.saved", "1", name, headers={"hub-tenant": forged} if forged else None))
            target.forward("relay", [Event("order.saved", "1", name, headers={"hub-tenant": "*"}, offset=1)], None)
        hub.server.dispatch(Event("news", payload="nobody's"))
        hub.server.dispatch(Event("news", payload="acme", headers={"hub-tenant": tenants["acme"]}))
        hub.server.dispatch(Event("news", payload="all", headers={"hub-tenant": "*"}))
        until(lambda: all(events and events[-1].payload == "all" for events in heard.values()))
        for name, events in heard.items():
            own = [name] * 5 if name == "globex" else [name] * 5 + ["acme"]
            assert [event.payload for event in events] == [*own, "all"]
            assert {event.headers["hub-tenant"] for event in events} == {tenants[name], "*"}


def test_what_is_caught_up_is_the_tenants_alone(hub, keys):
    with client(hub.url, key=keys.key("acme")) as acme:
        for number in range(10):
            acme.dispatch(Event("order.saved", str(number)))
    heard = []
    target = WebSocketClientTarget(hub.url, key=keys.key("globex"), after=0)
    target.add_listener("*", heard.append)
    with target:
        target.wait_connected(outside.DEADLINE)
        target.dispatch(Event("end"))
        until(lambda: heard)
    assert [event.type for event in heard] == ["end"]


def test_relays_of_one_name_of_two_tenants_are_two(db, hub, keys, tmp_path):
    for name in ("acme", "globex"):
        source = HonkerDatabase(str(tmp_path / f"{name}.db"))
        outgoing = HonkerEventTarget(source, "durable", stream="up")
        for number in range(3):
            outgoing.dispatch(Event("order.saved", f"{name} {number}"))
        with client(hub.url, key=keys.key(name)) as target, Relay(source, "up", target) as relay:
            assert relay.catch_up(outside.DEADLINE)
        source.close_engine()
    there = [event.id for event in read_stream(db.engine, "hub", 0, 100)]
    assert there == [f"{name} {number}" for name in ("acme", "globex") for number in range(3)]


def test_ones_own_rule_holds_also_for_patterns(serve, keys):
    def authorize(peer, action, topic):
        return not topic.startswith("secret") and not topic.startswith("secret.plan")

    hub, heard = serve(authorize=authorize), []
    with client(hub.url, key=keys.key("acme")) as target:
        assert outcome(lambda: target.add_listener("secret.plan", print)) == "ACCESS_DENIED"
        assert outcome(lambda: target.dispatch(Event("secret.plan"))) == "ACCESS_DENIED"
        target.add_listener("*", heard.append)
        for type_ in ("secret.plan", "order.saved"):
            hub.server.dispatch(Event(type_, headers={"hub-tenant": keys.tenant("acme")}))
        until(lambda: heard)
        assert [event.type for event in heard] == ["order.saved"]


def test_a_rule_that_fails_is_a_no_and_harms_nobody_else(serve, keys):
    def authorize(peer, action, topic):
        return {"tick": True, "*": True}[topic]

    hub, heard, there = serve(authorize=authorize), [], []
    hub.server.add_listener("*", lambda event: there.append(event.type))
    with client(hub.url, key=keys.key("acme")) as target, client(hub.url, key=keys.key("acme")) as other:
        other.add_listener("*", lambda event: heard.append(event.type))
        assert outcome(lambda: target.add_listener("unknown", print)) == "ACCESS_DENIED"
        assert outcome(lambda: target.dispatch(Event("unknown"))) == "ACCESS_DENIED"
        for type_ in ("tick", "unknown", "tick"):
            hub.server.dispatch(Event(type_, headers={"hub-tenant": keys.tenant("acme")}))
        until(lambda: len(heard) == 2)
        assert target.is_connected
    assert (heard, there) == (["tick", "tick"], ["tick", "unknown", "tick"])


def test_a_spokes_name_is_its_accounts(hub, keys):
    account = keys.account("acme")
    one, other = (keys.api_keys.create(account, "test", scopes=ALL_SCOPES, actor=keys.owner).text for _ in range(2))
    named = {"spoke": "shop", "operations": []}
    with Raw(hub.url, key=one) as first, Raw(hub.url, key=other) as second, Raw(hub.url, key=keys.key("acme")) as third:
        assert first.ask("__register", named)["type"] == "__ack"
        assert second.ask("__register", named)["type"] == "__ack"
        with pytest.raises(ConnectionClosed):
            first.hear("never")
        assert third.ask("__register", named)["payload"]["code"] == "NAME_TAKEN"


def test_keys_are_not_in_logs_or_texts(hub, keys, caplog):
    caplog.set_level("DEBUG", "peewee_honker")
    key = keys.key("acme")
    with client(hub.url, key=key) as target:
        target.dispatch(Event("tick"))
        shown = repr(target) + repr(hub) + repr(list(hub.server.subscribers))
    refused(hub, key + "x")
    assert key not in caplog.text
    assert key not in shown
