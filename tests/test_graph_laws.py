"""Laws of graphs, of schema changes and of imports, by random examples."""

import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peewee_honker import HonkerDatabase
from peewee_honker.storage import (
    CallGraph,
    CycleError,
    GraphRepository,
    ValidationFailed,
    create_graph_tables,
    diff_schemas,
    install_module,
    is_compatible,
    patch_schema,
)
from tests.support.laws import examples

SETTINGS = settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CALL = {"request_id": "r", "operation_id": "o", "status": "pending"}
KEYS = "abcdefg"
ends = st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS))


@pytest.fixture(scope="module")
def store():
    database = HonkerDatabase(":memory:")
    create_graph_tables(database)
    install_module(database, CallGraph)
    yield database
    database.close_engine()


def reachable(start, pairs):
    """How far each node is: the plain way."""
    far, border = {}, {start}
    for distance in range(1, len(KEYS) + 1):
        border = {end for begin, end in pairs if begin in border} - set(far) - {start}
        far |= dict.fromkeys(border, distance)
    return far


@SETTINGS
@given(st.lists(ends, max_size=20))
def test_an_acyclic_graph_takes_an_edge_exactly_when_it_closes_no_cycle(store, wanted):
    graph = GraphRepository.create(store, "g", "CallGraph")
    graph.import_json({"nodes": [{"key": key, "type": "call", "attributes": CALL} for key in KEYS]})
    taken = []
    for source, target in wanted:
        allowed = source != target and (source, target) not in taken and source not in reachable(target, taken)
        try:
            graph.add_edge(source, target, "triggered")
        except (CycleError, ValidationFailed):
            assert not allowed
        else:
            assert allowed
            taken.append((source, target))
    order = graph.topological_order()
    assert sorted(order) == list(KEYS)
    assert all(order.index(source) < order.index(target) for source, target in taken)


@SETTINGS
@given(st.lists(st.tuples(ends, st.booleans()), max_size=15), st.sampled_from(KEYS), st.none() | st.integers(0, 4))
def test_descendants_and_lineage_are_the_closure(store, edges, start, depth):
    graph = GraphRepository.create(store, "g")
    graph.import_json(
        {
            "nodes": [{"key": key} for key in KEYS],
            "edges": [{"source": source, "target": target, "undirected": both} for (source, target), both in edges],
        }
    )
    onward = [pair for pair, _both in edges] + [(target, source) for (source, target), both in edges if both]
    back = [(target, source) for source, target in onward]
    for reverse, pairs in ((False, onward), (True, back)):
        expected = {key: far for key, far in reachable(start, pairs).items() if depth is None or far <= depth}
        found = graph.distances(start, reverse=reverse, depth=depth)
        assert found == expected
        assert list(found) == sorted(expected, key=lambda key: (expected[key], key))
    assert [node.key for node in graph.descendants(start, depth=depth)] == list(graph.distances(start, depth=depth))
    near = {end for begin, end in onward if begin == start}
    assert {node.key for node in graph.neighbours(start, "out")} == near
    directed = {target for (_source, target), both in edges if not both}
    assert [node.key for node in graph.roots()] == [key for key in KEYS if key not in directed]


@SETTINGS
@given(st.lists(st.one_of(st.tuples(st.just("add"), ends), st.tuples(st.just("remove"), ends)), max_size=25))
def test_nodes_are_unique_and_take_their_edges_along(store, steps):
    graph = GraphRepository.create(store, "g")
    nodes, edges = set(), []
    for step, (one, other) in steps:
        if step == "remove":
            if one in nodes:
                graph.remove_node(one)
                nodes.discard(one)
                edges = [edge for edge in edges if one not in edge]
            continue
        for key in (one, other):
            if key not in nodes:
                graph.add_node(key)
                nodes.add(key)
        graph.add_edge(one, other)
        edges.append((one, other))
    exported = graph.export_json()
    assert [node["key"] for node in exported["nodes"]] == sorted(nodes)
    assert [(edge["source"], edge["target"]) for edge in exported["edges"]] == edges


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from(["", "x", "long text", "0", "ü😀"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@SETTINGS
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=4).filter(lambda key: "\0" not in key),
        st.dictionaries(st.text(max_size=4), values, max_size=3),
        max_size=5,
    )
)
def test_attributes_of_any_json_come_back_through_import_and_export(store, nodes):
    nodes = {key: value for key, value in nodes.items() if _is_utf8(key) and _is_utf8(json.dumps(value, ensure_ascii=False))}
    data = {"nodes": [{"key": key, "attributes": value} for key, value in nodes.items()]}
    first, second = (GraphRepository.create(store, "g") for _ in range(2))
    first.import_json(data)
    for key, value in nodes.items():
        second.add_node(key, attributes=value)
    assert {node["key"]: node["attributes"] for node in first.export_json()["nodes"]} == nodes
    assert first.export_json()["nodes"] == second.export_json()["nodes"]


def _is_utf8(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]


def schemas():
    plain = st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True),
            "minimum": st.integers(-3, 3),
            "maximum": st.integers(-3, 3),
            "maxLength": st.integers(0, 3),
            "enum": st.lists(values, min_size=1, max_size=3),
            "title": st.just("a title"),
        },
    )
    return st.recursive(
        st.booleans() | plain,
        lambda inner: st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["object", "array"]),
                "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
                "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
                "additionalProperties": inner,
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "c"]), inner, max_size=1),
                "items": inner,
                "maxItems": st.integers(0, 2),
                "not": inner,
                "anyOf": st.lists(inner, min_size=1, max_size=2),
            },
        ),
        max_leaves=5,
    )


@settings(SETTINGS, max_examples=examples(150))
@given(schemas(), schemas())
def test_the_edits_make_one_schema_the_other(old, new):
    edits = diff_schemas(old, new)
    made = patch_schema(old, edits)
    assert json.dumps(made, sort_keys=True) == json.dumps(new, sort_keys=True) or made == new
    assert diff_schemas(made, new) == []
    assert diff_schemas(old, old) == []


@settings(SETTINGS, max_examples=examples(300))
@given(schemas(), schemas(), st.data())
def test_a_compatible_change_refuses_no_value_that_was_valid(old, new, data):
    edits = diff_schemas(old, new)
    # Some of the edits alone, as real changes are: random schemas as a whole are hardly ever compatible.
    chosen = [edit for edit in edits if not edit.breaking]
    new = patch_schema(old, chosen)
    if not is_compatible(diff_schemas(old, new)):
        return
    value = data.draw(values)
    if jsonschema.Draft202012Validator(old).is_valid(value):
        assert jsonschema.Draft202012Validator(new).is_valid(value)
