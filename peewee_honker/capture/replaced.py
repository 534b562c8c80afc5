"""Rows that `OR REPLACE` deletes: noted before, announced after.

SQLite runs no delete trigger for them unless the writing connection asked for `recursive_triggers`. A BEFORE trigger
cannot know what the statement will do about a conflict, so it only notes what stands in the way, in a table. When the AFTER
trigger runs, the new row is in its place, so whatever had one of its unique keys is gone: its note is marked, and a trigger
on the notes announces it. What was ignored, or updated by ON CONFLICT DO UPDATE, is never announced; its note goes when the
row changes. A connection with `recursive_triggers` runs the delete trigger as well, which takes the note away, so that the
row is announced once.
"""

from collections.abc import Sequence

from peewee_honker.capture.forms import quoted
from peewee_honker.capture.plan import Parts, Plan, all_of
from peewee_honker.capture.table import UniqueKey

__all__ = ["Replaced"]


class Replaced:
    """The table of notes, and the SQL that writes, settles and announces them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def parts(self) -> Parts:
        """The notes' table and the triggers around it."""
        plan = self.plan
        keys = range(len(plan.table.unique_keys))
        values = ", ".join(plan.numbered("c"))
        return {
            ("table", "replaced"): (
                "(key INTEGER NOT NULL, value NOT NULL, row NOT NULL, gone INTEGER NOT NULL DEFAULT 0, "
                f"{values}, PRIMARY KEY (key, value, row)) WITHOUT ROWID"
            ),
            ("index", "noted"): f"ON {plan.replaced} (row)",
            ("view", "done"): plan.view("row", *(f"v{number}" for number in keys)),
            ("trigger", "settle"): plan.trigger(f"INSTEAD OF INSERT ON {plan.done}", *self._settle()),
            ("trigger", "announce"): plan.trigger(f"AFTER UPDATE OF gone ON {plan.replaced}", "1", *self._announce()),
        }

    def notes(self, but: str) -> tuple[str, list[str]]:
        """Whether the new row takes another row's unique key, and the statements that note such rows."""
        at = f"FROM {quoted(self.plan.table.name)} AS _t WHERE"
        conflicts = [all_of(self._conflict(key), but) for key in self.plan.table.unique_keys]
        return " OR ".join(f"EXISTS (SELECT 1 {at} {conflict})" for conflict in conflicts), [
            self._note(number, key, f"{at} {all_of(conflict, self.plan.spec.where('_t'))}")
            for number, (key, conflict) in enumerate(zip(self.plan.table.unique_keys, conflicts, strict=True))
        ]

    def _note(self, number: int, key: UniqueKey, rows: str) -> str:
        # A note that is there is right, since it goes with any change of its row. No conflict clause: the one of the
        # statement that runs the trigger would override it.
        value, row = self._value(key, before=True), self._row("_t")
        columns = ", ".join(["key", "value", "row", *self.plan.numbered("c")])
        values = ", ".join([str(number), value, row, *(f"_t.{quoted(column)}" for column in self.plan.columns)])
        return (
            f"INSERT INTO {self.plan.replaced} ({columns}) SELECT {values} {rows} AND NOT EXISTS "
            f"(SELECT 1 FROM {self.plan.replaced} WHERE key = {number} AND value = {value} AND row = {row})"
        )

    def report(self, old: str | None, new: str | None) -> str:
        """Say that a row was changed or deleted, and which unique keys a new one has taken."""
        values = [self._value(key) if new else "NULL" for key in self.plan.table.unique_keys]
        return f"INSERT INTO {self.plan.done} VALUES ({self._row(old) if old else 'NULL'}, {', '.join(values)})"

    def _settle(self) -> tuple[str, ...]:
        """When there are notes: first forget that of the row itself, which ON CONFLICT DO UPDATE found in its way and did
        not replace; then mark those of rows whose keys are taken."""
        row = "row = NEW.row"
        taken = [f"key = {number} AND value = NEW.v{number}" for number, _key in enumerate(self.plan.table.unique_keys)]
        return (
            " OR ".join(f"EXISTS (SELECT 1 FROM {self.plan.replaced} WHERE {which})" for which in (row, *taken)),
            f"DELETE FROM {self.plan.replaced} WHERE {row}",
            *(f"UPDATE {self.plan.replaced} SET gone = 1 WHERE {which}" for which in taken),
        )

    def _announce(self) -> list[str]:
        return [
            self.plan.tell("'delete'", [f"NEW.{value}" for value in self.plan.numbered("c")]),
            f"DELETE FROM {self.plan.replaced} WHERE row = NEW.row",
        ]

    def _row(self, row: str) -> str:
        """What tells the row from others: its rowid, or its primary key as one text."""
        parts = self.plan.table.identity
        return f"{row}.{parts[0]} + 0" if parts[0][0] != '"' else self._joined([f"{row}.{part}" for part in parts])

    def _joined(self, values: Sequence[str]) -> str:
        return values[0] if len(values) == 1 else " || ',' || ".join(f"quote({value})" for value in values)

    def _new(self, column: str, *, before: bool) -> str:
        """A column of the new row. Before it is written, NULL stands where OR REPLACE would put a default."""
        default = self.plan.table.defaults.get(column) if before else None
        value = f"NEW.{quoted(column)}"
        return f"ifnull({value}, {default})" if default is not None else value

    def _of_new(self, key: UniqueKey, term: str, *, before: bool) -> str:
        """What the new row has for a term of a unique key: a column, the rowid, or an expression over the columns."""
        if key.plain:
            column = term[1:-1].replace('""', '"')
            return self._new(column, before=before) if term[0] == '"' else f"NEW.{term}"
        columns = ", ".join(f"{self._new(column, before=before)} AS {quoted(column)}" for column in self.plan.table.columns)
        return f"(SELECT {term} FROM (SELECT {columns}))"

    def _value(self, key: UniqueKey, *, before: bool = False) -> str:
        """What the new row has for a unique key, as one text; NULL for a row that the key does not count."""
        value = self._joined([self._of_new(key, term, before=before) for term, _collation in key.terms])
        return f"CASE WHEN {self._of_new(key, f'({key.where})', before=before)} THEN {value} END" if key.where else value

    def _conflict(self, key: UniqueKey) -> str:
        """Whether the row _t has what the new row, before it is written, has for a unique key."""
        equal = [
            f"{f'_t.{term}' if key.plain else term} = {self._of_new(key, term, before=True)}"
            + (f" COLLATE {quoted(collation)}" if term[0] in '"(' else "")
            for term, collation in key.terms
        ]
        counted = [f"({key.where})", self._of_new(key, f"({key.where})", before=True)] if key.where else []
        return all_of(*equal, *counted)
