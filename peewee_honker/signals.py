"""Signals around a model's life: `pre_init`, `pre_save`, `post_save`, `pre_delete`, `post_delete`.

    class Order(Model):                               # peewee_honker.signals.Model
        ...

    @post_save.connect_via(Order)
    def check(sender, instance, created): ...

They are blinker signals, sent in this process and thread, while `save()` or `delete_instance()` runs. The sender, a
receiver's one positional argument, is the model class; the keyword arguments are these and no others:

| signal        | sent                                                  | keyword arguments     |
|---------------|-------------------------------------------------------|-----------------------|
| `pre_init`    | at the end of `__init__`, for rows read as models too | `instance`            |
| `pre_save`    | before the INSERT or UPDATE                           | `instance`, `created` |
| `post_save`   | after it, in the same transaction if one is open      | `instance`, `created` |
| `pre_delete`  | before the DELETE                                     | `instance`            |
| `post_delete` | after it, in the same transaction if one is open      | `instance`            |

`created` tells whether the statement is an INSERT. A receiver connected to a class also hears its subclasses, one
connected without a sender hears every model, and all the receivers of one send are called in the order in which they
connected. A receiver that raises stops the rest: `pre_*` keeps the statement from being sent, and within `atomic()` the
exception rolls the transaction back. Without `atomic()` a raising `post_*` receiver finds the row already committed,
unless a receiver of that write is marked with `in_transaction`. Receivers are plain functions: a coroutine function
raises RuntimeError when it would be called.

Only `save()`, `create()`, `get_or_create()` and `delete_instance()` send. Queries do not: `insert`, `insert_many`,
`update`, `delete`, `bulk_create`, `bulk_update`, nor what `delete_instance(recursive=True)` deletes or sets to NULL in
other tables, nor the database's own ON DELETE CASCADE.

Moving from `playhouse.signals`: `Model`, the signals' names, what they send and when are the same. What differs:

- `@post_save(sender=Order)` is written `@post_save.connect_via(Order)`, and for all models
  `@post_save.connect_via(ANY)`; `connect(fn, name, sender)` is `connect(fn, sender=Order)`. There are no names: a
  receiver is disconnected by itself.
- The instance comes as the keyword `instance`, where playhouse gave it as the second positional argument.
- `connect` holds the receiver weakly: pass `weak=False` for a lambda or an inner function (`connect_via` does so).
- Connecting a receiver twice is no error: it is called once, in its first place.
- `created` is right where playhouse guesses from the key's truth: for a key of 0 or '', and without a primary key.
- A key that a `pre_save` receiver assigns to a new row is inserted; there the statement became an UPDATE of no row.
"""

import inspect
import weakref
from collections.abc import Callable, Generator, Hashable
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any, NamedTuple, TypeVar, cast

import blinker
import peewee
from blinker import ANY
from blinker.base import ANY_ID

__all__ = [
    "ANY",
    "Model",
    "ModelSignal",
    "in_transaction",
    "is_in_transaction",
    "post_delete",
    "post_save",
    "pre_delete",
    "pre_init",
    "pre_save",
]

Receiver = TypeVar("Receiver", bound=Callable[..., Any])

_MARK = "_peewee_honker_in_transaction"
_connection_numbers = count()
_changes = [0]  # counts whatever may change who is called, so that what was found can be kept until then


def in_transaction(receiver: Receiver) -> Receiver:
    """Mark `receiver` as one whose work must commit or roll back together with the write it hears of.

        @post_save.connect_via(Order)
        @in_transaction
        def book(sender, instance, created): ...

    While a marked receiver is connected to a save's (or a delete's) signals, the statement and all its receivers run in
    one transaction: the one that is open, else one of their own, which an exception of any of them rolls back. In an
    open transaction it is that one's owner who decides: who catches the exception within `atomic()` and goes on keeps
    what was written until then, and puts an `atomic()` of his own around the save if he does not want that.

    Arguments:
        receiver: a function; for a bound method, mark the function in the class.

    Returns the receiver itself.
    """
    setattr(receiver, _MARK, True)
    _changes[0] += 1
    return receiver


def is_in_transaction(receiver: Callable[..., Any]) -> bool:
    """Whether `receiver` is marked with `in_transaction`."""
    marked: bool = getattr(receiver, _MARK, False)
    return marked


