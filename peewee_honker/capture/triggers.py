"""The SQL of a capture: what each change of a table writes into Honker's tables.

The captured rows are those for which the condition holds, as a view would show them, and an event tells how this view
changed: a row that an UPDATE brings into it is inserted, one that leaves it is deleted. A row whose key changes is deleted
under the old key and inserted under the new one.

SQLite compiles a table's triggers into every statement that changes it, so the long SQL stands once. The triggers on the
table insert the bare values into a view, `..._row`, whose trigger makes JSON of each; that goes through another,
`..._json`, which makes the payload, into a third, `..._event`, whose trigger writes the event. The views keep nothing.

Rows that `OR REPLACE` deletes are announced in two steps. A BEFORE trigger cannot know what the statement will do about a
conflict, so it only notes what stands in the way, in the table `..._replaced`. When the AFTER trigger runs, the new row is
in its place, so whatever had one of its unique keys is gone: its note is marked, and a trigger on the notes announces it.
What was ignored, or updated by ON CONFLICT DO UPDATE, is never announced; its note goes when the row changes. A connection
with `recursive_triggers` runs the delete trigger as well, which takes the note away, so that the row is announced once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import peewee

from peewee_honker.capture.forms import json_form, key_form, literal, quoted
from peewee_honker.capture.table import Table, UniqueKey

__all__ = ["TRANSACTION", "Objects", "Spec", "names", "objects"]

TRANSACTION = "_honker_peewee_transaction"

# SQLite counts time in whole milliseconds, which a day's fraction has to be rounded back to. The LIMIT keeps SQLite from
# working it out again wherever it is used.
_NOW = "(SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) AS ms LIMIT 1)"
_MOST_ARGUMENTS = 60  # SQLite's functions take at most 127, in older versions 100

Objects = dict[tuple[str, str], str]
"""By type and name: the text that follows CREATE, the type and, where needed, the schema's name."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is captured of a model.

    - `name`: the capture's own, part of the names of what it makes.
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


_TRIGGERS = ("before_insert", "after_insert", "before_update", "after_update", "after_delete")
_OWN = (
    ("table", "replaced"),
    ("index", "replaced_row"),
    ("view", "row"),
    ("view", "json"),
    ("view", "event"),
    ("view", "done"),
)
_INNER = ("form", "join", "note", "write", "settle", "announce")


def names(capture: str) -> list[tuple[str, str]]:
    """The types and names of all that a capture may have made, in the order in which they can be dropped."""
    kinds = [("trigger", part) for part in (*_TRIGGERS, *_INNER)]
    kinds += [*(("view", part) for part in _VIEWS), ("index", _INDEX), ("table", _TABLE)]
    return [(kind, f"_honker_peewee_{capture}_{part}") for kind, part in kinds]


def objects(spec: Spec, table: Table) -> Objects:
    """What a capture consists of, in the order in which it can be made."""
    return _Writer(spec, table).objects()


@dataclass(frozen=True, slots=True)
class _Code:
    """A piece of SQL in a template, where text stands for itself, and the place that printf() gives it."""

    sql: str
    place: str = "%s"


_Template = list["str | _Code"]


# A UUID of version 7: RFC 9562, section 5.7.
_EVENT_ID: _Template = [
    _Code("ms >> 16", "%08x"),
    _Code("ms & 65535", "-%04x"),
    _Code("random() & 4095", "-7%03x"),
    _Code("32768 | (random() & 16383)", "-%04x"),
    _Code("random() & 281474976710655", "-%012x"),
]


def _printf(template: _Template) -> str:
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


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _all(*conditions: str) -> str:
    return " AND ".join(condition for condition in conditions if condition != "1") or "1"


