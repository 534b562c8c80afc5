"""A Peewee field whose column holds encrypted values, and the rotation of its keys."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import peewee
from marshmallow import fields
from peewee import SQL

from peewee_honker.pages import walk
from peewee_honker.schemas import converts
from peewee_honker.schemas.strict import Text
from peewee_honker.storage.crypto import DecryptionError, Keys
from peewee_honker.storage.errors import StorageError

__all__ = ["EncryptedField", "RotationReport", "Secret", "rotate_keys"]


class Secret:
    """A text that shows itself only when asked: `str`, `repr`, logs, JSON and pickles do not tell it.

    What was read from a column is decrypted at the first `reveal()`, and so a row that nobody asks costs nothing.
    """

    __slots__ = ("_open", "_text", "stored")

    def __init__(self, text: str | None = None, *, stored: str | None = None, opened: Callable[[str], str] | None = None):
        self._text, self.stored, self._open = text, stored, opened

    def reveal(self) -> str:
        """The text. Raises DecryptionError for what cannot be decrypted."""
        if self._text is None:
            assert self._open is not None  # noqa: S101 # a secret has its text, or what opens it
            assert self.stored is not None  # noqa: S101
            self._text = self._open(self.stored)
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied: pass on what it is of, or reveal() it")


class _Accessor(peewee.FieldAccessor):
    """Makes a secret of what is assigned."""

    def __set__(self, instance: Any, value: Any) -> None:
        super().__set__(instance, _secret(value))


class EncryptedField(peewee.TextField):
    """Text that the file holds encrypted; the attribute is a `Secret`.

        class User(Model):
            token = EncryptedField(lambda: Keys(os.environ["APP_KEY"]), null=True)

        user.token = "s3cret"
        user.token.reveal()

    Arguments:
        keys: the keys, or a function that gives them, which is called once, when they are needed.
        context: what the values belong to, see `peewee_honker.storage.crypto.encrypt`; by default the table and the column,
            so that a value copied into another column cannot be read there.

    Events (of bridges and captures) and dumps of schemas leave the field out; schemas load it. A query cannot compare with
    it, as every value is encrypted differently, and raises StorageError; `is_null()` and `== None` work.
    For the same reason ValueError is raised for `unique`, `index` and `primary_key`.
    """

    is_secret = True
    """Bridges and captures leave such fields out."""
    accessor_class = _Accessor

    def __init__(self, keys: Keys | Callable[[], Keys], *, context: str | None = None, **options: Any) -> None:
        for option in ("unique", "index", "primary_key"):
            if options.get(option):
                raise ValueError(f"{option}: no two encrypted values are alike; put a keyed hash into a column beside it")
        super().__init__(**options)
        if self.default is not None:
            self.default = _secret_default(self.default)
        self._given_keys = keys
        self._keys: Keys | None = None
        self._context = context

    @property
    def keys(self) -> Keys:
        """The keys in use."""
        if self._keys is None:
            given = self._given_keys
            self._keys = given if isinstance(given, Keys) else given()
        return self._keys

    @property
    def context(self) -> str:
        """What its values belong to."""
        model: Any = self.model
        return f"{model._meta.table_name}.{self.column_name}" if self._context is None else self._context

    def db_value(self, value: Any) -> Any:
        """What the column holds. Raises TypeError for what is no text."""
        if value is None:
            return None
        if isinstance(value, Secret):
            if value.stored is not None and value._open == self.decrypted:
                return value.stored  # as it was read, with this field's keys and place
            value = value.reveal()
        if not isinstance(value, str):
            raise TypeError(f"{self.name} takes text or a Secret, not {type(value).__name__}")
        return json.dumps(self.keys.encrypt(value, context=self.context), separators=(",", ":"))

    def python_value(self, value: Any) -> Any:
        """A secret that is not decrypted yet."""
        return None if value is None else Secret(stored=value, opened=self.decrypted)

    def decrypted(self, stored: str) -> str:
        """The text of what the column holds. Raises DecryptionError."""
        return self.keys.decrypt(_parsed(stored), context=self.context)

    def is_current(self, stored: str) -> bool:
        """Whether the column's value is encrypted with the newest key. Raises DecryptionError."""
        return self.keys.is_current(_parsed(stored), context=self.context)

    def _refuse(self, *_: Any) -> NoReturn:
        raise StorageError(
            f"{self.name} is encrypted, and no query can compare it: select by another column, or keep a keyed hash of the "
            "value in a column beside it"
        )

    def __eq__(self, other: Any) -> Any:
        return super().__eq__(other) if other is None or isinstance(other, peewee.Node) else self._refuse()

    def __ne__(self, other: Any) -> Any:
        return super().__ne__(other) if other is None or isinstance(other, peewee.Node) else self._refuse()

    def __rshift__(self, other: Any) -> Any:
        return super().__rshift__(other) if other is None else self._refuse()

    __hash__ = peewee.TextField.__hash__
    __lt__ = __le__ = __gt__ = __ge__ = __lshift__ = __mod__ = __pow__ = __add__ = __radd__ = _refuse
    concat: ClassVar[Any] = _refuse
    in_: ClassVar[Any] = _refuse
    not_in: ClassVar[Any] = _refuse
    contains: ClassVar[Any] = _refuse
    startswith: ClassVar[Any] = _refuse
    endswith: ClassVar[Any] = _refuse
    like: ClassVar[Any] = _refuse
    ilike: ClassVar[Any] = _refuse
    regexp: ClassVar[Any] = _refuse
    iregexp: ClassVar[Any] = _refuse
    between: ClassVar[Any] = _refuse


