"""Contracts of operations, as data: what goes in, what comes out, what can go wrong, and who may."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["AccessControl", "ErrorSpec", "Identity", "OperationSpec", "OperationType"]

Schema = Mapping[str, Any]


class OperationType(StrEnum):
    """What an operation does: reads, changes, or tells again and again."""

    QUERY = "query"
    MUTATION = "mutation"
    SUBSCRIPTION = "subscription"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: `scopes` such as `orders:read`, and by resource (`order:17`) which actions are allowed on it."""

    id: str
    scopes: tuple[str, ...] = ()
    resources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        resources = {name: list(actions) for name, actions in self.resources.items()}
        return {"id": self.id, "scopes": list(self.scopes), "resources": resources}

    @classmethod
    def from_json(cls, value: Any) -> "Identity":
        """What `to_json` gave. Raises ValueError for what is no identity."""
        if not isinstance(value, Mapping) or not isinstance(value.get("id"), str):
            raise ValueError("no identity: it has an id")
        scopes: Any = value.get("scopes", [])
        resources: Any = value.get("resources", {})
        if not _are_texts(scopes):
            raise ValueError("an identity's scopes are a list of texts")
        if not isinstance(resources, Mapping) or not all(map(_are_texts, resources.values())):
            raise ValueError("an identity's resources are lists of actions by resource")
        return cls(value["id"], tuple(scopes), {str(name): tuple(actions) for name, actions in resources.items()})


@dataclass(frozen=True, slots=True)
class AccessControl:
    """Who may: all of `required_scopes`, one of `required_scopes_any`, and `resource_action` on some resource of
    `resource_type`. Nothing required admits anyone."""

    required_scopes: tuple[str, ...] = ()
    required_scopes_any: tuple[str, ...] = ()
    resource_type: str | None = None
    resource_action: str | None = None

    def __post_init__(self) -> None:
        if (self.resource_type is None) != (self.resource_action is None):
            raise ValueError("resource_type and resource_action are given both, or neither")

    def admits(self, identity: Identity | None) -> bool:
        """Whether an identity, or nobody, may."""
        if not (self.required_scopes or self.required_scopes_any or self.resource_type):
            return True
        if identity is None or not set(self.required_scopes) <= set(identity.scopes):
            return False
        if self.required_scopes_any and not set(self.required_scopes_any) & set(identity.scopes):
            return False
        return self.resource_type is None or any(
            name.startswith(f"{self.resource_type}:") and self.resource_action in actions
            for name, actions in identity.resources.items()
        )


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """An error of an operation's own: its code, the JSON Schema of its details, and the status it has over HTTP."""

    code: str
    description: str = ""
    schema: Schema = field(default_factory=dict)
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """The contract of an operation.

    - `namespace`, `name`: together its id, `orders.create`.
    - `type`: see `OperationType`.
    - `input_schema`, `output_schema`: JSON Schemas (2020-12); of a subscription, the output's is that of each response.
    - `error_schemas`: its own errors, beside those that every operation has.
    - `idempotent`: whether it may be executed again when nobody knows if it was: by default only what changes nothing.
    """

    namespace: str
    name: str
    type: OperationType
    input_schema: Schema
    output_schema: Schema
    version: str = "1.0.0"
    title: str | None = None
    description: str | None = None
    tags: tuple[str, ...] = ()
    error_schemas: tuple[ErrorSpec, ...] = ()
    access_control: AccessControl = AccessControl()
    idempotent: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in (self.namespace, self.name):
            if not isinstance(part, str) or not part or any(sign in part for sign in ".:/* "):
                raise ValueError(
                    f"{part!r} is no part of an operation's id: it is text without '.', ':', '/', '*' and spaces"
                )

    @property
    def id(self) -> str:
        """`namespace.name`."""
        return f"{self.namespace}.{self.name}"

    @property
    def may_repeat(self) -> bool:
        """Whether it may be executed again."""
        return self.type is not OperationType.MUTATION if self.idempotent is None else self.idempotent

    def to_json(self) -> dict[str, Any]:
        """The contract as JSON values."""
        access = self.access_control
        return {
            "namespace": self.namespace,
            "name": self.name,
            "type": self.type.value,
            "version": self.version,
            "title": self.title,
            "description": self.description,
            "tags": list(self.tags),
            "input_schema": dict(self.input_schema),
            "output_schema": dict(self.output_schema),
            "error_schemas": [
                {
                    "code": one.code,
                    "description": one.description,
                    "schema": dict(one.schema),
                    "http_status": one.http_status,
                }
                for one in self.error_schemas
            ],
            "access_control": {
                "required_scopes": list(access.required_scopes),
                "required_scopes_any": list(access.required_scopes_any),
                "resource_type": access.resource_type,
                "resource_action": access.resource_action,
            },
            "idempotent": self.idempotent,
            "meta": dict(self.meta),
        }

    @classmethod
    def from_json(cls, value: Any) -> "OperationSpec":
        """What `to_json` gave. Raises ValueError for what is no contract."""
        try:
            access = value.get("access_control") or {}
            return cls(
                value["namespace"],
                value["name"],
                OperationType(value["type"]),
                dict(value["input_schema"]),
                dict(value["output_schema"]),
                value.get("version", "1.0.0"),
                value.get("title"),
                value.get("description"),
                tuple(value.get("tags", ())),
                tuple(
                    ErrorSpec(one["code"], one.get("description", ""), one.get("schema", {}), one.get("http_status"))
                    for one in value.get("error_schemas", ())
                ),
                AccessControl(
                    tuple(access.get("required_scopes", ())),
                    tuple(access.get("required_scopes_any", ())),
                    access.get("resource_type"),
                    access.get("resource_action"),
                ),
                value.get("idempotent"),
                dict(value.get("meta", {})),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no contract of an operation: {error!r}") from error


def _are_texts(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)
