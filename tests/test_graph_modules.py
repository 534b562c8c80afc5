"""Modules: graph types as data, installed, changed, and stored graphs brought along."""

import dataclasses

import pytest

from peewee_honker.storage import (
    AclGraph,
    CallGraph,
    EdgeSpec,
    Graph,
    GraphModule,
    GraphRepository,
    GraphType,
    MetagraphModule,
    ModuleError,
    NodeSpec,
    NodeType,
    SecretGraph,
    ValidationFailed,
    cast_attributes,
    create_graph_tables,
    diff_modules,
    diff_schemas,
    graph_database,
    install_module,
    installed_module,
    module_to_db_schema,
    upgrade_module,
    validate_edge,
    validate_node,
)

CONFIG = {"type": "directed", "multi": True, "allowSelfLoops": True}


def pets(version=1, config=CONFIG, sources=(), **properties):
    schema = {"type": "object", "properties": properties or {"name": {"type": "string"}}, "additionalProperties": False}
    return GraphModule(
        "Pets", config, {"pet": NodeSpec(schema), "person": NodeSpec({})}, {"likes": EdgeSpec({}, sources)}, version
    )


@pytest.fixture
def store(db):
    create_graph_tables(db)
    with graph_database.use(db):
        yield db


@pytest.fixture
def kept(store):
    """A graph of pets with two nodes and an edge."""
    install_module(store, pets())
    graph = GraphRepository.create(store, "kept", "Pets")
    graph.add_node("rex", "pet", {"name": "7"})
    graph.add_node("ada", "person")
    graph.add_edge("ada", "rex", "likes")
    return graph


@pytest.mark.parametrize("module", [MetagraphModule, CallGraph, SecretGraph, AclGraph], ids=lambda module: module.name)
def test_a_module_is_data(store, module):
    assert GraphModule.from_json(module.to_json()) == module
    install_module(store, module)
    assert installed_module(store, module.name) == module


def test_a_module_is_rows_of_three_tables():
    rows = module_to_db_schema(pets(sources=("person",)))
    assert rows["graph_type"] == {"name": "Pets", "description": "", "config": CONFIG, "version": 1, "scope": "system"}
    assert [row["name"] for row in rows["node_types"]] == ["pet", "person"]
    assert rows["edge_types"][0]["allowed_source_types"] == ["person"]


def test_installing_twice_changes_nothing(store):
    first = install_module(store, CallGraph)
    GraphType.update(updated_at=1).execute()
    assert install_module(store, CallGraph) == first
    assert GraphType.get().updated_at == 1
    assert NodeType.select().count() == 1


def test_the_same_version_with_other_contents_is_refused(store):
    install_module(store, pets())
    with pytest.raises(ModuleError, match="a change needs a higher version"):
        install_module(store, pets(name={"type": "number"}))


def test_an_older_version_is_refused(store):
    install_module(store, pets(2))
    with pytest.raises(ModuleError, match="version 2 is installed, 1 is older"):
        install_module(store, pets(1))


def test_a_compatible_version_is_installed_over_stored_rows(kept, store):
    newer = pets(2, name={"type": ["string", "null"]}, age={"type": "integer"})
    assert install_module(store, newer).version == 2
    assert installed_module(store, "Pets") == newer
    kept.add_node("tom", "pet", {"age": 3})  # an open repository knows


def test_a_breaking_version_is_refused_over_stored_rows_and_names_the_way(kept, store):
    with pytest.raises(ModuleError, match="upgrade_module"):
        install_module(store, pets(2, name={"type": "integer"}))
    kept.remove()
    assert install_module(store, pets(2, name={"type": "integer"})).version == 2


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"config": {"type": "odd", "multi": True, "allowSelfLoops": True}}, "/config/type"),
        ({"config": {"type": "mixed"}}, "/config/multi"),
        ({"node_types": {"pet": NodeSpec({"type": "thing"})}}, "/node_types/pet/schema/type"),
    ],
)
def test_a_module_that_is_none_is_not_installed(store, change, where):
    with pytest.raises(ValidationFailed) as caught:
        install_module(store, dataclasses.replace(pets(), **change))
    assert where in [problem["path"] for problem in caught.value.problems]
    assert GraphType.select().count() == 0


def test_a_module_names_only_node_types_that_it_has():
    with pytest.raises(ModuleError, match="unknown node types: cat"):
        pets(sources=("cat",))
    with pytest.raises(ModuleError, match="only a directed graph"):
        pets(config={"type": "mixed", "multi": True, "allowSelfLoops": True, "acyclic": True})
    with pytest.raises(ModuleError, match="not a module's JSON"):
        GraphModule.from_json("{}")


def test_validation_needs_no_database():
    assert validate_node(pets(), "pet", {"name": "Rex"}) == []
    assert validate_node(pets(), "pet", {"name": 1}) == [{"path": "/name", "message": "must be of type string"}]
    assert validate_edge(pets(sources=("person",)), "likes", {}, source_type="person", target_type="pet") == []
    assert validate_edge(pets(), "hates", {}) == [{"path": "", "message": "edge type 'hates' is not one of likes"}]
    nested = GraphModule("N", CONFIG, {"n": NodeSpec({"properties": {"a/b": {"items": {"minimum": 3}}}})}, {})
    assert validate_node(nested, "n", {"a/b": [5, 1]}) == [{"path": "/a~1b/1", "message": "must keep to minimum 3"}]


# Schema evolution


