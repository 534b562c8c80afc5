"""What has changed between two JSON Schemas, whether stored values still fit, and making one into the other."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Edit", "diff_schemas", "is_compatible", "patch_schema"]

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "$comment", "deprecated", "readOnly", "writeOnly", "format"}
)  # `format` is not asserted here
# Keywords that only refuse values, and that mean the same whatever stands beside them: without one, no value is lost.
_LOWER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_UPPER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_SUBSET = "x-subsetOfSource"
_RESTRICTING = (
    _LOWER | _UPPER | {"enum", "const", "pattern", "uniqueItems", "multipleOf", "required", "type", "propertyNames", _SUBSET}
)
_ENTANGLED = frozenset(
    {"unevaluatedProperties", "unevaluatedItems", "$ref", "$dynamicRef", "$id", "$anchor", "$dynamicAnchor"}
)


@dataclass(frozen=True, slots=True)
class Edit:
    """One change: at `path` (keys from the schema's root) something was inserted, updated or deleted.

    - `breaking`: whether a value that was valid may be so no longer, because of this edit.
    """

    kind: Literal["insert", "update", "delete"]
    path: tuple[str, ...]
    old: Any = None
    new: Any = None
    breaking: bool = True


def diff_schemas(old: Any, new: Any) -> list[Edit]:
    """The edits that make one schema into the other. Objects are compared by key, everything else as a whole.

    Each edit is classified. It is said to be compatible only where every value that the old schema takes is certain to be
    taken by the new one; what cannot be seen easily (`$ref`, `oneOf`, conditions, ...) counts as breaking.
    """
    entangled = _mentions(old, _ENTANGLED) or _mentions(new, _ENTANGLED)
    edits: list[Edit] = []
    for kind, path, before, after in _edits(old, new, ()):
        breaking = not _harmless(old, new, path, kind, before, after, entangled)
        edits.append(Edit(kind, path, copy.deepcopy(before), copy.deepcopy(after), breaking))
    return edits


def is_compatible(edits: Iterable[Edit]) -> bool:
    """Whether no edit is breaking."""
    return not any(edit.breaking for edit in edits)


def patch_schema(schema: Any, edits: Iterable[Edit]) -> Any:
    """The schema with the edits made; the one given stays as it is. Raises KeyError where a path is not there."""
    made = copy.deepcopy(schema)
    for edit in edits:
        if not edit.path:
            made = copy.deepcopy(edit.new)
            continue
        place = made
        for key in edit.path[:-1]:
            place = place[key]
        if edit.kind == "delete":
            del place[edit.path[-1]]
        else:
            place[edit.path[-1]] = copy.deepcopy(edit.new)
    return made


_Found = tuple[Literal["insert", "update", "delete"], tuple[str, ...], Any, Any]


def _edits(old: Any, new: Any, path: tuple[str, ...]) -> list[_Found]:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [] if _same(old, new) else [("update", path, old, new)]
    found: list[_Found] = [("delete", (*path, key), old[key], None) for key in old if key not in new]
    for key, value in new.items():
        if key in old:
            found += _edits(old[key], value, (*path, key))
        else:
            found.append(("insert", (*path, key), None, value))
    return found


def _same(old: Any, new: Any) -> bool:
    """Equal as JSON: 1 and True are not."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(value, new[key]) for key, value in old.items())
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return len(old) == len(new) and all(map(_same, old, new))
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


def _mentions(schema: Any, keywords: frozenset[str]) -> bool:
    if isinstance(schema, Mapping):
        return any(key in keywords or _mentions(value, keywords) for key, value in schema.items())
    return isinstance(schema, (list, tuple)) and any(_mentions(item, keywords) for item in schema)


def _harmless(old: Any, new: Any, path: Sequence[str], kind: str, before: Any, after: Any, entangled: bool) -> bool:
    """Whether an edit loses no value. Walks to the schema in which it was made."""
    place = list(path)
    while len(place) > 1 and isinstance(old, Mapping) and isinstance(new, Mapping):
        if place[0] == "properties" and len(place) > 2 and "properties" in old and "properties" in new:
            old, new, place = old["properties"][place[1]], new["properties"][place[1]], place[2:]
        elif place[0] in ("items", "additionalProperties"):
            old, new, place = old[place[0]], new[place[0]], place[1:]
        else:
            break
    if entangled:
        return bool(place) and place[0] in _ANNOTATIONS
    if not place:  # the schema itself, which was or is true or false
        return _takes_all(after) or before is False
    if len(place) == 1:
        return _harmless_keyword(old, new, place[0], kind, before, after)
    if place[0] == "properties" and len(place) == 2:
        return _harmless_property(old, new, kind, before, after)
    return False


def _harmless_property(old: Any, new: Any, kind: str, before: Any, after: Any) -> bool:
    if "patternProperties" in old or "patternProperties" in new:
        return False
    if kind == "insert":  # a value may have had the property already, unless there was none but the known ones
        return _takes_all(after) or old.get("additionalProperties", True) is False
    if kind == "delete":
        return _takes_all(new.get("additionalProperties", True))
    return _takes_all(after) or before is False


def _harmless_keyword(old: Any, new: Any, keyword: str, kind: str, before: Any, after: Any) -> bool:
    if _is_annotation(keyword):
        return True
    if keyword == "properties" and kind in ("insert", "delete"):
        inner = (before if kind == "delete" else after) or {}
        return all(_harmless_property(old, new, kind, inner.get(name), inner.get(name)) for name in inner)
    if keyword == "additionalProperties":
        closed_before = kind != "insert" and before is False
        return kind == "delete" or _takes_all(after) or closed_before
    if keyword == "items":
        return kind == "delete" or _takes_all(after) or (kind == "update" and before is False)
    if keyword in _RESTRICTING and kind == "delete":
        return True
    if kind != "update":
        return False
    if keyword == "required":
        return set(after) <= set(before)
    if keyword == "enum":
        return all(any(_same(one, other) for other in after) for one in before)
    if keyword == "type":
        return _types(before) <= _types(after)
    if keyword in _LOWER:
        return bool(after <= before)
    if keyword in _UPPER:
        return bool(after >= before)
    return keyword == "uniqueItems" and after is False


def _types(value: Any) -> set[str]:
    names = {value} if isinstance(value, str) else set(value)
    return names | {"integer"} if "number" in names else names


def _takes_all(schema: Any) -> bool:
    return schema is True or (isinstance(schema, Mapping) and all(map(_is_annotation, schema)))


def _is_annotation(keyword: str) -> bool:
    return keyword in _ANNOTATIONS or (keyword.startswith("x-") and keyword != _SUBSET)
