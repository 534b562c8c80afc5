"""marshmallow fields that check values and do not coerce them.

marshmallow's own fields are generous: its Boolean takes "yes", its Integer "7" and 7.9, its String bytes. Generosity at
the border hides a sender's mistakes, and two receivers rarely agree on it. The fields here take the JSON form of a value
(and the Python value itself, where marshmallow does so) and nothing else, and refuse what a database would not keep: NaN,
half surrogates, integers that a JSON reader rounds. Each is a subclass of marshmallow's field of the same name, so that
what knows those (apispec among them) knows these.
"""

import base64
import datetime
import decimal
import ipaddress
import math
import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from marshmallow import ValidationError, fields, validate

__all__ = [
    "INT16",
    "INT64",
    "JSON_DEPTH",
    "SAFE_INTEGER",
    "UUID",
    "Blob",
    "Boolean",
    "Date",
    "DateTime",
    "Decimal",
    "Digits",
    "Float",
    "IPv4",
    "Integer",
    "Json",
    "Text",
    "Time",
    "Timestamp",
    "check_text",
    "validators",
]

#: The bounds of integers that every JSON reader keeps exactly: those of a double.
SAFE_INTEGER = (-(2**53) + 1, 2**53 - 1)
#: The bounds of a column of 64 bits.
INT64 = (-(2**63), 2**63 - 1)
#: The bounds of a column of 16 bits.
INT16 = (-(2**15), 2**15 - 1)
#: How deep a JSON value may be nested. SQLite's JSON functions stop at 1000, Python's encoder near there.
JSON_DEPTH = 500

DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
TIME = re.compile(r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d(:\d\d)?)?", re.ASCII)
DATETIME = re.compile(rf"{DATE.pattern}[T ]{TIME.pattern}", re.ASCII)
HYPHENATED = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
BASE64 = re.compile(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)


