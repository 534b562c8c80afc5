"""A capture: what of a model becomes events, and its triggers in the database's file."""

import hashlib
import json
import logging
from collections.abc import Iterable
from typing import Any

import peewee

from peewee_honker.capture.forms import quoted
from peewee_honker.capture.installed import CAPTURES, drop, has_newer_triggers, has_table, rows, tables_of, there, uninstall
from peewee_honker.capture.plan import Parts, Spec
from peewee_honker.capture.table import read_table
from peewee_honker.capture.transaction import TRANSACTION_TABLE
from peewee_honker.capture.triggers import objects
from peewee_honker.capture.where import condition
from peewee_honker.database import HonkerDatabase
from peewee_honker.errors import HonkerError
from peewee_honker.events.payload import is_secret

__all__ = ["OPERATIONS", "Capture"]

logger = logging.getLogger("peewee_honker.capture")

OPERATIONS = ("insert", "update", "delete")
_VERSION = 2  # of what the triggers write, and where
_TABLES = (
    f"""CREATE TABLE IF NOT EXISTS {{schema}}.{CAPTURES} (
        name TEXT PRIMARY KEY, table_name TEXT NOT NULL, version INTEGER NOT NULL, fingerprint TEXT NOT NULL,
        made INTEGER NOT NULL, options TEXT NOT NULL) WITHOUT ROWID""",
    TRANSACTION_TABLE,
)