def _parsed(stored: Any) -> Any:
    try:
        return json.loads(stored)
    except (TypeError, ValueError, RecursionError):  # the last for what is nested too deep
        raise DecryptionError from None


def _secret(value: Any) -> Any:
    return Secret(value) if isinstance(value, str) else value


def _secret_default(default: Any) -> Any:
    """A default as the attribute has it: a Secret, of what a function gives too."""
    return (lambda: _secret(default())) if callable(default) else _secret(default)


@converts(EncryptedField)
def _secret_text(_field: EncryptedField, **options: Any) -> fields.String:
    """Taken, and never told."""
    return Text(**{**options, "load_only": True})


@dataclass(slots=True)
class RotationReport:
    """What a rotation did, or would do.

    - `checked`: values that were looked at.
    - `rotated`: those that were encrypted anew.
    - `failed`: the primary keys of rows whose value none of the keys decrypts, at most 1,000.
    """

    checked: int = 0
    rotated: int = 0
    failed: list[Any] = field(default_factory=list)


def rotate_keys(column: Any, *, batch: int = 100, dry_run: bool = False) -> RotationReport:
    """Encrypt the values of a column anew that are not encrypted with the first password and the newest version.

        rotate_keys(User.token)       # with Keys(new, before=[old])

    Arguments:
        column: an EncryptedField of a model.
        batch: rows of one transaction.
        dry_run: write nothing, tell what would be.

    May run while others write: a value that has changed meanwhile is left as it is. What was stopped goes on where it was
    when it is run again, as values that are current are passed over. No event is sent. Raises TypeError for another field.
    """
    if not isinstance(column, EncryptedField):
        raise TypeError(f"{column!r} is no EncryptedField")
    model: Any = column.model
    report = RotationReport()
    database = model._meta.database
    for rows in _batches(walk(model.select(*model._meta.get_primary_keys(), column).where(column.is_null(False))), batch):
        changes = []
        for row in rows:
            stored = getattr(row, column.name).stored
            report.checked += 1
            try:
                if not column.is_current(stored):
                    changes.append((row, stored, column.db_value(column.decrypted(stored))))
            except DecryptionError:
                if len(report.failed) < 1000:
                    report.failed.append(row.get_id())
        if dry_run:
            report.rotated += len(changes)
            continue
        with database.atomic():
            for row, before, after in changes:
                same = SQL(f'"{column.column_name}" = ?', [before])
                value = peewee.Value(after, converter=False)
                report.rotated += model.update({column: value}).where(row._pk_expr(), same).execute()
    return report


def _batches(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
