"""From a changed row's values to its event: SQL behind one or two views, written once for all a table's triggers."""

from collections.abc import Callable

import peewee

from peewee_honker.capture.forms import json_form, key_form, literal, quoted
from peewee_honker.capture.plan import TRANSACTION, Parts, Plan
from peewee_honker.capture.template import Code, Template, json_text, printf

__all__ = ["Writing"]

# SQLite counts time in whole milliseconds, which a day's fraction has to be rounded back to. The LIMIT keeps SQLite from
# working it out again wherever it is used.
_NOW = "(SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) AS ms LIMIT 1)"
# A UUID of version 7: RFC 9562, section 5.7.
_EVENT_ID: Template = [
    Code("ms >> 16", "%08x"),
    Code("ms & 65535", "-%04x"),
    Code("random() & 4095", "-7%03x"),
    Code("32768 | (random() & 16383)", "-%04x"),
    Code("random() & 281474976710655", "-%012x"),
]


class Writing:
    """The views into which triggers insert what has changed, and what these do with it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def parts(self) -> Parts:
        """The views and their triggers."""
        plan = self.plan
        told = "NEW.operation IS NOT NULL"
        new, old = plan.numbered("c"), plan.numbered("o")
        if not plan.tells_changes:
            return {
                ("view", "row"): plan.view("operation", *new),
                ("trigger", "form"): plan.trigger(f"INSTEAD OF INSERT ON {plan.row}", told, self._form_and_write()),
            }
        return {
            ("view", "row"): plan.view("operation", *new, *old),
            ("trigger", "form"): plan.trigger(f"INSTEAD OF INSERT ON {plan.row}", told, self._form()),
            ("view", "json"): plan.view("operation", "id", *new, *old),
            ("trigger", "write"): plan.trigger(f"INSTEAD OF INSERT ON {plan.json}", "1", self._write_with_changes()),
        }

    def tell(self, operation: str, row: str, old: str | None = None) -> str:
        """The statement that hands a row on; nothing is told of an operation that is NULL."""
        values = [f"{row}.{quoted(column)}" for column in self.plan.columns]
        before = [f"{old}.{quoted(column)}" for column in self.plan.columns] if old else None
        return self.plan.tell(operation, values, before)

    def _form_and_write(self) -> str:
        """Write the event of bare values."""
        forms = {field: json_form(field, self.plan.value(field)) for field in self.plan.spec.fields}
        return self._write(self._id(), forms, [])

    def _form(self) -> str:
        """Make JSON of the values, also of old ones, which are NULL where they are the same."""
        forms = dict.fromkeys([*self.plan.numbered("c"), *self.plan.numbered("o")], "NULL")
        for field in self.plan.spec.fields:
            place = self.plan.columns.index(field.column_name)
            same = self.plan.equal(f"NEW.c{place}", f"NEW.o{place}", field.column_name)
            forms[f"c{place}"] = json_form(field, f"NEW.c{place}")
            forms[f"o{place}"] = (
                f"CASE WHEN NEW.operation = 'update' AND NOT ({same}) THEN {json_form(field, f'NEW.o{place}')} END"
            )
        return f"INSERT INTO {self.plan.json} VALUES (NEW.operation, {self._id()}, {', '.join(forms.values())})"

    def _write_with_changes(self) -> str:
        """Write the event of JSON values."""
        changes = []
        for field in self.plan.spec.fields:
            new, old = self.plan.value(field), self.plan.value(field, "o")
            pair = printf([f",{json_text(field.name)}:[", Code(old), ",", Code(new), "]"])
            changes.append(f"CASE WHEN {old} IS NULL THEN '' ELSE {pair} END")
        told = printf([',"changes":{', Code(f"substr({' || '.join(changes)}, 2)"), "}"])
        forms = {field: self.plan.value(field) for field in self.plan.spec.fields}
        return self._write("NEW.id", forms, [Code(f"CASE NEW.operation WHEN 'update' THEN {told} ELSE '' END")])

    def _id(self) -> str:
        forms = [key_form(field, self.plan.value(field)) for field in self.plan.spec.key]
        if len(forms) == 1:
            return f"ifnull({forms[0]}, '')"
        return " || ',' || ".join(f"ifnull({form}, 'None')" for form in forms) or "''"

    def _by_type(self, form: Callable[[str], str]) -> str:
        saved, deleted = literal(form(self.plan.spec.saved)), literal(form(self.plan.spec.deleted))
        return f"CASE NEW.operation WHEN 'delete' THEN {deleted} ELSE {saved} END"

    def _write(self, id_: str, forms: dict[peewee.Field, str], changes: Template) -> str:
        payload: Template = []
        for number, (field, form) in enumerate(forms.items()):
            payload += ["," * bool(number) + json_text(field.name) + ":", Code(form)]
        event: Template = [
            '{"type":',
            Code(self._by_type(json_text)),
            ',"id":',
            Code(f"json_quote({id_})"),
            ',"payload":{',
            *payload,
            '},"event_id":"',
            *_EVENT_ID,
            '","time":',
            Code("ms / 1000", "%d"),
            Code("ms % 1000", ".%03d"),
            ',"operation":"',
            Code("NEW.operation"),
            '",',
            Code(f"""ifnull((SELECT event FROM {TRANSACTION}), '"origin":""')"""),
            *changes,
            "}",
        ]
        if self.plan.spec.stream is None:
            table, columns, values = "_honker_notifications", "channel", self._by_type(str)
        else:
            table, columns, values = "_honker_stream", "topic, key", f"{literal(self.plan.spec.stream)}, {id_}"
        return (
            f"INSERT INTO {table} ({columns}, payload, created_at) SELECT {values}, {printf(event)}, ms / 1000 FROM {_NOW}"
        )