class _NumberedSet(set[Any]):
    """A set that knows when each member was added. blinker files a signal's receivers, by sender, in these."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[Any, int] = {}

    def add(self, member: Any) -> None:
        super().add(member)
        self.numbers.setdefault(member, next(_connection_numbers))
        _changes[0] += 1

    def discard(self, member: Any) -> None:
        super().discard(member)
        self.numbers.pop(member, None)
        _changes[0] += 1


class _Found(NamedTuple):
    """Whom a send by one sender calls, as found at some state of the connections."""

    sender: Callable[[], Any]  # a weak reference to it
    change: int
    receivers: tuple[tuple[Any, bool], ...]  # the receiver or a weak reference to it, and whether that
    marked: bool  # whether one asks for a transaction
    is_async: bool


class ModelSignal(blinker.Signal):
    """A blinker signal whose senders are model classes.

    It differs from blinker's in who is called, and when: the receivers connected to the sending class, to any of its
    base classes, or to `ANY`, each once, in the order in which they connected (a receiver that is connected several
    times stands where the first of the connections that match was made). All else is blinker's.
    """

    set_class = _NumberedSet

    def __init__(self, doc: str | None = None) -> None:
        super().__init__(doc)
        self._kept: dict[int, _Found] = {}  # by the sender's id, which is another's when the sender has gone

    def connect(self, receiver: Receiver, sender: Any = ANY, weak: bool = True) -> Receiver:
        """Call `receiver(sender, **what is sent)` whenever `sender` or a subclass of it sends.

        Arguments:
            receiver: the callable; if it is connected to this sender already, it keeps its place.
            sender: a model class, or any base or mixin class of models; `ANY`, the default, for every model.
            weak: hold the receiver by a weak reference, so that its connection ends with it.

        Raises TypeError if the sender is not a class, as nothing would ever be heard from it.
        """
        if sender is not ANY and not isinstance(sender, type):
            raise TypeError(
                f"the sender of a model signal is a model class, not {sender!r}: "
                "connect(receiver, sender=Order), or leave the sender out to hear every model"
            )
        return super().connect(receiver, sender, weak)

    def send(self, sender: Any = None, /, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call the receivers of `sender`; gives each with what it returned. As blinker's, but faster."""
        found = self.found_for(sender)
        if "_async_wrapper" in named or found.is_async:
            return super().send(sender, **named)
        if self.is_muted:
            return []
        results = []
        for receiver, is_weak in found.receivers:
            live = receiver() if is_weak else receiver
            if live is not None:
                results.append((live, live(sender, **named)))
        return results

    def receivers_for(self, sender: Any) -> Generator[Callable[..., Any], None, None]:
        """Yield the live receivers that a send by `sender` calls, in the order in which they connected."""
        for receiver, is_weak in self.found_for(sender).receivers:
            live = receiver() if is_weak else receiver
            if live is not None:
                yield live

    def has_receivers_for(self, sender: Any) -> bool:
        """Whether a send by `sender` would call a receiver, as far as known without asking weak ones if they live."""
        return bool(self.receivers and self.found_for(sender).receivers)

    def needs_transaction(self, sender: type) -> bool:
        """Whether a receiver that a send by `sender` would call now is marked with `in_transaction`."""
        return self.found_for(sender).marked and not self.is_muted

    def found_for(self, sender: Any) -> _Found:
        """Whom a send by `sender` calls; kept until connections change."""
        key = id(sender)
        found = self._kept.get(key)
        if found is None or found.change != _changes[0] or found.sender() is not sender:
            kept = self._kept
            try:
                reference: Callable[[], Any] = weakref.ref(sender, lambda _gone: kept.pop(key, None))
            except TypeError:  # no weak reference to it can be had
                return self._find(sender, lambda: None)
            found = kept[key] = self._find(sender, reference)
        return found

    def _find(self, sender: Any, reference: Callable[[], Any]) -> _Found:
        change = _changes[0]  # before looking: what changes meanwhile is found the next time
        # Copies, each made in one step: another thread may connect, and a weak receiver may go, while we look.
        heard = [receivers.numbers.copy() for receivers in self._heard(sender)]
        connections = sorted((number, receiver_id) for found in heard for receiver_id, number in found.items())
        receivers = []
        for receiver_id in dict.fromkeys(receiver_id for _number, receiver_id in connections):
            receiver = self.receivers.get(receiver_id)
            is_weak = isinstance(receiver, weakref.ref)
            live = receiver() if isinstance(receiver, weakref.ref) else receiver
            if live is not None:
                receivers.append((receiver, is_weak, live))
        return _Found(
            reference,
            change,
            tuple((receiver, is_weak) for receiver, is_weak, _live in receivers),
            any(is_in_transaction(live) for *_, live in receivers),
            any(inspect.iscoroutinefunction(live) for *_, live in receivers),
        )

    def _heard(self, sender: Any) -> list[_NumberedSet]:
        """The sets of receivers of `ANY`, and of the sender and its base classes, that are not empty."""
        # blinker declares the attribute with plain sets; `set_class` above is what it makes.
        by_sender = cast("dict[Hashable, _NumberedSet]", self._by_sender)
        lineage = sender.__mro__ if isinstance(sender, type) else ()
        return [found for key in (ANY_ID, *map(id, lineage)) if (found := by_sender.get(key))]


