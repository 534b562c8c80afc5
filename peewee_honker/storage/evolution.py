"""Bringing stored graphs to a new version of their module: attributes are cast in batches, checked, and only then kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from peewee import SQL

from peewee_honker.storage.binding import graph_database
from peewee_honker.storage.columns import json_text, now
from peewee_honker.storage.errors import ModuleError
from peewee_honker.storage.install import apply_changes, check_module, stored_module, version_changes
from peewee_honker.storage.metagraph import Edge, Graph, GraphType, Node, type_of
from peewee_honker.storage.module_diff import ModuleChange
from peewee_honker.storage.modules import EdgeSpec, GraphModule
from peewee_honker.storage.structure import structure_problems
from peewee_honker.storage.validation import problems_of

__all__ = ["RowProblem", "UpgradeReport", "cast_attributes", "upgrade_module"]

Cast = Callable[[dict[str, Any]], dict[str, Any]]
_MOST_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A stored row that would not fit: `what` is `node`, `edge` or `graph`, `id` the row's."""

    what: str
    id: str
    path: str
    message: str


@dataclass(slots=True)
class UpgradeReport:
    """What an upgrade did, or would do.

    - `changes`: of the module.
    - `checked`, `cast`: rows that were looked at, and rows whose attributes changed.
    - `problems`: the first 1,000 rows that would not fit.
    - `applied`: whether it was done.
    """

    name: str
    from_version: int
    to_version: int
    changes: list[ModuleChange]
    checked: int = 0
    cast: int = 0
    problems: list[RowProblem] = field(default_factory=list)
    applied: bool = False


def upgrade_module(
    database: Any,
    module: GraphModule,
    *,
    casts: Mapping[str, Cast] | None = None,
    dry_run: bool = False,
    batch: int = 500,
) -> UpgradeReport:
    """Bring an installed module to a new version, and the attributes of the nodes and edges of its changed types with it.

    Arguments:
        casts: by the type's name, a function from the stored attributes to the new ones; where there is none,
            `cast_attributes`.
        dry_run: write nothing, tell what would be.
        batch: rows that are read and written at a time.

    In one transaction: the graphs fit the new version when it commits, or nothing has changed. A dry run takes no lock, and
    tells of the state that it read.

    Raises ModuleError when the module is not installed, is not newer, or when rows do not fit (not in a dry run).
    """
    check_module(module)
    with graph_database.use(database), nullcontext() if dry_run else database.atomic():
        stored = GraphType.get_or_none(GraphType.name == module.name)
        if stored is None:
            raise ModuleError(f"no module {module.name!r} is installed: install_module(db, module)")
        changes = version_changes(stored, module)
        report = UpgradeReport(module.name, stored.version, module.version, changes)
        if report.from_version == report.to_version:
            return report
        _Upgrade(database, stored, module, casts or {}, report, dry_run, batch).run()
        if report.problems and not dry_run:
            first = report.problems[0]
            raise ModuleError(
                f"{module.name} {module.version}: {len(report.problems)} rows do not fit, as the {first.what} {first.id}: "
                f"{first.path} {first.message}. Nothing has been changed; dry_run=True lists them, casts= may change them"
            )
        if not dry_run:
            apply_changes(stored, module, changes)
            report.applied = True
    return report


