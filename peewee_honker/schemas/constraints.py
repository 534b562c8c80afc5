"""What the SQL constraints of a column say that a schema can say too.

Peewee keeps a constraint as SQL text. Simple ones are read: comparisons with a number, BETWEEN, IN with a list of literals,
the length of a text, and several of those joined by AND. Whatever else a constraint says is left to the database, which
judges last anyway; nothing is guessed.
"""

import decimal
import re
from collections.abc import Callable, Iterator
from typing import Any

import peewee
from marshmallow import fields, validate

from .strict import Text

__all__ = ["Exactly", "Length", "checks", "fits", "has_server_default", "is_generated"]

LITERAL = r"-?\d+(?:\.\d+)?|'(?:[^']|'')*'"
TOKEN = re.compile(
    rf"\s*(?:(?P<literal>{LITERAL})|(?P<name>\"(?:[^\"]|\"\")+\"|`[^`]+`|\[[^\]]+\]|[A-Za-z_]\w*)"
    r"|(?P<sign><=|>=|<>|!=|==|[<>=(),]))"
)
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "==": "=="}
GENERATED = re.compile(r"^\s*(GENERATED\s+ALWAYS\s+)?AS\s*(\(|IDENTITY)", re.IGNORECASE)
DEFAULT = re.compile(r"^\s*(CONSTRAINT\s+\S+\s+)?DEFAULT\b", re.IGNORECASE)
CHECK = re.compile(
    r"^\s*(?:CONSTRAINT\s+(?:\"[^\"]+\"|\S+)\s+)?CHECK\s*\((?P<condition>.*)\)\s*$", re.IGNORECASE | re.DOTALL
)


def is_generated(field: "peewee.Field[Any]") -> bool:
    """Whether the database computes the column, so that nothing can be written to it."""
    if "GENERATED ALWAYS" in str(field.field_type).upper():
        return True
    return any(GENERATED.match(text) for text in _texts(field.constraints))


def has_server_default(field: "peewee.Field[Any]") -> bool:
    """Whether the database has a value of its own for the column (`DEFAULT`, a sequence)."""
    return bool(field.sequence) or any(DEFAULT.match(text) for text in _texts(field.constraints))


def checks(field: "peewee.Field[Any]") -> list[Callable[[Any], Any]]:
    """Give validators for what the CHECK constraints of a bound field's column and of its table say about it.

    Only constraints whose condition is read as a whole count: of `a > 0 AND b > a`, nothing is taken for `a`, as the
    reader might have misread the part that it does not know.
    """
    texts = _texts(field.constraints)
    model = getattr(field, "model", None)
    if model is not None:
        texts += _texts(model._meta.constraints)
    found: list[Callable[[Any], Any]] = []
    for text in texts:
        match = CHECK.match(text)
        if match:
            found += _Reader(match["condition"], str(field.column_name)).validators()
    return found


def fits(check: Callable[[Any], Any], made: fields.Field[Any], field: "peewee.Field[Any]") -> bool:
    """Whether a check of a column means the same for the values of the schema's field."""
    if isinstance(made, fields.Number):
        if isinstance(check, Exactly):
            return not any(isinstance(choice, str) for choice in check.choices)
        return isinstance(check, validate.Range)
    if not isinstance(made, Text):
        return False
    if isinstance(check, Exactly):
        return not field.collation and all(isinstance(choice, str) for choice in check.choices)
    return isinstance(check, Length)


def _texts(constraints: Any) -> list[str]:
    return [text for text in map(_text, constraints or ()) if text is not None]


def _text(node: Any) -> str | None:
    """Give a constraint as SQL, or None for one with parameters, which no table's definition can have."""
    context: Any = peewee.Context()
    sql, params = context.sql(node).query()
    return None if params else str(sql)


class Exactly(validate.OneOf):
    """One of the values of a CHECK. Compared as the database does: 1 and 1.0 are the same, 1 and '1' are not."""


class _Unread(Exception):  # noqa: N818 # a signal inside this module
    """The condition has a part that this reader does not know."""