class _Writer:
    def __init__(self, spec: Spec, table: Table) -> None:
        self.spec = spec
        self.table = table
        self.deletes = "delete" in spec.operations
        self.tells_changes = spec.old_values and "update" in spec.operations
        self.columns = list(dict.fromkeys(field.column_name for field in (*spec.fields, *spec.key)))
        self.on_table = quoted(table.name)
        own = ("replaced", "row", "json", "event", "done")
        self.replaced, self.row, self.json, self.event, self.done = map(self._name, own)

    def _name(self, part: str) -> str:
        return quoted(f"_honker_peewee_{self.spec.name}_{part}")

    def objects(self) -> Objects:
        made: Objects = {}
        if self.deletes:
            made["table", "replaced"] = (
                "(key INTEGER NOT NULL, value NOT NULL, row NOT NULL, id TEXT NOT NULL, payload TEXT NOT NULL, "
                "gone INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (key, value, row)) WITHOUT ROWID"
            )
            made["index", "replaced_row"] = f"ON {self.replaced} (row)"
        told = "NEW.operation IS NOT NULL"
        passed = ("operation", "key", "value", "row")
        old = self.tells_changes
        made["view", "row"] = self._view(*passed, *self._numbered("c"), *(self._numbered("o") if old else ()))
        made["view", "event"] = self._view(*passed, "id", "payload", "changes")
        made["trigger", "form"] = self._trigger(f"INSTEAD OF INSERT ON {self.row}", told, self._form())
        if old:
            made["view", "json"] = self._view(*passed, "id", *self._numbered("c"), *self._numbered("o"))
            made["trigger", "join"] = self._trigger(f"INSTEAD OF INSERT ON {self.json}", "1", self._join())
        written = "1"
        if self.deletes:
            written = "NEW.operation <> 'note'"
            made["trigger", "note"] = self._trigger(
                f"INSTEAD OF INSERT ON {self.event}", "NEW.operation = 'note'", self._note()
            )
            made["view", "done"] = self._view("row", *(f"v{number}" for number, _key in enumerate(self.table.unique_keys)))
            made["trigger", "settle"] = self._trigger(f"INSTEAD OF INSERT ON {self.done}", *self._settle())
            made["trigger", "announce"] = self._trigger(f"AFTER UPDATE OF gone ON {self.replaced}", "1", *self._announce())
        made["trigger", "write"] = self._trigger(f"INSTEAD OF INSERT ON {self.event}", written, self._write())
        for part in _TRIGGERS:
            when, statements = getattr(self, f"_{part}")()
            if statements:
                made["trigger", part] = self._trigger(
                    f"{part.replace('_', ' ').upper()} ON {self.on_table}", when, *statements
                )
        return {
            (kind, f"_honker_peewee_{self.spec.name}_{part}"): f"{self._name(part)} {text}"
            for (kind, part), text in made.items()
        }

    def _numbered(self, prefix: str) -> list[str]:
        return [f"{prefix}{number}" for number in range(len(self.columns))]

    @staticmethod
    def _view(*columns: str) -> str:
        return f"AS SELECT {', '.join(f'NULL AS {column}' for column in columns)}"

    @staticmethod
    def _trigger(event: str, when: str, *statements: str) -> str:
        condition = "" if when == "1" else f" WHEN {when}"
        return f"{event} FOR EACH ROW{condition} BEGIN {' '.join(f'{statement};' for statement in statements)} END"

    # The triggers on the table: when, and the statements

    def _before_insert(self) -> tuple[str, list[str]]:
        return self._notes("1") if self.deletes else ("1", [])

    def _after_insert(self) -> tuple[str, list[str]]:
        statements = [self._report(None, "NEW")] if self.deletes else []
        if "insert" in self.spec.operations:
            where = self.spec.where("NEW")
            statements.append(self._tell("'insert'" if where == "1" else f"CASE WHEN {where} THEN 'insert' END", "NEW"))
        return "1", statements

    def _before_update(self) -> tuple[str, list[str]]:
        if not self.deletes:
            return "1", []
        same_row = _all(*(f"_t.{part} IS OLD.{part}" for part in self.table.identity))
        when, statements = self._notes(f"NOT ({same_row})")
        keys = self.table.unique_keys
        if all(key.plain for key in keys):
            parts = dict.fromkeys(term for key in keys for term, _collation in key.terms)
            changed = " OR ".join(f"NEW.{part} IS NOT OLD.{part} COLLATE BINARY" for part in parts)
            when = f"({changed}) AND ({when})"
        return when, statements

    def _after_update(self) -> tuple[str, list[str]]:
        operations = self.spec.operations
        was, is_ = self.spec.where("OLD"), self.spec.where("NEW")
        same_key = _all(*(self._same(field) for field in self.spec.key))
        kept = _all(was, same_key)
        changed = f"NOT ({_all(*(self._same(field) for field in self.spec.fields))})"
        statements = []
        if self.deletes:
            statements.append(self._report("OLD", "NEW"))
            if _all(is_, same_key) != "1":
                gone = _all(was, f"NOT ({_all(is_, same_key)})")
                statements.append(self._tell(f"CASE WHEN {gone} THEN 'delete' END", "OLD"))
        cases = []
        if "update" in operations:
            cases.append(f"WHEN {_all(is_, kept)} THEN CASE WHEN {changed} THEN 'update' END")
        elif kept != "1":
            cases.append(f"WHEN {kept} THEN NULL")
        if "insert" in operations and kept != "1":
            cases.append(f"WHEN {is_} THEN 'insert'")
        if cases and operations != {"delete"}:
            statements.append(self._tell(f"CASE {' '.join(cases)} END", "NEW", "OLD"))
        return "1", statements

    def _after_delete(self) -> tuple[str, list[str]]:
        if not self.deletes:
            return "1", []
        where = self.spec.where("OLD")
        operation = "'delete'" if where == "1" else f"CASE WHEN {where} THEN 'delete' END"
        return "1", [self._report("OLD", None), self._tell(operation, "OLD")]

    def _tell(self, operation: str, row: str, old: str | None = None) -> str:
        """Hand a row on; nothing is told of an operation that is NULL."""
        values = [f"{row}.{quoted(column)}" for column in self.columns]
        if self.tells_changes:
            values += [f"{old}.{quoted(column)}" if old else "NULL" for column in self.columns]
        return f"INSERT INTO {self.row} VALUES ({operation}, NULL, NULL, NULL, {', '.join(values)})"

    def _same(self, field: peewee.Field) -> str:
        column = field.column_name
        return self._equal(f"NEW.{quoted(column)}", f"OLD.{quoted(column)}", column)

    def _equal(self, new: str, old: str, column: str) -> str:
        same = f"{new} IS {old} COLLATE BINARY"
        return f"{same} AND typeof({new}) IS typeof({old})" if column in self.table.untyped else same

    # Rows that are replaced

    def _notes(self, but: str) -> tuple[str, list[str]]:
        """Whether the new row takes another row's unique key, and the notes about such rows."""
        at = f"FROM {self.on_table} AS _t WHERE"
        conflicts = [_all(self._conflict(key), but) for key in self.table.unique_keys]
        values = [f"_t.{quoted(column)}" for column in self.columns]
        values += ["NULL" for _column in self.columns if self.tells_changes]
        return " OR ".join(f"EXISTS (SELECT 1 {at} {conflict})" for conflict in conflicts), [
            f"INSERT INTO {self.row} SELECT 'note', {number}, {self._value(key)}, {self._row('_t')}, {', '.join(values)} "
            f"{at} {_all(conflict, self.spec.where('_t'))}"
            for number, (key, conflict) in enumerate(zip(self.table.unique_keys, conflicts, strict=True))
        ]

    def _note(self) -> str:
        # A note that is there is right, since it goes with any change of its row. No conflict clause: the one of the
        # statement that runs the trigger would override it.
        return (
            f"INSERT INTO {self.replaced} (key, value, row, id, payload) "
            f"SELECT NEW.key, NEW.value, NEW.row, NEW.id, NEW.payload WHERE NOT EXISTS (SELECT 1 FROM {self.replaced} "
            "WHERE key = NEW.key AND value = NEW.value AND row = NEW.row)"
        )

    def _report(self, old: str | None, new: str | None) -> str:
        """Say that a row was changed or deleted, and which unique keys a new one has taken."""
        values = [self._value(key) if new else "NULL" for key in self.table.unique_keys]
        return f"INSERT INTO {self.done} VALUES ({self._row(old) if old else 'NULL'}, {', '.join(values)})"

    def _settle(self) -> tuple[str, ...]:
        """When there are notes: first forget that of the row itself, which ON CONFLICT DO UPDATE found in its way and did
        not replace; then mark those of rows whose keys are taken."""
        row = "row = NEW.row"
        taken = [f"key = {number} AND value = NEW.v{number}" for number, _key in enumerate(self.table.unique_keys)]
        return (
            " OR ".join(f"EXISTS (SELECT 1 FROM {self.replaced} WHERE {which})" for which in (row, *taken)),
            f"DELETE FROM {self.replaced} WHERE {row}",
            *(f"UPDATE {self.replaced} SET gone = 1 WHERE {which}" for which in taken),
        )

    def _announce(self) -> list[str]:
        return [
            f"INSERT INTO {self.event} VALUES ('delete', NULL, NULL, NULL, NEW.id, NEW.payload, '')",
            f"DELETE FROM {self.replaced} WHERE row = NEW.row",
        ]

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
        """What the new row has for a unique key, as one text; NULL for a row that the key does not count."""
        value = self._joined([f"NEW.{term}" if key.plain else self._of_new(term) for term, _collation in key.terms])
        return f"CASE WHEN {self._of_new(f'({key.where})')} THEN {value} END" if key.where else value

    def _conflict(self, key: UniqueKey) -> str:
        """Whether the row _t has what the new row has for a unique key."""
        equal = [
            f"_t.{term} = NEW.{term}" + (f" COLLATE {quoted(collation)}" if term[0] == '"' else "")
            if key.plain
            else f"{term} = {self._of_new(term)} COLLATE {quoted(collation)}"
            for term, collation in key.terms
        ]
        return _all(*equal, *((f"({key.where})", self._of_new(f"({key.where})")) if key.where else ()))

    # From values to an event

    def _value_of(self, field: peewee.Field, prefix: str = "c") -> str:
        return f"NEW.{prefix}{self.columns.index(field.column_name)}"

    def _form(self) -> str:
        """Make JSON of the values. Where changes are told, of old ones too, which are NULL where they are the same."""
        values = "NEW.operation, NEW.key, NEW.value, NEW.row"
        new = {field: json_form(field, self._value_of(field)) for field in self.spec.fields}
        if not self.tells_changes:
            return f"INSERT INTO {self.event} VALUES ({values}, {self._id()}, {self._payload(new)}, '')"
        forms = dict.fromkeys([*self._numbered("c"), *self._numbered("o")], "NULL")
        for field, form in new.items():
            place = self.columns.index(field.column_name)
            same = self._equal(f"NEW.c{place}", f"NEW.o{place}", field.column_name)
            forms[f"c{place}"] = form
            forms[f"o{place}"] = (
                f"CASE WHEN NEW.operation = 'update' AND NOT ({same}) THEN {json_form(field, f'NEW.o{place}')} END"
            )
        return f"INSERT INTO {self.json} VALUES ({values}, {self._id()}, {', '.join(forms.values())})"

    def _join(self) -> str:
        """Make the payload and the changes of JSON values."""
        changes = []
        for field in self.spec.fields:
            new, old = self._value_of(field), self._value_of(field, "o")
            pair = _printf([f",{_json(field.name)}:[", _Code(old), ",", _Code(new), "]"])
            changes.append(f"CASE WHEN {old} IS NULL THEN '' ELSE {pair} END")
        told = _printf([',"changes":{', _Code(f"substr({' || '.join(changes)}, 2)"), "}"])
        payload = self._payload({field: self._value_of(field) for field in self.spec.fields})
        return (
            f"INSERT INTO {self.event} VALUES (NEW.operation, NEW.key, NEW.value, NEW.row, NEW.id, {payload}, "
            f"CASE NEW.operation WHEN 'update' THEN {told} ELSE '' END)"
        )

    @staticmethod
    def _payload(forms: dict[peewee.Field, str]) -> str:
        payload: _Template = ["{"]
        for number, (field, form) in enumerate(forms.items()):
            payload += ["," * bool(number) + _json(field.name) + ":", _Code(form)]
        return _printf([*payload, "}"])

    def _id(self) -> str:
        forms = [key_form(field, self._value_of(field)) for field in self.spec.key]
        if len(forms) == 1:
            return f"ifnull({forms[0]}, '')"
        return " || ',' || ".join(f"ifnull({form}, 'None')" for form in forms) or "''"

    def _by_type(self, form: Callable[[str], str]) -> str:
        saved, deleted = literal(form(self.spec.saved)), literal(form(self.spec.deleted))
        return f"CASE NEW.operation WHEN 'delete' THEN {deleted} ELSE {saved} END"

    def _write(self) -> str:
        event: _Template = [
            '{"type":',
            _Code(self._by_type(_json)),
            ',"id":',
            _Code("json_quote(NEW.id)"),
            ',"payload":',
            _Code("NEW.payload"),
            ',"event_id":"',
            *_EVENT_ID,
            '","time":',
            _Code("ms / 1000", "%d"),
            _Code("ms % 1000", ".%03d"),
            ',"operation":"',
            _Code("NEW.operation"),
            '",',
            _Code(f"""ifnull((SELECT event FROM {TRANSACTION}), '"origin":""')"""),
            _Code("NEW.changes"),
            "}",
        ]
        if self.spec.stream is None:
            table, columns, values = "_honker_notifications", "channel", self._by_type(str)
        else:
            table, columns, values = "_honker_stream", "topic, key", f"{literal(self.spec.stream)}, NEW.id"
        return (
            f"INSERT INTO {table} ({columns}, payload, created_at) SELECT {values}, {_printf(event)}, ms / 1000 FROM {_NOW}"
        )
