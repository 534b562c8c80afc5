"""marshmallow schemas for rows of the stored models: what is read, what a new row takes, what a change takes."""

from typing import Any, NamedTuple

from peewee_honker.schemas import create_insert_schema, create_select_schema, create_update_schema
from peewee_honker.storage.columns import StorageModel

__all__ = ["RowSchemas", "row_schemas"]


class RowSchemas(NamedTuple):
    """The three schema classes of a model."""

    select: Any
    insert: Any
    update: Any


def row_schemas(model: type[StorageModel], **options: Any) -> RowSchemas:
    """The schema classes of a stored model. What the library keeps (`created_at`, `updated_at`) is for reading alone, and
    an update does not change the `id`.

    `options` are of `create_select_schema` and the like, for all three: `refine` must name keys that all have.
    """
    kept = ("created_at", "updated_at")
    exclude = tuple(options.pop("exclude", ()))
    return RowSchemas(
        create_select_schema(model, exclude=exclude, **options),
        create_insert_schema(model, exclude=(*exclude, *kept), **options),
        create_update_schema(model, exclude=(*exclude, "id", *kept), **options),
    )