class Capture:
    """Every committed change of a model's table as an event, whoever writes it: Peewee, raw SQL, another program.

    Arguments:
        model: a Peewee model on an ordinary table; it needs no signals.
        operations: which of `insert`, `update` and `delete` become events.
        columns: the names of the fields in the payload; by default all.
        exclude: names of fields that are left out of it, so that their values never leave the table.
        old_values: give updates `changes`: of each changed field its old and its new value.
        where: an expression over the model's fields. Rows for which it does not hold are as if they were not there: an
            update that makes it hold is an insert, one after which it no longer holds a delete.
        durable: write into a stream instead of notifications.
        stream: the stream's name; by default the table's.
        channel: the events' types, and the channels of notifications; `{table}` is the model's table, `{operation}`
            `saved` or `deleted`.
        name: the capture's name in its file, where a table has several; by default the table's.

    Guarantee: an event is written by a trigger, in the transaction of its change and in the order of the changes; it commits
    or rolls back with it, savepoints included. An update that changes no captured field has no event; one that changes the
    primary key is a delete under the old key and an insert under the new one; a row that `OR REPLACE` deletes is a delete.

    Raises ValueError for an operation or a field that there is not, or when nothing would be captured.
    """

    def __init__(
        self,
        model: type[peewee.Model],
        *,
        operations: Iterable[str] = OPERATIONS,
        columns: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        old_values: bool = False,
        where: Any = None,
        durable: bool = False,
        stream: str | None = None,
        channel: str = "{table}.{operation}",
        name: str | None = None,
    ) -> None:
        meta = model._meta
        table: str = meta.table_name
        self.model = model
        asked = frozenset(operations)
        self.operations = tuple(operation for operation in OPERATIONS if operation in asked)
        unknown = asked - set(OPERATIONS)
        if unknown or not self.operations:
            raise ValueError(f"operations are of {', '.join(OPERATIONS)}, not {', '.join(sorted(unknown)) or 'none'}")
        wanted = None if columns is None else tuple(columns)
        exclude = frozenset(exclude)
        for field in (*(wanted or ()), *exclude):
            if field not in meta.fields or not isinstance(meta.fields[field], peewee.Field):
                raise ValueError(
                    f"{model.__name__} has no field {field!r} to {'exclude' if field in exclude else 'capture'}"
                )
        self.fields = tuple(
            field.name
            for field in meta.sorted_fields
            if field.name not in exclude and (field.name in wanted if wanted is not None else not is_secret(field))
        )
        if stream is not None and not durable:
            raise ValueError("a stream is for durable events: durable=True")
        self.name = name or table
        self.old_values = old_values
        self.durable = durable
        self.stream_name = stream or table
        self.type_saved, self.type_deleted = (channel.format(table=table, operation=did) for did in ("saved", "deleted"))
        self._where = where

    @property
    def schema(self) -> str:
        """The attached database that the table is in: `main`, or the model's `Meta.schema`."""
        return self.model._meta.schema or "main"

    def install(self, database: HonkerDatabase | None = None) -> bool:
        """Make the triggers where they are missing, and make them anew where they are of another version of this package,
        of other options, or of other columns or unique keys of the table. Nothing when they are current.

        Arguments:
            database: where; by default the model's database.

        Returns whether anything was made. It is one transaction, or part of the open one. Raises
        `peewee.OperationalError` without the table or for a condition that SQLite does not understand, ValueError when the
        table lacks a field's column or is no ordinary one.
        """
        database = self.database(database)
        if self.is_current(database):
            return False
        with database.atomic():
            self._make_our_tables(database)
            wanted, known = self._objects(database), self._recorded(database)
            why = self._why(database, wanted, known)
            if why is None:  # another process was faster
                return False
            self._drop_former(database)
            for (kind, _name), text in wanted.items():
                database.execute_sql(f"CREATE {kind} {quoted(self.schema)}.{text}")
            self._try_out(database)
            database.execute_sql(
                f"INSERT INTO {quoted(self.schema)}.{CAPTURES} VALUES (?, ?, ?, ?, ?, ?)",
                (
                    self.name,
                    self.model._meta.table_name,
                    _VERSION,
                    _fingerprint(wanted),
                    len(wanted),
                    json.dumps(self._options(), ensure_ascii=False),
                ),
            )
            database.engine.has_captures = (0.0, False)  # the transaction's other changes are to be marked
        logger.info("capture %s of table %s installed: %s", self.name, self.model._meta.table_name, why)
        return True

    def uninstall(self, database: HonkerDatabase | None = None) -> bool:
        """Drop the triggers and forget the capture; events that were written stay. Returns whether there was anything."""
        return uninstall(self.name, self.database(database), self.schema)

    def is_current(self, database: HonkerDatabase | None = None) -> bool:
        """Whether what is installed is of this version of the package, these options, and the table as it is now.

        Reads only. Raises as `install` does.
        """
        database = self.database(database)
        return self._why(database, self._objects(database), self._recorded(database)) is None

    def database(self, database: HonkerDatabase | None = None) -> HonkerDatabase:
        """Where the capture is installed: in `database`, else in the model's. Raises TypeError for another kind."""
        found = database if database is not None else self.model._meta.database
        if isinstance(found, peewee.Proxy):
            found = found.obj
        if not isinstance(found, HonkerDatabase):
            raise TypeError(f"a capture is installed in a HonkerDatabase, not {type(found).__name__}")
        return found

    def _try_out(self, database: HonkerDatabase) -> None:
        """Have SQLite compile a change of each kind: what is wrong in a trigger would else be found by the next writer."""
        table = f"{quoted(self.schema)}.{quoted(self.model._meta.table_name)}"
        column = quoted(read_table(database, self.model._meta.table_name, self.schema).writable)
        for sql in (
            f"INSERT INTO {table} DEFAULT VALUES",
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
        ):
            database.execute_sql(f"EXPLAIN {sql}")

    def _options(self) -> dict[str, Any]:
        return {
            "operations": self.operations,
            "fields": self.fields,
            "old_values": self.old_values,
            "durable": self.durable,
            "stream": self.stream_name if self.durable else None,
            "types": [self.type_saved, self.type_deleted],
        }

    def _objects(self, database: HonkerDatabase) -> Parts:
        meta = self.model._meta
        table = read_table(database, meta.table_name, self.schema)
        there = {column.lower() for column in table.columns}
        key = meta.primary_key
        # a composite key names its fields; peewee says False for no key
        names = key.field_names if isinstance(key, peewee.CompositeKey) else [key.name] if key else []
        fields = tuple(meta.fields[name] for name in self.fields)
        keys = tuple(meta.fields[name] for name in names)
        for field in (*fields, *keys):
            if field.column_name.lower() not in there:
                raise ValueError(f"table {table.name} has no column {field.column_name!r} for {field!r}: migrate it first")
        spec = Spec(
            self.name,
            fields,
            keys,
            frozenset(self.operations),
            self.old_values,
            lambda row: condition(database, self.model, self._where, row),
            self.stream_name if self.durable else None,
            self.type_saved,
            self.type_deleted,
        )
        return objects(spec, table)

    def _why(self, database: HonkerDatabase, wanted: Parts, known: tuple[int, str] | None) -> str | None:
        """Why the triggers have to be made, or None."""
        if known is None:
            return "it was not there"
        if known[0] != _VERSION:
            return f"it was of version {known[0]}"
        if known[1] != _fingerprint(wanted):
            return "its options, or the table's columns or unique keys, have changed"
        if there(database, self.schema, self.name) != {
            what: f"CREATE {what[0].upper()} {text}" for what, text in wanted.items()
        }:
            return "its triggers were dropped or changed, as when the table is made anew"
        if has_newer_triggers(database, self.schema, self.name):
            return "the table has newer triggers, which SQLite would run first"
        return None

    def _recorded(self, database: HonkerDatabase) -> tuple[int, str] | None:
        if not has_table(database, self.schema, CAPTURES):
            return None
        found = rows(
            database, f"SELECT version, fingerprint FROM {quoted(self.schema)}.{CAPTURES} WHERE name = ?", self.name
        )
        return found[0] if found else None

    def _drop_former(self, database: HonkerDatabase) -> None:
        """Drop what there is of this capture, and others that the table still has from a former name of its own."""
        drop(database, self.schema, self.name)
        table = self.model._meta.table_name
        others = f"SELECT name FROM {quoted(self.schema)}.{CAPTURES} WHERE lower(table_name) <> lower(?)"
        for (other,) in rows(database, others, table):
            if table.lower() in tables_of(database, self.schema, other):
                logger.info("capture %s goes: its table is now %s", other, table)
                drop(database, self.schema, other)

    def _make_our_tables(self, database: HonkerDatabase) -> None:
        target = "_honker_stream" if self.durable else "_honker_notifications"
        if not has_table(database, self.schema, target):
            raise HonkerError(
                f"database {self.schema} has no table {target}, into which the triggers write: "
                "open its file once by HonkerDatabase(path).connect()"
            )
        for table in _TABLES:
            database.execute_sql(table.format(schema=quoted(self.schema)))


def _fingerprint(wanted: Parts) -> str:
    return hashlib.sha256("\n".join(wanted.values()).encode()).hexdigest()
