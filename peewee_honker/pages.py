"""Walking a large result page by page.

Honker gives a result whole: a million rows took 537 MB before the first was seen, and Peewee's `.iterator()` spares only the
cache behind it. `walk` reads the rows in pages by their primary key, so that memory holds one page.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import peewee

__all__ = ["walk"]


def walk(query: Any, size: int = 1000) -> Iterator[Any]:
    """Yield the rows of a model's select in the order of its primary key, holding about `size` of them in memory.

        for order in walk(Order.select().where(Order.paid)):
            ...

    Arguments:
        query: `Model.select(...)`, with joins and conditions as you like, also `.dicts()`; without an order, limit, offset,
            grouping or DISTINCT of its own, and with the key among its columns.
        size: rows a page.

    Each page sees what is committed when it is read: rows added behind the walk's place are met, rows before it are
    not. Inside `db.atomic()` the walk sees one state of the database, and no other process can write meanwhile.

    Raises ValueError for a query that cannot be walked.
    """
    if not isinstance(query, peewee.ModelSelect):
        raise ValueError("walk() takes Model.select(...): other queries have no primary key to go by")
    state: Any = query
    distinct = state._distinct is not None or state._simple_distinct  # peewee says () for DISTINCT of the whole row
    if distinct or any((state._order_by, state._limit, state._offset, state._group_by)):
        raise ValueError(
            "walk() goes in the order of the primary key: leave order_by, limit, offset, group_by, distinct out"
        )
    model = state.model
    fields = model._meta.get_primary_keys()
    if not fields:
        raise ValueError(f"{model.__name__} has no primary key to walk by")
    if size < 1:
        raise ValueError("a page has at least one row")
    return _pages(query, fields, size)


def _pages(query: Any, fields: list[Any], size: int) -> Iterator[Any]:
    last: tuple[Any, ...] | None = None
    limit = size
    while True:
        rows = list(_page(query, fields, last, limit))
        groups = [(key, list(group)) for key, group in itertools.groupby(rows, key=lambda row: _key(row, fields))]
        if len(rows) < limit:
            yield from rows
            return
        if len(groups) == 1:
            limit *= 2  # a join has more rows for one key than fit: it can be cut nowhere
            continue
        for key, group in groups[:-1]:  # the last key's rows may go on behind the page
            yield from group
            last = key
        limit = size


def _page(query: Any, fields: list[Any], last: tuple[Any, ...] | None, limit: int) -> Any:
    page = query.order_by(*fields).limit(limit)
    if last is None:
        return page
    if len(fields) == 1:
        return page.where(fields[0] > last[0])
    values = [field.to_value(value) for field, value in zip(fields, last, strict=True)]
    return page.where(peewee.Expression(peewee.Tuple(*fields), peewee.OP.GT, peewee.Tuple(*values)))


def _key(row: Any, fields: list[Any]) -> tuple[Any, ...]:
    try:
        if isinstance(row, dict):
            return tuple(row[field.name] for field in fields)
        return tuple(row.__data__[field.name] for field in fields)
    except (KeyError, AttributeError):
        names = ", ".join(field.name for field in fields)
        raise ValueError(f"walk() needs the primary key ({names}) in each row, as models or dicts") from None
