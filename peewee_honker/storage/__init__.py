"""Tables and tools on top of the adapter: graphs whose types are data, and what is common to all stored models."""

from peewee_honker.storage.binding import ContextDatabase, graph_database
from peewee_honker.storage.columns import EnumField, Flag, JSONField, StorageModel
from peewee_honker.storage.crypto import DecryptionError, Keys, decrypt, encrypt, generate_encryption_key
from peewee_honker.storage.encrypted import EncryptedField, RotationReport, Secret, rotate_keys
from peewee_honker.storage.errors import (
    CycleError,
    ModuleError,
    NoDatabaseError,
    OtherDatabaseError,
    Problem,
    StorageError,
    ValidationFailed,
)
from peewee_honker.storage.evolution import RowProblem, UpgradeReport, cast_attributes, upgrade_module
from peewee_honker.storage.install import install_module, installed_module
from peewee_honker.storage.metagraph import (
    GRAPH_MODELS,
    Edge,
    EdgeType,
    Graph,
    GraphStatus,
    GraphType,
    Node,
    NodeType,
    Scope,
)
from peewee_honker.storage.module_diff import ModuleChange, diff_modules
from peewee_honker.storage.modules import (
    AclGraph,
    CallGraph,
    EdgeSpec,
    GraphModule,
    MetagraphModule,
    NodeSpec,
    SecretGraph,
    module_to_db_schema,
)
from peewee_honker.storage.native import AclPrincipal, AclResource, CallNode, NativeModel, SecretNode, create_graph_tables
from peewee_honker.storage.repository import GraphRepository
from peewee_honker.storage.row_schemas import RowSchemas, row_schemas
from peewee_honker.storage.schema_diff import Edit, diff_schemas, is_compatible, patch_schema
from peewee_honker.storage.validation import Rules, validate_edge, validate_node

__all__ = [
    "GRAPH_MODELS",
    "AclGraph",
    "AclPrincipal",
    "AclResource",
    "CallGraph",
    "CallNode",
    "ContextDatabase",
    "CycleError",
    "DecryptionError",
    "Edge",
    "EdgeSpec",
    "EdgeType",
    "Edit",
    "EncryptedField",
    "EnumField",
    "Flag",
    "Graph",
    "GraphModule",
    "GraphRepository",
    "GraphStatus",
    "GraphType",
    "JSONField",
    "Keys",
    "MetagraphModule",
    "ModuleChange",
    "ModuleError",
    "NativeModel",
    "NoDatabaseError",
    "Node",
    "NodeSpec",
    "NodeType",
    "OtherDatabaseError",
    "Problem",
    "RotationReport",
    "RowProblem",
    "RowSchemas",
    "Rules",
    "Scope",
    "Secret",
    "SecretGraph",
    "SecretNode",
    "StorageError",
    "StorageModel",
    "UpgradeReport",
    "ValidationFailed",
    "cast_attributes",
    "create_graph_tables",
    "decrypt",
    "diff_modules",
    "diff_schemas",
    "encrypt",
    "generate_encryption_key",
    "graph_database",
    "install_module",
    "installed_module",
    "is_compatible",
    "module_to_db_schema",
    "patch_schema",
    "rotate_keys",
    "row_schemas",
    "upgrade_module",
    "validate_edge",
    "validate_node",
]