class Integer(fields.Integer):
    """A whole number within bounds: no boolean, no text; 1.0 is 1, as for JSON Schema.

    Arguments:
        bounds: the lowest and the highest value, both included. Default: the integers that every JSON reader keeps.
    """

    def __init__(self, *, bounds: tuple[int, int] = SAFE_INTEGER, **options: Any) -> None:
        options["validate"] = [validate.Range(*bounds), *validators(options.get("validate"))]
        super().__init__(strict=True, **options)

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value if type(value) is int else super()._serialize(value, attr, obj, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if type(value) is float and value.is_integer():
            return int(value)
        if type(value) is not int:
            raise self.make_error("invalid", input=value)
        return value


class Float(fields.Float):
    """A finite number; a whole number becomes a float."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value if type(value) is float else super()._serialize(value, attr, obj, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> float:
        if type(value) is not float:
            if type(value) is not int:
                raise self.make_error("invalid", input=value)
            try:
                value = float(value)
            except OverflowError:
                raise self.make_error("too_large", input=value) from None
        if not math.isfinite(value):
            raise self.make_error("special")
        return value  # type: ignore[no-any-return]  # mypy forgets the type that `type(value) is float` gave


class Boolean(fields.Boolean):
    """True or False; neither 1 nor "yes"."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if value is True or value is False:
            return bool(value)
        raise self.make_error("invalid", input=value)


class Text(fields.String):
    """Text that has a form in UTF-8: no bytes, no half of a surrogate pair."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return value if type(value) is str else super()._serialize(value, attr, obj, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        if not value.isascii():
            check_text(value)
        return value


class Decimal(fields.Decimal):
    """A decimal number, as text in JSON, where a number would be rounded to a double.

    Takes text of digits such as "-12.50" and `decimal.Decimal`; no number of JSON, which many readers round.

    Arguments:
        fill: write at least so many decimal places, as other databases give them: SQLite keeps 12.50 as 12.5.
    """

    default_error_messages = {"invalid": 'Not a valid decimal: send text such as "12.50".'}  # noqa: RUF012 # marshmallow's

    def __init__(self, *, fill: int = 0, **options: Any) -> None:
        options.setdefault("as_string", True)
        self.fill = fill
        super().__init__(**options)

    def _to_string(self, value: decimal.Decimal) -> str:
        exponent = value.as_tuple().exponent
        if isinstance(exponent, int) and -exponent < self.fill:
            return format(value, f".{self.fill}f")
        return format(value, "f")

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> decimal.Decimal:
        if isinstance(value, str) and NUMBER.fullmatch(value):
            return decimal.Decimal(value)
        if not isinstance(value, decimal.Decimal):
            raise self.make_error("invalid", input=value)
        if not value.is_finite():
            raise self.make_error("special")
        return value


class Digits(validate.Validator):
    """At most so many digits, and so many of them behind the point (`places` None: any number, the database rounds)."""

    def __init__(self, max_digits: int, places: int | None) -> None:
        self.max_digits = max_digits
        self.places = places

    def _repr_args(self) -> str:
        return f"max_digits={self.max_digits}, places={self.places}"

    def __call__(self, value: decimal.Decimal) -> decimal.Decimal:
        if not value:
            return value
        _, digits, exponent = value.normalize(decimal.Context(prec=max(1, len(value.as_tuple().digits)))).as_tuple()
        assert isinstance(exponent, int)  # noqa: S101 # the field let finite numbers through only
        places = max(0, -exponent)
        whole = max(0, len(digits) + exponent)
        if self.places is None:
            if whole > self.max_digits:
                raise ValidationError(f"At most {self.max_digits} digits before the point.")
            return value
        if places > self.places:
            raise ValidationError(f"At most {self.places} decimal places.")
        if whole > self.max_digits - self.places:
            raise ValidationError(f"At most {self.max_digits - self.places} digits before the point.")
        return value


class UUID(fields.UUID):
    """A UUID in its usual text form of 36 characters."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> uuid.UUID:
        if isinstance(value, uuid.UUID):
            return value
        if not isinstance(value, str) or not HYPHENATED.fullmatch(value):
            raise self.make_error("invalid_uuid")
        return uuid.UUID(value)


class IPv4(fields.String):
    """An IPv4 address as text of four numbers, which is also Peewee's value of it."""

    default_error_messages = {"invalid_ip": "Not a valid IPv4 address."}  # noqa: RUF012 # marshmallow's

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        try:
            if isinstance(value, str):
                return str(ipaddress.IPv4Address(value))
        except ValueError:
            pass
        raise self.make_error("invalid_ip")


class Blob(fields.String):
    """Bytes, as base64 text in JSON (the standard alphabet, padded)."""

    default_error_messages = {"invalid_base64": "Not valid base64 text."}  # noqa: RUF012 # marshmallow's

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        if value is None:
            return None
        data = value.encode() if isinstance(value, str) else bytes(value)
        return base64.b64encode(data).decode("ascii")

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bytes):
            return value
        if isinstance(value, str) and BASE64.fullmatch(value):
            return base64.b64decode(value)
        raise self.make_error("invalid_base64")


class Json(fields.Raw):
    """Any JSON value: text, finite numbers, booleans, null, lists of those and objects with text as keys."""

    default_error_messages = {"invalid": "Not a JSON value."}  # noqa: RUF012 # marshmallow's

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        level = [value]
        for _ in range(JSON_DEPTH):
            below: list[Any] = []
            for item in level:
                below.extend(self._parts(item))
            if not below:
                return value
            level = below
        raise ValidationError(f"Nested deeper than {JSON_DEPTH} levels.")

    def _parts(self, item: Any) -> Sequence[Any]:
        kind = type(item)
        if kind is str:
            check_text(item)
        elif kind is dict:
            for key in item:
                if type(key) is not str:
                    raise self.make_error("invalid")
                check_text(key)
            return list(item.values())
        elif kind is list:
            return item  # type: ignore[no-any-return]  # a list, as `kind` says
        elif kind is float:
            if not math.isfinite(item):
                raise self.make_error("invalid")
        elif kind is not int and kind is not bool and item is not None:
            raise self.make_error("invalid")
        return ()