@pytest.mark.parametrize(
    ("old", "new", "breaking"),
    [
        ({"type": "integer"}, {"type": "number"}, False),
        ({"type": "number"}, {"type": "integer"}, True),
        ({"minimum": 3}, {"minimum": 2}, False),
        ({"maxLength": 3}, {"maxLength": 2}, True),
        ({"required": ["a", "b"]}, {"required": ["a"]}, False),
        ({"required": ["a"]}, {"required": ["a", "b"]}, True),
        ({"enum": [1, 2]}, {"enum": [1, 2, 3]}, False),
        ({"enum": [1, 2]}, {"enum": [1, True]}, True),
        (
            {"properties": {}, "additionalProperties": False},
            {"properties": {"a": {"type": "null"}}, "additionalProperties": False},
            False,
        ),
        ({"properties": {}}, {"properties": {"a": {"type": "null"}}}, True),
        ({"properties": {"a": {"type": "null"}}}, {"properties": {}}, False),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"properties": {}, "additionalProperties": False}, True),
        ({"properties": {"a": {"items": {"maximum": 1}}}}, {"properties": {"a": {"items": {"maximum": 2}}}}, False),
        ({"description": "old"}, {"description": "new", "default": 3}, False),
        ({"pattern": "a"}, {}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"minimum": 2}}}, {"$ref": "#/$defs/a", "$defs": {"a": {"minimum": 1}}}, True),
    ],
)
def test_a_change_is_compatible_only_when_no_value_is_lost(old, new, breaking):
    assert any(edit.breaking for edit in diff_schemas(old, new)) is breaking


@pytest.mark.parametrize(
    ("old", "new", "breaking"),
    [
        (pets(), pets(2), False),
        (pets(sources=("person",)), pets(2), False),
        (pets(), pets(2, sources=("person",)), True),
        (pets(config={**CONFIG, "multi": False}), pets(2), False),
        (pets(), pets(2, config={**CONFIG, "multi": False}), True),
        (pets(), pets(2, config={**CONFIG, "acyclic": True}), True),
        (pets(), pets(2, config={**CONFIG, "type": "mixed"}), False),
        (pets(), dataclasses.replace(pets(2), node_types={"pet": pets().node_types["pet"]}), True),
        (dataclasses.replace(pets(), edge_types={}), pets(2), False),
    ],
)
def test_a_modules_changes_are_classified(old, new, breaking):
    assert any(change.is_breaking for change in diff_modules(old, new)) is breaking


def test_a_dry_run_tells_what_would_be_and_writes_nothing(kept, store):
    newer = pets(2, name={"type": "integer"})
    report = upgrade_module(store, newer, dry_run=True)
    assert (report.from_version, report.to_version, report.checked, report.cast) == (1, 2, 1, 1)
    assert (report.problems, report.applied) == ([], False)
    assert kept.get_node("rex").attributes == {"name": "7"}
    assert installed_module(store, "Pets") == pets()


def test_an_upgrade_casts_attributes_and_raises_the_version(kept, store):
    newer = pets(2, name={"type": "integer"}, kind={"type": "string", "default": "dog"})
    report = upgrade_module(store, newer, batch=1)
    assert report.applied
    assert kept.get_node("rex").attributes == {"name": 7, "kind": "dog"}
    assert installed_module(store, "Pets") == newer
    assert not upgrade_module(store, newer).applied  # it is there


def test_a_cast_of_ones_own_takes_the_place_of_the_usual(kept, store):
    newer = pets(2, title={"type": "string"})
    upgrade_module(store, newer, casts={"pet": lambda attributes: {"title": f"pet {attributes['name']}"}})
    assert kept.get_node("rex").attributes == {"title": "pet 7"}
    with pytest.raises(ModuleError, match="casts names cat"):
        upgrade_module(store, pets(3), casts={"cat": dict})


@pytest.mark.parametrize(
    ("newer", "told"),
    [
        (pets(2, name={"type": "boolean"}), "must be of type boolean"),
        (pets(2, config={**CONFIG, "type": "undirected"}), "not undirected"),
        (pets(2, sources=("pet",)), "a source of type 'person' is not allowed for likes"),
        (dataclasses.replace(pets(2), node_types={"pet": pets().node_types["pet"]}), "its type person is gone"),
    ],
)
def test_an_upgrade_that_stored_rows_do_not_fit_changes_nothing(kept, store, newer, told):
    report = upgrade_module(store, newer, dry_run=True)
    assert told in report.problems[0].message
    with pytest.raises(ModuleError, match="Nothing has been changed"):
        upgrade_module(store, newer)
    assert installed_module(store, "Pets") == pets()
    assert kept.get_node("rex").attributes == {"name": "7"}


def test_upgrading_what_is_not_installed_is_an_error(store):
    with pytest.raises(ModuleError, match="install_module"):
        upgrade_module(store, pets())
    assert Graph.select().count() == 0


def test_casts_lose_nothing_by_guessing():
    schema = {
        "properties": {
            "n": {"type": "integer"},
            "t": {"type": "string"},
            "o": {"type": "object", "properties": {"x": {"default": 1}}},
        },
        "additionalProperties": False,
    }
    assert cast_attributes({"n": "12", "t": 1.5, "o": {}, "extra": 1}, schema) == {"n": 12, "t": "1.5", "o": {"x": 1}}
    assert cast_attributes({"n": "012", "t": True}, schema) == {"n": "012", "t": True}
    number = {"properties": {"x": {"type": "number"}}}
    for text in ("nan", "inf", "-Infinity", "1e999", "1_0"):
        assert cast_attributes({"x": text}, number) == {"x": text}
    assert cast_attributes({"x": "1.5"}, number) == {"x": 1.5}
