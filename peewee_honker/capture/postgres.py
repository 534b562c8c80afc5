"""Change capture in PostgreSQL: a trigger on the table writes an event for each changed row, whoever changes it."""

import hashlib
import json
import logging
from typing import Any

import peewee
from peewee import __exception_wrapper__  # type: ignore[attr-defined]  # in no stub

from peewee_honker.capture.capture import Capture
from peewee_honker.capture.forms import literal, quoted
from peewee_honker.capture.installed import Installed

__all__ = ["PostgresCapture", "installed_postgres_captures"]

logger = logging.getLogger("peewee_honker.capture")

_VERSION = 1  # of what the triggers write
_PREFIX = "peewee_honker_capture_"
_SCHEMA = "peewee_honker"
_LONGEST = 63  # bytes of a name; PostgreSQL cuts off the rest
_FIELDS_AT_ONCE = 40  # a function takes a hundred arguments
_INSTALLED = (
    "SELECT t.tgname, c.relname, obj_description(t.oid, 'pg_trigger') FROM pg_trigger AS t "
    "JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace "
    f"WHERE starts_with(t.tgname, '{_PREFIX}') AND n.nspname = coalesce(%s, current_schema()) ORDER BY t.tgname"
)


class PostgresCapture(Capture):
    """As `Capture`, for Peewee's PostgresqlDatabase, with its guarantee.

    Every event tells its `transaction`. `where` is not to be had, nor are fields whose value only Python knows
    (TimestampField). TRUNCATE is told of no row. Raises `peewee.NotSupportedError` for these, when it is installed.
    """

    def install(self, database: Any = None) -> bool:
        """Make the trigger where it is missing or of another version or other options; see `Capture.install`."""
        from peewee_honker.servers.postgres import store_for

        database = self._postgres(database)
        store_for(database).prepare()
        body = self._body()
        if self._comment_in(database) == self._comment(body):
            return False
        with database.atomic():
            cursor = database.cursor()
            cursor.execute(f"SELECT pg_advisory_xact_lock(hashtext('{_PREFIX}'))")
            function, trigger = f"{_SCHEMA}.{self._quoted_name}", self._quoted_name
            for sql in (
                (
                    f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
                    f"SET search_path = pg_catalog, pg_temp AS $capture${body}$capture$"
                ),
                f"DROP TRIGGER IF EXISTS {trigger} ON {self._table}",
                f"DROP TRIGGER IF EXISTS {self._former_name} ON {self._table}",
                (
                    f"CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {self._table} "
                    f"FOR EACH ROW EXECUTE FUNCTION {function}()"
                ),
                f"COMMENT ON TRIGGER {trigger} ON {self._table} IS {literal(self._comment(body))}",
            ):
                with __exception_wrapper__:
                    cursor.execute(sql)
        logger.info("capture %s of table %s installed", self.name, self.model._meta.table_name)
        return True

    def uninstall(self, database: Any = None) -> bool:
        """Drop the trigger; events that were written stay. Returns whether there was one."""
        database = self._postgres(database)
        if self._comment_in(database) is None:
            return False
        with database.atomic(), __exception_wrapper__:
            cursor = database.cursor()
            cursor.execute(f"DROP TRIGGER IF EXISTS {self._quoted_name} ON {self._table}")
            cursor.execute(f"DROP TRIGGER IF EXISTS {self._former_name} ON {self._table}")
            cursor.execute(f"DROP FUNCTION IF EXISTS {_SCHEMA}.{self._quoted_name}()")
        return True

    def is_current(self, database: Any = None) -> bool:
        """Whether what is installed is of this version of the package and these options."""
        return self._comment_in(self._postgres(database)) == self._comment(self._body())

    def _postgres(self, database: Any) -> Any:
        found = database if database is not None else self.model._meta.database
        if isinstance(found, peewee.Proxy):
            found = found.obj
        if not isinstance(found, peewee.PostgresqlDatabase):
            raise TypeError(f"this capture is installed in a PostgresqlDatabase, not {type(found).__name__}")
        return found

    @property
    def _made_name(self) -> str:
        """Of the trigger and its function. Functions of all tables are in one schema: one that has the name of a table in
        another schema, or begins as another for as long as PostgreSQL looks at names, is told from it."""
        name, schema = f"{_PREFIX}{self.name}", self.model._meta.schema
        if not schema and len(name.encode()) <= _LONGEST:
            return name
        mark = hashlib.sha256(f"{schema or ''}.{self.name}".encode()).hexdigest()[:12]
        return f"{name.encode()[: _LONGEST - 13].decode(errors='ignore')}_{mark}"

    @property
    def _quoted_name(self) -> str:
        return quoted(self._made_name)

    @property
    def _former_name(self) -> str:
        """Of the trigger, as PostgreSQL has cut it before there was a mark in it."""
        return quoted(f"{_PREFIX}{self.name}".encode()[:_LONGEST].decode(errors="ignore"))

    @property
    def _table(self) -> str:
        meta = self.model._meta
        return f"{quoted(meta.schema)}.{quoted(meta.table_name)}" if meta.schema else quoted(meta.table_name)

    def _comment(self, body: str) -> str:
        mark = hashlib.sha256(body.encode()).hexdigest()
        return json.dumps({"version": _VERSION, "fingerprint": mark, **self._options()}, ensure_ascii=False)

    def _comment_in(self, database: Any) -> str | None:
        for name, table, comment in database.execute_sql(_INSTALLED, (self.model._meta.schema,)):
            if name == self._made_name and table == self.model._meta.table_name:
                return str(comment)
        return None

    def _body(self) -> str:
        """The trigger's function."""
        if self._where is not None:
            raise peewee.NotSupportedError(
                "a capture in PostgreSQL takes no condition as yet: leave `where` out, and filter in the listener"
            )
        meta: Any = self.model._meta
        fields = [meta.fields[name] for name in self.fields]
        primary = meta.primary_key
        names = primary.field_names if isinstance(primary, peewee.CompositeKey) else [primary.name] if primary else []
        keys = [meta.fields[name] for name in names]

        def row(which: str) -> str:
            pairs = [f"{literal(field.name)}, {_form(field, f'{which}.{quoted(field.column_name)}')}" for field in fields]
            parts = [pairs[start : start + _FIELDS_AT_ONCE] for start in range(0, len(pairs), _FIELDS_AT_ONCE)]
            return " || ".join(f"jsonb_build_object({', '.join(part)})" for part in parts) or "'{}'::jsonb"

        def key(which: str) -> str:
            texts = [_key_form(field, f"{which}.{quoted(field.column_name)}") for field in keys]
            if len(texts) == 1:
                return f"coalesce({texts[0]}, '')"
            return " || ',' || ".join(f"coalesce({text}, 'None')" for text in texts) or "''"

        def tell(operation: str, of: str, changes: str = "NULL") -> str:
            if operation not in self.operations:
                return "NULL;"
            stream = literal(self.stream_name) if self.durable else "NULL"
            type_ = literal(self.type_deleted if operation == "delete" else self.type_saved)
            return f"PERFORM {_SCHEMA}.tell({stream}, {type_}, {of}_id, {of}_row, '{operation}', {changes});"

        changes = (
            "(SELECT jsonb_object_agg(key, jsonb_build_array(old_row -> key, value)) FROM jsonb_each(new_row) "
            "WHERE old_row -> key IS DISTINCT FROM value)"
            if self.old_values
            else "NULL"
        )
        return f"""
DECLARE
    old_row jsonb; new_row jsonb; old_id text; new_id text;
BEGIN
    IF TG_OP <> 'INSERT' THEN old_row := {row("OLD")}; old_id := {key("OLD")}; END IF;
    IF TG_OP <> 'DELETE' THEN new_row := {row("NEW")}; new_id := {key("NEW")}; END IF;
    IF TG_OP = 'UPDATE' AND old_id = new_id THEN
        IF old_row <> new_row THEN {tell("update", "new", changes)} END IF;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN {tell("delete", "old")} END IF;
    IF TG_OP <> 'DELETE' THEN {tell("insert", "new")} END IF;
    RETURN NULL;
END """


