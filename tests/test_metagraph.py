"""The metagraph's tables: what SQLite enforces for every program, and the models on them."""

import asyncio
import contextlib
import threading
from typing import ClassVar

import peewee
import pytest

from peewee_honker import HonkerDatabase
from peewee_honker.storage import (
    GRAPH_MODELS,
    CallGraph,
    CallNode,
    ContextDatabase,
    Edge,
    EdgeType,
    Graph,
    GraphModule,
    GraphRepository,
    GraphStatus,
    GraphType,
    NativeModel,
    NoDatabaseError,
    Node,
    NodeSpec,
    NodeType,
    OtherDatabaseError,
    Scope,
    SecretGraph,
    SecretNode,
    create_graph_tables,
    graph_database,
    install_module,
    row_schemas,
)
from peewee_honker.storage.native import rebuild
from tests.support import outside
from tests.support.attempts import attempts

CALL = {"request_id": "r1", "operation_id": "files.read", "status": "pending"}


@pytest.fixture
def graphs(db):
    create_graph_tables(db)
    with graph_database.use(db):
        yield db


@pytest.fixture
def small(graphs, path):
    """A type, a graph of it, two nodes and an edge."""
    kind = GraphType.create(id="t", name="Kind", config={})
    NodeType.create(graph_type=kind, name="thing", schema={})
    EdgeType.create(graph_type=kind, name="link", schema={})
    graph = Graph.create(id="g", graph_type=kind, name="A graph")
    for key in "ab":
        Node.create(graph=graph, key=key)
    Edge.create(id="e", graph=graph, key="ab", source_node_key="a", target_node_key="b")
    return path


INSERT_EDGE = "INSERT INTO edges (id, graph_id, key, source_node_key, target_node_key) VALUES "


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("INSERT INTO graph_types (id, name, config) VALUES ('x', 'Kind', '{}')", "UNIQUE"),
        ("INSERT INTO graph_types (id, name, config, scope) VALUES ('x', 'Other', '{}', 'world')", "CHECK"),
        ("INSERT INTO graph_types (id, name) VALUES ('x', 'Other')", "NOT NULL"),
        ("INSERT INTO graph_types (id, name, config) VALUES ('x', 'Other', '{')", "CHECK"),
        ("INSERT INTO graph_types (id, name, config) VALUES (NULL, 'Other', '{}')", "NOT NULL"),
        ("INSERT INTO node_types (id, graph_type_id, name, schema) VALUES ('x', 't', 'thing', '{}')", "UNIQUE"),
        ("INSERT INTO node_types (id, graph_type_id, name, schema) VALUES ('x', 'none', 'thing', '{}')", "FOREIGN KEY"),
        ("INSERT INTO edge_types (id, graph_type_id, name, schema) VALUES ('x', 't', 'link', '{}')", "UNIQUE"),
        ("UPDATE edge_types SET allowed_source_types = '{}'", "CHECK"),
        ("INSERT INTO graphs (id, graph_type_id, name) VALUES ('x', 'none', 'g')", "FOREIGN KEY"),
        ("UPDATE graphs SET status = 'deleted'", "CHECK"),
        ("INSERT INTO nodes (id, graph_id, key) VALUES ('x', 'g', 'a')", "UNIQUE"),
        ("INSERT INTO nodes (id, graph_id, key) VALUES ('x', 'none', 'a')", "FOREIGN KEY"),
        ("INSERT INTO nodes (id, graph_id, key) VALUES ('x', 'g', NULL)", "NOT NULL"),
        ("UPDATE nodes SET attributes = 'text'", "CHECK"),
        (INSERT_EDGE + "('x', 'g', 'ab', 'a', 'b')", "UNIQUE"),
        (INSERT_EDGE + "('x', 'g', NULL, 'a', 'none')", "FOREIGN KEY"),
        (INSERT_EDGE + "('x', 'g', NULL, 'none', 'b')", "FOREIGN KEY"),
        ("UPDATE edges SET undirected = 2", "CHECK"),
    ],
)
def test_another_programs_row_that_breaks_a_constraint_is_refused(small, statement, error):
    assert error in attempts(small, statement)[0]


