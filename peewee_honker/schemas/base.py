"""The schema class that the others are made from: it reads rows without asking the database."""

from typing import Any

import peewee
from marshmallow import Schema

__all__ = ["RowSchema"]


class RowSchema(Schema):
    """A marshmallow schema whose dump takes model instances and the rows of queries: dicts, named tuples, objects.

    Of an instance it reads the stored values: a foreign key is the key it holds, no query is made for it, and a field
    that the instance has not loaded is left out.
    """

    class Meta:
        register = False  # looked up by class, never by name: equal names do not clash

    def get_attribute(self, obj: Any, attr: str, default: Any) -> Any:
        if isinstance(obj, peewee.Model):
            if attr in obj.__data__:
                return obj.__data__[attr]
            if attr in obj._meta.fields:
                return default
        return super().get_attribute(obj, attr, default)