def cast_attributes(attributes: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes as a schema wants them, where that loses nothing by guessing.

    A missing property with a default gets it; text that is a number becomes one where only that is wanted, and numbers
    become text; where other properties are not allowed, they are left out.
    """
    properties: Mapping[str, Any] = schema.get("properties") or {}
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    made = {
        name: _cast_value(value, properties.get(name))
        for name, value in attributes.items()
        if name in properties or not closed
    }
    for name, wanted in properties.items():
        if name not in made and isinstance(wanted, Mapping) and "default" in wanted:
            made[name] = wanted["default"]
    return made


def _cast_value(value: Any, schema: Any) -> Any:
    wanted = schema.get("type") if isinstance(schema, Mapping) else None
    if wanted == "object" and isinstance(value, Mapping):
        return cast_attributes(value, schema)
    if wanted == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return json_text(value)
    if wanted in ("integer", "number") and isinstance(value, str):
        try:
            number = int(value) if wanted == "integer" else float(value)
            return number if json_text(number) == value or str(int(number)) == value else value
        except ValueError:  # no number, or none that JSON can hold ("nan", "inf")
            return value
    return value


class _Upgrade:
    """One run over the rows of the types that have changed."""

    def __init__(
        self,
        database: Any,
        stored: GraphType,
        module: GraphModule,
        casts: Mapping[str, Cast],
        report: UpgradeReport,
        dry_run: bool,
        batch: int,
    ) -> None:
        self._database, self._stored, self._module = database, stored, module
        self._casts, self._report, self._dry_run, self._batch = casts, report, dry_run, batch
        old = stored_module(stored)
        known = {*old.node_types, *old.edge_types, *module.node_types, *module.edge_types}
        if unknown := set(casts) - known:
            raise ModuleError(f"casts names {', '.join(sorted(unknown))}, which {module.name} does not have")

    def run(self) -> None:
        changed = {(change.part, change.name) for change in self._report.changes}
        for part, model, specs in (
            ("node_types", Node, self._module.node_types),
            ("edge_types", Edge, self._module.edge_types),
        ):
            known = {name for of, name in changed if of == part} | (set(self._casts) & set(specs))
            for name in sorted(known):
                self._rows(model, name, specs.get(name))
        if self._must_look_at_edges():
            self._edges()
        if any(change.part == "graph_type" and change.is_breaking for change in self._report.changes):
            for graph in Graph.select(Graph.id).where(Graph.graph_type == self._stored):
                for problem in structure_problems(self._database, graph.id, self._module.config):
                    self._problem("graph", graph.id, problem["path"], problem["message"])

    def _rows(self, model: Any, name: str, spec: Any) -> None:
        what = model.__name__.lower()
        for rows in _batches(model, self._stored, type_of(model) == name, self._batch):
            self._report.checked += len(rows)
            written = []
            for row in rows:
                if spec is None:
                    self._problem(what, row.id, "", f"its type {name} is gone")
                    continue
                cast = self._casts.get(name)
                made = cast(dict(row.attributes)) if cast else cast_attributes(row.attributes, spec.schema)
                for problem in problems_of(spec.schema, made):
                    self._problem(what, row.id, problem["path"], problem["message"])
                if made != row.attributes:
                    written.append([row.id, json_text(made)])
            self._report.cast += len(written)
            if written and not self._dry_run:
                self._database.execute_sql(
                    f"UPDATE {model._meta.table_name} SET attributes = j.value ->> 1, updated_at = ? "
                    f"FROM json_each(?) j WHERE {model._meta.table_name}.id = j.value ->> 0",
                    (now(), json_text(written)),
                )

    def _must_look_at_edges(self) -> bool:
        """Whether the ends of edges may not be allowed any longer."""
        ends = {"allowed_source_types", "allowed_target_types"}
        return any(
            change.part == "edge_types" and any(edit.breaking and ends.intersection(edit.path[:1]) for edit in change.edits)
            for change in self._report.changes
        )

    def _edges(self) -> None:
        for name, spec in self._module.edge_types.items():
            for rows in _batches(Edge, self._stored, type_of(Edge) == name, self._batch):
                kinds = _types_of_ends(rows)
                for edge in rows:
                    self._end(edge, name, spec, kinds)

    def _end(self, edge: Any, name: str, spec: EdgeSpec, kinds: Mapping[tuple[str, str], str | None]) -> None:
        for end, allowed, key in (
            ("source", spec.sources, edge.source_node_key),
            ("target", spec.targets, edge.target_node_key),
        ):
            kind = kinds.get((edge.graph_id, key))
            if allowed and kind not in allowed:
                self._problem(
                    "edge", edge.id, "", f"a {end} of type {kind!r} is not allowed for {name}: {', '.join(allowed)}"
                )

    def _problem(self, what: str, id_: str, path: str, message: str) -> None:
        if len(self._report.problems) < _MOST_PROBLEMS:
            self._report.problems.append(RowProblem(what, id_, path, message))


def _batches(model: Any, stored: GraphType, where: Any, size: int) -> Iterator[list[Any]]:
    last = ""
    while True:
        query = model.select().join(Graph).where((Graph.graph_type == stored) & where & (model.id > last))
        rows = list(query.order_by(model.id).limit(size))
        if not rows:
            return
        yield rows
        last = rows[-1].id


def _types_of_ends(edges: list[Any]) -> dict[tuple[str, str], str | None]:
    keys = {(edge.graph_id, key) for edge in edges for key in (edge.source_node_key, edge.target_node_key)}
    wanted = json_text([list(key) for key in keys])
    within = SQL("(t1.graph_id, t1.key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))", [wanted])
    query = Node.select(Node.graph, Node.key, type_of(Node).alias("kind")).where(within)
    return {(graph_id, key): kind for graph_id, key, kind in query.tuples()}
