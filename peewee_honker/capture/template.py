"""Text with SQL in it, as the SQL that fills it in."""

import json
from dataclasses import dataclass

from peewee_honker.capture.forms import literal

__all__ = ["Code", "Template", "json_text", "printf"]

_MOST_ARGUMENTS = 60  # SQLite's functions take at most 127, in older versions 100


@dataclass(frozen=True, slots=True)
class Code:
    """A piece of SQL in a template, where text stands for itself, and the place that printf() gives it."""

    sql: str
    place: str = "%s"


Template = list["str | Code"]


def printf(template: Template) -> str:
    """The SQL that fills a template in."""
    parts: list[str] = []
    text, codes = "", []
    for piece in template:
        if isinstance(piece, str):
            text += piece.replace("%", "%%")
            continue
        text += piece.place
        codes.append(piece.sql)
        if len(codes) == _MOST_ARGUMENTS:
            parts.append(f"printf({literal(text)}, {', '.join(codes)})")
            text, codes = "", []
    if codes or not parts:
        parts.append(f"printf({', '.join([literal(text), *codes])})")
    elif text:
        parts.append(literal(text.replace("%%", "%")))
    return " || ".join(parts)


def json_text(value: object) -> str:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False)
