"""Inserts whose SQL is remembered.

Peewee compiles every query anew, and for an insert that is most of its cost (40 of 54 microseconds in a create). The
text of a plain INSERT depends on the table, the columns and the number of rows alone, so it is compiled once by Peewee
itself, for one row, and only the values are worked out afterwards, as Peewee does: by the fields' `db_value`.

Whatever is not plain goes through Peewee's compiler: a conflict clause, RETURNING, a query to insert from, a CTE, a value
that is an expression or becomes one, rows of different keys, rows from a generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

import peewee

__all__ = ["InsertCompiler"]

_MOST_PLANS = 500


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a column's value comes from: a position in the row, or the field's default."""

    position: int | None
    field: peewee.Field
    default: Any
    takes_models: bool

    def raw(self, row: Sequence[Any]) -> Any:
        if self.position is not None:
            return row[self.position]
        return self.default() if callable(self.default) else self.default


class _Plan:
    """How the rows of one shape (table and columns) are inserted."""

    __slots__ = ("head", "one_row", "sources", "table")

    def __init__(self, table: Any, sources: list[_Source], sql: str) -> None:
        self.table = table
        self.sources = sources
        self.one_row = "(" + ", ".join("?" * len(sources)) + ")"
        self.head = sql.removesuffix(self.one_row)

    def text(self, rows: int) -> str:
        return self.head + ", ".join([self.one_row] * rows)


class InsertCompiler:
    """Compiles the plain inserts of one database."""

    def __init__(self, database: peewee.Database) -> None:
        self._database = database
        # Plans are found by the identity of fields, which a plan keeps alive; None: not plain.
        self._plans: dict[Any, _Plan | None] = {}

    def compile(self, query: Any) -> tuple[str, list[Any]] | None:
        """The SQL and the values of an insert, or None when Peewee's own compiler has to do it."""
        if query._on_conflict is not None or query._returning or query._cte_list:
            return None
        if type(query._insert) is GeneratorType:
            query._insert = list(query._insert)  # it could be read only once, here or by Peewee's compiler
        keys, rows = _shape(query._insert, query._columns)
        if not rows:
            return None
        plan = self._plan_for(query.table, keys, ordered=bool(query._columns))
        if plan is None or _holds_expressions(plan, rows):
            return None
        raw = [[source.raw(row) for source in plan.sources] for row in rows]
        convert: list[Callable[[Any], Any]] = [source.field.db_value for source in plan.sources]
        parameters = [function(value) for values in raw for function, value in zip(convert, values, strict=True)]
        if any(isinstance(value, (peewee.Node, type)) for value in parameters):
            # A field writes SQL for its values. Not by the user's query: its defaults have been asked for once.
            return self._by_peewee(query.table, raw, plan.sources)
        return plan.text(len(rows)), parameters

    def _plan_for(self, model: Any, keys: Sequence[Any], *, ordered: bool) -> _Plan | None:
        meta = model._meta
        identity = (
            model,
            ordered,
            len(meta.defaults),
            *(key if type(key) is str else id(key) for key in keys),
        )
        try:
            plan = self._plans[identity]
        except KeyError:
            plan = None
        else:
            if plan is None or plan.table is meta.table:
                return plan
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        plan = self._plans[identity] = self._plan(model, keys, ordered)
        return plan

    def _plan(self, model: Any, keys: Sequence[Any], ordered: bool) -> _Plan | None:
        meta = model._meta
        fields: list[Any] = [getattr(model, key, None) if type(key) is str else key for key in keys]
        if any(not isinstance(field, peewee.Field) or field.model is not model for field in fields):
            return None
        positions = {field.name: position for position, field in enumerate(fields)}
        if len(positions) < len(fields):
            return None
        added = [field for field in meta.defaults if field.name not in positions]
        if any(isinstance(meta.defaults[field], peewee.Node) for field in added):
            return None
        by_place = sorted(added, key=lambda field: field._sort_key)
        columns = fields + by_place if ordered else sorted(fields + added, key=lambda field: field._sort_key)
        sources = [
            _Source(
                positions.get(field.name),
                field,
                None if field.name in positions else meta.defaults[field],
                isinstance(field, peewee.ForeignKeyField),
            )
            for field in columns
        ]
        # Peewee's compiler writes the text, for one row of values that no field has a say in.
        sql, values = self._by_peewee(model, [[peewee.Value(None, converter=False)] * len(sources)], sources)
        plan = _Plan(meta.table, sources, sql)
        return plan if plan.head != sql and values == [None] * len(columns) else None

    def _by_peewee(self, model: Any, rows: list[list[Any]], sources: list[_Source]) -> tuple[str, list[Any]]:
        query: Any = peewee.ModelInsert(model, insert=rows, columns=[source.field for source in sources])
        query._returning = None
        context: Any = self._database.get_sql_context()
        sql, values = context.sql(query).query()
        return sql, values


def _shape(insert: Any, columns: Any) -> tuple[Sequence[Any], list[Sequence[Any]]]:
    """The keys of the rows, and each row's values in their order; no rows where they are not all of one shape."""
    if type(insert) is dict:
        return ((), []) if columns or not insert else (tuple(insert), [tuple(insert.values())])
    if type(insert) not in (list, tuple) or not insert:  # the type first: to ask a query whether it is empty runs it
        return (), []
    if type(insert[0]) is dict:
        keys = tuple(insert[0])
        identities = list(map(id, keys))
        # By identity: comparing fields with == makes an expression, which is true.
        if columns or not all(type(row) is dict and list(map(id, row)) == identities for row in insert):
            return (), []
        return keys, [tuple(row.values()) for row in insert]
    if not columns or not all(type(row) in (list, tuple) and len(row) == len(columns) for row in insert):
        return (), []
    return columns, list(insert)


def _holds_expressions(plan: _Plan, rows: list[Sequence[Any]]) -> bool:
    """Whether a value is SQL of its own; a model instance is a value for a foreign key."""
    for row in rows:
        for value in row:
            if isinstance(value, peewee.Node):
                break
        else:
            continue
        for source in plan.sources:
            value = None if source.position is None else row[source.position]
            if isinstance(value, peewee.Node) and not (source.takes_models and isinstance(value, peewee.Model)):
                return True
    return False
