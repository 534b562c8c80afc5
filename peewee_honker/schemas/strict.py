"""marshmallow fields that check values and do not coerce them: what JSON holds for each kind of column.

Each field states its JSON form by `json_schema()`, which the written contract is made from. Loading also takes the Python
value itself (a Decimal, a UUID, a datetime, bytes), so that native data can be checked too. What the fields dump is what
a bridge's payload holds: ISO 8601 text for dates and times, text for decimals and UUIDs, base64 text for bytes.
"""

import base64
import datetime
import decimal
import enum
import ipaddress
import math
import re
import typing
import uuid
from collections.abc import Mapping
from typing import Any

from marshmallow import fields

__all__ = [
    "JSON",
    "UUID",
    "Base64",
    "Boolean",
    "Date",
    "DateTime",
    "Decimal",
    "EnumValue",
    "Float",
    "IPv4",
    "Integer",
    "Scalar",
    "Text",
    "Time",
    "is_utf8",
]

SAFE_INTEGER = 2**53 - 1  # the largest that every JSON reader holds exactly
DEEPEST_JSON = 200  # levels; SQLite's own JSON functions refuse 1000, Python's encoder a little more

_DATE = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?"
_OFFSET = r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d)?)?"
_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"


def _anchored(pattern: str) -> str:
    return f"^{pattern}$".replace(r"\d", "[0-9]")


