"""The base of all schemas here: which values of an instance there are to dump.

An instance that a query filled only in part (`Order.select(Order.id)`) answers None for its other columns. To dump that
would tell a reader that the row holds null, so the key is left out instead.
"""

from typing import Any

import peewee
from marshmallow import Schema

__all__ = ["RowSchema"]


class RowSchema(Schema):
    """A marshmallow schema whose dump of a model's instance leaves out the columns that were not loaded or set."""

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        """Give the value of a key, or `default` (which leaves the key out) for a column that the instance does not hold."""
        if isinstance(obj, peewee.Model):
            row: Any = obj
            if attr in row.__data__:
                return getattr(row, attr)  # what marshmallow comes to after three calls
            if attr not in row.__rel__ and attr in row._meta.fields:
                return default
        elif type(obj) is dict and attr in obj:
            return obj[attr]
        return super().get_attribute(obj, attr, default)