pre_init = ModelSignal("Sent when an instance was made: at the end of `__init__`, with `instance`.")
pre_save = ModelSignal("Sent before the statement of `save()`, with `instance` and `created`.")
post_save = ModelSignal("Sent after the statement of `save()`, with `instance` and `created`.")
pre_delete = ModelSignal("Sent before the statement of `delete_instance()`, with `instance`.")
post_delete = ModelSignal("Sent after the statement of `delete_instance()`, with `instance`.")


class Model(peewee.Model):
    """A Peewee model that sends the signals of this module. While nobody listens, it costs a test or two a call."""

    __rows__: int | None = None
    """How many rows the instance's last heard-of save or delete wrote, set before `post_save` and `post_delete`.

    0 tells a receiver that the row was not there: an UPDATE or DELETE of a row that is gone (or that was never
    inserted: a new row with a key of its own needs `force_insert=True`), or a save with nothing to save.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make an instance as `peewee.Model` does, then send `pre_init`.

        The name and the time are playhouse's: "pre" is before its use, not before `__init__`. An instance read from
        the database is made in the same way; one that is part of a join gets its values only afterwards.
        """
        super().__init__(*args, **kwargs)
        if pre_init.receivers:
            pre_init.send(type(self), instance=self)

    def save(self, force_insert: bool = False, only: Any = None) -> int:
        """Save as `peewee.Model.save` does, and send `pre_save` before, `post_save` after the statement.

        Arguments:
            force_insert: INSERT even if the instance has a primary key.
            only: the fields to save; by default all.

        Returns the number of rows written. Raises what Peewee and the receivers raise.

        Guarantee: a row announced with `created=True` is inserted, also if a `pre_save` receiver gave it its key.
        """
        unit_of_work = self._unit_of_work(pre_save, post_save)
        if unit_of_work is None:
            return super().save(force_insert, only)
        if unit_of_work is _alone:
            return self._save_heard(force_insert, only)
        with unit_of_work:
            return self._save_heard(force_insert, only)

    def _save_heard(self, force_insert: bool, only: Any) -> int:
        model = type(self)
        created = force_insert or self._is_keyless()
        if pre_save.receivers:
            pre_save.send(model, instance=self, created=created)
        self.__rows__ = int(super().save(force_insert or (created and not self._is_keyless()), only))
        post_save.send(model, instance=self, created=created)
        return self.__rows__

    def delete_instance(self, recursive: bool = False, delete_nullable: bool = False) -> int:
        """Delete as `peewee.Model.delete_instance` does, and send `pre_delete` before, `post_delete` after it.

        Arguments:
            recursive: first delete the rows that depend on this one, by queries: no signals are sent for them.
            delete_nullable: with `recursive`, delete also the rows whose reference could be set to NULL.

        Returns the number of rows deleted from the model's own table. Raises what Peewee and the receivers raise.
        """
        model = type(self)
        unit_of_work = self._unit_of_work(pre_delete, post_delete)
        if unit_of_work is None:
            return super().delete_instance(recursive, delete_nullable)
        with unit_of_work:
            pre_delete.send(model, instance=self)
            self.__rows__ = super().delete_instance(recursive, delete_nullable)
            post_delete.send(model, instance=self)
            return self.__rows__

    def _is_keyless(self) -> bool:
        """Whether Peewee would save the instance by an INSERT unasked."""
        # None without a primary key too. Peewee's stubs leave get_id() without types.
        return self.get_id() is None  # type: ignore[no-untyped-call]

    def _unit_of_work(self, before: ModelSignal, after: ModelSignal) -> AbstractContextManager[Any] | None:
        """What the statement and its receivers run in: a new transaction if a receiver asks for one and none is open. None
        when nobody listens.

        No savepoint in an open one: two more statements a save, under names never seen before, so never prepared.
        """
        if not (before.receivers or after.receivers):
            return None
        model = type(self)
        first, last = before.found_for(model), after.found_for(model)
        if not (first.receivers or last.receivers):
            return None
        wanted = (first.marked and not before.is_muted) or (last.marked and not after.is_muted)
        database = self._meta.database
        if not wanted or database.in_transaction():
            return _alone
        transaction: AbstractContextManager[Any] = database.atomic()
        return transaction


_alone: AbstractContextManager[Any] = nullcontext()