class _Reader:
    """Reads one condition, for one column."""

    def __init__(self, condition: str, column: str) -> None:
        self.column = column.lower()
        self.tokens = list(self._split(condition))
        self.place = 0

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        place = 0
        text = text.strip()
        while place < len(text):
            match = TOKEN.match(text, place)
            if not match or match.lastgroup is None:
                yield "unknown", text[place:]
                return
            yield match.lastgroup, match[match.lastgroup]
            place = match.end()

    def validators(self) -> list[Callable[[Any], Any]]:
        try:
            found = self._conjunction()
            if self.place != len(self.tokens):
                return []
        except _Unread:
            return []
        return found

    def _conjunction(self) -> list[Callable[[Any], Any]]:
        found = self._term()
        while self._word() == "and":
            self.place += 1
            found += self._term()
        return found

    def _term(self) -> list[Callable[[Any], Any]]:
        if self._peek() == ("sign", "("):
            self.place += 1
            found = self._conjunction()
            self._expect(")")
            return found
        if self._peek()[0] == "literal":
            value = self._literal()
            sign = self._sign()
            return self._compare(self._subject(), MIRRORED[sign], value)
        subject = self._subject()
        word = self._word()
        if word == "between":
            self.place += 1
            low = self._literal()
            if self._word() != "and":
                raise _Unread
            self.place += 1
            return self._range(subject, low, self._literal())
        if word == "in":
            self.place += 1
            return self._list(subject)
        sign = self._sign()
        return self._compare(subject, sign, self._literal())

    def _subject(self) -> str:
        """Read the column ("value") or the length of it ("length")."""
        kind, name = self._take()
        if kind != "name":
            raise _Unread
        if name.lower() in ("length", "char_length") and self._peek() == ("sign", "("):
            self.place += 1
            if self._subject() != "value":
                raise _Unread
            self._expect(")")
            return "length"
        bare = name[1:-1] if name[0] in '"`[' else name
        if bare.lower() != self.column:
            raise _Unread
        return "value"

    def _list(self, subject: str) -> list[Callable[[Any], Any]]:
        self._expect("(")
        values = [self._literal()]
        while self._peek() == ("sign", ","):
            self.place += 1
            values.append(self._literal())
        self._expect(")")
        if subject != "value":
            raise _Unread
        return [Exactly(values)]

    def _compare(self, subject: str, sign: str, value: Any) -> list[Callable[[Any], Any]]:
        if sign in ("=", "=="):
            if subject == "value":
                return [Exactly([value])]
            return self._range(subject, value, value)
        if sign.startswith(">"):
            return self._range(subject, value, None, low_included="=" in sign)
        return self._range(subject, None, value, high_included="=" in sign)

    def _range(
        self, subject: str, low: Any, high: Any, low_included: bool = True, high_included: bool = True
    ) -> list[Callable[[Any], Any]]:
        if isinstance(low, str) or isinstance(high, str):
            raise _Unread  # the order of texts is the collation's affair
        if subject == "value":
            return [validate.Range(low, high, min_inclusive=low_included, max_inclusive=high_included)]
        if isinstance(low, decimal.Decimal) or isinstance(high, decimal.Decimal):
            raise _Unread
        least = low if low is None or low_included else low + 1
        most = high if high is None or high_included else high - 1
        return [Length(least, most)]

    def _peek(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        self.place += 1
        return token

    def _word(self) -> str:
        kind, text = self._peek()
        return text.lower() if kind == "name" else ""

    def _sign(self) -> str:
        kind, text = self._take()
        if kind != "sign" or text not in MIRRORED:
            raise _Unread
        return text

    def _literal(self) -> Any:
        kind, text = self._take()
        if kind != "literal":
            raise _Unread
        if text.startswith("'"):
            return text[1:-1].replace("''", "'")
        return decimal.Decimal(text) if "." in text else int(text)

    def _expect(self, sign: str) -> None:
        if self._take() != ("sign", sign):
            raise _Unread


class Length(validate.Length):
    """The length of a text as SQLite counts it: up to the first NUL character."""

    def __call__(self, value: Any) -> Any:
        super().__call__(value.partition("\0")[0])
        return value
