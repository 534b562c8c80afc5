"""The class of ModelSchema's classes: what `class Meta` says, and the fields that it makes of the model's.

Nothing here runs when data are loaded or dumped: `model` does that.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast, get_args, get_origin

import peewee
from marshmallow import fields
from marshmallow.schema import SchemaMeta, SchemaOpts

from ..errors import SchemaError
from .convert import field_for, model_fields
from .relations import Nested, related_model

__all__ = ["ModelSchemaMeta", "ModelSchemaOptions", "auto_field"]


class ModelSchemaOptions(SchemaOpts):
    """The options of `class Meta` that ModelSchema adds to marshmallow's."""

    def __init__(self, meta: type) -> None:
        super().__init__(meta)
        self.model: type[peewee.Model] | None = getattr(meta, "model", None)
        self.include_relations: bool | Sequence[str] = getattr(meta, "include_relations", ())
        self.load_instance: bool = getattr(meta, "load_instance", True)
        self.transient: bool = getattr(meta, "transient", False)
        self.partial: bool | Sequence[str] | None = getattr(meta, "partial", None)
        self.use_id_keys: bool = getattr(meta, "use_id_keys", False)


class AutoField(fields.Field[Any]):
    """Stands for the field of a column until the class is made."""

    def __init__(self, name: str | None, overrides: dict[str, Any]) -> None:
        super().__init__()
        self.column = name
        self.overrides = overrides


def auto_field(name: str | None = None, **overrides: Any) -> Any:
    """Declare a field of a ModelSchema that comes from the model, with some options changed.

        class OrderSchema(ModelSchema[Order]):
            note = auto_field(validate=Length(max=80))
            sum = auto_field("total", dump_only=True)

    Arguments:
        name: the name of the Peewee field. Default: the name that it is assigned to.
        overrides: as of `field_for`.
    """
    return AutoField(name, overrides)


class ModelSchemaMeta(SchemaMeta):
    """Adds the fields of the model to those that the class declares."""

    @classmethod
    def get_declared_fields(
        mcs,  # noqa: N804 # marshmallow's name
        klass: Any,
        cls_fields: Any,
        inherited_fields: Any,
        dict_cls: type[dict[Any, Any]] = dict,
    ) -> dict[str, fields.Field[Any]]:
        """Give the fields of the class: the model's, in the order of its columns, then others that it declares."""
        opts = klass.opts
        made_before = [base.__dict__.get("made_fields", {}) for base in klass.__mro__[1:]]
        kept = [pair for pair in inherited_fields if not any(made.get(pair[0]) is pair[1] for made in made_before)]
        declared: dict[str, Any] = dict_cls([*kept, *cls_fields])
        opts.model = _model_of(klass)
        if opts.model is None:
            return declared
        for name, field in declared.items():
            if isinstance(field, AutoField):
                declared[name] = _resolved(opts.model, name, field)
        made = _made(klass, set(declared))
        klass.made_fields = made
        found = {name: declared.get(name, made.get(name)) for name in (*made, *declared)}
        _check_names(klass, found)
        opts.exclude = tuple(name for name in opts.exclude if name in found)
        return dict_cls(found)


def _model_of(klass: Any) -> type[peewee.Model] | None:
    """Give the model that a class names in `Meta`, or as `ModelSchema[Order]`, or that its base class names so."""
    named: type[peewee.Model] | None = klass.opts.model
    for base in klass.__mro__:
        for origin in base.__dict__.get("__orig_bases__", ()):
            source, arguments = get_origin(origin), get_args(origin)
            if isinstance(source, ModelSchemaMeta) and arguments and isinstance(arguments[0], type):
                if named is not None and base is klass and named is not arguments[0]:
                    raise SchemaError(f"{klass.__name__} names two models: {named.__name__} and {arguments[0].__name__}")
                return named or arguments[0]
    if named is not None and not (isinstance(named, type) and issubclass(named, peewee.Model)):
        raise SchemaError(f"{klass.__name__}: Meta.model is {named!r}, which is no Peewee model")
    return named


def _resolved(model: type[peewee.Model], name: str, auto: AutoField) -> fields.Field[Any]:
    columns = model_fields(model)
    column = auto.column or name
    if column not in columns:
        raise SchemaError(f"auto_field: {model.__name__} has no field {column!r}; it has {', '.join(columns)}")
    overrides = dict(auto.overrides)
    if column != name:
        overrides.setdefault("attribute", column)
    return cast("fields.Field[Any]", field_for(columns[column], **overrides))


def _made(klass: Any, declared: set[str]) -> dict[str, fields.Field[Any]]:
    """Make the fields of the model that a class neither declares nor leaves out."""
    opts = klass.opts
    tree = _tree(opts.model, opts.include_relations)
    made: dict[str, fields.Field[Any]] = {}
    for name, field in model_fields(opts.model).items():
        reference = isinstance(field, peewee.ForeignKeyField)
        key = str(cast("Any", field).object_id_name) if reference and opts.use_id_keys and name not in tree else name
        if key in declared or key in opts.exclude or (opts.fields and key not in opts.fields):
            continue
        if name in tree:
            made[name] = _nested(klass, name, tree[name])
        else:
            made[key] = field_for(field, **({"attribute": name} if key != name else {}))
    for name, below in tree.items():
        if name not in made and name not in declared and name not in opts.exclude:
            made[name] = _nested(klass, name, below)
    return made


Tree = dict[str, "Tree"]


def _tree(model: Any, paths: bool | Iterable[str]) -> Tree:
    if paths is True:
        meta = model._meta
        paths = [*(key.name for key in meta.refs), *(key.backref for key in meta.backrefs if key.backref not in ("+", "!"))]
    if isinstance(paths, str):
        raise SchemaError("include_relations is a list of names, or True")
    tree: Tree = {}
    for path in paths or ():
        place = tree
        for name in path.split("."):
            place = place.setdefault(name, {})
    return tree


def _paths(tree: Tree) -> list[str]:
    return [path for name, below in tree.items() for path in (name, *(f"{name}.{rest}" for rest in _paths(below)))]


def _nested(klass: Any, name: str, below: Tree) -> Nested:
    """Make the nested field of a relation, whose schema has the options of the outer one."""
    opts = klass.opts
    base = next(base for base in reversed(klass.__mro__) if isinstance(base, ModelSchemaMeta))
    other, key, many = related_model(opts.model, name)
    inherited = ("load_instance", "transient", "unknown", "use_id_keys", "dateformat", "datetimeformat", "timeformat")
    meta = {option: getattr(opts, option) for option in inherited}
    back: tuple[str, ...] = ()
    if many and key is not None:  # rows that point back to the one around them need not say so
        back = (key.object_id_name if opts.use_id_keys else key.name,)
    meta |= {"model": other, "include_relations": _paths(below), "register": False, "exclude": back}
    schema = type(f"{other.__name__}Nested", (base,), {"Meta": type("Meta", (), meta)})
    return Nested(schema, dump_only=key is None)


def _check_names(klass: Any, found: Mapping[str, Any]) -> None:
    known = {*found, *model_fields(klass.opts.model)}
    if klass.opts.use_id_keys:
        known |= {str(key.object_id_name) for key in klass.opts.model._meta.refs}
    for option in ("fields", "exclude", "dump_only", "load_only"):
        names = known if option == "exclude" else set(found)
        for name in getattr(klass.opts, option):
            if name.partition(".")[0] not in names:
                raise SchemaError(f"{klass.__name__}: Meta.{option} has {name!r}, which is none of {', '.join(found)}")
