"""What is captured, and the names of what a capture makes for itself in the file."""

from collections.abc import Callable
from dataclasses import dataclass

import peewee

from peewee_honker.capture.forms import quoted
from peewee_honker.capture.table import Table

__all__ = ["Parts", "Plan", "Spec", "all_of"]

Parts = dict[tuple[str, str], str]
"""Pieces of a schema by type and name: the text that follows CREATE, the type and the name."""


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


def all_of(*conditions: str) -> str:
    """The conjunction of conditions, of which `1` always holds."""
    return " AND ".join(condition for condition in conditions if condition != "1") or "1"


class Plan:
    """A capture of a table: what its parts have to know of each other.

    - `columns`: the columns whose values are handed on, in that order, as `c0`, `c1`, ... and old ones as `o0`, `o1`, ...
    - `replaced`: the table of notes about rows that may be replaced, `row`, `json`: the views; all quoted.
    """

    def __init__(self, spec: Spec, table: Table) -> None:
        self.spec = spec
        self.table = table
        self.deletes = "delete" in spec.operations
        self.tells_changes = spec.old_values and "update" in spec.operations
        self.columns = list(dict.fromkeys(field.column_name for field in (*spec.fields, *spec.key)))
        self.replaced, self.row, self.json = map(self.name, ("replaced", "row", "json"))

    def name(self, part: str) -> str:
        """The name of one of the capture's parts, quoted."""
        return quoted(f"_honker_peewee_{part}_{self.spec.name}")

    def numbered(self, prefix: str) -> list[str]:
        """What the views call the columns' values."""
        return [f"{prefix}{number}" for number in range(len(self.columns))]

    def value(self, field: peewee.Field, prefix: str = "c") -> str:
        """A field's value within the views' triggers."""
        return f"NEW.{prefix}{self.columns.index(field.column_name)}"

    def equal(self, new: str, old: str, column: str) -> str:
        """Whether two values of a column are the same."""
        same = f"{new} IS {old} COLLATE BINARY"
        return f"{same} AND typeof({new}) IS typeof({old})" if self.affinity(column) == "BLOB" else same

    def affinity(self, column: str) -> str:
        """What a column makes of values; `ROWID` for the one that is the rowid."""
        name = column.lower()
        return "ROWID" if name == self.table.alias else self.table.affinities[name]

    def tell(self, operation: str, values: list[str], before: list[str] | None = None) -> str:
        """The statement that hands values of the columns on, and for changes those before; nothing is told of a NULL."""
        if self.tells_changes:
            values = [*values, *(before or ["NULL"] * len(values))]
        return f"INSERT INTO {self.row} VALUES ({operation}, {', '.join(values)})"

    def view(self, *columns: str) -> str:
        """A view that keeps nothing, for INSTEAD OF triggers."""
        return f"AS SELECT {', '.join(f'NULL AS {column}' for column in columns)}"

    def trigger(self, event: str, when: str, *statements: str) -> str:
        """A trigger on `event`; `when` is `1` for always."""
        condition = "" if when == "1" else f" WHEN {when}"
        return f"{event} FOR EACH ROW{condition} BEGIN {' '.join(f'{statement};' for statement in statements)} END"