def is_utf8(text: str) -> bool:
    """Whether text can be stored: lone surrogates have no bytes."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Integer(fields.Integer):
    """A whole number between `minimum` and `maximum`; 2.0 is one too, as in JSON Schema; a boolean is none."""

    default_error_messages = {"invalid": "Not a valid integer.", "range": "Must be from {minimum} to {maximum}."}  # noqa: RUF012  # as marshmallow declares it

    def __init__(self, *, minimum: int = -SAFE_INTEGER, maximum: int = SAFE_INTEGER, **options: Any) -> None:
        super().__init__(strict=True, **options)
        self.minimum = minimum
        self.maximum = maximum

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.make_error("invalid")
        if isinstance(value, float):
            if not value.is_integer():
                raise self.make_error("invalid")
            value = int(value)
        if not self.minimum <= value <= self.maximum:
            raise self.make_error("range", minimum=self.minimum, maximum=self.maximum)
        return int(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


class Boolean(fields.Boolean):
    """True or false, and nothing that resembles them."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if value is True or value is False:
            return bool(value)
        raise self.make_error("invalid", input=value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


class Float(fields.Float):
    """A finite number."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return float(value) if isinstance(value, decimal.Decimal) else value

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.make_error("invalid", input=value)
        try:
            number = float(value)
        except OverflowError as error:
            raise self.make_error("too_large", input=value) from error
        if not math.isfinite(number):
            raise self.make_error("special")
        return number

    def json_schema(self) -> dict[str, Any]:
        return {"type": "number"}


class Text(fields.String):
    """Text, at most `max_length` characters of it; lone surrogates, which no database stores, are refused."""

    default_error_messages = {"too_long": "Longer than maximum length {max_length}."}  # noqa: RUF012  # as marshmallow declares it

    def __init__(self, *, max_length: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.max_length = max_length

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value.value if isinstance(value, enum.Enum) else value

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid", input=value)
        if isinstance(value, enum.Enum):
            value = value.value
        if self.max_length is not None and len(value) > self.max_length:
            raise self.make_error("too_long", max_length=self.max_length)
        if not is_utf8(value):
            raise self.make_error("invalid_utf8")
        return typing.cast("str", value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string"} | ({} if self.max_length is None else {"maxLength": self.max_length})


class Decimal(fields.Decimal):
    """A decimal as text or as a whole number, with at most `digits` digits, `places` of them behind the point.

    A number with a fraction is refused: what a JSON reader makes of 0.1 is no decimal any more. A field that rounds
    (`rounds=True`, Peewee's auto_round) takes any number of places.
    """

    default_error_messages = {  # noqa: RUF012  # as marshmallow declares it
        "invalid": 'Not a valid decimal: give it as text, such as "12.5".',
        "digits": "Must have at most {whole} digits before the point and {places} behind it.",
    }

    def __init__(self, *, digits: int = 10, places: int = 5, rounds: bool = False, **options: Any) -> None:
        super().__init__(as_string=True, **options)
        self.digits = digits
        self.decimal_places = places
        self.whole = max(digits - places, 0)
        self.rounds = rounds
        self._limit = 10**self.whole
        fraction = "" if not places and not rounds else r"(?:\.\d+)?" if rounds else rf"(?:\.\d{{1,{places}}})?"
        whole = rf"\d{{1,{self.whole}}}" if self.whole else "0"
        self._pattern = f"-?0*{whole}{fraction}"
        self.matches = re.compile(self._pattern, re.ASCII).fullmatch

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return format(value, "f") if isinstance(value, decimal.Decimal) else value

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> decimal.Decimal:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if not -self._limit < value < self._limit:
                raise self.make_error("digits", whole=self.whole, places=self.decimal_places)
            return decimal.Decimal(value)
        if isinstance(value, decimal.Decimal):
            if not value.is_finite():
                raise self.make_error("special")
            value = format(value, "f")
        if not isinstance(value, str):
            raise self.make_error("invalid")
        if not self.matches(value):
            if re.fullmatch(r"-?\d+(\.\d+)?", value, re.ASCII):
                raise self.make_error("digits", whole=self.whole, places=self.decimal_places)
            raise self.make_error("invalid")
        return decimal.Decimal(value)

    def json_schema(self) -> dict[str, Any]:
        text = {"type": "string", "pattern": _anchored(self._pattern)}
        return {"anyOf": [text, {"type": "integer", "minimum": 1 - self._limit, "maximum": self._limit - 1}]}


class _ISO:
    """What the three fields of dates and times share: the ISO format is checked strictly, others are marshmallow's."""

    _PATTERN: str
    matches: Any  # the pattern's fullmatch
    format: str | None
    make_error: Any

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        # Peewee hands text back that its formats do not match.
        return value if isinstance(value, str) else super()._serialize(value, attr, obj, **kwargs)  # type: ignore[misc]  # a mixin

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if isinstance(value, str) and self.is_iso() and not self.matches(value):
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE)  # type: ignore[attr-defined]  # a mixin
        return super()._deserialize(value, attr, data, **kwargs)  # type: ignore[misc]  # a mixin

    def is_iso(self) -> bool:
        """Whether the field's text is ISO 8601, rather than of a format that was asked for."""
        return self.format in (None, "iso", "iso8601")

    def json_schema(self) -> dict[str, Any]:
        if self.is_iso():
            return {"type": "string", "pattern": _anchored(self._PATTERN)}
        return {"type": "number"} if self.format in ("timestamp", "timestamp_ms") else {"type": "string"}


class DateTime(_ISO, fields.DateTime):
    """A date and time in ISO 8601; the offset from UTC may be absent, for databases keep naive ones too."""

    _PATTERN = f"{_DATE}[T ]{_TIME}{_OFFSET}"
    matches = staticmethod(re.compile(_PATTERN, re.ASCII).fullmatch)


class Date(_ISO, fields.Date):
    """A date in ISO 8601."""

    _PATTERN = _DATE
    matches = staticmethod(re.compile(_PATTERN, re.ASCII).fullmatch)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if isinstance(value, datetime.datetime):
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE)
        return super()._deserialize(value, attr, data, **kwargs)


class Time(_ISO, fields.Time):
    """A time of day in ISO 8601."""

    _PATTERN = _TIME + _OFFSET
    matches = staticmethod(re.compile(_PATTERN, re.ASCII).fullmatch)