def installed_postgres_captures(database: peewee.PostgresqlDatabase, schema: str | None = None) -> list[Installed]:
    """The captures that a PostgreSQL database has, by name."""
    found: Any = database.execute_sql(_INSTALLED, (schema,))  # type: ignore[no-untyped-call]  # in Peewee's stubs
    made = []
    for name, table, comment in found:
        options = json.loads(comment or "{}")
        if "version" in options:
            made.append(Installed(name.removeprefix(_PREFIX), table, options["version"], options, complete=True))
    return made


def _form(field: Any, value: str) -> str:
    """An SQL expression: a field's value as the JSON that a bridge writes for it."""
    while isinstance(field, peewee.ForeignKeyField):
        field = field.rel_field
    if isinstance(field, peewee.TimestampField):
        raise peewee.NotSupportedError(
            f"{field.model.__name__}.{field.name} holds a number that only Python makes a time of: exclude it, or use a "
            "DateTimeField"
        )
    if isinstance(field, peewee.DecimalField):
        return f"{value}::text"
    if isinstance(field, peewee.BinaryUUIDField):
        return f"encode({value}, 'hex')::uuid"
    if isinstance(field, peewee.BlobField):
        return f"replace(encode({value}, 'base64'), E'\\n', '')"
    if isinstance(field, peewee.IPField):
        return f"host('0.0.0.0'::inet + {value})"
    if type(field) is peewee.DateTimeField:
        return _iso(value, 'YYYY-MM-DD"T"HH24:MI:SS')
    if isinstance(field, peewee.TimeField):
        return _iso(value, "HH24:MI:SS")
    return value


def _iso(value: str, form: str) -> str:
    """As Python's isoformat, which leaves the microseconds out where there are none."""
    return (
        f"CASE WHEN extract(microseconds FROM {value})::bigint % 1000000 = 0 "
        f"THEN to_char({value}, '{form}') ELSE to_char({value}, '{form}.US') END"
    )


def _key_form(field: Any, value: str) -> str:
    """A key's value as text, as `str()` gives it."""
    while isinstance(field, peewee.ForeignKeyField):
        field = field.rel_field
    if isinstance(field, peewee.BooleanField):
        return f"CASE {value} WHEN true THEN 'True' WHEN false THEN 'False' END"
    if isinstance(field, (peewee.BinaryUUIDField, peewee.BlobField, peewee.IPField)):
        return f"{_form(field, value)}::text"
    return f"{value}::text"
