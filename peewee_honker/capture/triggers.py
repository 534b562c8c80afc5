"""The triggers on a captured table, and the list of all that a capture makes.

The captured rows are those for which the condition holds, as a view would show them, and an event tells how this view
changed: a row that an UPDATE brings into it is inserted, one that leaves it is deleted. A row whose key changes is deleted
under the old key and inserted under the new one.

Inserts and deletes write their events at once where there is no condition. SQLite compiles a table's triggers into every
statement that changes it, so for all else the long SQL stands once: the triggers insert the bare values into a view,
`_honker_peewee_row_...`, whose trigger makes JSON of them and writes the event; where old values are told, by way of another
view, `..._json_...`, so that no value is formed twice. The views keep nothing.
"""

import peewee

from peewee_honker.capture.forms import quoted
from peewee_honker.capture.plan import Parts, Plan, Spec, all_of
from peewee_honker.capture.replaced import Replaced
from peewee_honker.capture.table import Table
from peewee_honker.capture.writing import Writing

__all__ = ["names", "objects"]

_ON_TABLE = ("before_insert", "after_insert", "before_update", "after_update", "after_delete")
_TRIGGERS = (*_ON_TABLE, "form", "write", "settle", "announce")  # settle and done: of version 1
_VIEWS = ("row", "json", "done")


def names(capture: str) -> list[tuple[str, str]]:
    """The types and names of all that a capture may have made, in the order in which they can be dropped."""
    parts = [*(("trigger", part) for part in _TRIGGERS), *(("view", part) for part in _VIEWS)]
    parts += [("index", "noted"), ("table", "replaced")]
    return [(kind, f"_honker_peewee_{part}_{capture}") for kind, part in parts]


def objects(spec: Spec, table: Table) -> dict[tuple[str, str], str]:
    """What a capture consists of, by type and name, in the order in which it can be made: the text that follows CREATE,
    the type and, where needed, the schema's name."""
    plan = Plan(spec, table)
    parts = {**(Replaced(plan).parts() if plan.deletes else {}), **Writing(plan).parts(), **_Triggers(plan).parts()}
    in_order = sorted(parts, key=lambda part: ("table", "index", "view", "trigger").index(part[0]))
    return {
        (kind, f"_honker_peewee_{part}_{spec.name}"): f"{plan.name(part)} {parts[kind, part]}" for kind, part in in_order
    }


class _Triggers:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.replaced = Replaced(plan)
        self.writing = Writing(plan)

    def parts(self) -> Parts:
        """The triggers on the table that have something to do."""
        table = quoted(self.plan.table.name)
        parts: Parts = {}
        for part in _ON_TABLE:
            when, statements = getattr(self, f"_{part}")()
            if statements:
                parts["trigger", part] = self.plan.trigger(f"{part.replace('_', ' ').upper()} ON {table}", when, *statements)
        return parts

    # Each gives its condition and its statements

    def _before_insert(self) -> tuple[str, list[str]]:
        return self.replaced.notes("1") if self.plan.deletes else ("1", [])

    def _after_insert(self) -> tuple[str, list[str]]:
        statements = self.replaced.settle(None, "NEW") if self.plan.deletes else []
        if "insert" in self.plan.spec.operations:
            statements.append(self._tell_of("insert", "NEW"))
        return "1", statements

    def _before_update(self) -> tuple[str, list[str]]:
        if not self.plan.deletes:
            return "1", []
        same_row = all_of(*(f"_t.{part} IS OLD.{part}" for part in self.plan.table.identity))
        when, statements = self.replaced.notes(f"NOT ({same_row})")
        keys = self.plan.table.unique_keys
        if all(key.plain for key in keys):
            parts = dict.fromkeys(term for key in keys for term, _collation in key.terms)
            changed = " OR ".join(f"NEW.{part} IS NOT OLD.{part} COLLATE BINARY" for part in parts)
            when = f"({changed}) AND ({when})"
        if self.plan.table.stored:
            # SQLite computes generated columns for it of those columns alone that the trigger names, as if others were NULL.
            statements.append(f"SELECT {', '.join(f'NEW.{quoted(column)}' for column in self.plan.table.stored)}")
        return when, statements

    def _after_update(self) -> tuple[str, list[str]]:
        operations = self.plan.spec.operations
        was, is_ = self.plan.spec.where("OLD"), self.plan.spec.where("NEW")
        same_key = all_of(*(self._same(field) for field in self.plan.spec.key))
        kept = all_of(was, same_key)
        changed = f"NOT ({all_of(*(self._same(field) for field in self.plan.spec.fields))})"
        statements = []
        if self.plan.deletes:
            statements += self.replaced.settle("OLD", "NEW")
            if all_of(is_, same_key) != "1":
                gone = all_of(was, f"NOT ({all_of(is_, same_key)})")
                statements.append(self.writing.tell(f"CASE WHEN {gone} THEN 'delete' END", "OLD"))
        cases = []
        if "update" in operations:
            cases.append(f"WHEN {all_of(is_, kept)} THEN CASE WHEN {changed} THEN 'update' END")
        elif kept != "1":
            cases.append(f"WHEN {kept} THEN NULL")
        if "insert" in operations and kept != "1":
            cases.append(f"WHEN {is_} THEN 'insert'")
        if cases and operations != {"delete"}:
            statements.append(self.writing.tell(f"CASE {' '.join(cases)} END", "NEW", "OLD"))
        return "1", statements

    def _after_delete(self) -> tuple[str, list[str]]:
        if not self.plan.deletes:
            return "1", []
        return "1", [*self.replaced.settle("OLD", None), self._tell_of("delete", "OLD")]

    def _tell_of(self, operation: str, row: str) -> str:
        where = self.plan.spec.where(row)
        if where == "1":
            return self.writing.write(operation, row)
        return self.writing.tell(f"CASE WHEN {where} THEN '{operation}' END", row)

    def _same(self, field: peewee.Field) -> str:
        column = field.column_name
        return self.plan.equal(f"NEW.{quoted(column)}", f"OLD.{quoted(column)}", column)
