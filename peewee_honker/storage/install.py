"""Putting modules into a database, and reading them back."""

from collections.abc import Iterable
from typing import Any

from peewee_honker.storage.binding import graph_database
from peewee_honker.storage.errors import ModuleError, ValidationFailed
from peewee_honker.storage.metagraph import EdgeType, Graph, GraphType, Node, NodeType
from peewee_honker.storage.module_diff import ModuleChange, diff_modules
from peewee_honker.storage.modules import CONFIG_SCHEMA, EdgeSpec, GraphModule, NodeSpec, module_to_db_schema
from peewee_honker.storage.validation import check_schema, problems_of

__all__ = ["apply_changes", "check_module", "install_module", "installed_module"]


def install_module(database: Any, module: GraphModule) -> GraphType:
    """Make a module's graph type, node types and edge types in a database, or bring them to its version. Gives the type.

    Idempotent: what is there in this version stays untouched. A newer version replaces an older one when what is stored is
    certain to fit, or nothing is stored; otherwise `upgrade_module` is the way. In one transaction.

    Raises ModuleError for a version that is older than the installed one, the same version with other contents, or a
    change that stored rows may not fit; ValidationFailed for a config or schemas that are not valid.
    """
    check_module(module)
    with graph_database.use(database), database.atomic():
        stored = GraphType.get_or_none(GraphType.name == module.name)
        if stored is None:
            return _create(module)
        changes = version_changes(stored, module)
        breaking = [change for change in changes if change.is_breaking]
        if breaking and Node.select().join(Graph).where(Graph.graph_type == stored).exists():
            raise ModuleError(
                f"{module.name} {module.version}: stored rows may not fit {', '.join(map(str, breaking))}: use "
                "upgrade_module(db, module, dry_run=True) to see, and upgrade_module(db, module) to cast them"
            )
        apply_changes(stored, module, changes)
        return stored


def installed_module(database: Any, name: str) -> GraphModule:
    """The module as it is stored. Raises ModuleError when there is none of that name."""
    with graph_database.use(database):
        stored = GraphType.get_or_none(GraphType.name == name)
        if stored is None:
            raise ModuleError(f"no module {name!r} is installed: install_module(db, module)")
        return stored_module(stored)


def stored_module(stored: GraphType) -> GraphModule:
    """The module that a graph type's rows are."""
    nodes = NodeType.select().where(NodeType.graph_type == stored).order_by(NodeType.id)
    edges = EdgeType.select().where(EdgeType.graph_type == stored).order_by(EdgeType.id)
    row: Any = stored
    return GraphModule(
        row.name,
        row.config,
        {node.name: NodeSpec(node.schema, node.description) for node in nodes},
        {
            edge.name: EdgeSpec(
                edge.schema, tuple(edge.allowed_source_types), tuple(edge.allowed_target_types), edge.description
            )
            for edge in edges
        },
        row.version,
        row.description,
        row.scope,
    )


def check_module(module: GraphModule) -> None:
    """Raise ValidationFailed when the config is not one or a schema is no JSON Schema."""
    problems = [
        {"path": f"/config{problem['path']}", "message": problem["message"]}
        for problem in problems_of(CONFIG_SCHEMA, dict(module.config))
    ]
    for part, specs in (("node_types", module.node_types), ("edge_types", module.edge_types)):
        for name, spec in specs.items():
            problems += [
                {"path": f"/{part}/{name}/schema{problem['path']}", "message": problem["message"]}
                for problem in check_schema(spec.schema)
            ]
    if problems:
        raise ValidationFailed(f"the module {module.name}", problems)  # type: ignore[arg-type]  # dicts of that form


def version_changes(stored: GraphType, module: GraphModule) -> list[ModuleChange]:
    """What the module changes. Raises ModuleError for a version that cannot replace the stored one."""
    installed: Any = stored.version
    changes = diff_modules(stored_module(stored), module)
    if module.version < installed:
        raise ModuleError(f"{module.name}: version {installed} is installed, {module.version} is older")
    if module.version == installed and changes:
        raise ModuleError(
            f"{module.name} {module.version} is installed with other contents ({', '.join(map(str, changes))}): "
            "a change needs a higher version"
        )
    return changes


def apply_changes(stored: GraphType, module: GraphModule, changes: Iterable[ModuleChange]) -> None:
    """Write what has changed to the types' rows, and the version."""
    row: Any = stored
    if row.version == module.version:
        return
    rows = module_to_db_schema(module)
    for change in changes:
        model: Any = {"node_types": NodeType, "edge_types": EdgeType}.get(change.part)
        if model is None:
            continue  # the graph type itself, below
        where = (model.graph_type == stored) & (model.name == change.name)
        wanted = next((each for each in rows[change.part] if each["name"] == change.name), None)
        if wanted is None:
            model.delete().where(where).execute()
        elif not model.update(**wanted).where(where).execute():
            model.create(graph_type=stored, **wanted)
    for name, value in rows["graph_type"].items():
        setattr(row, name, value)
    row.save()


def _create(module: GraphModule) -> GraphType:
    rows = module_to_db_schema(module)
    made: GraphType = GraphType.create(**rows["graph_type"])
    for each in rows["node_types"]:
        NodeType.create(graph_type=made, **each)
    for each in rows["edge_types"]:
        EdgeType.create(graph_type=made, **each)
    return made
