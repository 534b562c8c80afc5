"""SQL that gives a column's value as the JSON text which a bridged row's payload has for it.

Triggers run in whatever program writes, so this is plain SQL of any SQLite from 3.38 on: no function to load, no table to
join. What a field holds in Python is known from its class; what a column really holds is asked of `typeof()`, since SQLite
lets any program put any type anywhere, and a value of an unexpected type must not break its write.
"""

from collections.abc import Callable

import peewee
from playhouse import sqlite_ext

__all__ = ["json_form", "key_form", "literal", "quoted"]

Form = Callable[[str], str]

_ALPHABET = f"x'{b'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'.hex()}'"
_BYTES = f"x'{bytes(range(256)).hex()}'"
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Text as an SQL literal, also where it holds the character NUL, at which SQLite would stop reading."""
    if "\0" in text:
        return f"CAST(x'{text.encode().hex()}' AS TEXT)"
    return "'" + text.replace("'", "''") + "'"


def json_form(field: peewee.Field, value: str, affinity: str = "BLOB") -> str:
    """An SQL expression, never NULL: the JSON text of a field's value.

    Arguments:
        field: the field.
        value: the SQL that names the value, for instance `NEW."total"`.
        affinity: that of the value's column, which says what it cannot hold; `ROWID` for the rowid.
    """
    field = _referred(field)
    if isinstance(field, peewee.TimestampField):
        return _timestamp(value, field)
    if isinstance(field, (peewee.UUIDField, peewee.BinaryUUIDField)):
        return _uuid(value, field)
    for kind, form in _FORMS:
        if isinstance(field, kind):
            return form(value)
    if affinity == "ROWID":
        return value
    by_affinity = _BY_AFFINITY.get(affinity)
    return by_affinity(value) if by_affinity else _any(value)


def key_form(field: peewee.Field, value: str) -> str:
    """An SQL expression, NULL for NULL: the value of a key's field as text, as `str()` gives it for what Python reads.

    Blobs, for which it gives `b'...'`, are base64 text.
    """
    field = _referred(field)
    if isinstance(field, (peewee.UUIDField, peewee.BinaryUUIDField)):
        return _uuid_text(value, field)
    if isinstance(field, peewee.BooleanField):
        return f"CASE {value} WHEN 0 THEN 'False' WHEN 1 THEN 'True' ELSE CAST({value} AS TEXT) END"
    if isinstance(field, (peewee.IntegerField, peewee.CharField, peewee.TextField)):
        return f"CAST({value} AS TEXT)"
    number = _decimal_text(value) if isinstance(field, peewee.DecimalField) else f"printf('%!.19g', {value})"
    return f"CASE typeof({value}) WHEN 'blob' THEN {_base64(value)} WHEN 'real' THEN {number} ELSE CAST({value} AS TEXT) END"


def _referred(field: peewee.Field) -> peewee.Field:
    while isinstance(field, peewee.ForeignKeyField):
        field = field.rel_field
    return field


# SQLite orders all numbers before all texts before all blobs, and a comparison costs less than typeof(). Comparisons with ''
# and x'' convert nothing, whatever the column's affinity.
#
# A trigger's program starts by loading its constants and clearing its registers, those of branches that are not taken as
# well, so what is rare is written with few of them.
def _number(value: str) -> str:
    # quote() gives a REAL all its digits, where json_quote() gives 15. Infinity is a number that every reader of JSON rounds
    # to infinity; newer versions write it so by themselves.
    return f"replace(quote({value}), 'Inf', '9e999')"


def _blob_as_object(value: str) -> str:
    """A blob where none belongs, as an object that no reader takes for text."""
    return f"""printf('{{"$hex":"%s"}}', hex({value}))"""


def _any(value: str) -> str:
    """A value by its own type."""
    return (
        f"CASE WHEN {value} < '' THEN {_number(value)} WHEN {value} >= x'' THEN {_blob_as_object(value)} "
        f"ELSE json_quote({value}) END"
    )


def _any_text(value: str, form: str) -> str:
    """A value by its own type; `form` is the JSON of a text or NULL."""
    return f"CASE WHEN {value} < '' THEN {_number(value)} WHEN {value} >= x'' THEN {_blob_as_object(value)} ELSE {form} END"


def _text_column(value: str) -> str:
    """In a column of TEXT affinity are no numbers."""
    return f"CASE WHEN {value} >= x'' THEN {_blob_as_object(value)} ELSE json_quote({value}) END"


def _integer_column(value: str) -> str:
    # | makes an integer of everything but NULL
    return f"CASE WHEN {value} IS {value} | 0 THEN ifnull({value}, 'null') ELSE {_any(value)} END"


def _real_column(value: str) -> str:
    # 17 digits are enough, but older versions round the last of them wrongly far from 1. printf() is quicker than quote().
    return f"CASE WHEN {value} < 9e999 AND {value} > -9e999 THEN printf('%!.19g', {value}) ELSE {_any(value)} END"


def _base64(value: str) -> str:
    """Three bytes, four characters at a time. instr() in the string of all bytes gives a byte's number, and substr() is
    only taken of blobs, where it does not count characters from the start."""
    number = " + ".join(f"(instr(b, substr({value}, i + {place}, 1)) - 1) * {256 ** (2 - place)}" for place in range(3))
    characters = " || ".join(f"substr(a, 1 + (n >> {bits} & 63), 1)" for bits in (18, 12, 6, 0))
    return (
        f"ifnull(substr((WITH RECURSIVE w(i) AS (SELECT 1 UNION ALL SELECT i + 3 FROM w WHERE i + 3 <= length({value})) "
        f"SELECT group_concat({characters}, '') FROM (SELECT {number} AS n, a FROM w, "
        f"(SELECT {_ALPHABET} AS a, {_BYTES} AS b LIMIT 1) LIMIT -1)), 1, (length({value}) * 8 + 5) / 6) "
        f"|| substr('==', 1, (3 - length({value}) % 3) % 3), '')"
    )


def _blob(value: str) -> str:
    return (
        f"CASE WHEN {value} >= x'' THEN '\"' || {_base64(value)} || '\"' WHEN {value} IS NULL THEN 'null' "
        f"WHEN {value} < '' THEN {_number(value)} ELSE json_quote({value}) END"
    )


def _boolean(value: str) -> str:
    return f"CASE {value} WHEN 0 THEN 'false' WHEN 1 THEN 'true' ELSE {_any(value)} END"


def _decimal_text(value: str) -> str:
    """The shortest decimal that SQLite reads as the REAL, as `str(Decimal(str(number)))` writes it."""
    digits = [f"printf('%!.{digits}g', {value})" for digits in (15, 16, 17)]
    small = f"rtrim(printf(CASE WHEN abs({value}) < 1e-5 THEN '%.20f' ELSE '%.19f' END, {value}), '0')"
    shortest = (
        f"CASE WHEN CAST({digits[0]} AS REAL) = {value} THEN {digits[0]} "
        f"WHEN CAST({digits[1]} AS REAL) = {value} THEN {digits[1]} ELSE {digits[2]} END"
    )
    return (
        f"CASE WHEN abs({value}) >= 1e-6 AND abs({value}) < 1e-4 AND CAST({small} AS REAL) = {value} THEN {small} "
        f"WHEN abs({value}) = 9e999 THEN CASE WHEN {value} > 0 THEN 'Infinity' ELSE '-Infinity' END "
        f"ELSE replace(upper(replace({shortest}, '.0e', 'e')), 'E-0', 'E-') END"
    )


def _decimal(value: str) -> str:
    return (
        f"CASE typeof({value}) WHEN 'real' THEN '\"' || {_decimal_text(value)} || '\"' "
        f"WHEN 'integer' THEN '\"' || {value} || '\"' ELSE {_any(value)} END"
    )


def _date_time(value: str) -> str:
    return _any_text(
        value,
        # The first space is where the time begins; a pattern would cost more than all the rest.
        f"json_quote(CASE WHEN instr({value}, ' ') = 11 THEN replace({value}, ' ', 'T') "
        f"WHEN length({value}) = 10 AND {value} GLOB '{_DATE}' THEN {value} || 'T00:00:00' ELSE {value} END)",
    )


def _date(value: str) -> str:
    return _any_text(value, f"json_quote(CASE WHEN {value} GLOB '{_DATE} *' THEN substr({value}, 1, 10) ELSE {value} END)")


def _time(value: str) -> str:
    return _any_text(
        value, f"json_quote(CASE WHEN {value} GLOB '[0-9][0-9]:[0-9][0-9]' THEN {value} || ':00' ELSE {value} END)"
    )


def _timestamp(value: str, field: peewee.TimestampField) -> str:
    place = "'unixepoch'" if field.utc else "'unixepoch', 'localtime'"
    ticks = int(field.resolution)
    rest = f"(({value} % {ticks} + {ticks}) % {ticks})"
    seconds = value if ticks == 1 else f"({value} - {rest}) / {ticks}"
    text = f"strftime('%Y-%m-%dT%H:%M:%S', {seconds}, {place})"
    if ticks > 1:
        text += f" || CASE {rest} WHEN 0 THEN '' ELSE printf('.%06d', {rest} * {1_000_000 // ticks}) END"
    return f"CASE typeof({value}) WHEN 'integer' THEN ifnull('\"' || {text} || '\"', {value}) ELSE {_any(value)} END"


def _dashed(text: str) -> str:
    pieces = [(1, 8), (9, 4), (13, 4), (17, 4), (21, 12)]
    parts = ", ".join(f"substr({text}, {start}, {length})" for start, length in pieces)
    return f"lower(printf('%s-%s-%s-%s-%s', {parts}))"


def _uuid_text(value: str, field: peewee.Field) -> str:
    if isinstance(field, peewee.BinaryUUIDField):
        return f"CASE WHEN length({value}) = 16 THEN {_dashed(f'hex({value})')} ELSE CAST({value} AS TEXT) END"
    return f"CASE WHEN length({value}) = 32 THEN {_dashed(value)} ELSE CAST({value} AS TEXT) END"


def _uuid(value: str, field: peewee.Field) -> str:
    form = f"json_quote({_uuid_text(value, field)})"  # of NULL: null
    if isinstance(field, peewee.BinaryUUIDField):
        return f"CASE WHEN {value} >= x'' AND length({value}) = 16 THEN {form} ELSE {_any(value)} END"
    return _any_text(value, form)


def _json(value: str) -> str:
    return _any_text(value, f"CASE WHEN json_valid({value}) THEN {value} ELSE json_quote({value}) END")


def _jsonb(value: str) -> str:
    # 8 asks for a strict check: json() of anything less would fail, and the write with it.
    return (
        f"CASE WHEN {value} >= x'' THEN CASE WHEN json_valid({value}, 8) THEN json({value}) "
        f"ELSE {_blob_as_object(value)} END ELSE {_json(value)} END"
    )


def _ip(value: str) -> str:
    bytes_ = ", ".join(f"{value} >> {shift} & 255" for shift in (24, 16, 8, 0))
    return f"CASE typeof({value}) WHEN 'integer' THEN printf('\"%d.%d.%d.%d\"', {bytes_}) ELSE {_any(value)} END"


# The first class that the field is of counts, so subclasses stand before their bases.
_FORMS: tuple[tuple[type[peewee.Field], Form], ...] = (
    (sqlite_ext.JSONBField, _jsonb),
    (sqlite_ext.JSONField, _json),
    (peewee.JSONField, _json),
    (peewee.BlobField, _blob),
    (peewee.BigBitField, _blob),
    (peewee.BareField, _blob),
    (peewee.AnyField, _blob),
    (peewee.BooleanField, _boolean),
    (peewee.DecimalField, _decimal),
    (peewee.DateTimeField, _date_time),
    (peewee.DateField, _date),
    (peewee.TimeField, _time),
    (peewee.IPField, _ip),
)

# For the fields whose values in Python are what the column holds.
_BY_AFFINITY: dict[str, Form] = {"TEXT": _text_column, "INTEGER": _integer_column, "REAL": _real_column}