class _Iso(fields.Field[Any]):
    """What the fields of dates and times share: one form of ISO 8601 text, and further formats that a field names.

    A format that the schema sets (`Meta.datetimeformat` and its like) takes the place of both.
    """

    iso: re.Pattern[str]
    kind: type
    OBJ_TYPE: str
    format: str | None

    def __init__(self, *, also: Sequence[str] = (), **options: Any) -> None:
        self.also = tuple(also)
        super().__init__(**options)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if type(value) is self.kind:
            return value
        if self.format not in (None, "iso", "iso8601"):
            return super()._deserialize(value, attr, data, **kwargs)
        if isinstance(value, str):
            for read in (self._read_iso, *(self._reader(form) for form in self.also)):
                try:
                    return read(value)
                except ValueError:
                    continue
        raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE)

    def _read_iso(self, value: str) -> Any:
        if not self.iso.fullmatch(value):
            raise ValueError("not the form that this field takes")
        return self.kind.fromisoformat(value)  # type: ignore[attr-defined]  # each kind has it

    def _reader(self, form: str) -> Callable[[str], Any]:
        def read(value: str) -> Any:
            moment = datetime.datetime.strptime(value, form)  # noqa: DTZ007 # the field's own format says
            if self.kind is datetime.date:
                return moment.date()
            return moment.timetz() if self.kind is datetime.time else moment

        return read


class DateTime(_Iso, fields.DateTime):
    """A moment as ISO 8601 text: a date, "T" or a space, a time, and an offset from UTC if it has one.

    Arguments:
        also: formats of `strptime` that are read too (Peewee's `DateTimeField(formats=...)`).
    """

    iso = DATETIME
    kind = datetime.datetime


class Date(_Iso, fields.Date):
    """A day as text: "2026-11-24". `also` as for DateTime."""

    iso = DATE
    kind = datetime.date


class Time(_Iso, fields.Time):
    """A time of day as text: "14:30:00". `also` as for DateTime."""

    iso = TIME
    kind = datetime.time


class Timestamp(DateTime):
    """A moment that the column holds as a number of seconds since 1970, or of parts of them.

    It is written with its offset from UTC, so that a reader elsewhere knows the moment; text without an offset is read as
    Peewee reads it, in UTC or in the machine's zone. What is loaded is Peewee's value, a datetime without an offset,
    except in the hour that a zone has twice: there the offset stays, as without it the moment would be a guess.

    Arguments:
        utc: as of Peewee's `TimestampField`.
    """

    def __init__(self, *, utc: bool = False, **options: Any) -> None:
        self.utc = utc
        super().__init__(**options)

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        if isinstance(value, datetime.datetime) and value.tzinfo is None:
            value = value.replace(tzinfo=datetime.UTC) if self.utc else value.astimezone()
        return super()._serialize(value, attr, obj, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime.datetime:
        moment: datetime.datetime = super()._deserialize(value, attr, data, **kwargs)
        try:
            if moment.tzinfo is None:
                moment.timestamp()  # what the database will ask for
                return moment
            if self.utc:
                return moment.astimezone(datetime.UTC).replace(tzinfo=None)
            local = moment.astimezone().replace(tzinfo=None)
            same = time.mktime(local.timetuple()) == math.floor(moment.timestamp())
        except (OverflowError, ValueError, OSError):
            raise self.make_error("invalid", input=value, obj_type=self.OBJ_TYPE) from None
        return local if same else moment


def validators(given: Any) -> list[Callable[[Any], Any]]:
    """What a field was given as `validate`, as a list."""
    if given is None:
        return []
    return [given] if callable(given) else list(given)


def check_text(value: str) -> None:
    """Raise ValidationError for text with half a surrogate pair, which neither UTF-8 nor a database can keep."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValidationError("Not a valid string: half of a surrogate pair.") from None
