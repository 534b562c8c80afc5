"""Whether a value is certainly what its JSON Schema says, found without jsonschema, which takes ten times as long.

Only plain values (as `json.loads` gives them) and the common keywords are known here. What is not certain is for jsonschema,
which also says what is wrong.
"""

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

__all__ = ["Check", "quick_check"]

Check = Callable[[Any], bool]
"""True only when the value is right."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),  # exact types: no bool; 1.0 is an integer too, for jsonschema to say
    "number": (int, float),
    "boolean": (bool,),
    "null": (NoneType,),
}
_PLAIN = frozenset({dict, list, str, int, float, bool, NoneType})
_SAYS_NOTHING = frozenset(
    {"$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format"}
)


def quick_check(schema: Any) -> Check | None:
    """A check of a schema; None for a schema with a keyword that is not known here, and for what is no schema."""
    try:
        return _check_of(schema)
    except (TypeError, AttributeError):
        return None


def _check_of(schema: Any) -> Check | None:
    if schema is True:
        return _is_plain
    if not isinstance(schema, Mapping):
        return None
    checks: list[Check] = []
    for keyword, wanted in schema.items():
        if keyword in _SAYS_NOTHING or keyword.startswith("x-"):
            continue
        make = _KEYWORDS.get(keyword)
        check = None if make is None else make(wanted, schema)
        if check is None:
            return None
        checks.append(check)
    if len(checks) == 1:
        return checks[0]
    made = tuple(checks) or (_is_plain,)
    return lambda value: all([check(value) for check in made])  # noqa: C419  # a list is made faster than a generator


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN


def _type(wanted: Any, _schema: Any) -> Check | None:
    names = [wanted] if isinstance(wanted, str) else wanted
    if not all(name in _TYPES for name in names):
        return None
    allowed = frozenset(kind for name in names for kind in _TYPES[name])
    return lambda value: type(value) in allowed


def _properties(wanted: Any, _schema: Any) -> Check | None:
    checks = [(name, _check_of(inner)) for name, inner in wanted.items()]
    known = [(name, check) for name, check in checks if check is not None]
    if len(known) < len(checks):
        return None

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return type(value) in _PLAIN
        return all([check(value[name]) for name, check in known if name in value])  # noqa: C419

    return check


def _required(wanted: Any, _schema: Any) -> Check:
    names = tuple(wanted)

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return type(value) in _PLAIN
        return all([name in value for name in names])  # noqa: C419

    return check


def _additional(wanted: Any, schema: Any) -> Check | None:
    if "patternProperties" in schema:
        return None
    known = frozenset(schema.get("properties", ()))
    inner = None if wanted is False else _check_of(wanted)
    if wanted is not False and inner is None:
        return None

    def check(value: Any) -> bool:
        if type(value) is not dict:
            return type(value) in _PLAIN
        more = value.keys() - known
        return not more or (inner is not None and all(inner(value[name]) for name in more))

    return check


def _items(wanted: Any, schema: Any) -> Check | None:
    inner = _check_of(wanted)
    if inner is None or "prefixItems" in schema:
        return None
    return lambda value: all(map(inner, value)) if type(value) is list else type(value) in _PLAIN


def _enum(wanted: Any, _schema: Any) -> Check | None:
    texts = frozenset(each for each in wanted if isinstance(each, str))
    return lambda value: type(value) is str and value in texts


def _limit(kinds: tuple[type, ...], is_beyond: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Check]:
    def make(wanted: Any, _schema: Any) -> Check:
        return lambda value: not is_beyond(value, wanted) if type(value) in kinds else type(value) in _PLAIN

    return make


_KEYWORDS: Mapping[str, Callable[[Any, Any], Check | None]] = {
    "type": _type,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
    "enum": _enum,
    "minLength": _limit((str,), lambda value, least: len(value) < least),
    "maxLength": _limit((str,), lambda value, most: len(value) > most),
    "minItems": _limit((list,), lambda value, least: len(value) < least),
    "maxItems": _limit((list,), lambda value, most: len(value) > most),
    "minimum": _limit((int, float), lambda value, least: value < least),
    "maximum": _limit((int, float), lambda value, most: value > most),
}
