"""The triggers' SQL: what each change of a table writes into Honker's tables.

The captured rows are those for which the condition holds, as a view would show them, and an event tells how this view
changed: a row that an UPDATE brings into it is inserted, one that leaves it is deleted. A row whose key changes is deleted
under the old key and inserted under the new one.

Rows that `OR REPLACE` deletes are announced in two steps. A BEFORE trigger cannot know what the statement will do about a
conflict, so it only notes what stands in the way, in `_honker_peewee_replaced`. When the AFTER trigger runs, the new row
is in its place, so whatever had one of its unique keys is gone: that is announced then. What was ignored, or updated by
ON CONFLICT DO UPDATE, is never announced, and its note goes when the row changes. A connection with `recursive_triggers`
runs the delete trigger as well; that removes the note, so that the row is announced once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import peewee

from peewee_honker.capture.forms import json_form, key_form, literal, quoted
from peewee_honker.capture.table import Table, UniqueKey

__all__ = ["BUNDLE", "REPLACED", "TRANSACTION", "Spec", "trigger_names", "triggers"]

REPLACED = "_honker_peewee_replaced"
TRANSACTION = "_honker_peewee_transaction"
BUNDLE = ("before_insert", "after_insert", "before_update", "after_update", "after_delete")

# SQLite counts time in whole milliseconds, which a day's fraction has to be rounded back to. The LIMIT keeps SQLite from
# working it out again wherever it is used.
_NOW = "(SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) AS ms LIMIT 1)"
_MOST_ARGUMENTS = 60  # SQLite's functions take at most 127, in older versions 100


@dataclass(frozen=True, slots=True)
class Spec:
    """What is captured of a model.

    - `name`: the capture's own, part of its triggers' names.
    - `fields`: in the payload; `key`: what the event's id is made of.
    - `operations`: of `insert`, `update`, `delete`.
    - `where`: the SQL of the condition for `NEW`, `OLD` or an alias, `1` for none.
    - `stream`: for durable events, else None; `saved`, `deleted`: the events' types.
    """

    name: str
    fields: tuple[peewee.Field, ...]
    key: tuple[peewee.Field, ...]
    operations: frozenset[str]
    old_values: bool
    where: Callable[[str], str]
    stream: str | None
    saved: str
    deleted: str


def trigger_names(capture: str) -> list[str]:
    """What a capture's triggers may be called."""
    return [f"_honker_peewee_{capture}_{part}" for part in BUNDLE]


def triggers(spec: Spec, table: Table) -> dict[str, str]:
    """The triggers by name: the text that follows CREATE TRIGGER and, where needed, the schema's name."""
    return _Writer(spec, table).triggers()


@dataclass(frozen=True, slots=True)
class _Code:
    """A piece of SQL in a template, where text stands for itself."""

    sql: str


_Template = list["str | _Code"]


def _printf(template: _Template) -> str:
    """The SQL that fills a template in."""
    parts: list[str] = []
    text, codes = "", []
    for piece in template:
        if isinstance(piece, str):
            text += piece.replace("%", "%%")
            continue
        text += "%s"
        codes.append(piece.sql)
        if len(codes) == _MOST_ARGUMENTS:
            parts.append(f"printf({literal(text)}, {', '.join(codes)})")
            text, codes = "", []
    if codes or not parts:
        parts.append(f"printf({', '.join([literal(text), *codes])})")
    elif text:
        parts.append(literal(text.replace("%%", "%")))
    return " || ".join(parts)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _all(*conditions: str) -> str:
    return " AND ".join(condition for condition in conditions if condition != "1") or "1"


