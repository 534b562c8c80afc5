"""CHECK constraints that can be read: ranges of numbers, lists of values, lengths of text, joined by AND.

`checks_of(field)` gives marshmallow validators. A constraint of any other form is left to the database: reading one
wrongly would refuse what the database takes.
"""

import re
from collections.abc import Iterator
from typing import Any

import peewee
from marshmallow import ValidationError, validate

__all__ = ["TextLength", "checks_of", "has_server_default", "is_generated"]

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_OPERATOR = r"<=|>=|<|>"
_NAME = r"(?:\"[^\"]+\"|`[^`]+`|\[[^\]]+\]|\w+)"
_COLUMN = rf"(?P<length>length\s*\(\s*)?(?:{_NAME}\s*\.\s*)?(?P<column>{_NAME})(?(length)\s*\))"
_LITERAL = rf"(?:'(?:[^']|'')*'|{_NUMBER})"
_COMPARED = re.compile(rf"{_COLUMN}\s*(?P<operator>{_OPERATOR})\s*(?P<number>{_NUMBER})", re.IGNORECASE)
_TURNED = re.compile(rf"(?P<number>{_NUMBER})\s*(?P<operator>{_OPERATOR})\s*{_COLUMN}", re.IGNORECASE)
_BETWEEN = re.compile(rf"{_COLUMN}\s+BETWEEN\s+(?P<low>{_NUMBER})\s+AND\s+(?P<high>{_NUMBER})", re.IGNORECASE)
_IN = re.compile(rf"{_COLUMN}\s+IN\s*\(\s*(?P<values>{_LITERAL}(?:\s*,\s*{_LITERAL})*)\s*\)", re.IGNORECASE)
_TURN = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_GENERATED = re.compile(r"^\s*(GENERATED\s+ALWAYS\s+)?AS\s*(\(|IDENTITY)|GENERATED\s+ALWAYS\s+AS", re.IGNORECASE)
_DEFAULT = re.compile(r"^\s*DEFAULT\b", re.IGNORECASE)

_Numeric = (peewee.IntegerField, peewee.FloatField, peewee.DecimalField)
_NotNumbers = (peewee.TimestampField, peewee.IPField)


class TextLength(validate.Length):
    """A length as SQLite's `length()` counts it: to the first NUL, which is refused for that reason."""

    def __call__(self, value: Any) -> Any:
        if "\0" in value:
            raise ValidationError("May not contain NUL characters.")
        return super().__call__(value)


def is_generated(field: peewee.Field) -> bool:
    """Whether the database computes the column, so that nobody may write it."""
    always = isinstance(field, peewee.IdentityField) and "ALWAYS" in field.field_type
    return always or any(_GENERATED.search(text) for text in _texts(field.constraints))


def has_server_default(field: peewee.Field) -> bool:
    """Whether the database fills the column when an INSERT leaves it out."""
    return bool(field.sequence) or any(_DEFAULT.match(text) for text in _texts(field.constraints))


def checks_of(field: peewee.Field) -> list[validate.Validator]:
    """Validators for the CHECKs, of the field and of its model, that speak of this field's column alone."""
    constraints = [*(field.constraints or ()), *(field.model._meta.constraints or ())]
    found = (validator for text in _texts(constraints) for part in _parts(text) if (validator := _read(part, field)))
    return list(found)


def _texts(constraints: Any) -> Iterator[str]:
    for constraint in constraints or ():
        for node in constraint.nodes if isinstance(constraint, peewee.NodeList) else (constraint,):
            if isinstance(node, str):
                yield node
            elif isinstance(node, peewee.SQL) and not node.params:
                yield node.sql


def _parts(text: str) -> list[str]:
    """The conditions that a CHECK joins by AND; none if it holds anything that is not such a list."""
    found = re.match(r"\s*(?:CONSTRAINT\s+\S+\s+)?CHECK\s*(\(.*\))\s*$", text, re.IGNORECASE | re.DOTALL)
    return _split(found[1].strip()) if found else []


def _split(condition: str) -> list[str]:
    condition = _unwrapped(condition)
    parts, depth, quoted, start, between = [], 0, "", 0, False
    for token in re.finditer(r"'|\"|\(|\)|\bBETWEEN\b|\bAND\b|\bOR\b", condition, re.IGNORECASE):
        word = token[0].upper()
        if quoted or word in "'\"":
            quoted = "" if word == quoted else quoted or word
        elif word in "()":
            depth += 1 if word == "(" else -1
        elif depth:
            continue
        elif word == "OR":
            return []
        elif word == "BETWEEN":
            between = True
        elif between:
            between = False
        else:
            parts.append(condition[start : token.start()])
            start = token.end()
    parts.append(condition[start:])
    return parts if len(parts) == 1 else [piece for part in parts for piece in _split(part)]


def _unwrapped(condition: str) -> str:
    """Without the parentheses that enclose all of it."""
    condition = condition.strip()
    while condition.startswith("(") and condition.endswith(")"):
        depth = 0
        for place, character in enumerate(condition):
            depth += (character == "(") - (character == ")")
            if not depth and place < len(condition) - 1:
                return condition
        condition = condition[1:-1].strip()
    return condition


def _read(condition: str, field: peewee.Field) -> validate.Validator | None:
    for pattern in (_COMPARED, _TURNED, _BETWEEN, _IN):
        if (found := pattern.fullmatch(condition.strip())) and found["column"].strip('"`[]').lower() == (
            field.column_name.lower()
        ):
            return _validator(found, field)
    return None


def _validator(found: re.Match[str], field: peewee.Field) -> validate.Validator | None:
    groups = found.groupdict()
    if groups.get("values"):
        return None if groups["length"] else _one_of(groups["values"], field)
    if groups.get("low"):
        low, high = _number(groups["low"]), _number(groups["high"])
        return _bounds(groups, field, minimum=low, maximum=high)
    operator = groups["operator"] if found.re is _COMPARED else _TURN[groups["operator"]]
    number = _number(groups["number"])
    inclusive = "=" in operator
    if ">" in operator:
        return _bounds(groups, field, minimum=number, min_inclusive=inclusive)
    return _bounds(groups, field, maximum=number, max_inclusive=inclusive)


def _bounds(
    groups: dict[str, Any],
    field: peewee.Field,
    minimum: int | float | None = None,
    maximum: int | float | None = None,
    min_inclusive: bool = True,
    max_inclusive: bool = True,
) -> validate.Validator | None:
    if groups["length"]:
        if not isinstance(field, peewee._StringField) or isinstance(minimum, float) or isinstance(maximum, float):
            return None
        least = None if minimum is None else minimum if min_inclusive else minimum + 1
        most = None if maximum is None else maximum if max_inclusive else maximum - 1
        return TextLength(min=least, max=most)
    if not isinstance(field, _Numeric) or isinstance(field, _NotNumbers):
        return None
    return validate.Range(min=minimum, max=maximum, min_inclusive=min_inclusive, max_inclusive=max_inclusive)


def _one_of(literals: str, field: peewee.Field) -> validate.Validator | None:
    values: list[Any] = [
        literal[1:-1].replace("''", "'") if literal.startswith("'") else _number(literal)
        for literal in re.findall(_LITERAL, literals)
    ]
    kind = str if isinstance(field, peewee._StringField) else int if isinstance(field, peewee.IntegerField) else None
    if kind is None or isinstance(field, _NotNumbers) or not all(type(value) is kind for value in values):
        return None
    return validate.OneOf(values)


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
