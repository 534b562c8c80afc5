"""A graph's repository: checks in the transaction of the write, events, ways, import and export."""

import json
import logging
import threading

import peewee
import pytest

from peewee_honker.errors import PayloadError
from peewee_honker.events import HonkerEventTarget, LocalEventTarget
from peewee_honker.storage import (
    AclGraph,
    CallGraph,
    CycleError,
    Edge,
    EdgeSpec,
    GraphModule,
    GraphRepository,
    ModuleError,
    Node,
    NodeSpec,
    SecretGraph,
    ValidationFailed,
    create_graph_tables,
    install_module,
)
from tests.support import outside

CALL = {"request_id": "r", "operation_id": "files.read", "status": "pending"}


@pytest.fixture
def store(db):
    create_graph_tables(db)
    for module in (CallGraph, SecretGraph, AclGraph):
        install_module(db, module)
    return db


@pytest.fixture
def calls(store):
    repository = GraphRepository.create(store, "calls", "CallGraph")
    for key in "abc":
        repository.add_node(key, "call", CALL)
    return repository


@pytest.fixture
def acl(store):
    repository = GraphRepository.create(store, "acl", "AclGraph")
    repository.add_node("ada", "principal", {"identity_type": "account", "identity_id": "1", "scopes": ["read", "write"]})
    repository.add_node("bot", "principal", {"identity_type": "service", "identity_id": "2", "scopes": []})
    repository.add_node("file", "resource", {"resource_type": "file", "resource_id": "3"})
    return repository


def keys(nodes):
    return [node.key for node in nodes]


def test_what_is_wrong_is_told_by_path_and_nothing_is_written(calls):
    with pytest.raises(ValidationFailed) as caught:
        calls.add_node("d", "call", {"request_id": 5, "operation_id": "x", "status": "odd", "extra": 1})
    assert caught.value.problems == [
        {"path": "/request_id", "message": "must be of type string"},
        {"path": "/status", "message": 'must be one of "pending", "running", "completed", "failed", "aborted"'},
        {"path": "/extra", "message": "is not a known property"},
    ]
    assert calls.nodes().count() == 3


def test_a_node_needs_a_type_that_the_graph_has(calls):
    with pytest.raises(ValidationFailed, match="'cat' is not one of call"):
        calls.add_node("d", "cat", CALL)
    with pytest.raises(ValidationFailed, match="has no type"):
        calls.add_node("d")


def test_an_edge_joins_nodes_of_allowed_types(acl):
    acl.add_edge("ada", "file", "can_read")
    with pytest.raises(ValidationFailed, match="a target of type 'principal' is not allowed for can_read"):
        acl.add_edge("ada", "bot", "can_read")
    with pytest.raises(ValidationFailed, match="a source of type 'resource'"):
        acl.add_edge("file", "ada", "belongs_to")


def test_what_is_delegated_is_a_subset_of_what_the_delegator_has(acl):
    with pytest.raises(ValidationFailed, match="/narrowed_scopes: must be a subset of the source's scopes"):
        acl.add_edge("ada", "bot", "delegates", {"narrowed_scopes": ["read", "own"]})
    edge = acl.add_edge("ada", "bot", "delegates", {"narrowed_scopes": ["read", "write"]})
    with pytest.raises(ValidationFailed, match="subset"):
        acl.update_node("ada", {"scopes": ["read"]}, merge=True)
    acl.update_edge(edge, {"narrowed_scopes": ["read"]})
    acl.update_node("ada", {"scopes": ["read"]}, merge=True)


def test_direction_loops_and_second_edges_are_the_types(calls, acl):
    calls.add_edge("a", "b", "triggered")
    for arguments, told in (
        (("a", "b", "depends_on"), "allows no second"),
        (("a", "a", "triggered"), "from a node to itself"),
    ):
        with pytest.raises(ValidationFailed, match=told):
            calls.add_edge(*arguments)
    with pytest.raises(ValidationFailed, match="are directed"):
        calls.add_edge("b", "c", "triggered", undirected=True)
    acl.add_edge("ada", "file", "can_read")
    acl.add_edge("ada", "file", "can_read")
    assert acl.edges("can_read").count() == 2


def test_an_undirected_edge_is_the_same_from_both_ends(store):
    friends = GraphModule(
        "Friends",
        {"type": "undirected", "multi": False, "allowSelfLoops": False},
        {"person": NodeSpec({})},
        {"knows": EdgeSpec({})},
    )
    install_module(store, friends)
    graph = GraphRepository.create(store, "friends", "Friends")
    for key in "ab":
        graph.add_node(key, "person")
    graph.add_edge("a", "b", "knows", undirected=True)
    with pytest.raises(ValidationFailed, match="no second"):
        graph.add_edge("b", "a", "knows", undirected=True)
    with pytest.raises(ValidationFailed, match="are undirected"):
        graph.add_edge("b", "a", "knows")
    with pytest.raises(CycleError):
        graph.topological_order()