def test_what_the_tables_allow_another_program_may_write(small):
    statements = [
        "INSERT INTO graph_types (id, name, config) VALUES ('x', 'Other', '{}')",
        "INSERT INTO graphs (id, name) VALUES ('x', 'A graph')",
        INSERT_EDGE + "('x', 'g', NULL, 'a', 'b'), ('y', 'g', NULL, 'a', 'b')",
        "DELETE FROM graphs",
    ]
    assert attempts(small, *statements) == [""] * 4


def test_an_edge_cannot_lead_to_a_node_of_another_graph(small):
    other = Graph.create(name="Another")
    Node.create(graph=other, key="z")
    assert "FOREIGN KEY" in attempts(small, INSERT_EDGE + "('x', 'g', NULL, 'a', 'z')")[0]


def test_defaults_are_the_tables_own(small, graphs):
    graphs.execute_sql("INSERT INTO graphs (id, name) VALUES ('plain', 'A graph')")
    found = outside.rows(
        small, "SELECT metadata, description, status, owner_id, typeof(created_at) FROM graphs WHERE id = 'plain'"
    )
    assert found == [["{}", "", "draft", None, "integer"]]


def test_a_graphs_rows_go_with_it_and_a_types_graphs_stay(small):
    GraphType.get().delete_instance()
    assert outside.rows(small, "SELECT count(*) FROM node_types") == [[0]]
    assert outside.rows(small, "SELECT graph_type_id FROM graphs") == [[None]]
    Graph.get().delete_instance()
    assert outside.rows(small, "SELECT (SELECT count(*) FROM nodes), (SELECT count(*) FROM edges)") == [[0, 0]]


def test_a_nodes_edges_go_with_it_and_follow_its_new_key(small):
    Node.update(key="c").where(Node.key == "b").execute()
    assert outside.rows(small, "SELECT source_node_key, target_node_key FROM edges") == [["a", "c"]]
    Node.get(Node.key == "c").delete_instance()
    assert outside.rows(small, "SELECT count(*) FROM edges") == [[0]]


def test_relations_go_both_ways(small):
    kind, graph, edge = GraphType.get(), Graph.get(), Edge.get()
    assert [each.name for each in kind.node_types] == ["thing"]
    assert [each.name for each in kind.edge_types] == ["link"]
    assert list(kind.graphs) == [graph]
    assert [node.key for node in graph.nodes] == ["a", "b"]
    assert edge.source.key == "a"
    assert list(edge.source.out_edges) == list(edge.target.in_edges) == list(graph.edges) == [edge]


def test_enumerations_come_back_as_members(small):
    graph = Graph.get()
    assert graph.status is GraphStatus.DRAFT
    assert GraphType.get().scope is Scope.SYSTEM
    with pytest.raises(ValueError, match="nonsense"):
        Graph.create(name="x", status="nonsense")


def test_ids_are_given_or_sort_by_time(graphs):
    made = [Graph.create(name="x").id for _ in range(5)]
    assert made == sorted(made)
    assert Graph.create(id="mine", name="x").id == "mine"


def test_a_model_that_was_made_is_inserted_by_save_and_then_updated(graphs):
    graph = Graph(id="mine", name="first")
    assert graph.save() == 1
    graph.name = "second"
    assert graph.save() == 1
    again = Graph(id="mine", name="third")
    assert again.save() == 1
    assert [each.name for each in Graph.select()] == ["third"]


def test_updated_at_is_kept_by_saves_and_by_update_queries(small):
    Graph.update(created_at=1, updated_at=1).execute()
    Node.update(created_at=1, updated_at=1).execute()
    graph = Graph.get()
    assert graph.updated_at == 1
    graph.save(only=[Graph.name])
    assert Graph.get().updated_at > 1
    Node.update(attributes={"n": 1}).execute()
    assert all(node.updated_at > 1 and node.created_at == 1 for node in Node.select())


def test_every_model_has_schemas_for_select_insert_and_update(small):
    for model in GRAPH_MODELS:
        schemas = row_schemas(model)
        row = model.get()
        dumped = schemas.select().dump(row)
        assert list(dumped) == [field.name for field in model._meta.sorted_fields]
        changes = {name: value for name, value in dumped.items() if name in schemas.update().fields}
        assert model.update(**schemas.update().load(changes)).where(model.id == row.id).execute() == 1
        new = {name: value for name, value in dumped.items() if name in schemas.insert().fields} | {"id": "new"}
        with (
            pytest.raises(peewee.IntegrityError)
            if model in (GraphType, NodeType, EdgeType, Node, Edge)
            else contextlib.nullcontext()
        ):
            model.create(**schemas.insert().load(new))
    assert "created_at" not in row_schemas(Node).insert().fields
    assert "id" not in row_schemas(Node).update().fields


