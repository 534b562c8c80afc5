"""ModelSchema: a schema class that is declared for a model, and loads its instances.

class OrderSchema(ModelSchema[Order]):
    class Meta:
        exclude = ["internal"]

order = OrderSchema().load({"customer": 1, "total": "9.50"})        # an Order, not saved yet
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, overload

import peewee
from marshmallow import fields, missing
from marshmallow.schema import SchemaMeta, SchemaOpts

from peewee_honker.schemas.base import RowSchema
from peewee_honker.schemas.convert import field_for, model_fields
from peewee_honker.schemas.fields import Nested, Related, related, transient_loading

__all__ = ["ModelSchema", "auto_field", "save_loaded"]

M = TypeVar("M", bound=peewee.Model)


class _AutoField(fields.Field[Any]):
    """Stands for a model's field until the schema class knows its model."""

    def __init__(self, name: str | None, options: dict[str, Any]) -> None:
        super().__init__()
        self.column = name
        self.options = options


def auto_field(name: str | None = None, **options: Any) -> Any:
    """In a ModelSchema's body: the field that the model gives for `name`, by default the attribute's own name.

    `options` are those of `field_for`: `total = auto_field(validate=validate.Range(min=1))`.
    """
    return _AutoField(name, options)


class _Rows(fields.List[Any]):
    """The rows of a back-reference or a many-to-many relation, which an instance gives as a query."""

    def get_value(self, obj: Any, attr: str, accessor: Any = None, default: Any = missing) -> Any:
        found = related(obj, attr if self.attribute is None else self.attribute)
        return default if found is missing else found


class ModelSchemaOpts(SchemaOpts):
    """What `class Meta` of a ModelSchema may say, beside marshmallow's own options.

    `model`: the model, unless `ModelSchema[Order]` names it. `fields`, `exclude`: keys or Peewee fields.
    `include_relations`: back-references and many-to-many relations as lists of keys.
    `depth`: how many levels of relations are nested schemas
    instead. `load_instance`: whether load gives instances (the default) or dicts. `transient`: whether load leaves the
    database alone. `use_id_keys`: foreign keys under `customer_id` rather than `customer`. `partial`: as in load.
    """

    def __init__(self, meta: type) -> None:
        super().__init__(meta)
        self.model: type[peewee.Model] | None = getattr(meta, "model", None)
        self.include_relations: bool = getattr(meta, "include_relations", False)
        self.depth: int = getattr(meta, "depth", 0)
        self.load_instance: bool = getattr(meta, "load_instance", True)
        self.transient: bool = getattr(meta, "transient", False)
        self.use_id_keys: bool = getattr(meta, "use_id_keys", False)
        self.partial: Any = getattr(meta, "partial", None)


def _model_of(klass: Any) -> type[peewee.Model] | None:
    """The Order of `ModelSchema[Order]`, or the model of the nearest base that has one."""
    for one in klass.__mro__:
        for base in vars(one).get("__orig_bases__", ()):
            if isinstance(origin := get_origin(base), type) and issubclass(origin, RowSchema):
                for argument in get_args(base):
                    if isinstance(argument, type) and issubclass(argument, peewee.Model):
                        return argument
        if one is not klass and (found := getattr(vars(one).get("opts"), "model", None)) is not None:
            return found  # type: ignore[no-any-return]  # a ModelSchemaOpts's
    return None


def _key(named: Any, offered: Mapping[str, Any]) -> str:
    if not isinstance(named, peewee.Field):
        return str(named)
    id_name = getattr(named, "object_id_name", None)
    return str(id_name if id_name in offered else named.name)


