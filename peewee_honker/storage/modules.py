"""Modules: graph types as data, with a JSON Schema for the attributes of each type of nodes and edges."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peewee_honker.storage.errors import ModuleError
from peewee_honker.storage.metagraph import Scope

__all__ = [
    "CONFIG_SCHEMA",
    "AclGraph",
    "CallGraph",
    "EdgeSpec",
    "GraphModule",
    "MetagraphModule",
    "NodeSpec",
    "SecretGraph",
    "module_to_db_schema",
]

Schema = Mapping[str, Any]

CONFIG_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "type": {"enum": ["directed", "undirected", "mixed"]},
        "multi": {"type": "boolean"},
        "allowSelfLoops": {"type": "boolean"},
        "acyclic": {"type": "boolean"},
    },
    "required": ["type", "multi", "allowSelfLoops"],
    "additionalProperties": False,
}
"""What a graph type's config is: graphology's keys, and `acyclic` for directed graphs that may have no cycle."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A type of nodes: the JSON Schema (2020-12) of the attributes.

    A property with `"writeOnly": true` is left out of events.
    """

    schema: Schema
    description: str = ""


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """A type of edges; `sources` and `targets` are names of node types, and none allows all.

    In the schema, a property's `"x-subsetOfSource": "scopes"` says that its items are among those of the source node's
    attribute of that name.
    """

    schema: Schema = field(default_factory=lambda: {"type": "object"})
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class GraphModule:
    """A graph type with its types of nodes and edges, as data.

    - `version`: is raised with every change; a module of an installed version is never changed.
    - `config`: see `CONFIG_SCHEMA`.
    """

    name: str
    config: Schema
    node_types: Mapping[str, NodeSpec]
    edge_types: Mapping[str, EdgeSpec]
    version: int = 1
    description: str = ""
    scope: Scope = Scope.SYSTEM

    def __post_init__(self) -> None:
        if not self.name or self.version < 1:
            raise ModuleError(f"a module has a name and a version from 1 on: {self.name!r}, {self.version}")
        if self.config.get("acyclic") and self.config.get("type") != "directed":
            raise ModuleError(f"{self.name}: only a directed graph can be acyclic")
        for name, spec in self.edge_types.items():
            if unknown := {*spec.sources, *spec.targets} - set(self.node_types):
                raise ModuleError(
                    f"{self.name}: the edge type {name} names unknown node types: {', '.join(sorted(unknown))}"
                )

    def to_json(self) -> str:
        """The module as JSON text."""
        return json.dumps(module_to_db_schema(self))

    @classmethod
    def from_json(cls, text: str) -> "GraphModule":
        """The module that `to_json` gave. Raises ModuleError for other text."""
        try:
            value = json.loads(text)
            kind = value["graph_type"]
            return cls(
                kind["name"],
                kind["config"],
                {row["name"]: NodeSpec(row["schema"], row["description"]) for row in value["node_types"]},
                {
                    row["name"]: EdgeSpec(
                        row["schema"],
                        tuple(row["allowed_source_types"]),
                        tuple(row["allowed_target_types"]),
                        row["description"],
                    )
                    for row in value["edge_types"]
                },
                kind["version"],
                kind["description"],
                Scope(kind["scope"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModuleError(f"not a module's JSON: {error!r}") from error


def module_to_db_schema(module: GraphModule) -> dict[str, Any]:
    """The rows that a module is in the database: `graph_type`, and lists of `node_types` and `edge_types`."""
    return {
        "graph_type": {
            "name": module.name,
            "description": module.description,
            "config": dict(module.config),
            "version": module.version,
            "scope": module.scope.value,
        },
        "node_types": [
            {"name": name, "description": spec.description, "schema": dict(spec.schema)}
            for name, spec in module.node_types.items()
        ],
        "edge_types": [
            {
                "name": name,
                "description": spec.description,
                "schema": dict(spec.schema),
                "allowed_source_types": list(spec.sources),
                "allowed_target_types": list(spec.targets),
            }
            for name, spec in module.edge_types.items()
        ],
    }


_TEXT: Schema = {"type": "string", "minLength": 1}
_TEXTS: Schema = {"type": "array", "items": {"type": "string"}}
_TIME: Schema = {"type": "number", "description": "Milliseconds since 1970."}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> Schema:
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


ENCRYPTED_VALUE: Schema = {
    **_object({"keyVersion": {"type": "integer", "minimum": 1}, "salt": _TEXT, "iv": _TEXT, "data": _TEXT}),
    "writeOnly": True,
}

MetagraphModule = GraphModule(
    "Metagraph",
    {"type": "mixed", "multi": True, "allowSelfLoops": True},
    {"BaseNode": NodeSpec({"type": "object"}, "Any attributes.")},
    {"BaseEdge": EdgeSpec({"type": "object"}, description="Any attributes, between any nodes.")},
    description="The base: any graph.",
)

CallGraph = GraphModule(
    "CallGraph",
    {"type": "directed", "multi": False, "allowSelfLoops": False, "acyclic": True},
    {
        "call": NodeSpec(
            _object(
                {
                    "request_id": _TEXT,
                    "operation_id": _TEXT,
                    "status": {"enum": ["pending", "running", "completed", "failed", "aborted"]},
                },
                {
                    "parent_request_id": {"type": ["string", "null"]},
                    "input": {},
                    "output": {},
                    "error": {},
                    "identity": {},
                    "started_at": _TIME,
                    "completed_at": _TIME,
                },
            ),
            "A call of an operation.",
        )
    },
    {
        "triggered": EdgeSpec(_object({}), ("call",), ("call",), "From a call to one that it made."),
        "depends_on": EdgeSpec(_object({}), ("call",), ("call",), "A call needs the result of another."),
    },
    description="Calls of operations.",
)

SecretGraph = GraphModule(
    "SecretGraph",
    {"type": "directed", "multi": False, "allowSelfLoops": False},
    {
        "secret": NodeSpec(
            _object({"name": _TEXT, "value": ENCRYPTED_VALUE}, {"description": {"type": "string"}, "expires_at": _TIME}),
            "An encrypted value.",
        ),
        "holder": NodeSpec(
            _object({"identity_type": {"enum": ["account", "org", "service", "role"]}, "identity_id": _TEXT}),
            "Who may have secrets.",
        ),
    },
    {
        "granted_to": EdgeSpec(
            _object({}, {"expires_at": _TIME}), ("secret",), ("holder",), "The holder may read the secret."
        ),
        "replaced_by": EdgeSpec(_object({}), ("secret",), ("secret",), "From an old secret to its successor."),
    },
    description="Secrets and who may read them.",
)

AclGraph = GraphModule(
    "AclGraph",
    {"type": "directed", "multi": True, "allowSelfLoops": False},
    {
        "principal": NodeSpec(
            _object(
                {
                    "identity_type": {"enum": ["account", "org", "service", "role"]},
                    "identity_id": _TEXT,
                    "scopes": _TEXTS,
                },
                {"resources": {"type": "object", "additionalProperties": _TEXTS}},
            ),
            "Who may do something.",
        ),
        "resource": NodeSpec(_object({"resource_type": _TEXT, "resource_id": _TEXT}), "What it may be done to."),
    },
    {
        **{name: EdgeSpec(_object({}), ("principal",), ("resource",)) for name in ("can_read", "can_write", "can_execute")},
        "belongs_to": EdgeSpec(
            _object({}), ("principal",), ("principal",), "A member of an organisation, a bearer of a role."
        ),
        "delegates": EdgeSpec(
            _object({"narrowed_scopes": {**_TEXTS, "x-subsetOfSource": "scopes"}}),
            ("principal",),
            ("principal",),
            "Lends some of its scopes.",
        ),
    },
    description="Access: principals, resources and what is allowed.",
)
