"""A condition on a model's row, as the SQL that a trigger can run: without parameters, about NEW or OLD."""

import decimal
import math
import sqlite3
from typing import TYPE_CHECKING, Any

import peewee

from peewee_honker.capture.forms import literal, quoted

if TYPE_CHECKING:
    from peewee_honker.database import HonkerDatabase

__all__ = ["condition"]

_ALONE = "a capture's condition is about the fields of its model alone: a trigger does not see other tables change"


def condition(database: "HonkerDatabase", model: type[peewee.Model], where: Any, row: str) -> str:
    """The SQL of an expression over a model's fields, 1 or 0.

    Arguments:
        database: whose SQL it is.
        model: the model.
        where: the expression, or None for every row.
        row: what stands for the row: `NEW`, `OLD` or an alias of the table.

    Raises ValueError for an expression about other tables, whose changes the triggers would not see.
    """
    if where is None:
        return "1"
    context = _Literals(**database.get_context_options())
    table = model._meta.table
    context.alias_manager[table] = row
    sql, values = context.sql(where).query()
    if set(context.alias_manager.mapping) != {table}:
        raise ValueError(_ALONE)
    if values:
        raise ValueError("write the values into the text of SQL(...): a trigger has no parameters")
    if not context.has_text:
        return f"(({sql}) IS TRUE)"
    columns = ", ".join(
        f"{row}.{quoted(field.column_name)} AS {quoted(field.column_name)}" for field in model._meta.sorted_fields
    )
    return f"(SELECT ({sql}) IS TRUE FROM (SELECT {columns}))"


class _Literals(peewee.Context):
    """Peewee's context, which writes values into the SQL instead of keeping them as parameters."""

    # Peewee's own, which its type stubs leave out:
    _sql: list[str]
    _values: list[Any]

    has_text = False  # SQL(...), which names columns without a table

    def sql(self, obj: Any) -> Any:
        if isinstance(obj, peewee.SelectBase):
            raise ValueError(_ALONE)
        self.has_text = self.has_text or isinstance(obj, peewee.SQL)
        return super().sql(obj)  # type: ignore[no-untyped-call]  # untyped in Peewee's stubs

    def value(self, value: Any, converter: Any = None, add_param: bool = True) -> Any:
        before = len(self._values)
        super().value(value, converter, add_param)
        if add_param and len(self._values) > before:
            self._sql[-1] = _literal(self._values.pop())
        return self


def _literal(value: Any) -> str:
    if isinstance(value, decimal.Decimal):
        # It becomes text, which SQLite compares with a number as a number beside a column, but not beside NEW or OLD.
        return f"CAST({literal(str(value))} AS NUMERIC)"
    if not isinstance(value, (int, float, str, bytes, bytearray, memoryview)):
        value = sqlite3.adapt(value, sqlite3.PrepareProtocol, value)  # dates, decimals: as a parameter would become
    if value is None:
        return "NULL"
    if isinstance(value, (bool, int)):
        return str(int(value))
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "9e999" if value > 0 else "-9e999"
    if isinstance(value, str):
        return literal(value)
    return f"x'{bytes(value).hex()}'"