class UUID(fields.UUID):
    """A UUID as text with hyphens."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return None if value is None else str(value)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> uuid.UUID:
        if isinstance(value, uuid.UUID):
            return value
        if not isinstance(value, str) or not re.fullmatch(_UUID, value):
            raise self.make_error("invalid_uuid")
        return uuid.UUID(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "uuid", "pattern": _anchored(_UUID)}


class Base64(fields.Field[bytes]):
    """Bytes, as base64 text."""

    default_error_messages = {"invalid": "Not valid base64 text."}  # noqa: RUF012  # as marshmallow declares it

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return None if value is None else base64.b64encode(bytes(value)).decode()

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bytes:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if not isinstance(value, str) or not re.fullmatch(_BASE64, value):
            raise self.make_error("invalid")
        return base64.b64decode(value)

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "contentEncoding": "base64", "pattern": _anchored(_BASE64)}


class JSON(fields.Field[Any]):
    """Any JSON value: null, booleans, finite numbers, text, and lists and objects of them, up to 200 levels deep."""

    default_error_messages = {  # noqa: RUF012  # as marshmallow declares it
        "invalid": "Not a JSON value.",
        "too_deep": f"Nested deeper than {DEEPEST_JSON} levels.",
    }

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        self._check(value, 0)
        return value

    def _check(self, value: Any, level: int) -> None:
        if level > DEEPEST_JSON:
            raise self.make_error("too_deep")
        if isinstance(value, str):
            if not is_utf8(value):
                raise self.make_error("invalid")
        elif isinstance(value, list):
            for item in value:
                self._check(item, level + 1)
        elif isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str) or not is_utf8(key):
                    raise self.make_error("invalid")
                self._check(item, level + 1)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise self.make_error("invalid")
        elif value is not None and not isinstance(value, (bool, int)):
            raise self.make_error("invalid")

    def json_schema(self) -> dict[str, Any]:
        return {"type": ["object", "array", "string", "number", "boolean"]}


class Scalar(fields.Field[Any]):
    """What a column without a type holds: text, a 64-bit whole number or a finite one; bytes are dumped as base64 text."""

    default_error_messages = {"invalid": "Not text, nor a whole number of 64 bits, nor a finite number."}  # noqa: RUF012  # as marshmallow declares it

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return base64.b64encode(bytes(value)).decode() if isinstance(value, (bytes, memoryview)) else value

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if isinstance(value, str) and is_utf8(value):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise self.make_error("invalid")

    def json_schema(self) -> dict[str, Any]:
        whole = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
        fraction = {"type": "number", "not": {"type": "integer"}}
        return {"anyOf": [{"type": "string"}, whole, fraction]}


class IPv4(fields.Field[str]):
    """An IPv4 address in dotted notation; text in Python too, as Peewee has it."""

    default_error_messages = {"invalid": "Not a valid IPv4 address."}  # noqa: RUF012  # as marshmallow declares it

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if isinstance(value, str):
            try:
                return str(ipaddress.IPv4Address(value))
            except ValueError as error:
                raise self.make_error("invalid") from error
        raise self.make_error("invalid")

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "ipv4", "pattern": _anchored(rf"(?:{_BYTE}\.){{3}}{_BYTE}")}


class EnumValue(fields.Field[enum.Enum]):
    """A member of an enumeration, by its value."""

    default_error_messages = {"unknown": "Must be one of: {values}."}  # noqa: RUF012  # as marshmallow declares it

    def __init__(self, members: type[enum.Enum], **options: Any) -> None:
        super().__init__(**options)
        self.members = members
        self._by_value = {(type(member.value), member.value): member for member in members}

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value.value if isinstance(value, enum.Enum) else value

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> enum.Enum:
        if isinstance(value, self.members):
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        found = self._by_value.get((type(value), value)) if isinstance(value, (str, int)) else None
        if found is None:
            raise self.make_error("unknown", values=", ".join(str(member.value) for member in self.members))
        return found

    def json_schema(self) -> dict[str, Any]:
        return {"enum": [member.value for member in self.members]}