class ModelSchemaMeta(SchemaMeta):
    """Gives a ModelSchema the fields of its model."""

    @classmethod
    def get_declared_fields(
        mcs,  # noqa: N804  # as marshmallow names it
        klass: Any,
        cls_fields: list[tuple[str, Any]],
        inherited_fields: list[tuple[str, Any]],
        dict_cls: Any = dict,
    ) -> dict[str, Any]:
        # A subclass derives anew, by its own options: what its bases derived is not inherited.
        outdated = {id(field) for base in klass.__mro__[1:] for field in vars(base).get("_derived_fields", {}).values()}
        declared: dict[str, Any] = dict_cls(
            [*(pair for pair in inherited_fields if id(pair[1]) not in outdated), *cls_fields]
        )
        opts: ModelSchemaOpts = klass.opts
        opts.model = opts.model or _model_of(klass)
        if opts.model is None:
            return declared
        offered = _offered(opts.model, opts)
        opts.fields = tuple(_key(one, offered) for one in opts.fields)
        opts.exclude = tuple(_key(one, offered) for one in opts.exclude)
        if unknown := [key for key in (*opts.fields, *opts.exclude) if key not in offered and key not in declared]:
            raise ValueError(f"Meta of {klass.__name__} names {unknown[0]!r}, which it does not have: {', '.join(offered)}")
        left_out = {*opts.exclude, *declared}
        klass._derived_fields = {
            key: make() for key, make in offered.items() if key not in left_out and (not opts.fields or key in opts.fields)
        }
        opts.exclude = tuple(key for key in opts.exclude if key in declared)
        for key, field in declared.items():
            if isinstance(field, _AutoField):
                declared[key] = field_for(opts.model, field.column or key, **{"attribute": field.column, **field.options})
        order = [*offered, *(key for key in declared if key not in offered)]
        made = {**klass._derived_fields, **declared}
        return {key: made[key] for key in order if key in made}


class ModelSchema(RowSchema, Generic[M], metaclass=ModelSchemaMeta):
    """A schema with the fields of a model, which loads instances of it.

    Subclass it as `ModelSchema[Order]`, or name the model in Meta. `ModelSchemaOpts` lists the options. Keys may be absent
    where the column may be null or has a default; generated columns are dumped only. Fields declared in the body go before
    those of the model. Hooks see values; the instance is made after the last of them.
    """

    OPTIONS_CLASS = ModelSchemaOpts
    opts: ModelSchemaOpts

    def __init__(self, *, transient: bool | None = None, **options: Any) -> None:
        super().__init__(**options)
        if self.opts.model is None:
            raise TypeError(f"{type(self).__name__} has no model: declare it as ModelSchema[Order], or with Meta.model")
        self.transient = self.opts.transient if transient is None else transient
        if self.partial is None:
            self.partial = self.opts.partial

    @overload  # type: ignore[override]  # marshmallow says Any; with load_instance=False it is a dict
    def load(
        self,
        data: Any,
        *,
        many: Literal[True],
        partial: Any = None,
        unknown: Any = None,
        instance: None = None,
        transient: bool | None = None,
    ) -> list[M]: ...

    @overload
    def load(
        self,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        many: Literal[False] | None = None,
        partial: Any = None,
        unknown: Any = None,
        instance: M | None = None,
        transient: bool | None = None,
    ) -> M: ...

    def load(
        self,
        data: Any,
        *,
        many: bool | None = None,
        partial: Any = None,
        unknown: Any = None,
        instance: M | None = None,
        transient: bool | None = None,
    ) -> Any:
        """Validate `data` and give an instance: `instance` with the values set, or the row that has the primary key in
        `data`, or a new one. Nothing is saved.

        With `transient` the database is not asked, for the row or for related ones. With Meta.load_instance = False dicts
        are given. Raises `marshmallow.ValidationError`; then `instance` is as it was.
        """
        many = self.many if many is None else bool(many)
        if many and instance is not None:
            raise ValueError("instance= is for loading one: many=True finds rows by their primary keys")
        with transient_loading(self.transient if transient is None else transient) as leave_alone:
            loaded = super().load(data, many=many, partial=partial, unknown=unknown)
            if not self.opts.load_instance:
                return loaded
            if many:
                return [self._instance(values, None, leave_alone) for values in loaded]
            return self._instance(loaded, instance, leave_alone)

    def _instance(self, values: dict[str, Any], instance: M | None, transient: bool) -> M:
        model: Any = self.opts.model
        keys = [] if model._meta.primary_key is False else model._meta.get_primary_keys()
        if instance is None and keys and not transient and all(values.get(key.name) is not None for key in keys):
            instance = model.get_or_none(*(key == values[key.name] for key in keys))
        made: M = model() if instance is None else instance
        backrefs = {field.backref: field for field in model._meta.backrefs}
        for name, value in values.items():
            if name in backrefs:
                for row in value:
                    setattr(row, backrefs[name].name, made)
            setattr(made, name, value)
        return made


