"""Pragmas: which need another connection than the writer, which cannot be had, which must not be cached."""

import re
import sqlite3
from dataclasses import dataclass

__all__ = ["Pragma", "refuse_if_impossible"]

_PRAGMA = re.compile(
    r"""\s*PRAGMA\s+
        (?:(?P<schema>\w+|"[^"]*"|'[^']*'|`[^`]*`|\[[^\]]*\])\s*\.\s*)?
        (?P<name>\w+)\s*
        (?P<rest>(?:=|\().*)?;?\s*\Z""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

# Rows worked out when the statement is prepared: a cached statement would show the schema of that time.
_ABOUT_SCHEMA = frozenset(
    {
        "collation_list",
        "foreign_key_check",
        "foreign_key_list",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
# Settings of one connection that a query can see: set on the writer and on the reader.
_OF_CONNECTION = frozenset(
    {
        "automatic_index",
        "cache_size",
        "cache_spill",
        "case_sensitive_like",
        "cell_size_check",
        "foreign_keys",
        "ignore_check_constraints",
        "journal_size_limit",
        "legacy_alter_table",
        "mmap_size",
        "read_uncommitted",
        "recursive_triggers",
        "reverse_unordered_selects",
        "secure_delete",
        "synchronous",
        "temp_store",
        "threads",
        "trusted_schema",
        "wal_autocheckpoint",
    }
)


@dataclass(frozen=True, slots=True)
class Pragma:
    """A PRAGMA statement's parts. `value` is the text behind `=` or within the parentheses, or None."""

    schema: str | None
    name: str
    value: str | None

    @classmethod
    def of(cls, sql: str) -> "Pragma | None":
        """Read the text; None when it is not of PRAGMA's form (SQLite will say what is wrong)."""
        match = _PRAGMA.match(sql)
        if match is None:
            return None
        rest = (match["rest"] or "").strip().rstrip(";").strip()
        value = rest[1:].strip().removesuffix(")").strip() if rest else None
        return cls(match["schema"], match["name"].lower(), value)

    @property
    def is_about_schema(self) -> bool:
        return self.name in _ABOUT_SCHEMA

    @property
    def sets_connection(self) -> bool:
        return self.value is not None and self.name in _OF_CONNECTION

    @property
    def bare_value(self) -> str:
        """The value in lower case without quotes; '' when there is none."""
        return (self.value or "").strip("'\"`").lower()


def refuse_if_impossible(pragma: Pragma) -> None:
    """Raise `sqlite3.NotSupportedError` for a setting that Honker cannot live with."""
    if pragma.name == "journal_mode" and pragma.bare_value not in ("", "wal"):
        raise sqlite3.NotSupportedError(
            f"journal_mode={pragma.value} cannot be had: Honker's readers and watchers need WAL. Leave the pragma out, "
            "or use peewee.SqliteDatabase for this file."
        )
    if pragma.name == "locking_mode" and pragma.bare_value not in ("", "normal"):
        raise sqlite3.NotSupportedError(
            f"locking_mode={pragma.value} cannot be had: Honker reads and writes over several connections. "
            "Leave the pragma out."
        )