def test_rows_are_found_by_json_path(small):
    Node.update(attributes={"size": {"height": 3}, "tags": ["new"]}).where(Node.key == "a").execute()
    assert [node.key for node in Node.select().where(Node.attributes["size"]["height"] == 3)] == ["a"]
    assert [node.key for node in Node.select().where(Node.attributes["tags"].contains("new"))] == ["a"]
    assert [node.key for node in Node.select().where(Node.attributes == {})] == ["b"]


def test_json_that_is_not_json_is_refused_before_it_is_sent(small):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Node.create(graph="g", key="c", attributes={"n": float("nan")})


# Native columns


@pytest.fixture
def calls(graphs):
    install_module(graphs, CallGraph)
    repository = GraphRepository.create(graphs, "calls", "CallGraph")
    repository.add_node("a", "call", CALL)
    return repository


def test_attributes_of_a_known_type_are_columns_whoever_writes(calls, path):
    found = "SELECT key, request_id, status FROM call_nodes"
    assert outside.rows(path, found) == [["a", "r1", "pending"]]
    calls.update_node("a", {"status": "running"}, merge=True)
    assert outside.rows(path, found) == [["a", "r1", "running"]]
    calls.database.execute_sql("UPDATE nodes SET attributes = json_set(attributes, '$.status', 'failed'), key = 'b'")
    assert outside.rows(path, found) == [["b", "r1", "failed"]]
    calls.import_json({"nodes": [{"key": "c", "type": "call", "attributes": {**CALL, "request_id": "r2"}}]})
    assert [node.key for node in CallNode.nodes().where(CallNode.request_id == "r2")] == ["c"]
    calls.remove_node("b")
    assert outside.rows(path, found) == [["c", "r2", "pending"]]


def test_a_query_by_column_uses_its_index(calls):
    plan = calls.database.execute_sql(
        "EXPLAIN QUERY PLAN SELECT * FROM nodes n JOIN call_nodes c ON c.graph_id = n.graph_id AND c.key = n.key "
        "WHERE c.request_id = 'r1'"
    ).fetchall()
    assert any("callnode_request_id" in row[-1] for row in plan)


def test_a_node_of_the_same_type_name_in_another_graph_has_no_row(calls):
    GraphRepository.create(calls.database, "free").add_node("a", "call", CALL)
    assert CallNode.select().count() == 1


def test_columns_follow_the_type_of_the_graph(calls, path):
    keys = "SELECT key FROM call_nodes ORDER BY key"
    free = GraphRepository.create(calls.database, "free")
    free.add_node("f", "call", CALL)
    Graph.update(graph_type=GraphType.get(name="CallGraph")).where(Graph.id == free.graph_id).execute()
    assert outside.rows(path, keys) == [["a"], ["f"]]
    Graph.update(graph_type=None).where(Graph.id == free.graph_id).execute()
    assert outside.rows(path, keys) == [["a"]]
    GraphType.update(name="Calls").execute()
    assert outside.rows(path, keys) == []
    GraphType.update(name="CallGraph").execute()
    assert outside.rows(path, keys) == [["a"]]
    GraphType.delete().execute()
    assert outside.rows(path, keys) == []


def test_a_secrets_columns_do_not_hold_its_value(graphs):
    install_module(graphs, SecretGraph)
    value = {"keyVersion": 2, "salt": "s", "iv": "i", "data": "d"}
    GraphRepository.create(graphs, "secrets", "SecretGraph").add_node("x", "secret", {"name": "mail", "value": value})
    row = SecretNode.get()
    assert (row.name, row.key_version) == ("mail", 2)
    assert "value" not in SecretNode._meta.fields


def test_a_native_table_can_be_filled_anew(calls):
    CallNode.delete().execute()
    assert rebuild(calls.database, CallNode) == 1
    assert CallNode.get().operation_id == "files.read"


