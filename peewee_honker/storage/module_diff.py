"""What has changed between two versions of a module."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from peewee_honker.storage.modules import GraphModule, module_to_db_schema
from peewee_honker.storage.schema_diff import Edit, diff_schemas, is_compatible

__all__ = ["ModuleChange", "diff_modules"]


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """The edits of one part of a module: `graph_type`, or one of its `node_types` or `edge_types`, by name."""

    part: str
    name: str
    edits: tuple[Edit, ...]

    @property
    def is_breaking(self) -> bool:
        """Whether what is stored may not fit any longer."""
        return not is_compatible(self.edits)

    def __str__(self) -> str:
        paths = ", ".join(sorted({f"{edit.kind} /{'/'.join(edit.path)}" for edit in self.edits}))
        return f"{self.part} {self.name} ({paths})"


def diff_modules(old: GraphModule, new: GraphModule) -> list[ModuleChange]:
    """What makes one module into the other, by part; the version itself is left out. Empty when they are the same.

    A new type is compatible, a type that is gone is breaking. A config or the ends of an edge type break unless they allow
    all that they did.
    """
    before, after = module_to_db_schema(old), module_to_db_schema(new)
    changes = []
    kind_before, kind_after = ({**rows["graph_type"], "version": 0} for rows in (before, after))
    if edits := tuple(_classified(edit) for edit in diff_schemas(kind_before, kind_after)):
        changes.append(ModuleChange("graph_type", new.name, edits))
    for part in ("node_types", "edge_types"):
        had, has = ({row["name"]: row for row in rows[part]} for rows in (before, after))
        names = [*had, *(name for name in has if name not in had)]
        found = [(name, tuple(_row_edits(had.get(name), has.get(name)))) for name in names]
        changes += [ModuleChange(part, name, edits) for name, edits in found if edits]
    return changes


def _row_edits(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> list[Edit]:
    if old is None:
        return [Edit("insert", (), None, new, breaking=False)]
    if new is None:
        return [Edit("delete", (), old, None, breaking=True)]
    edits = [replace(edit, path=("schema", *edit.path)) for edit in diff_schemas(old["schema"], new["schema"])]
    others = [name for name in new if name != "schema" and old[name] != new[name]]
    edits += [_classified(Edit("update", (name,), old[name], new[name])) for name in others]
    return edits


def _classified(edit: Edit) -> Edit:
    """An edit outside of JSON Schemas, with whether it is breaking."""
    name = edit.path[-1]
    if name in ("allowed_source_types", "allowed_target_types"):
        allows_all = not edit.new or (edit.old and set(edit.old) <= set(edit.new))
        return replace(edit, breaking=not allows_all)
    if edit.path[0] == "config":
        harmless = {"type": edit.new == "mixed", "multi": bool(edit.new), "allowSelfLoops": bool(edit.new)}
        return replace(edit, breaking=not harmless.get(name, not edit.new))
    return replace(edit, breaking=False)
