"""marshmallow schemas from Peewee models: validated input, shaped output, the contract written down."""

from peewee_honker.schemas.base import RowSchema
from peewee_honker.schemas.compiled import HookedSchemaError, compile_dump, compile_load, row_dumper
from peewee_honker.schemas.convert import converts, field_for, fields_for_model
from peewee_honker.schemas.errors import UnknownFieldError, integrity_errors
from peewee_honker.schemas.factory import also, create_insert_schema, create_select_schema, create_update_schema
from peewee_honker.schemas.fields import Nested, Related
from peewee_honker.schemas.model import ModelSchema, auto_field, save_loaded

__all__ = [
    "HookedSchemaError",
    "ModelSchema",
    "Nested",
    "Related",
    "RowSchema",
    "UnknownFieldError",
    "also",
    "auto_field",
    "compile_dump",
    "compile_load",
    "converts",
    "create_insert_schema",
    "create_select_schema",
    "create_update_schema",
    "field_for",
    "fields_for_model",
    "integrity_errors",
    "row_dumper",
    "save_loaded",
]
