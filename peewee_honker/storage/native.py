"""Native columns beside the JSON attributes, for the graph types that are known.

A row of `call_nodes` holds the attributes of a call's node as columns with indexes. Triggers on `nodes` keep it, so it is
right whoever writes to the file, and it goes with its node.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import peewee
from peewee import SQL

from peewee_honker.storage.binding import graph_database
from peewee_honker.storage.columns import sql_text
from peewee_honker.storage.context_model import ContextModel
from peewee_honker.storage.metagraph import GRAPH_MODELS, Node

__all__ = [
    "NATIVE_MODELS",
    "AclPrincipal",
    "AclResource",
    "CallNode",
    "NativeModel",
    "SecretNode",
    "create_graph_tables",
    "rebuild",
]

_OF_NODE = SQL('FOREIGN KEY ("graph_id", "key") REFERENCES "nodes" ("graph_id", "key") ON DELETE CASCADE ON UPDATE CASCADE')


class NativeModel(ContextModel):
    """Base class of native tables: one row for each node of a type, to be read and not written.

    A subclass sets `graph_type` and `node_type`, and its further fields are the attributes that become columns, by name or
    by `paths` (a field's name and its JSON path). An attribute that a node lacks is NULL.
    """

    graph_type: ClassVar[str]
    node_type: ClassVar[str]
    paths: ClassVar[dict[str, str]] = {}

    graph_id = peewee.TextField()
    key = peewee.TextField()

    class Meta:
        database = graph_database
        primary_key = peewee.CompositeKey("graph_id", "key")
        without_rowid = True
        constraints = (_OF_NODE,)

    @classmethod
    def nodes(cls) -> Any:
        """A query of the nodes joined with their columns: `CallNode.nodes().where(CallNode.status == "failed")`."""
        on = (cls.graph_id == Node.graph) & (cls.key == Node.key)
        return Node.select().join(cls, on=on)


class CallNode(NativeModel):
    """Calls of operations."""

    graph_type = "CallGraph"
    node_type = "call"

    request_id = peewee.TextField(null=True, index=True)
    operation_id = peewee.TextField(null=True, index=True)
    status = peewee.TextField(null=True)
    parent_request_id = peewee.TextField(null=True, index=True)
    started_at = peewee.BareField(null=True)
    completed_at = peewee.BareField(null=True)

    class Meta:
        table_name = "call_nodes"
        indexes = ((("graph_id", "status", "started_at"), False),)
        constraints = (_OF_NODE,)


class SecretNode(NativeModel):
    """Secrets, without their values."""

    graph_type = "SecretGraph"
    node_type = "secret"
    paths: ClassVar[dict[str, str]] = {"key_version": "$.value.keyVersion"}

    name = peewee.TextField(null=True, index=True)
    key_version = peewee.IntegerField(null=True, index=True)
    expires_at = peewee.BareField(null=True, index=True)

    class Meta:
        table_name = "secret_nodes"
        constraints = (_OF_NODE,)


class AclPrincipal(NativeModel):
    """Who may do something."""

    graph_type = "AclGraph"
    node_type = "principal"

    identity_type = peewee.TextField(null=True)
    identity_id = peewee.TextField(null=True)

    class Meta:
        table_name = "acl_principals"
        indexes = ((("identity_type", "identity_id"), False),)
        constraints = (_OF_NODE,)


class AclResource(NativeModel):
    """What something may be done to."""

    graph_type = "AclGraph"
    node_type = "resource"

    resource_type = peewee.TextField(null=True)
    resource_id = peewee.TextField(null=True)

    class Meta:
        table_name = "acl_resources"
        indexes = ((("resource_type", "resource_id"), False),)
        constraints = (_OF_NODE,)


NATIVE_MODELS: tuple[type[NativeModel], ...] = (CallNode, SecretNode, AclPrincipal, AclResource)


def create_graph_tables(database: Any, native: Iterable[type[NativeModel]] = ()) -> None:
    """Make the metagraph's tables, native tables and triggers, those that are not there, in one transaction.

    `native` are native models beside `NATIVE_MODELS`; a new one is filled from the nodes that are there.
    """
    with graph_database.use(database), database.atomic():
        database.create_tables([*GRAPH_MODELS])
        for model in (*NATIVE_MODELS, *native):
            known = model.table_exists()  # type: ignore[no-untyped-call]  # so in Peewee's stubs
            model.create_table(safe=True)
            for statement in _triggers(model):
                database.execute_sql(statement)
            if not known:
                rebuild(database, model)


def rebuild(database: Any, model: type[NativeModel]) -> int:
    """Fill a native table anew from the nodes; for a file whose triggers were missing for a while. Gives the rows."""
    meta = model._meta
    with graph_database.use(database), database.atomic():
        database.execute_sql(f'DELETE FROM "{meta.table_name}"')
        cursor = database.execute_sql(
            f'INSERT INTO "{meta.table_name}" ({_columns(model)}) '
            f"SELECT {_values(model, 'n')} FROM nodes n WHERE {_is(model, 'n')}"
        )
        return int(database.rows_affected(cursor))


def _columns(model: type[NativeModel]) -> str:
    return ", ".join(f'"{field.column_name}"' for field in model._meta.sorted_fields)


def _values(model: type[NativeModel], row: str) -> str:
    names = [field.name for field in model._meta.sorted_fields if field.name not in ("graph_id", "key")]
    paths = [sql_text(model.paths.get(name, f"$.{name}")) for name in names]
    values = [f'json_extract({row}."attributes", {path})' for path in paths]
    return ", ".join([f'{row}."graph_id"', f'{row}."key"', *values])


def _is(model: type[NativeModel], row: str) -> str:
    return (
        f"json_extract({row}.\"metadata\", '$.type') = {sql_text(model.node_type)} AND EXISTS (SELECT 1 FROM graphs g "
        f'JOIN graph_types t ON t."id" = g."graph_type_id" WHERE g."id" = {row}."graph_id" '
        f'AND t."name" = {sql_text(model.graph_type)})'
    )


def _triggers(model: type[NativeModel]) -> list[str]:
    table = model._meta.table_name
    put = f'INSERT OR REPLACE INTO "{table}" ({_columns(model)}) SELECT {_values(model, "NEW")} WHERE {_is(model, "NEW")}'
    gone = f'DELETE FROM "{table}" WHERE "graph_id" = OLD."graph_id" AND "key" IN (OLD."key", NEW."key")'
    kind = sql_text(model.node_type)
    is_new, was = (f"json_extract({row}.\"metadata\", '$.type') = {kind}" for row in ("NEW", "OLD"))
    watched = '"graph_id", "key", "attributes", "metadata"'
    inserted = f'CREATE TRIGGER IF NOT EXISTS "{table}_insert" AFTER INSERT ON "nodes" WHEN {is_new} BEGIN {put}; END'
    updated = (
        f'CREATE TRIGGER IF NOT EXISTS "{table}_update" AFTER UPDATE OF {watched} ON "nodes" '
        f"WHEN {is_new} OR {was} BEGIN {gone}; {put}; END"
    )
    # Another type of the graph, or none (as when the type is removed), or another name of the type.
    retyped = _refill(model, f"{table}_graph_type", "graph_type_id", "graphs", '= NEW."id"')
    of_type = 'IN (SELECT "id" FROM "graphs" WHERE "graph_type_id" = NEW."id")'
    renamed = _refill(model, f"{table}_type_name", "name", "graph_types", of_type)
    return [inserted, updated, retyped, renamed]


def _refill(model: type[NativeModel], name: str, column: str, table: str, graphs: str) -> str:
    """A trigger that fills the rows of some graphs anew when a column has changed."""
    native = model._meta.table_name
    return (
        f'CREATE TRIGGER IF NOT EXISTS "{name}" AFTER UPDATE OF "{column}" ON "{table}" '
        f'WHEN OLD."{column}" IS NOT NEW."{column}" BEGIN DELETE FROM "{native}" WHERE "graph_id" {graphs}; '
        f'INSERT INTO "{native}" ({_columns(model)}) SELECT {_values(model, "n")} FROM "nodes" n '
        f'WHERE n."graph_id" {graphs} AND {_is(model, "n")}; END'
    )
