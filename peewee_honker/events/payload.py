"""A model's row as JSON values."""

import base64
import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Iterable
from typing import Any

import peewee

from peewee_honker.errors import PayloadError

__all__ = ["check_payload", "is_secret", "json_value", "key_text", "row_payload"]

_AS_THEY_ARE = frozenset({type(None), bool, int, str})


def row_payload(instance: peewee.Model, exclude: Iterable[str] = ()) -> dict[str, Any]:
    """The instance's field values by field name, each as a JSON value.

    Dates and times are ISO 8601 text, decimals and UUIDs text, bytes base64 text, enumerations their values; a foreign
    key is the key it holds. Fields that the instance has not loaded, and those in `exclude`, are left out. Raises
    PayloadError that names the field for a value that has no such form.
    """
    left_out = exclude if isinstance(exclude, frozenset) else frozenset(exclude)
    return {
        name: value if type(value) in _AS_THEY_ARE else json_value(value, type(instance), name)
        for name, value in instance.__data__.items()
        if name not in left_out
    }


def check_payload(instance: peewee.Model, exclude: frozenset[str]) -> int:
    """Raise as `row_payload` does, without making the payload. Gives about how many characters its texts have."""
    characters = 0
    for name, value in instance.__data__.items():
        kind = type(value)
        if kind is str:
            characters += len(value)
        elif kind not in _AS_THEY_ARE and name not in exclude:
            plain = json_value(value, type(instance), name)
            if not isinstance(plain, (bool, int, float)):
                characters += len(str(plain))
    return characters


def is_secret(field: peewee.Field) -> bool:
    """Whether a field's values stay out of events by default: what `EncryptedField` says of itself, by `is_secret`."""
    return bool(getattr(field, "is_secret", False))


def key_text(instance: peewee.Model) -> str:
    """The primary key as text; a composite one as its parts joined by commas; '' without one."""
    if instance._meta.primary_key is False:
        return ""
    key = instance.get_id()  # type: ignore[no-untyped-call]  # Peewee's stubs leave it untyped
    if isinstance(key, tuple):
        return ",".join(str(part) for part in key)
    return "" if key is None else str(key)


def json_value(value: Any, model: type[peewee.Model], name: str) -> Any:
    """The value of a model's field as a JSON value; raises PayloadError that names the field where there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise PayloadError(
            f"{model.__name__}.{name} is {value}, which JSON cannot hold: leave the field out with exclude=[{name!r}]"
        )
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return json_value(value.value, model, name)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode()
    if isinstance(value, (list, tuple)):
        return [json_value(item, model, name) for item in value]
    if isinstance(value, dict):
        return {str(key): json_value(item, model, name) for key, item in value.items()}
    raise PayloadError(
        f"{model.__name__}.{name} holds a {type(value).__name__}, which has no form in JSON: "
        f"leave the field out with exclude=[{name!r}]"
    )