class Book(NativeModel):
    graph_type = "Library"
    node_type = "book"
    paths: ClassVar[dict[str, str]] = {"first_author": "$.authors[0]"}

    title = peewee.TextField(null=True, index=True)
    first_author = peewee.TextField(null=True)


def test_a_type_of_ones_own_gets_columns_also_of_the_nodes_that_are_there(graphs):
    config = {"type": "directed", "multi": True, "allowSelfLoops": True}
    install_module(graphs, GraphModule("Library", config, {"book": NodeSpec({})}, {}))
    library = GraphRepository.create(graphs, "books", "Library")
    library.add_node("a", "book", {"title": "Emma", "authors": ["Austen"]})
    create_graph_tables(graphs, native=[Book])
    library.add_node("b", "book", {"title": "Ulysses", "authors": ["Joyce"]})
    assert {book.key: book.first_author for book in Book.select()} == {"a": "Austen", "b": "Joyce"}


# The database in use


@pytest.fixture
def two(tmp_path):
    made = [HonkerDatabase(str(tmp_path / f"{name}.db")) for name in "ab"]
    for database in made:
        create_graph_tables(database)
    yield made
    for database in made:
        database.close_engine()


def test_without_a_database_in_use_a_model_says_so():
    with pytest.raises(NoDatabaseError, match=r"graph_database\.use"):
        Graph.get()


def test_threads_each_use_their_own_database(two):
    together = threading.Barrier(2)
    seen = {}

    def work(number):
        with graph_database.use(two[number]):
            for turn in range(20):
                together.wait(10)
                Graph.create(name=f"{number}-{turn}")
            seen[number] = {graph.name.partition("-")[0] for graph in Graph.select()}
        two[number].close()

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {0: {"0"}, 1: {"1"}}


def test_tasks_each_use_their_own_database(two):
    async def work(number):
        with graph_database.use(two[number]):
            for turn in range(20):
                Graph.create(name=f"{number}-{turn}")
                await asyncio.sleep(0)
            return {graph.name.partition("-")[0] for graph in Graph.select()}

    async def both():
        return await asyncio.gather(work(0), work(1))

    assert asyncio.run(both()) == [{"0"}, {"1"}]


def test_a_thread_does_not_inherit_the_database(two):
    failed = []

    def work():
        try:
            Graph.get()
        except NoDatabaseError as error:
            failed.append(error)

    with graph_database.use(two[0]):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert failed


def test_a_query_runs_where_it_was_made(two):
    with graph_database.use(two[0]):
        Graph.create(name="first")
        query = Graph.select()
    with graph_database.use(two[1]):
        assert [graph.name for graph in query] == ["first"]
        assert Graph.select().count() == 0


def test_a_row_is_not_written_to_another_database(two):
    with graph_database.use(two[0]):
        graph = Graph.create(name="first")
    with graph_database.use(two[1]):
        with pytest.raises(OtherDatabaseError, match=r"a\.db"):
            graph.save()
        with pytest.raises(OtherDatabaseError):
            graph.delete_instance()
        with pytest.raises(OtherDatabaseError):
            list(graph.nodes)


def test_a_relation_is_not_followed_into_another_database(two):
    for number, database in enumerate(two):
        with graph_database.use(database):
            Graph.create(id="g", name=f"of {number}")
            Node.create(graph="g", key="k")
    with graph_database.use(two[0]):
        query = Node.select()
        (node,) = query.clone()
        assert node.graph.name == "of 0"
    with graph_database.use(two[1]):
        (read_here,) = query  # made there, so of there, wherever it is run
        with pytest.raises(OtherDatabaseError):
            _ = read_here.graph
        with pytest.raises(OtherDatabaseError):
            read_here.save()
        assert node.graph.name == "of 0"  # looked up before
        assert Node.get().graph.name == "of 1"
        (raw,) = Node.raw("SELECT * FROM nodes")
        assert raw.graph.name == "of 1"


def test_a_default_serves_where_nothing_is_in_use(two):
    own = ContextDatabase("own")
    own.initialize(two[0])
    assert own.current is two[0]
    with own.use(two[1]):
        assert own.current is two[1]
    own.initialize(None)
    with pytest.raises(NoDatabaseError, match="own_database"):
        own.execute_sql("SELECT 1")
