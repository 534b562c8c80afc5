"""The two kinds of database files: one for the system, and one for each tenant."""

import os
from collections.abc import Iterable
from typing import Any

from peewee_honker.database import HonkerDatabase
from peewee_honker.storage.binding import ContextDatabase, graph_database
from peewee_honker.storage.identity import create_identity_tables
from peewee_honker.storage.install import install_module
from peewee_honker.storage.modules import GraphModule
from peewee_honker.storage.native import create_graph_tables

__all__ = ["create_system_database", "create_tenant_database", "tenant_database"]

tenant_database = ContextDatabase("tenant")
"""What an application's own models of tenants use: `class Meta: database = tenant_database`."""


def create_system_database(
    path_or_database: str | os.PathLike[str] | HonkerDatabase, *, modules: Iterable[GraphModule] = (), **options: Any
) -> HonkerDatabase:
    """A database with the identity tables, and the metagraph's for graph types of the system. What is there stays.

    Arguments:
        path_or_database: a file, or a HonkerDatabase.
        modules: graph types to install.
        options: of HonkerDatabase, for a file.
    """
    database = _opened(path_or_database, options)
    create_identity_tables(database)
    _make_graphs(database, modules)
    return database


def create_tenant_database(
    path_or_database: str | os.PathLike[str] | HonkerDatabase,
    *,
    models: Iterable[type[Any]] = (),
    modules: Iterable[GraphModule] = (),
    **options: Any,
) -> HonkerDatabase:
    """A database with the metagraph's tables, and those of an application's models. What is there stays.

    Arguments:
        path_or_database: a file, or a HonkerDatabase.
        models: of the application, whose database is `tenant_database`.
        modules: graph types to install.
        options: of HonkerDatabase, for a file.
    """
    database = _opened(path_or_database, options)
    _make_graphs(database, modules)
    with tenant_database.use(database), graph_database.use(database):
        database.create_tables(list(models))
    return database


def _opened(path_or_database: Any, options: dict[str, Any]) -> HonkerDatabase:
    if isinstance(path_or_database, HonkerDatabase):
        if options:
            raise ValueError(f"{', '.join(options)}: options are for a file; the database is open already")
        return path_or_database
    return HonkerDatabase(os.fspath(path_or_database), **options)


def _make_graphs(database: HonkerDatabase, modules: Iterable[GraphModule]) -> None:
    create_graph_tables(database)
    for module in modules:
        install_module(database, module)
