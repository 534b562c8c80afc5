"""From a changed row's values to its event: SQL behind two or three views, written once for all a table's triggers."""

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

_PASSED = ("operation", "key", "value", "row")


class Writing:
    """The views into which triggers insert what has changed, and what these do with it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def parts(self) -> Parts:
        """The views and their triggers."""
        plan = self.plan
        old = plan.numbered("o") if plan.tells_changes else ()
        form = plan.trigger(f"INSTEAD OF INSERT ON {plan.row}", "NEW.operation IS NOT NULL", self._form())
        written = "NEW.operation <> 'note'" if plan.deletes else "1"
        parts = {
            ("view", "row"): plan.view(*_PASSED, *plan.numbered("c"), *old),
            ("view", "event"): plan.view(*_PASSED, "id", "payload", "changes"),
            ("trigger", "form"): form,
            ("trigger", "write"): plan.trigger(f"INSTEAD OF INSERT ON {plan.event}", written, self._write()),
        }
        if plan.tells_changes:
            parts["view", "json"] = plan.view(*_PASSED, "id", *plan.numbered("c"), *old)
            parts["trigger", "join"] = plan.trigger(f"INSTEAD OF INSERT ON {plan.json}", "1", self._join())
        return parts

    def tell(self, operation: str, row: str, old: str | None = None) -> str:
        """The statement that hands a row on; nothing is told of an operation that is NULL."""
        values = [f"{row}.{quoted(column)}" for column in self.plan.columns]
        if self.plan.tells_changes:
            values += [f"{old}.{quoted(column)}" if old else "NULL" for column in self.plan.columns]
        return f"INSERT INTO {self.plan.row} VALUES ({operation}, NULL, NULL, NULL, {', '.join(values)})"

    def _form(self) -> str:
        """Make JSON of the values. Where changes are told, of old ones too, which are NULL where they are the same."""
        values = "NEW.operation, NEW.key, NEW.value, NEW.row"
        new = {field: json_form(field, self.plan.value(field)) for field in self.plan.spec.fields}
        if not self.plan.tells_changes:
            return f"INSERT INTO {self.plan.event} VALUES ({values}, {self._id()}, {self._payload(new)}, '')"
        forms = dict.fromkeys([*self.plan.numbered("c"), *self.plan.numbered("o")], "NULL")
        for field, form in new.items():
            place = self.plan.columns.index(field.column_name)
            same = self.plan.equal(f"NEW.c{place}", f"NEW.o{place}", field.column_name)
            forms[f"c{place}"] = form
            forms[f"o{place}"] = (
                f"CASE WHEN NEW.operation = 'update' AND NOT ({same}) THEN {json_form(field, f'NEW.o{place}')} END"
            )
        return f"INSERT INTO {self.plan.json} VALUES ({values}, {self._id()}, {', '.join(forms.values())})"

    def _join(self) -> str:
        """Make the payload and the changes of JSON values."""
        changes = []
        for field in self.plan.spec.fields:
            new, old = self.plan.value(field), self.plan.value(field, "o")
            pair = printf([f",{json_text(field.name)}:[", Code(old), ",", Code(new), "]"])
            changes.append(f"CASE WHEN {old} IS NULL THEN '' ELSE {pair} END")
        told = printf([',"changes":{', Code(f"substr({' || '.join(changes)}, 2)"), "}"])
        payload = self._payload({field: self.plan.value(field) for field in self.plan.spec.fields})
        return (
            f"INSERT INTO {self.plan.event} VALUES (NEW.operation, NEW.key, NEW.value, NEW.row, NEW.id, {payload}, "
            f"CASE NEW.operation WHEN 'update' THEN {told} ELSE '' END)"
        )

    @staticmethod
    def _payload(forms: dict[peewee.Field, str]) -> str:
        payload: Template = ["{"]
        for number, (field, form) in enumerate(forms.items()):
            payload += ["," * bool(number) + json_text(field.name) + ":", Code(form)]
        return printf([*payload, "}"])

    def _id(self) -> str:
        forms = [key_form(field, self.plan.value(field)) for field in self.plan.spec.key]
        if len(forms) == 1:
            return f"ifnull({forms[0]}, '')"
        return " || ',' || ".join(f"ifnull({form}, 'None')" for form in forms) or "''"

    def _by_type(self, form: Callable[[str], str]) -> str:
        saved, deleted = literal(form(self.plan.spec.saved)), literal(form(self.plan.spec.deleted))
        return f"CASE NEW.operation WHEN 'delete' THEN {deleted} ELSE {saved} END"

    def _write(self) -> str:
        event: Template = [
            '{"type":',
            Code(self._by_type(json_text)),
            ',"id":',
            Code("json_quote(NEW.id)"),
            ',"payload":',
            Code("NEW.payload"),
            ',"event_id":"',
            *_EVENT_ID,
            '","time":',
            Code("ms / 1000", "%d"),
            Code("ms % 1000", ".%03d"),
            ',"operation":"',
            Code("NEW.operation"),
            '",',
            Code(f"""ifnull((SELECT event FROM {TRANSACTION}), '"origin":""')"""),
            Code("NEW.changes"),
            "}",
        ]
        if self.plan.spec.stream is None:
            table, columns, values = "_honker_notifications", "channel", self._by_type(str)
        else:
            table, columns, values = "_honker_stream", "topic, key", f"{literal(self.plan.spec.stream)}, NEW.id"
        return (
            f"INSERT INTO {table} ({columns}, payload, created_at) SELECT {values}, {printf(event)}, ms / 1000 FROM {_NOW}"
        )
