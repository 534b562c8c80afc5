"""The contract of a schema written out: JSON Schema 2020-12, and components of OpenAPI 3.1.

Needs apispec (`pip install peewee-honker[openapi]`), which knows marshmallow's fields; here stands what it cannot know of
the strict ones. Works for any marshmallow schema.

What a schema loads, its contract accepts. The contract says a little less than the schema where JSON Schema has no word for
it: days that are in no calendar, the digits of a decimal, validators that are functions.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import marshmallow
from marshmallow import fields, validate

try:
    import apispec
    from apispec.ext import marshmallow as plugin
    from apispec.ext.marshmallow import common
    from apispec.ext.marshmallow.openapi import OpenAPIConverter
except ImportError as error:  # pragma: no cover
    raise ImportError("the contract of a schema is written by apispec: pip install 'peewee-honker[openapi]'") from error

from . import strict
from .relations import Related

__all__ = ["json_schema", "openapi_components"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COMPONENTS = "#/components/schemas/"


def openapi_components(*schemas: Any) -> dict[str, Any]:
    """Give schemas as the `components` of an OpenAPI 3.1 document.

        document = {"openapi": "3.1.0", "info": ..., "paths": ..., "components": openapi_components(OrderIn, OrderOut)}

    Arguments:
        schemas: marshmallow schemas, classes or instances. Schemas nested in them come too.

    Returns: {"schemas": {name: schema}}. A schema is called as its class, without "Schema" at the end; a second one of the
    name gets a number. Keys that are only loaded or only dumped are marked writeOnly and readOnly.
    """
    spec, add = _spec()
    for schema in schemas:
        add(schema)
    components: dict[str, Any] = spec.to_dict().get("components", {})
    return {"schemas": dict(components.get("schemas", {}))}


def json_schema(schema: Any, direction: Literal["load", "dump"] = "load") -> dict[str, Any]:
    """Give a schema as JSON Schema, draft 2020-12.

    Arguments:
        schema: a marshmallow schema, class or instance; with `many=True` the contract is that of a list.
        direction: "load" for what may be sent to it, "dump" for what it writes of a whole row. Keys that are only for the
            other direction are left out; nothing that is dumped is absent.
    """
    spec, add = _spec()
    root = add(schema)
    found: dict[str, Any] = spec.to_dict()["components"]["schemas"]
    written = {name: _directed(_moved(body), direction) for name, body in found.items()}
    whole: dict[str, Any] = {"$schema": DIALECT}
    if common.resolve_schema_instance(schema).many:
        whole |= {"type": "array", "items": {"$ref": f"#/$defs/{root}"}}
    else:
        own = written[root]
        if f"#/$defs/{root}" not in set(_references(list(written.values()))):
            del written[root]
        whole |= {"title": root, **own}
    return whole | ({"$defs": written} if written else {})


class _Converter(OpenAPIConverter):
    """apispec's converter, with what the strict fields say and whether other keys are taken."""

    def init_attribute_functions(self) -> None:
        super().init_attribute_functions()  # type: ignore[no-untyped-call]  # apispec's
        self.attribute_functions += [self.related2properties, _form]

    def related2properties(self, field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
        """Say what key a Related takes: that of its one column, or an object of several."""
        if not isinstance(field, Related):
            return {}
        parts = {name: self.field2property(part) for name, part in field.by.items()}
        if len(parts) == 1:
            found: dict[str, Any] = next(iter(parts.values()))
        else:
            found = {"type": "object", "properties": parts, "required": list(parts)}
        kinds = found.get("type")
        if field.allow_none and isinstance(kinds, str):
            found["type"] = [kinds, "null"]
        return found

    def schema2jsonschema(self, schema: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().schema2jsonschema(schema)  # type: ignore[no-untyped-call]  # apispec's
        found["additionalProperties"] = common.resolve_schema_instance(schema).unknown != marshmallow.RAISE
        return found


class _Plugin(plugin.MarshmallowPlugin):
    Converter = _Converter


def _spec() -> tuple[apispec.APISpec, Callable[[Any], str]]:
    """Give a fresh document, and what adds a schema to it and tells its name."""

    def name_of(schema: Any) -> str:
        base = type(common.resolve_schema_instance(schema)).__name__
        base = base.removesuffix("Schema") or base
        name, number = base, 2
        while name in spec.components.schemas:
            name, number = f"{base}{number}", number + 1
        return name

    made = _Plugin(schema_name_resolver=name_of)
    spec = apispec.APISpec("", "", "3.1.0", plugins=[made])

    def add(schema: Any) -> str:
        one = common.resolve_schema_instance(schema)
        assert made.converter is not None  # noqa: S101 # APISpec has made it
        key = common.make_schema_key(one)
        if key not in made.converter.refs:
            spec.components.schema(name_of(one), schema=one)
        return str(made.converter.refs[key])

    return spec, add


def _form(field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Say what apispec cannot know of a field; it calls this last, with what it found itself."""
    for extra in ("x-minimum", "x-maximum"):
        ret.pop(extra, None)
    found = dict(_pattern(field, ret))
    if isinstance(field, (fields.Integer, fields.Float)):
        found |= _bounds(field, ret)
    if isinstance(field, fields.Nested) and field.many and "$ref" in ret:  # marshmallow 4.0 tells it to classes only
        found |= {"type": "array", "items": {"$ref": ret.pop("$ref")}}
    if "enum" in ret:
        found["enum"] = [_plain(field, value) for value in ret["enum"]]
    return found


def _pattern(field: fields.Field[Any], ret: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(field, strict.Decimal):
        yield "type", ["string", "null"] if field.allow_none else "string"
        yield "pattern", _whole(strict.NUMBER.pattern)
    elif isinstance(field, strict.Blob):
        yield "contentEncoding", "base64"
        yield "pattern", _whole(strict.BASE64.pattern)
    elif isinstance(field, strict.IPv4):
        yield "format", "ipv4"
    elif isinstance(field, strict.Json) and not field.allow_none:
        yield "type", ["object", "array", "string", "number", "boolean"]
    elif isinstance(field, (strict.Date, strict.DateTime, strict.Time)) and field.format in (None, "iso", "iso8601"):
        # The format "date-time" has an offset always, a column of SQLite may have none.
        if field.also or not isinstance(field, strict.Date):
            ret.pop("format", None)
        if not field.also:
            yield "pattern", _whole(field.iso.pattern)


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"


def _plain(field: fields.Field[Any], value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else field._serialize(value, None, None)


def _bounds(field: fields.Field[Any], ret: dict[str, Any]) -> dict[str, Any]:
    """Give the narrowest bounds of all ranges. apispec rounds them, and does not ask whether a bound is included."""
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        ret.pop(name, None)
    found: dict[str, Any] = {}
    ranges = [check for check in field.validators if isinstance(check, validate.Range)]
    lows = [(check.min, not check.min_inclusive) for check in ranges if check.min is not None]
    highs = [(check.max, check.max_inclusive) for check in ranges if check.max is not None]
    if lows:
        low, excluded = max(lows)
        found["exclusiveMinimum" if excluded else "minimum"] = _number(low)
    if highs:
        high, included = min(highs)
        found["maximum" if included else "exclusiveMaximum"] = _number(high)
    return found


def _number(value: Any) -> int | float:
    return value if isinstance(value, (int, float)) else float(value)


def _moved(node: Any) -> Any:
    """Give a part of a document with its references as JSON Schema has them."""
    if isinstance(node, dict):
        return {
            key: f"#/$defs/{value.removeprefix(COMPONENTS)}" if key == "$ref" and isinstance(value, str) else _moved(value)
            for key, value in node.items()
        }
    return [_moved(item) for item in node] if isinstance(node, list) else node


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def _directed(body: dict[str, Any], direction: str) -> dict[str, Any]:
    other = "readOnly" if direction == "load" else "writeOnly"
    properties = {name: part for name, part in body.get("properties", {}).items() if not part.get(other)}
    required = list(properties) if direction == "dump" else [name for name in body.get("required", ()) if name in properties]
    kept = {key: value for key, value in body.items() if key not in ("properties", "required")}
    return kept | {"properties": properties} | ({"required": required} if required else {})