def save_loaded(instance: peewee.Model) -> None:
    """Save a loaded instance with the related instances that were loaded with it, in one transaction.

    Rows that it refers to go first, rows of its back-references last. An instance with a key that no row has is inserted.
    """
    with instance._meta.database.atomic():
        _save(instance, set())


def _save(instance: Any, done: set[int]) -> None:
    if id(instance) in done:
        return
    done.add(id(instance))
    for name, parent in list(instance.__rel__.items()):
        if parent is not None and (parent.is_dirty() or parent.get_id() is None):
            _save(parent, done)
            setattr(instance, name, parent)  # the key that it has now
    if instance.is_dirty():
        key = instance._meta.primary_key
        is_new = key is False or (
            instance.get_id() is not None and not type(instance).select().where(instance._pk_expr()).exists()
        )
        instance.save(force_insert=is_new)
    for field in instance._meta.backrefs:
        rows = instance.__dict__.get(field.backref)
        for row in rows if isinstance(rows, list) else ():
            setattr(row, field.name, instance)
            _save(row, done)


def _offered(model: type[peewee.Model], opts: ModelSchemaOpts) -> dict[str, Callable[[], fields.Field[Any]]]:
    """For each key that the model can give, how its field is made: a field that is left out need not have a converter."""
    offered: dict[str, Callable[[], fields.Field[Any]]] = {}
    for field in model_fields(model):
        if isinstance(field, peewee.ForeignKeyField) and opts.depth > 0:
            offered[field.name] = partial(_nested_row, field, opts)
        elif isinstance(field, peewee.ForeignKeyField) and opts.use_id_keys:
            offered[field.object_id_name] = partial(field_for, model, field, attribute=field.name)
        else:
            offered[field.name] = partial(field_for, model, field)
    if opts.include_relations:
        for field in model._meta.backrefs:
            if field.backref not in ("+", "!"):
                offered[field.backref] = partial(_nested_rows, field, opts)
        for name, relation in model._meta.manytomany.items():
            offered[name] = partial(_keys_of_rows, relation)
    return offered


def _nested_row(field: peewee.ForeignKeyField, opts: ModelSchemaOpts) -> fields.Field[Any]:
    exclude = (field.backref,) if opts.include_relations and field.backref not in ("+", "!") else ()
    schema = _nested_schema(field.rel_model, opts, exclude)
    made = field_for(field.model, field)
    return Nested(schema, required=made.required, allow_none=made.allow_none, metadata=dict(made.metadata))


def _nested_rows(field: peewee.ForeignKeyField, opts: ModelSchemaOpts) -> fields.Field[Any]:
    if opts.depth <= 0:
        return _keys_of_rows(field, field.model)
    return Nested(_nested_schema(field.model, opts, (field.name,)), many=True)


def _keys_of_rows(relation: Any, model: type[peewee.Model] | None = None) -> fields.Field[Any]:
    return _Rows(Related(model or relation.rel_model), dump_only=True)


def _nested_schema(model: type[peewee.Model], opts: ModelSchemaOpts, exclude: tuple[str, ...]) -> type[ModelSchema[Any]]:
    handed_on = {
        "model": model,
        "exclude": exclude,
        "depth": opts.depth - 1,
        "include_relations": opts.include_relations and opts.depth > 1,
        "load_instance": opts.load_instance,
        "transient": opts.transient,
        "use_id_keys": opts.use_id_keys and opts.depth <= 1,
        "unknown": opts.unknown,
        "datetimeformat": opts.datetimeformat,
        "register": False,
    }
    handed_on["exclude"] = tuple(
        key for key in exclude if key in model._meta.fields or (handed_on["include_relations"] and key)
    )
    return type(f"{model.__name__}Nested", (ModelSchema,), {"Meta": type("Meta", (), handed_on)})
