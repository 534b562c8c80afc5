"""marshmallow schemas from Peewee models.

This part needs no Honker: its schemas work for models of any Peewee database.
"""

from .convert import converts, field_for, fields_for_model
from .factory import create_insert_schema, create_select_schema, create_update_schema
from .model import ModelSchema
from .modelmeta import auto_field
from .relations import Nested, Related
from .violations import reported, validation_error

__all__ = [
    "ModelSchema",
    "Nested",
    "Related",
    "auto_field",
    "converts",
    "create_insert_schema",
    "create_select_schema",
    "create_update_schema",
    "field_for",
    "fields_for_model",
    "reported",
    "validation_error",
]