class _Writer:
    def __init__(self, spec: Spec, table: Table) -> None:
        self.spec = spec
        self.table = table
        self.name = literal(spec.name)
        self.deletes = "delete" in spec.operations

    def triggers(self) -> dict[str, str]:
        bodies = {
            "before_insert": self._before_insert(),
            "after_insert": self._after_insert(),
            "before_update": self._before_update(),
            "after_update": self._after_update(),
            "after_delete": self._after_delete(),
        }
        names = dict(zip(BUNDLE, trigger_names(self.spec.name), strict=True))
        return {
            names[part]: f"{quoted(names[part])} {part.replace('_', ' ').upper()} ON {quoted(self.table.name)} "
            f"FOR EACH ROW{when} BEGIN {' '.join(f'{statement};' for statement in statements)} END"
            for part, (when, statements) in bodies.items()
            if statements
        }

    # The triggers: each a WHEN clause, or '', and statements

    def _before_insert(self) -> tuple[str, list[str]]:
        return "", self._note_what_stands_in_the_way("1") if self.deletes else []

    def _after_insert(self) -> tuple[str, list[str]]:
        statements = self._announce_what_was_replaced() if self.deletes else []
        if "insert" in self.spec.operations:
            statements.append(self._event("NEW", _Code("'insert'"), self.spec.where("NEW")))
        return "", statements

    def _before_update(self) -> tuple[str, list[str]]:
        if not self.deletes:
            return "", []
        same_row = _all(*(f"_t.{part} IS OLD.{part}" for part in self.table.identity))
        keys = self.table.unique_keys
        parts = dict.fromkeys(term for key in keys for term, _collation in key.terms)
        changed = " OR ".join(f"NEW.{part} IS NOT OLD.{part} COLLATE BINARY" for part in parts)
        when = f" WHEN {changed}" if all(key.plain for key in keys) else ""
        return when, self._note_what_stands_in_the_way(f"NOT ({same_row})")

    def _after_update(self) -> tuple[str, list[str]]:
        spec = self.spec
        was, is_ = spec.where("OLD"), spec.where("NEW")
        same_key = _all(*(self._same(field) for field in spec.key))
        kept = _all(was, same_key)
        statements = []
        if self.deletes:
            statements += [*self._announce_what_was_replaced(), self._forget("OLD")]
            gone = f"NOT ({_all(is_, same_key)})"
            if gone != "NOT (1)":
                statements.append(self._event("OLD", _Code("'delete'"), _all(was, gone)))
        changed = f"NOT ({_all(*(self._same(field) for field in spec.fields))})"
        if {"insert", "update"} <= spec.operations:
            operation = "'update'" if kept == "1" else f"CASE WHEN {kept} THEN 'update' ELSE 'insert' END"
            heard = changed if kept == "1" else f"(NOT ({kept}) OR {changed})"
            statements.append(self._event("NEW", _Code(operation), _all(is_, heard), kept))
        elif "update" in spec.operations:
            statements.append(self._event("NEW", _Code("'update'"), _all(is_, kept, changed), kept))
        elif "insert" in spec.operations and kept != "1":
            statements.append(self._event("NEW", _Code("'insert'"), _all(is_, f"NOT ({kept})")))
        return "", statements

    def _after_delete(self) -> tuple[str, list[str]]:
        if not self.deletes:
            return "", []
        return "", [self._forget("OLD"), self._event("OLD", _Code("'delete'"), self.spec.where("OLD"))]

    def _same(self, field: peewee.Field) -> str:
        column = field.column_name
        new, old = f"NEW.{quoted(column)}", f"OLD.{quoted(column)}"
        same = f"{new} IS {old} COLLATE BINARY"
        return f"{same} AND typeof({new}) IS typeof({old})" if column in self.table.untyped else same

    # Events

    def _event(self, row: str, operation: _Code, condition: str, kept: str | None = None) -> str:
        """The statement that writes an event of a row; `kept` holds for updates, where old values are to be told."""
        type_ = self.spec.deleted if row == "OLD" else self.spec.saved
        changes = self._changes(kept) if kept is not None and self.spec.old_values else []
        return self._insert(type_, self._id(row), self._payload(row), operation, changes, _NOW, condition)

    def _insert(
        self, type_: str, id_: str, payload: _Template, operation: _Code, changes: _Template, source: str, condition: str
    ) -> str:
        event: _Template = [
            f'{{"type":{_json(type_)},"id":',
            _Code(f"json_quote({id_})"),
            ',"payload":',
            *payload,
            ',"event_id":"',
            _Code(
                "printf('%08x-%04x-7%03x-%04x-%012x', ms >> 16, ms & 65535, random() & 4095, "
                "32768 | (random() & 16383), random() & 281474976710655)"
            ),
            '","time":',
            _Code("printf('%d.%03d', ms / 1000, ms % 1000)"),
            ',"operation":"',
            operation,
            '",',
            _Code(f"""ifnull((SELECT event FROM {TRANSACTION}), '"origin":""')"""),
            *changes,
            "}",
        ]
        if self.spec.stream is None:
            table, columns, values = "_honker_notifications", "channel", literal(type_)
        else:
            table, columns, values = "_honker_stream", "topic, key", f"{literal(self.spec.stream)}, {id_}"
        where = "" if condition == "1" else f" WHERE {condition}"
        return (
            f"INSERT INTO {table} ({columns}, payload, created_at) "
            f"SELECT {values}, {_printf(event)}, ms / 1000 FROM {source}{where}"
        )

    def _id(self, row: str) -> str:
        forms = [key_form(field, f"{row}.{quoted(field.column_name)}") for field in self.spec.key]
        if len(forms) == 1:
            return f"ifnull({forms[0]}, '')"
        return " || ',' || ".join(f"ifnull({form}, 'None')" for form in forms) or "''"

    def _payload(self, row: str) -> _Template:
        pieces: _Template = ["{"]
        for number, field in enumerate(self.spec.fields):
            pieces += [
                "," * bool(number) + _json(field.name) + ":",
                _Code(json_form(field, f"{row}.{quoted(field.column_name)}")),
            ]
        return [*pieces, "}"]

    def _changes(self, kept: str) -> _Template:
        pieces = []
        for field in self.spec.fields:
            values = [_Code(json_form(field, f"{row}.{quoted(field.column_name)}")) for row in ("OLD", "NEW")]
            pair = _printf([f",{_json(field.name)}:[", values[0], ",", values[1], "]"])
            pieces.append(f"CASE WHEN {self._same(field)} THEN '' ELSE {pair} END")
        changes = _printf([',"changes":{', _Code(f"substr({' || '.join(pieces)}, 2)"), "}"])
        return [_Code(changes if kept == "1" else f"CASE WHEN {kept} THEN {changes} ELSE '' END")]

    # Rows that are replaced

    def _note_what_stands_in_the_way(self, but: str) -> list[str]:
        return [
            f"INSERT INTO {REPLACED} (capture, key, value, row, id, payload) "
            f"SELECT {self.name}, {number}, {self._value(key)}, {self._row('_t')}, {self._id('_t')}, "
            f"{_printf(self._payload('_t'))} FROM {quoted(self.table.name)} AS _t "
            f"WHERE {_all(self._conflict(key), but, self.spec.where('_t'))} AND NOT EXISTS (SELECT 1 FROM {REPLACED} "
            f"WHERE capture = {self.name} AND key = {number} AND value = {self._value(key)} AND row = {self._row('_t')})"
            for number, key in enumerate(self.table.unique_keys)
        ]

    def _announce_what_was_replaced(self) -> list[str]:
        ours = " OR ".join(
            f"key = {number} AND value = {self._value(key)}" for number, key in enumerate(self.table.unique_keys)
        )
        noted = f"FROM {REPLACED} WHERE capture = {self.name} AND ({ours})"
        payload: _Template = [_Code("payload")]
        source = f"{_NOW}, (SELECT id, max(payload) AS payload {noted} GROUP BY row)"
        return [
            self._insert(self.spec.deleted, "id", payload, _Code("'delete'"), [], source, "1"),
            f"DELETE FROM {REPLACED} WHERE capture = {self.name} AND row IN (SELECT row {noted})",
        ]

    def _forget(self, row: str) -> str:
        return f"DELETE FROM {REPLACED} WHERE capture = {self.name} AND row = {self._row(row)}"

    def _row(self, row: str) -> str:
        """What tells the row from others: its rowid, or its primary key as one text."""
        parts = self.table.identity
        return f"{row}.{parts[0]} + 0" if parts[0][0] != '"' else self._joined([f"{row}.{part}" for part in parts])

    def _joined(self, values: Sequence[str]) -> str:
        return " || ',' || ".join(f"quote({value})" for value in values)

    def _of_new(self, sql: str) -> str:
        """An expression over the table's columns, for the new row."""
        columns = ", ".join(f"NEW.{quoted(column)} AS {quoted(column)}" for column in self.table.columns)
        return f"(SELECT {sql} FROM (SELECT {columns}))"

    def _value(self, key: UniqueKey) -> str:
        """What the new row has for a unique key, as one text."""
        return self._joined([f"NEW.{term}" if key.plain else self._of_new(term) for term, _collation in key.terms])

    def _conflict(self, key: UniqueKey) -> str:
        """Whether the row _t has what the new row has for a unique key."""
        equal = [
            f"_t.{term} = NEW.{term}" + (f" COLLATE {quoted(collation)}" if term[0] == '"' else "")
            if key.plain
            else f"{term} = {self._of_new(term)} COLLATE {quoted(collation)}"
            for term, collation in key.terms
        ]
        return _all(*equal, *((f"({key.where})", self._of_new(f"({key.where})")) if key.where else ()))