def test_an_edge_that_closes_a_cycle_is_refused(calls):
    calls.add_edge("a", "b", "triggered")
    calls.add_edge("b", "c", "depends_on")
    with pytest.raises(CycleError, match="CallGraph"):
        calls.add_edge("c", "a", "triggered")
    assert calls.edges().count() == 2


def test_two_processes_cannot_close_a_cycle_together(calls, path):
    for number in range(30):
        for end in "xy":
            calls.add_node(f"{end}{number}", "call", CALL)
    calls.database.close()
    code = """
        import sys
        from peewee_honker import HonkerDatabase
        from peewee_honker.storage import CycleError, GraphRepository
        graph = GraphRepository(HonkerDatabase(sys.argv[1]), sys.argv[2])
        print("ready"); sys.stdin.readline()
        for number in range(30):
            try:
                graph.add_edge(f"{sys.argv[3]}{number}", f"{sys.argv[4]}{number}", "triggered")
            except CycleError:
                pass
        graph.database.close_engine()
    """
    with (
        outside.Script(code, path, calls.graph_id, "x", "y") as one,
        outside.Script(code, path, calls.graph_id, "y", "x") as two,
    ):
        assert one.line() == two.line() == "ready"
        one.say("go")
        two.say("go")
        one.finish()
        two.finish()
    assert calls.edges().count() == 30
    assert len(calls.topological_order()) == 63


def test_threads_cannot_make_two_edges_where_one_is_allowed(calls):
    refused = []
    together = threading.Barrier(4)

    def work():
        together.wait(10)
        try:
            calls.add_edge("a", "b", "triggered")
        except ValidationFailed as error:
            refused.append(error)
        finally:
            calls.database.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    assert calls.edges().count() == 1


def test_a_missing_node_or_edge_has_peewees_error(calls):
    with pytest.raises(Node.DoesNotExist):
        calls.add_edge("a", "none", "triggered")
    with pytest.raises(Node.DoesNotExist):
        calls.update_node("none", {})
    with pytest.raises(Edge.DoesNotExist):
        calls.remove_edge("none")
    with pytest.raises(peewee.IntegrityError):
        calls.add_node("a", "call", CALL)
    with pytest.raises(ModuleError, match="install_module"):
        GraphRepository.create(calls.database, "x", "Nothing")


def test_attributes_are_replaced_or_merged(calls):
    calls.update_node("a", {"status": "running", "input": {"path": "x", "mode": "r"}}, merge=True)
    merged = calls.update_node("a", {"input": {"mode": None}, "started_at": 5}, merge=True)
    assert merged.attributes == {**CALL, "status": "running", "input": {"path": "x"}, "started_at": 5}
    calls.update_node("a", CALL)
    assert calls.get_node("a").attributes == CALL


def test_a_graph_without_a_type_takes_anything(store):
    graph = GraphRepository.create(store, "free")
    graph.add_node("a", attributes={"any": 1})
    graph.add_edge("a", "a", undirected=True)
    graph.add_edge("a", "a")
    assert graph.rules is None
    assert graph.edges().count() == 2


# Ways


@pytest.fixture
def diamond(calls):
    """a -> b -> d, a -> c -> d, d -> e"""
    for key in "de":
        calls.add_node(key, "call", CALL)
    for source, target, kind in (
        ("a", "b", "triggered"),
        ("a", "c", "depends_on"),
        ("b", "d", "triggered"),
        ("c", "d", "triggered"),
        ("d", "e", "triggered"),
    ):
        calls.add_edge(source, target, kind)
    return calls


def test_ways_through_a_graph(diamond):
    assert keys(diamond.neighbours("d")) == ["b", "c", "e"]
    assert keys(diamond.neighbours("d", "in")) == ["b", "c"]
    assert keys(diamond.neighbours("d", "out")) == ["e"]
    assert keys(diamond.neighbours("a", "out", "depends_on")) == ["c"]
    assert keys(diamond.roots()) == ["a"]
    assert keys(diamond.descendants("a")) == ["b", "c", "d", "e"]
    assert keys(diamond.descendants("a", depth=2)) == ["b", "c", "d"]
    assert keys(diamond.descendants("a", edge_type="triggered")) == ["b", "d", "e"]
    assert keys(diamond.lineage("e")) == ["d", "b", "c", "a"]
    assert diamond.distances("e", reverse=True) == {"d": 1, "b": 2, "c": 2, "a": 3}
    assert diamond.distances("none") == {}


def test_descendants_take_two_statements_whatever_the_size(diamond, caplog):
    with caplog.at_level(logging.DEBUG, logger="peewee"):
        assert len(diamond.descendants("a")) == 4
    assert len([record for record in caplog.records if "SELECT" in str(record.args or record.msg)]) == 2


# Import and export


