"""Whether a node or an edge is what its type says. Nothing here asks a database."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from peewee_honker.storage.errors import Problem, StorageError
from peewee_honker.storage.modules import EdgeSpec, GraphModule, NodeSpec
from peewee_honker.storage.quick import Check, quick_check

__all__ = ["Rules", "check_schema", "narrows", "problems_of", "validate_edge", "validate_node", "without_secrets"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a graph type allows: of a module, or as it is stored."""

    name: str
    config: Mapping[str, Any]
    node_types: Mapping[str, NodeSpec]
    edge_types: Mapping[str, EdgeSpec]


def validate_node(rules: Rules | GraphModule, type_: str | None, attributes: Any) -> list[Problem]:
    """What is wrong with a node of a type: `{path, message}`, the path a JSON Pointer into the attributes. Empty when valid.

    Messages name what the schema wants and never quote values, which may be secret.
    """
    spec = rules.node_types.get(type_ or "")
    if spec is None:
        return [_unknown("node", type_, rules.node_types)]
    return problems_of(spec.schema, attributes)


def validate_edge(
    rules: Rules | GraphModule,
    type_: str | None,
    attributes: Any,
    *,
    source_type: str | None = None,
    target_type: str | None = None,
    source_attributes: Mapping[str, Any] | None = None,
    undirected: bool = False,
    self_loop: bool = False,
) -> list[Problem]:
    """What is wrong with an edge of a type between nodes of these types, as `validate_node`.

    Arguments:
        source_attributes: of the source node, for what an edge may only narrow (`x-subsetOfSource`).
        undirected: whether the edge has no direction.
        self_loop: whether it ends where it begins.

    What depends on the other edges of the graph (a second edge, a cycle) is for the repository.
    """
    spec = rules.edge_types.get(type_ or "")
    if spec is None:
        return [_unknown("edge", type_, rules.edge_types)]
    problems = problems_of(spec.schema, attributes)
    for end, allowed, found in (("source", spec.sources, source_type), ("target", spec.targets, target_type)):
        if allowed and found not in allowed:
            told = f"a {end} of type {found!r} is not allowed for {type_}: {', '.join(allowed)}"
            problems.append({"path": "", "message": told})
    direction = rules.config["type"]
    if (direction == "directed" and undirected) or (direction == "undirected" and not undirected):
        problems.append({"path": "", "message": f"the edges of {rules.name} are {direction}"})
    if self_loop and not rules.config["allowSelfLoops"]:
        problems.append({"path": "", "message": f"{rules.name} allows no edge from a node to itself"})
    if not problems and isinstance(attributes, Mapping):
        problems += _beyond_source(spec.schema, attributes, source_attributes or {})
    return problems


def problems_of(schema: Mapping[str, Any], value: Any) -> list[Problem]:
    """What is wrong with a value by a JSON Schema. Raises StorageError when jsonschema is not installed."""
    validator, is_right = _checks(_text(schema))
    if is_right is not None and is_right(value):
        return []
    found: dict[tuple[str, str], Problem] = {}
    for error in validator.iter_errors(value):
        for path, message in _told(error):
            found.setdefault((path, message), {"path": path, "message": message})
    return list(found.values())


def check_schema(schema: Any) -> list[Problem]:
    """What is wrong with a JSON Schema itself."""
    kind = _jsonschema().Draft202012Validator
    validator = kind(kind.META_SCHEMA)
    return [{"path": _pointer(error.absolute_path), "message": error.message} for error in validator.iter_errors(schema)]


def without_secrets(schema: Mapping[str, Any] | None, attributes: Any) -> Any:
    """The attributes without those whose property says `writeOnly`; for events."""
    properties = (schema or {}).get("properties") or {}
    if not isinstance(attributes, Mapping):
        return attributes
    return {name: value for name, value in attributes.items() if not _is_secret(properties.get(name))}


def narrows(schema: Mapping[str, Any]) -> bool:
    """Whether an edge's schema asks for a subset of what its source node has."""
    properties = schema.get("properties") or {}
    return any(isinstance(one, Mapping) and "x-subsetOfSource" in one for one in properties.values())


def _is_secret(schema: Any) -> bool:
    return isinstance(schema, Mapping) and bool(schema.get("writeOnly"))


def _beyond_source(schema: Mapping[str, Any], attributes: Mapping[str, Any], source: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    for name, wanted in (schema.get("properties") or {}).items():
        if isinstance(wanted, Mapping) and (of := wanted.get("x-subsetOfSource")) and name in attributes:
            allowed = source.get(of) or []
            if any(item not in allowed for item in attributes[name]):
                problems.append({"path": "/" + _escaped(name), "message": f"must be a subset of the source's {of}"})
    return problems


def _unknown(what: str, type_: str | None, known: Mapping[str, Any]) -> Problem:
    told = f"{what} type {type_!r} is not one of {', '.join(known)}" if type_ else f"has no type: one of {', '.join(known)}"
    return {"path": "", "message": told}


def _jsonschema() -> Any:
    try:
        import jsonschema  # type: ignore[import-untyped]  # ships no types
    except ImportError as error:
        raise StorageError("checking attributes needs jsonschema: pip install 'peewee-honker[storage]'") from error
    return jsonschema


_texts: dict[int, tuple[Any, str]] = {}  # of schemas seen last; the schema beside its text keeps its identity


def _text(schema: Mapping[str, Any]) -> str:
    known = _texts.get(id(schema))
    if known is not None and known[0] is schema:
        return known[1]
    if len(_texts) > 1000:
        _texts.clear()
    text = json.dumps(schema)
    _texts[id(schema)] = (schema, text)
    return text


@lru_cache(maxsize=500)
def _checks(text: str) -> tuple[Any, Check | None]:
    """jsonschema's validator, and what is asked before it."""
    schema = json.loads(text)
    return _jsonschema().Draft202012Validator(schema), quick_check(schema)


_MESSAGES = {
    "additionalProperties": "is not a known property",
    "anyOf": "matches none of the allowed forms",
    "oneOf": "does not match exactly one of the allowed forms",
    "not": "has a form that is not allowed",
    "uniqueItems": "has equal items",
}


def _told(error: Any) -> Iterator[tuple[str, str]]:
    """What an error of jsonschema says, without the value."""
    path = _pointer(error.absolute_path)
    keyword, wanted = error.validator, error.validator_value
    if keyword == "required":
        yield from ((f"{path}/{_escaped(name)}", "is required") for name in wanted if name not in error.instance)
    elif keyword == "additionalProperties" and wanted is False and not error.schema.get("patternProperties"):
        known = error.schema.get("properties", {})
        yield from ((f"{path}/{_escaped(name)}", _MESSAGES[keyword]) for name in error.instance if name not in known)
    elif keyword == "type":
        names = [wanted] if isinstance(wanted, str) else wanted
        yield path, f"must be of type {' or '.join(names)}"
    elif keyword == "enum":
        yield path, f"must be one of {', '.join(json.dumps(value) for value in wanted)}"
    elif keyword in _MESSAGES or keyword is None:
        yield path, _MESSAGES.get(keyword, "is not allowed")
    else:
        yield path, f"must keep to {keyword} {json.dumps(wanted)}"


def _pointer(path: Any) -> str:
    return "".join(f"/{_escaped(str(part))}" for part in path)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
