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
        values = ", ".join(plan.numbered("c"))
        return {
            ("table", "replaced"): (
                "(key INTEGER NOT NULL, value NOT NULL, row NOT NULL, gone INTEGER NOT NULL DEFAULT 0, "
                f"{values}, PRIMARY KEY (key, value)) WITHOUT ROWID"
            ),
            ("index", "noted"): f"ON {plan.replaced} (row)",
            ("trigger", "announce"): plan.trigger(f"AFTER UPDATE OF gone ON {plan.replaced}", "1", *self._announce()),
        }

    def notes(self, but: str) -> tuple[str, list[str]]:
        """Whether the new row takes another row's unique key, and the statements that note such rows."""
        at = f"FROM {quoted(self.plan.table.name)} AS _t WHERE"
        conflicts = [all_of(self._conflict(key), but) for key in self.plan.table.unique_keys]
        return " OR ".join(f"EXISTS (SELECT 1 {at} {conflict})" for conflict in conflicts), [
            statement
            for number, (key, conflict) in enumerate(zip(self.plan.table.unique_keys, conflicts, strict=True))
            for statement in self._note(number, key, f"{at} {all_of(conflict, self.plan.spec.where('_t'))}")
        ]

    def _note(self, number: int, key: UniqueKey, rows: str) -> tuple[str, str]:
        # A note goes with any change of its row, so one that has this key is of the same row, or of one that went unseen.
        value = self._value(key, before=True)
        columns = ", ".join(["key", "value", "row", *self.plan.numbered("c")])
        values = [str(number), value, self._row("_t"), *(f"_t.{quoted(column)}" for column in self.plan.columns)]
        return (
            f"DELETE FROM {self.plan.replaced} WHERE key = {number} AND value = {value}",
            f"INSERT INTO {self.plan.replaced} ({columns}) SELECT {', '.join(values)} {rows}",
        )

    def settle(self, old: str | None, new: str | None) -> list[str]:
        """The statements for a row that was changed or deleted, and for one that has taken its unique keys: first forget the
        note of the row itself, which ON CONFLICT DO UPDATE found in its way and did not replace; then mark those of rows
        whose keys are taken. These are found by their whole primary key, so SQLite takes no temporary table for them."""
        statements = [f"DELETE FROM {self.plan.replaced} WHERE row = {self._row(old)}"] if old else []
        if new:
            for number, key in enumerate(self.plan.table.unique_keys):
                statements.append(
                    f"UPDATE {self.plan.replaced} SET gone = 1 WHERE key = {number} AND value = {self._value(key)}"
                )
        return statements

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
        # + takes its affinity from a column: with it, SQLite would not look for the value in the notes' primary key.
        return f"+{values[0]}" if len(values) == 1 else " || ',' || ".join(f"quote({value})" for value in values)

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