def test_a_graph_goes_through_json_unchanged(diamond, store):
    exported = json.loads(json.dumps(diamond.export_json()))
    copy = GraphRepository.create(store, "copy", "CallGraph")
    assert copy.import_json(exported, batch=2) == (5, 5)
    assert {**copy.export_json(), "attributes": None} == {**exported, "attributes": None}


def test_an_import_is_all_or_nothing_and_tells_where_it_is_wrong(calls):
    data = {
        "nodes": [
            {"key": "x", "type": "call", "attributes": CALL},
            {"key": "y", "type": "call", "attributes": {}},
            {"type": "call"},
        ],
        "edges": [{"source": "x", "target": "nowhere", "type": "triggered"}, {"source": "x", "target": "a", "type": "odd"}],
    }
    with pytest.raises(ValidationFailed) as caught:
        calls.import_json(data)
    assert [problem["path"] for problem in caught.value.problems] == [
        "/nodes/1/attributes/request_id",
        "/nodes/1/attributes/operation_id",
        "/nodes/1/attributes/status",
        "/nodes/2/key",
        "/edges/0/target",
        "/edges/1",
    ]
    assert calls.nodes().count() == 3


@pytest.mark.parametrize(
    ("edges", "told"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a")], "cycle"),
        ([("a", "b"), ("a", "b")], "two edges between the same nodes"),
        ([("a", "a")], "to itself"),
    ],
)
def test_an_import_keeps_to_the_types_structure(calls, edges, told):
    data = {"edges": [{"source": source, "target": target, "type": "triggered"} for source, target in edges]}
    with pytest.raises(ValidationFailed, match=told):
        calls.import_json(data)
    assert calls.edges().count() == 0


def test_an_import_may_join_nodes_that_are_there(acl):
    edge = {"source": "ada", "target": "bot", "type": "delegates", "attributes": {"narrowed_scopes": ["own"]}}
    with pytest.raises(ValidationFailed, match="subset"):
        acl.import_json({"edges": [edge]})
    acl.import_json({"edges": [{**edge, "attributes": {"narrowed_scopes": ["read"]}}]})


# Events


@pytest.fixture
def heard(store):
    target = LocalEventTarget(store)
    found = []
    target.add_listener("*", found.append)
    yield target, found
    target.close()


def test_every_change_is_told_with_its_row(store, heard):
    target, events = heard
    graph = GraphRepository.create(store, "calls", "CallGraph", events=target)
    for key in "ab":
        graph.add_node(key, "call", CALL)
    edge = graph.add_edge("a", "b", "triggered")
    graph.update_node("a", {"status": "running"}, merge=True)
    graph.remove_node("b")
    graph.import_json({"nodes": [{"key": "c", "type": "call", "attributes": CALL}]})
    graph.remove()
    assert [event.type for event in events] == [
        "graph.created",
        "node.added",
        "node.added",
        "edge.added",
        "node.updated",
        "edge.removed",
        "node.removed",
        "graph.imported",
        "graph.removed",
    ]
    assert events[1].id == f"{graph.graph_id}/a"
    assert events[3].id == f"{graph.graph_id}/{edge.id}"
    assert events[4].payload["attributes"]["status"] == "running"
    assert events[7].payload == {"graph_id": graph.graph_id, "nodes": 1, "edges": 0}


def test_events_come_and_go_with_the_transaction(store, path):
    graph = GraphRepository.create(store, "calls", "CallGraph", events=HonkerEventTarget(store))
    with pytest.raises(ZeroDivisionError), store.atomic():
        graph.add_node("a", "call", CALL)
        raise ZeroDivisionError
    graph.add_node("b", "call", CALL)
    found = outside.rows(path, "SELECT payload ->> '$.payload.key' FROM _honker_notifications WHERE channel = 'node.added'")
    assert found == [["b"]]
    assert outside.rows(path, "SELECT key FROM nodes") == [["b"]]


def test_a_change_whose_event_cannot_travel_is_not_made(store):
    graph = GraphRepository.create(store, "calls", "CallGraph", events=HonkerEventTarget(store, max_bytes=500))
    with store.atomic(), pytest.raises(PayloadError):
        graph.add_node("a", "call", {**CALL, "input": "x" * 500})
    assert graph.nodes().count() == 0


def test_a_secrets_value_is_not_in_events_nor_in_messages(store, heard):
    target, events = heard
    graph = GraphRepository.create(store, "secrets", "SecretGraph", events=target)
    value = {"keyVersion": 1, "salt": "c2FsdA==", "iv": "aXY=", "data": "ZGF0YQ=="}
    graph.add_node("x", "secret", {"name": "mail", "value": value})
    assert events[-1].payload["attributes"] == {"name": "mail"}
    with pytest.raises(ValidationFailed) as caught:
        graph.add_node("y", "secret", {"name": "mail", "value": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_target_on_another_database_is_refused(store, open_database, tmp_path):
    other = open_database(str(tmp_path / "other.db"))
    with pytest.raises(ValueError, match="another database"):
        GraphRepository.create(store, "x", events=HonkerEventTarget(other))
