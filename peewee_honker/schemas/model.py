"""A schema that knows its model: it loads instances, and dumps them with their relations.

    class OrderSchema(ModelSchema[Order]):
        class Meta:
            exclude = ("secret",)
            include_relations = ("customer", "lines.product")

    order = OrderSchema().load(request.json)     # an Order, not yet saved

For bodies of requests and messages, the factories (`create_insert_schema`, ...) give plain dicts by a stricter contract.
"""

import contextlib
import contextvars
import dataclasses
import functools
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, cast, overload

import peewee
from marshmallow import ValidationError, post_load

from .modelmeta import ModelSchemaMeta, ModelSchemaOptions
from .rows import RowSchema

__all__ = ["ModelSchema"]

M = TypeVar("M", bound=peewee.Model)
CHUNK = 200  # keys a query, when instances are looked up


@dataclasses.dataclass(frozen=True, slots=True)
class _Call:
    """What one call of `load` was asked; nested schemas see it, other threads do not."""

    instance: peewee.Model | None
    transient: bool
    schema: Any


_call: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("peewee_honker_load", default=None)


class ModelSchema(RowSchema, Generic[M], metaclass=ModelSchemaMeta):
    """Base of schemas of a model: name it as `ModelSchema[Order]`, or in `class Meta` as `model = Order`.

    Options of `class Meta`, beside marshmallow's (`fields`, `exclude`, `unknown`, `dump_only`, `load_only`, ...):
        model: the Peewee model, where the class does not say `ModelSchema[Order]`.
        include_relations: names of foreign keys and back-references whose rows are nested, with dots as deep as you want
            them: ("customer", "lines.product"). True: all of them, one level deep.
        load_instance: False to load dicts. Default: True.
        transient: True to load new instances only, and ask no database for those whose key is given. Default: False.
        partial: the default of `partial`: True, or the names of the keys that may be absent.
        use_id_keys: True to call the keys of foreign keys "customer_id" instead of "customer".

    A class without a `Meta` of its own has that of its base class.
    """

    OPTIONS_CLASS = ModelSchemaOptions

    def __init__(self, *, transient: bool | None = None, **options: Any) -> None:
        """Make a schema. Arguments are marshmallow's, and `transient` to set that of `class Meta` aside."""
        opts = cast("ModelSchemaOptions", self.opts)
        if opts.partial is not None and options.get("partial") is None:
            options["partial"] = opts.partial
        super().__init__(**options)
        self.transient = opts.transient if transient is None else transient

    @property
    def is_transient(self) -> bool:
        """Whether the call that runs now loads without asking the database."""
        call = _call.get()
        return self.transient if call is None else call.transient

    @overload  # type: ignore[override]  # marshmallow's takes any bool for many; mypy wants an overload for that too
    def load(self, data: Any, *, many: Literal[True], **options: Any) -> list[M]: ...
    @overload
    def load(self, data: Any, *, many: Literal[False] | None = None, **options: Any) -> M: ...

    def load(
        self,
        data: Any,
        *,
        many: bool | None = None,
        instance: M | None = None,
        transient: bool | None = None,
        **options: Any,
    ) -> Any:
        """Validate data and give an instance of the model, which is not saved; with `load_instance = False` a dict.

        The instance is the one given; else the row whose primary key is in the data, if there is one; else a new one, with
        Peewee's defaults for what the data lacks. Of an instance that was there, only the keys in the data are set. Who may
        not choose the row should not send its key: list it in `dump_only`.

        Arguments:
            data: the data, or a list of them with `many=True`.
            many: as of marshmallow.
            instance: the instance to change. Its primary key does not change: another one in the data is an error.
            transient: True to ask no database.
            options: `partial` and `unknown`, as of marshmallow.

        Raises ValidationError for data that do not fit.
        """
        many = self.many if many is None else many
        if many and instance is not None:
            raise ValueError("one instance cannot be loaded from many: load them one by one")
        with self._calling(instance, transient):
            return super().load(data, many=many, **options)

    @overload  # type: ignore[override]  # as for load
    def loads(self, s: str | bytes | bytearray, /, *, many: Literal[True], **options: Any) -> list[M]: ...
    @overload
    def loads(self, s: str | bytes | bytearray, /, *, many: Literal[False] | None = None, **options: Any) -> M: ...

    def loads(self, s: str | bytes | bytearray, /, *, many: bool | None = None, **options: Any) -> Any:
        """As `load`, from JSON."""
        instance, transient = options.pop("instance", None), options.pop("transient", None)
        unknown, partial = options.pop("unknown", None), options.pop("partial", None)
        data = self.opts.render_module.loads(s, **options)
        return self.load(
            data, many=cast("Any", many), instance=instance, transient=transient, unknown=unknown, partial=partial
        )

    @contextlib.contextmanager
    def _calling(self, instance: peewee.Model | None, transient: bool | None) -> Iterator[None]:
        outer = _call.get()
        if transient is None:
            transient = self.transient if outer is None else outer.transient or self.transient
        token = _call.set(_Call(instance, transient, self))
        try:
            yield
        finally:
            _call.reset(token)

    @post_load(pass_collection=True)
    def _make_instances(self, data: Any, *, many: bool, **_: Any) -> Any:
        opts = cast("ModelSchemaOptions", self.opts)
        if not opts.load_instance or opts.model is None:
            return data
        call = _call.get()
        assert call is not None  # noqa: S101 # load() is the only way here
        items = data if many else [data]
        if call.instance is not None:
            made = [_changed(_same_row(call.instance, items[0]), items[0])]
        else:
            rows = {} if call.transient else _rows(opts.model, items)
            made = [_instance(opts.model, item, rows) for item in items]
        return made if many else made[0]


