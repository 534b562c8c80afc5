"""The base of all schemas here: which values of an instance there are to dump.

An instance that a query filled only in part (`Order.select(Order.id)`) answers None for its other columns. To dump that
would tell a reader that the row holds null, so the key is left out instead.
"""

import functools
import inspect
from typing import Any

import peewee
from marshmallow import Schema

__all__ = ["RowSchema", "reads_plainly"]


class RowSchema(Schema):
    """A marshmallow schema whose dump of a model's instance leaves out the columns that were not loaded or set."""

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        """Give the value of a key, or `default` (which leaves the key out) for a column that the instance does not hold."""
        kind = type(obj)
        if kind is dict:
            if attr in obj:
                return obj[attr]
        elif attr in self._plain[kind]:  # what marshmallow and Peewee come to after four calls
            return obj.__data__.get(attr, default)
        elif isinstance(obj, peewee.Model):
            row: Any = obj
            if attr not in row.__data__ and attr not in row.__rel__ and attr in row._meta.fields:
                return default
        return super().get_attribute(obj, attr, default)

    @functools.cached_property
    def _plain(self) -> "_PlainColumns":
        return _PlainColumns()


def reads_plainly(model: Any) -> bool:
    """Whether instances answer as Python's own objects do: marshmallow asks `obj[key]` first, where there is such."""
    own = any("__getitem__" in vars(base) for base in model.__mro__)
    return model.__getattribute__ is object.__getattribute__ and not own


class _PlainColumns(dict[Any, frozenset[str]]):
    """By class, the fields that an instance answers with just what it holds: no row to look up, no property over them."""

    def __missing__(self, kind: Any) -> frozenset[str]:
        names = kind._meta.fields if issubclass(kind, peewee.Model) and reads_plainly(kind) else ()
        plain = (name for name in names if type(inspect.getattr_static(kind, name)) is peewee.FieldAccessor)
        return self.setdefault(kind, frozenset(plain))
