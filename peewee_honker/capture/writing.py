"""From a changed row's values to its event: SQL behind one or two views, written once for all a table's triggers."""

from collections.abc import Callable

import peewee

from peewee_honker.capture.forms import json_form, key_form, literal, quoted
from peewee_honker.capture.plan import Parts, Plan
from peewee_honker.capture.template import Code, Template, json_text, printf
from peewee_honker.driver.mark import TRANSACTION

__all__ = ["Writing"]

# SQLite counts time in whole milliseconds, which a day's fraction has to be rounded back to.
_NOW = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
# A UUID of version 7 (RFC 9562, section 5.7), without dashes, which cost as much again: Event reads it so. All but its time
# and the two marks is random; the sign bit is the mark of the variant.
_EVENT_ID: Template = [Code(_NOW, "%012x7000"), Code("random() & 4611686018427387903 | -9223372036854775808", "%016x")]


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
            write = self._write(None, self._id(self._bare), self._id_json(self._bare), self._forms(self._bare))
            return {
                ("view", "row"): plan.view("operation", *new),
                ("trigger", "form"): plan.trigger(f"INSTEAD OF INSERT ON {plan.row}", told, write),
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

    def write(self, operation: str, row: str) -> str:
        """The statement that writes the event of a row at once, for what happens often: it is in the program of each
        statement that changes the table, and saves the way through a view."""

        def value(field: peewee.Field) -> str:
            return f"{row}.{quoted(field.column_name)}"

        return self._write(operation, self._id(value), self._id_json(value), self._forms(value))

    def _bare(self, field: peewee.Field) -> str:
        return self.plan.value(field)

    def _forms(self, value: Callable[[peewee.Field], str]) -> list[str]:
        return [json_form(field, value(field), self.plan.affinity(field.column_name)) for field in self.plan.spec.fields]

    def _form(self) -> str:
        """Make JSON of the values, also of old ones, which are NULL where they are the same."""
        forms = dict.fromkeys([*self.plan.numbered("c"), *self.plan.numbered("o")], "NULL")
        new, old = self._forms(self._bare), self._forms(lambda field: self.plan.value(field, "o"))
        for field, new_form, old_form in zip(self.plan.spec.fields, new, old, strict=True):
            place = self.plan.columns.index(field.column_name)
            same = self.plan.equal(f"NEW.c{place}", f"NEW.o{place}", field.column_name)
            forms[f"c{place}"] = new_form
            forms[f"o{place}"] = f"CASE WHEN NEW.operation = 'update' AND NOT ({same}) THEN {old_form} END"
        return f"INSERT INTO {self.plan.json} VALUES (NEW.operation, {self._id(self._bare)}, {', '.join(forms.values())})"

    def _write_with_changes(self) -> str:
        """Write the event of JSON values."""
        changes = []
        for field in self.plan.spec.fields:
            new, old = self.plan.value(field), self.plan.value(field, "o")
            pair = printf([f",{json_text(field.name)}:[", Code(old), ",", Code(new), "]"])
            changes.append(f"CASE WHEN {old} IS NULL THEN '' ELSE {pair} END")
        told = printf([',"changes":{', Code(f"substr({' || '.join(changes)}, 2)"), "}"])
        return self._write(
            None,
            "NEW.id",
            [Code("json_quote(NEW.id)")],
            [self.plan.value(field) for field in self.plan.spec.fields],
            [Code(f"CASE NEW.operation WHEN 'update' THEN {told} ELSE '' END")],
        )

    def _id(self, value: Callable[[peewee.Field], str]) -> str:
        """The key as text."""
        forms = [key_form(field, value(field)) for field in self.plan.spec.key]
        if len(forms) == 1:
            return f"ifnull({forms[0]}, '')"
        return " || ',' || ".join(f"ifnull({form}, 'None')" for form in forms) or "''"

    def _id_json(self, value: Callable[[peewee.Field], str]) -> Template:
        key = self.plan.spec.key
        if len(key) == 1 and self.plan.affinity(key[0].column_name) == "ROWID":
            return ['"', Code(value(key[0]), "%d"), '"']
        return [Code(f"json_quote({self._id(value)})")]

    def _write(
        self, operation: str | None, id_: str, id_json: Template, forms: list[str], changes: Template | None = None
    ) -> str:
        """The statement that writes an event: of an operation, or of the view's.

        Its values stand in VALUES: an INSERT ... SELECT costs SQLite a temporary table each time.
        """
        spec = self.plan.spec
        if operation is None:
            saved, deleted = literal(json_text(spec.saved)), literal(json_text(spec.deleted))
            type_: Template = [Code(f"CASE NEW.operation WHEN 'delete' THEN {deleted} ELSE {saved} END")]
            channel = f"CASE NEW.operation WHEN 'delete' THEN {literal(spec.deleted)} ELSE {literal(spec.saved)} END"
            did: Template = [Code("NEW.operation")]
        else:
            name = spec.deleted if operation == "delete" else spec.saved
            type_, channel, did = [json_text(name)], literal(name), [operation]
        payload: Template = []
        for number, (field, form) in enumerate(zip(spec.fields, forms, strict=True)):
            payload += ["," * bool(number) + json_text(field.name) + ":", Code(form)]
        event: Template = [
            '{"type":',
            *type_,
            ',"id":',
            *id_json,
            ',"operation":"',
            *did,
            '","event_id":"',
            *_EVENT_ID,
            '"',
            Code(f"ifnull((SELECT ',' || event FROM {TRANSACTION}), '')"),
            ',"payload":{',
            *payload,
            "}",
            *(changes or []),
            "}",
        ]
        if spec.stream is None:
            return f"INSERT INTO _honker_notifications (channel, payload) VALUES ({channel}, {printf(event)})"
        return f"INSERT INTO _honker_stream (topic, key, payload) VALUES ({literal(spec.stream)}, {id_}, {printf(event)})"