def _instance(model: Any, item: dict[str, Any], rows: dict[Any, peewee.Model]) -> peewee.Model:
    row = rows.get(_key(model, item))
    if row is not None:
        return _changed(row, item)
    return _changed(model(), item)


def _changed(instance: Any, item: dict[str, Any]) -> peewee.Model:
    """Set what was loaded on an instance; rows of back-references point to it from then on."""
    backrefs = {key.backref: key for key in instance._meta.backrefs}
    for name, value in item.items():
        setattr(instance, name, value)
        if name in backrefs and isinstance(value, list):
            for child in value:
                if isinstance(child, peewee.Model):
                    setattr(child, backrefs[name].name, instance)
    return cast("peewee.Model", instance)


def _key(model: Any, item: Mapping[str, Any]) -> Any:
    """Give the primary key in loaded data as a tuple, or None if it is not whole."""
    names = [field.name for field in model._meta.get_primary_keys()]
    values = tuple(item.get(name) for name in names)
    if not names or any(value is None for value in values):
        return None
    return tuple(map(_plain, values))


def _plain(value: Any) -> Any:
    row: Any = value
    return row.get_id() if isinstance(value, peewee.Model) else value


def _same_row(instance: peewee.Model, item: Mapping[str, Any]) -> peewee.Model:
    state: Any = instance
    for field in state._meta.get_primary_keys():
        held, sent = state.__data__.get(field.name), _plain(item.get(field.name))
        if held is not None and sent is not None and sent != held:
            raise ValidationError({field.name: ["Not the key of the row that is changed."]})
    return instance


def _rows(model: Any, items: Iterable[Mapping[str, Any]]) -> dict[Any, peewee.Model]:
    """Look up the rows whose primary keys the data have: one query for many."""
    keys = list(dict.fromkeys(key for item in items if (key := _key(model, item)) is not None))
    found: dict[Any, peewee.Model] = {}
    columns = model._meta.get_primary_keys()
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        if len(columns) == 1:
            condition = columns[0].in_([key[0] for key in chunk])
        else:
            rows = (zip(columns, key, strict=True) for key in chunk)
            same = (functools.reduce(operator.and_, (column == value for column, value in row)) for row in rows)
            condition = functools.reduce(operator.or_, same)
        for row in model.select().where(condition):
            found[tuple(row.__data__[column.name] for column in columns)] = row
    return found
