"""The contract written down: JSON Schema (2020-12) and OpenAPI 3.1 components from marshmallow schemas.

It is made with apispec, which the extra `openapi` installs: `pip install peewee-honker[openapi]`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from marshmallow import RAISE, Schema, fields

from peewee_honker.errors import HonkerError

__all__ = ["ContractError", "json_schema", "openapi_components"]

Direction = Literal["load", "dump", "both"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LOWER = ("minimum", "exclusiveMinimum", "minLength")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength")


class ContractError(HonkerError):
    """apispec, which writes contracts, is not installed."""


def json_schema(schema: Schema | type[Schema], *, direction: Direction = "both") -> dict[str, Any]:
    """The JSON Schema (2020-12) of a marshmallow schema.

    `direction` "load" describes what the schema loads, without its dump_only keys; "dump" what it dumps, without its
    load_only keys; "both" has them all, marked readOnly and writeOnly. Nested schemas come under `$defs`.
    """
    instance = schema() if isinstance(schema, type) else schema
    spec = _spec("contract", "1", direction)
    name = type(instance).__name__
    spec.components.schema(name, schema=instance)
    definitions: dict[str, Any] = spec.to_dict()["components"]["schemas"]
    top = definitions.pop(name)
    written = {"$schema": _DIALECT, "title": name, **top}
    if definitions:
        written["$defs"] = definitions
    return _moved(written, f"#/components/schemas/{name}", "#/components/schemas/", "#/$defs/")  # type: ignore[no-any-return]  # a dict gives a dict


def openapi_components(
    schemas: Mapping[str, Schema | type[Schema]], *, title: str = "API", version: str = "1", direction: Direction = "both"
) -> dict[str, Any]:
    """An OpenAPI 3.1 document with these schemas, by name, as its components."""
    spec = _spec(title, version, direction)
    for name, schema in schemas.items():
        spec.components.schema(name, schema=schema() if isinstance(schema, type) else schema)
    written: dict[str, Any] = spec.to_dict()
    return written


def _spec(title: str, version: str, direction: Direction) -> Any:
    try:
        from apispec import APISpec
        from apispec.ext.marshmallow import MarshmallowPlugin
        from apispec.ext.marshmallow.openapi import OpenAPIConverter
    except ImportError as error:
        raise ContractError("contracts are written by apispec: pip install 'peewee-honker[openapi]'") from error

    class DirectedConverter(OpenAPIConverter):
        def schema2jsonschema(self, schema: Any) -> Any:
            written = super().schema2jsonschema(schema)  # type: ignore[no-untyped-call]  # apispec's
            shown = schema.load_fields if direction == "load" else schema.dump_fields
            if direction != "both":
                keys = {field.data_key or name for name, field in shown.items()}
                written["properties"] = {key: one for key, one in written["properties"].items() if key in keys}
                written["required"] = [key for key in written.get("required", ()) if key in keys]
                if not written["required"]:
                    del written["required"]
            if schema.unknown == RAISE:
                written["additionalProperties"] = False
            return written

    class Plugin(MarshmallowPlugin):
        Converter = DirectedConverter

    plugin = Plugin(schema_name_resolver=_name_of)
    spec = APISpec(title=title, version=version, openapi_version="3.1.0", plugins=[plugin])
    plugin.converter.add_attribute_function(_form_of)  # type: ignore[union-attr]  # APISpec has just made it
    return spec


def _name_of(schema: Any) -> str:
    if isinstance(schema, str):
        return schema.rpartition(".")[2]
    return str((schema if isinstance(schema, type) else type(schema)).__name__)


def _form_of(_converter: Any, field: fields.Field[Any], *, ret: dict[str, Any], **_: Any) -> dict[str, Any]:
    """What a field says of its own JSON form, joined with what apispec has read from its validators."""
    if not hasattr(field, "json_schema"):
        return {}
    form: dict[str, Any] = field.json_schema()
    for key in ("type", "format"):
        ret.pop(key, None)
    for key in _LOWER:
        if key in ret and key in form:
            form[key] = max(ret[key], form[key])
    for key in _UPPER:
        if key in ret and key in form:
            form[key] = min(ret[key], form[key])
    if field.allow_none:
        _allow_null(form)
    return form


def _allow_null(form: dict[str, Any]) -> None:
    if "anyOf" in form:
        form["anyOf"] = [*form["anyOf"], {"type": "null"}]
    elif "type" in form:
        form["type"] = [*([form["type"]] if isinstance(form["type"], str) else form["type"]), "null"]
    elif "enum" in form:
        form["enum"] = [*form["enum"], None]


def _moved(written: Any, top: str, old: str, new: str) -> Any:
    """The references of OpenAPI as those of a JSON Schema that stands alone."""
    if isinstance(written, dict):
        return {
            key: ("#" if value == top else value.replace(old, new))
            if key == "$ref" and isinstance(value, str)
            else _moved(value, top, old, new)
            for key, value in written.items()
        }
    if isinstance(written, list):
        return [_moved(one, top, old, new) for one in written]
    return written
