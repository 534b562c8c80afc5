"""The signals of `peewee_honker.signals`: who is called, when, with what, and what a raising receiver leaves behind."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import blinker
import pytest
from peewee import CharField, CompositeKey, ForeignKeyField, IntegerField, SqliteDatabase, fn

from peewee_honker import HonkerDatabase, signals
from peewee_honker.signals import (
    ANY,
    ModelSignal,
    in_transaction,
    post_delete,
    post_save,
    pre_delete,
    pre_init,
    pre_save,
)

DATABASE_CLASS = HonkerDatabase


class Order(signals.Model):
    customer = CharField()
    total = IntegerField(default=0)


class RushOrder(Order):
    hours = IntegerField(default=1)


class Line(signals.Model):
    order = ForeignKeyField(Order, backref="lines")


class Customer(signals.Model):
    name = CharField(primary_key=True)
    city = CharField(default="")


class Counter(signals.Model):
    number = IntegerField(primary_key=True)
    label = CharField(default="")


class Stock(signals.Model):
    shop = CharField()
    article = CharField()
    amount = IntegerField(default=0)

    class Meta:
        primary_key = CompositeKey("shop", "article")


class LogLine(signals.Model):
    text = CharField()

    class Meta:
        primary_key = False


MODELS = [Order, RushOrder, Line, Customer, Counter, Stock, LogLine]
SIGNALS = {
    "pre_init": pre_init,
    "pre_save": pre_save,
    "post_save": post_save,
    "pre_delete": pre_delete,
    "post_delete": post_delete,
}


@pytest.fixture(autouse=True)
def database() -> Iterator[SqliteDatabase]:
    database = DATABASE_CLASS(":memory:")
    with database.bind_ctx(MODELS):
        database.connect()
        database.create_tables(MODELS)
        yield database
        database.close()


@pytest.fixture(autouse=True)
def _silence_after_the_test() -> Iterator[None]:
    yield
    for signal in SIGNALS.values():
        for receiver in list(signal.receivers_for(ANY)):
            signal.disconnect(receiver)
        for model in MODELS:
            for receiver in list(signal.receivers_for(model)):
                signal.disconnect(receiver)


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def said_by(heard: list[str]) -> Callable[[str], Callable[..., None]]:
    """Make a receiver that writes its name into `heard`."""

    def make(name: str) -> Callable[..., None]:
        def receiver(_sender: Any, **_sent: Any) -> None:
            heard.append(name)

        return receiver

    return make


class RefusedError(Exception):
    pass


def refuse(_sender: type, **_sent: Any) -> None:
    raise RefusedError


def names() -> list[str]:
    return [order.customer for order in Order.select().order_by(Order.id)]


def announced(save: Callable[[], Any]) -> list[bool]:
    """What pre_save and post_save tell as `created` while `save` runs."""
    told: list[bool] = []

    def listen(sender: type, instance: Any, created: bool) -> None:
        told.append(created)

    with pre_save.connected_to(listen), post_save.connected_to(listen):
        save()
    return told


# What is sent


def test_signals_are_blinker_signals() -> None:
    assert all(isinstance(signal, blinker.Signal) for signal in SIGNALS.values())


def test_a_receiver_gets_the_model_class_the_instance_and_created() -> None:
    got: list[tuple[Any, ...]] = []

    @post_save.connect_via(Order)
    def check(sender: type, instance: Order, created: bool) -> None:
        got.append((sender, instance.customer, created))

    order = Order.create(customer="Ada")
    order.save()

    assert got == [(Order, "Ada", True), (Order, "Ada", False)]


@pytest.mark.parametrize("name", SIGNALS)
def test_each_signal_sends_what_playhouse_signals_sends(name: str) -> None:
    sent: list[set[str]] = []

    @SIGNALS[name].connect_via(Order)
    def listen(_sender: type, **keywords: Any) -> None:
        sent.append(set(keywords))

    order = Order(customer="Ada")
    order.save()
    order.delete_instance()

    assert sent == [{"instance", "created"} if "save" in name else {"instance"}]


def test_signals_come_in_the_order_of_the_life_of_a_row(heard: list[str], said_by: Any) -> None:
    for name, signal in SIGNALS.items():
        signal.connect(said_by(name), weak=False)

    order = Order(customer="Ada")
    order.save()
    order.delete_instance()

    assert heard == ["pre_init", "pre_save", "post_save", "pre_delete", "post_delete"]


def test_pre_signals_come_before_the_statement_and_post_signals_after_it() -> None:
    rows: list[int] = []

    def count(_sender: type, **_sent: Any) -> None:
        rows.append(Order.select().count())

    for signal in (pre_save, post_save, pre_delete, post_delete):
        signal.connect(count)

    Order.create(customer="Ada").delete_instance()

    assert rows == [0, 1, 1, 0]


def test_pre_init_sees_the_values_given_and_the_defaults() -> None:
    seen: list[tuple[str, int]] = []

    @pre_init.connect_via(Order)
    def look(sender: type, instance: Order) -> None:
        seen.append((instance.customer, instance.total))

    Order(customer="Ada")

    assert seen == [("Ada", 0)]


def test_pre_init_is_sent_for_rows_read_as_models() -> None:
    Order.create(customer="Ada")
    seen: list[str] = []

    @pre_init.connect_via(Order)
    def look(sender: type, instance: Order) -> None:
        seen.append(instance.customer)

    Order.get()

    assert seen == ["Ada"]


def test_what_a_pre_save_receiver_changes_is_saved() -> None:
    @pre_save.connect_via(Order)
    def tidy(sender: type, instance: Order, created: bool) -> None:
        instance.customer = instance.customer.strip()

    Order.create(customer="  Ada ")

    assert names() == ["Ada"]


def test_queries_send_nothing(heard: list[str], said_by: Any) -> None:
    for name, signal in SIGNALS.items():
        if name != "pre_init":
            signal.connect(said_by(name), weak=False)
    order = Order(customer="Ada")

    Order.bulk_create([order])
    Order.insert(customer="Bob").execute()
    Order.insert_many([{"customer": "Cleo"}]).execute()
    Order.update(total=1).execute()
    Order.delete().execute()

    assert heard == []


def test_a_recursive_delete_sends_for_the_instance_only(heard: list[str]) -> None:
    order = Order.create(customer="Ada")
    Line.create(order=order)

    @post_delete.connect_via(ANY)
    def listen(sender: type, instance: Any) -> None:
        heard.append(sender.__name__)

    order.delete_instance(recursive=True)

    assert heard == ["Order"]
    assert Line.select().count() == 0


def test_save_and_delete_return_what_peewee_returns_with_and_without_receivers(said_by: Any) -> None:
    def life() -> list[int]:
        order = Order(customer="Ada")
        return [order.save(), order.save(only=[Order.customer]), order.delete_instance(), order.delete_instance()]

    alone = life()
    for signal in SIGNALS.values():
        signal.connect(said_by("listener"), weak=False)

    assert life() == alone == [1, 1, 1, 0]


def test_save_keeps_only_and_force_insert_when_someone_listens(said_by: Any) -> None:
    post_save.connect(said_by("listener"), weak=False)

    Order(id=7, customer="Ada").save(force_insert=True)
    Order(id=7, customer="Bob", total=9).save(only=[Order.total])

    assert list(Order.select(Order.id, Order.customer, Order.total).tuples()) == [(7, "Ada", 9)]


# created


def test_created_for_an_automatic_key() -> None:
    order = Order(customer="Ada")

    assert announced(order.save) == [True, True]
    assert announced(order.save) == [False, False]


def test_created_for_a_natural_key() -> None:
    customer = Customer(name="Ada")

    assert announced(lambda: customer.save(force_insert=True)) == [True, True]
    assert announced(customer.save) == [False, False]
    assert announced(lambda: Customer.create(name="Bob")) == [True, True]


@pytest.mark.parametrize(("model", "key"), [(Counter, 0), (Customer, "")])
def test_created_for_a_key_that_python_holds_for_false(model: Any, key: Any) -> None:
    instance = model(**{model._meta.primary_key.name: key})

    assert announced(lambda: instance.save(force_insert=True)) == [True, True]
    assert announced(instance.save) == [False, False]


def test_created_for_a_composite_key() -> None:
    stock = Stock(shop="north", article="tea")

    assert announced(lambda: stock.save(force_insert=True)) == [True, True]
    stock.amount = 5
    assert announced(stock.save) == [False, False]
    assert Stock.get().amount == 5


def test_created_without_a_primary_key() -> None:
    line = LogLine(text="started")

    assert announced(line.save) == [True, True]
    assert LogLine.select().count() == 1


def test_created_when_get_or_create_finds_or_makes_the_row() -> None:
    assert announced(lambda: Order.get_or_create(customer="Ada")) == [True, True]
    assert announced(lambda: Order.get_or_create(customer="Ada")) == []


def test_a_row_announced_as_created_is_inserted_though_pre_save_gave_it_its_key() -> None:
    @pre_save.connect_via(Customer)
    def name_it(sender: type, instance: Customer, created: bool) -> None:
        if created:
            instance.name = "Ada"

    told = announced(lambda: Customer(city="London").save())

    assert told == [True, True]
    assert [(c.name, c.city) for c in Customer.select()] == [("Ada", "London")]


def test_rows_tell_a_receiver_whether_the_row_was_there() -> None:
    written: list[int | None] = []

    def look(_sender: type, instance: Order, **_sent: Any) -> None:
        written.append(instance.__rows__)

    post_save.connect(look)
    post_delete.connect(look)
    order = Order.create(customer="Ada")
    Order.delete().execute()
    order.save()
    order.delete_instance()

    assert written == [1, 0, 0]


# Who hears whom


def test_a_receiver_hears_its_own_sender_only(heard: list[str], said_by: Any) -> None:
    post_save.connect(said_by("order"), sender=Order, weak=False)

    Customer.create(name="Ada")

    assert heard == []


def test_a_receiver_of_a_base_class_hears_its_subclasses() -> None:
    senders: list[type] = []

    @post_save.connect_via(Order)
    def listen(sender: type, instance: Order, created: bool) -> None:
        senders.append(sender)

    RushOrder.create(customer="Ada")

    assert senders == [RushOrder]


def test_a_receiver_of_a_subclass_does_not_hear_its_base(heard: list[str], said_by: Any) -> None:
    post_save.connect(said_by("rush"), sender=RushOrder, weak=False)

    Order.create(customer="Ada")

    assert heard == []


def test_a_receiver_of_a_mixin_hears_the_models_that_have_it(heard: list[str], said_by: Any) -> None:
    class Audited:
        pass

    class Invoice(Audited, signals.Model):
        pass

    pre_init.connect(said_by("audit"), sender=Audited, weak=False)
    Invoice()
    Order()

    assert heard == ["audit"]


@pytest.mark.parametrize("everyone", [ANY, signals.Model])
def test_a_receiver_of_any_or_of_the_base_model_hears_every_model(everyone: Any, heard: list[str], said_by: Any) -> None:
    post_save.connect(said_by("all"), sender=everyone, weak=False)

    Order.create(customer="Ada")
    Customer.create(name="Ada")

    assert heard == ["all", "all"]


def test_receivers_are_called_in_the_order_in_which_they_connected(heard: list[str], said_by: Any) -> None:
    senders = [RushOrder, ANY, Order, signals.Model, Customer]
    expected = []
    for number in range(40):
        sender = senders[number % len(senders)]
        post_save.connect(said_by(f"{number}"), sender=sender, weak=False)
        if sender is not Customer:
            expected.append(f"{number}")

    RushOrder.create(customer="Ada")

    assert heard == expected


def test_the_order_counts_only_the_connections_that_the_sender_reaches(heard: list[str], said_by: Any) -> None:
    early, other = said_by("early"), said_by("other")
    post_save.connect(early, sender=Customer)
    post_save.connect(other, sender=Order)
    post_save.connect(early, sender=Order)

    Order.create(customer="Ada")

    assert heard == ["other", "early"]


def test_a_receiver_that_connects_anew_goes_to_the_end(heard: list[str], said_by: Any) -> None:
    first, second = said_by("first"), said_by("second")
    post_save.connect(first, sender=Order)
    post_save.connect(second, sender=Order)
    post_save.disconnect(first, sender=Order)
    post_save.connect(first, sender=Order)

    Order.create(customer="Ada")

    assert heard == ["second", "first"]


def test_a_receiver_connected_twice_is_called_once_in_its_first_place(heard: list[str], said_by: Any) -> None:
    twice, between = said_by("twice"), said_by("between")
    post_save.connect(twice, sender=Order)
    post_save.connect(between, sender=RushOrder)
    post_save.connect(twice, sender=RushOrder)
    post_save.connect(twice, sender=Order)

    RushOrder.create(customer="Ada")

    assert heard == ["twice", "between"]


def test_disconnecting_from_the_subclass_leaves_the_connection_to_the_base(heard: list[str], said_by: Any) -> None:
    receiver = said_by("base")
    post_save.connect(receiver, sender=Order)
    post_save.connect(receiver, sender=RushOrder)

    post_save.disconnect(receiver, sender=RushOrder)
    RushOrder.create(customer="Ada")

    assert heard == ["base"]


def test_a_disconnected_receiver_is_silent(heard: list[str], said_by: Any) -> None:
    receiver = said_by("gone")
    post_save.connect(receiver, sender=Order)
    post_save.connect(receiver, sender=Customer)

    post_save.disconnect(receiver)
    Order.create(customer="Ada")
    Customer.create(name="Ada")

    assert heard == []


def test_a_weak_receiver_goes_with_its_last_reference(heard: list[str], said_by: Any) -> None:
    receiver = said_by("weak")
    post_save.connect(receiver, sender=Order)

    del receiver
    gc.collect()
    Order.create(customer="Ada")

    assert heard == []
    assert not post_save.has_receivers_for(Order)


def test_a_bound_method_is_a_receiver_as_long_as_its_object_lives(heard: list[str]) -> None:
    class Shop:
        def ship(self, _sender: type, **_sent: Any) -> None:
            heard.append("shipped")

    shop = Shop()
    post_save.connect(shop.ship, sender=Order)
    Order.create(customer="Ada")
    del shop
    gc.collect()
    Order.create(customer="Bob")

    assert heard == ["shipped"]


def test_connect_via_keeps_an_inner_function(heard: list[str]) -> None:
    def connect() -> None:
        @post_save.connect_via(Order)
        def inner(_sender: type, **_sent: Any) -> None:
            heard.append("inner")

    connect()
    gc.collect()
    Order.create(customer="Ada")

    assert heard == ["inner"]


def test_connected_to_lasts_as_long_as_its_block(heard: list[str], said_by: Any) -> None:
    with post_save.connected_to(said_by("within"), sender=Order):
        RushOrder.create(customer="Ada")
    RushOrder.create(customer="Bob")

    assert heard == ["within"]


def test_muted_signals_reach_nobody_and_the_row_is_saved(heard: list[str], said_by: Any) -> None:
    post_save.connect(in_transaction(said_by("muted")), sender=Order, weak=False)

    with post_save.muted():
        Order.create(customer="Ada")

    assert heard == []
    assert names() == ["Ada"]


def test_has_receivers_for_knows_base_classes(said_by: Any) -> None:
    assert not post_save.has_receivers_for(RushOrder)

    post_save.connect(said_by("order"), sender=Order, weak=False)

    assert post_save.has_receivers_for(Order)
    assert post_save.has_receivers_for(RushOrder)
    assert not post_save.has_receivers_for(Customer)
    assert not post_save.has_receivers_for(ANY)


def test_has_receivers_for_is_false_again_after_disconnecting(said_by: Any) -> None:
    receiver = said_by("order")
    post_save.connect(receiver, sender=Order)
    post_save.disconnect(receiver, sender=Order)

    assert not post_save.has_receivers_for(Order)


def test_receiver_connected_tells_of_connections(said_by: Any) -> None:
    signal = ModelSignal()
    told: list[dict[str, Any]] = []

    @signal.receiver_connected.connect
    def listen(_signal: ModelSignal, **connection: Any) -> None:
        told.append(connection)

    receiver = said_by("new")
    signal.connect(receiver, sender=Order)

    assert told == [{"receiver": receiver, "sender": Order, "weak": True}]


def test_send_async_reaches_receivers_of_base_classes_in_order(heard: list[str]) -> None:
    signal = ModelSignal()

    @signal.connect_via(ANY)
    async def first(_sender: type, **_sent: Any) -> None:
        heard.append("first")

    @signal.connect_via(RushOrder)
    async def second(_sender: type, **_sent: Any) -> None:
        heard.append("second")

    @signal.connect_via(Order)
    async def third(_sender: type, **_sent: Any) -> None:
        heard.append("third")

    asyncio.run(signal.send_async(RushOrder))

    assert heard == ["first", "second", "third"]


def test_a_receiver_may_disconnect_itself_while_it_is_called(heard: list[str], said_by: Any) -> None:
    @post_save.connect_via(Order)
    def once(_sender: type, **_sent: Any) -> None:
        heard.append("once")
        post_save.disconnect(once)

    post_save.connect(said_by("always"), weak=False)
    Order.create(customer="Ada")
    Order.create(customer="Bob")

    assert heard == ["once", "always", "always"]


@pytest.mark.parametrize("sender", ["Order", None])
def test_a_sender_that_is_no_class_is_refused(sender: Any, said_by: Any) -> None:
    with pytest.raises(TypeError, match="sender=Order"):
        post_save.connect(said_by("never"), sender=sender)


# A receiver that raises


def test_a_raising_pre_save_receiver_stops_the_save(heard: list[str], said_by: Any) -> None:
    pre_save.connect(refuse, sender=Order)
    pre_save.connect(said_by("later"), weak=False)
    post_save.connect(said_by("post"), weak=False)

    with pytest.raises(RefusedError):
        Order.create(customer="Ada")

    assert names() == []
    assert heard == []


def test_a_raising_pre_delete_receiver_stops_the_delete() -> None:
    order = Order.create(customer="Ada")
    pre_delete.connect(refuse, sender=Order)

    with pytest.raises(RefusedError):
        order.delete_instance()

    assert names() == ["Ada"]


def test_a_raising_post_save_receiver_rolls_back_the_transaction_it_is_in(database: SqliteDatabase) -> None:
    Order.create(customer="before")
    post_save.connect(refuse, sender=RushOrder)

    def write_both() -> None:
        with database.atomic():
            Order.create(customer="within")
            RushOrder.create(customer="refused")

    with pytest.raises(RefusedError):
        write_both()

    assert names() == ["before"]
    assert RushOrder.select().count() == 0


def test_a_raising_post_save_receiver_without_a_transaction_finds_the_row_committed() -> None:
    post_save.connect(refuse, sender=Order)

    with pytest.raises(RefusedError):
        Order.create(customer="Ada")

    assert names() == ["Ada"]


def test_receivers_run_in_the_transaction_that_is_open(database: SqliteDatabase) -> None:
    @post_save.connect_via(Order)
    def book(sender: type, instance: Order, created: bool) -> None:
        Customer.create(name=instance.customer)

    with database.atomic() as transaction:
        Order.create(customer="Ada")
        transaction.rollback()

    assert Customer.select().count() == 0


# in_transaction


def test_unmarked_receivers_open_no_transaction(database: SqliteDatabase) -> None:
    seen: list[bool] = []

    @post_save.connect_via(Order)
    def look(_sender: type, **_sent: Any) -> None:
        seen.append(database.in_transaction())

    Order.create(customer="Ada")

    assert seen == [False]


@pytest.mark.parametrize("signal", [pre_save, post_save])
def test_one_marked_receiver_puts_a_save_and_all_its_receivers_into_one_transaction(
    signal: ModelSignal, database: SqliteDatabase
) -> None:
    seen: list[bool] = []

    def look(_sender: type, **_sent: Any) -> None:
        seen.append(database.in_transaction())

    @signal.connect_via(Order)
    @in_transaction
    def marked(_sender: type, **_sent: Any) -> None:
        pass

    pre_save.connect(look, sender=Order)
    post_save.connect(look, sender=Order)
    RushOrder.create(customer="Ada")

    assert seen == [True, True]
    assert not database.in_transaction()


def test_a_marked_receiver_that_raises_undoes_the_save() -> None:
    @post_save.connect_via(Order)
    @in_transaction
    def book(sender: type, instance: Order, created: bool) -> None:
        Customer.create(name=instance.customer)
        raise RefusedError

    with pytest.raises(RefusedError):
        Order.create(customer="Ada")

    assert names() == []
    assert Customer.select().count() == 0


def test_an_unmarked_receiver_that_raises_undoes_what_a_marked_one_wrote() -> None:
    @post_save.connect_via(Order)
    @in_transaction
    def book(sender: type, instance: Order, created: bool) -> None:
        Customer.create(name=instance.customer)

    post_save.connect(refuse, sender=Order)
    with pytest.raises(RefusedError):
        Order.create(customer="Ada")

    assert names() == []
    assert Customer.select().count() == 0


def test_a_marked_receiver_that_raises_undoes_the_delete() -> None:
    order = Order.create(customer="Ada")
    post_delete.connect(in_transaction(lambda _sender, **_sent: refuse(_sender)), sender=Order, weak=False)

    with pytest.raises(RefusedError):
        order.delete_instance()

    assert names() == ["Ada"]


def test_in_an_open_transaction_a_marked_receiver_joins_it(database: SqliteDatabase) -> None:
    @post_save.connect_via(Order)
    @in_transaction
    def book(sender: type, instance: Order, created: bool) -> None:
        Customer.create(name=instance.customer)

    with database.atomic() as transaction:
        Order.create(customer="Ada")
        transaction.rollback()
        Order.create(customer="Bob")

    assert names() == ["Bob"]
    assert [customer.name for customer in Customer.select()] == ["Bob"]


def test_a_marked_receiver_that_raises_rolls_back_to_the_savepoint_around_the_save(database: SqliteDatabase) -> None:
    post_save.connect(in_transaction(lambda _sender, **_sent: refuse(_sender)), sender=RushOrder, weak=False)

    with database.atomic():
        Order.create(customer="Ada")
        with pytest.raises(RefusedError), database.atomic():
            RushOrder.create(customer="Bob")

    assert names() == ["Ada"]
    assert RushOrder.select().count() == 0


def test_marked_receivers_leave_manual_commit_to_its_user(database: SqliteDatabase) -> None:
    @post_save.connect_via(Order)
    @in_transaction
    def book(sender: type, instance: Order, created: bool) -> None:
        Customer.create(name=instance.customer)

    with database.manual_commit():
        database.begin()
        Order.create(customer="Ada")
        database.rollback()

    assert names() == []
    assert Customer.select().count() == 0


def test_the_mark_works_for_the_methods_of_an_object(database: SqliteDatabase) -> None:
    class Ledger:
        def __init__(self) -> None:
            self.seen: list[bool] = []

        @in_transaction
        def book(self, _sender: type, **_sent: Any) -> None:
            self.seen.append(database.in_transaction())

    ledger = Ledger()
    post_save.connect(ledger.book, sender=Order)
    Order.create(customer="Ada")

    assert ledger.seen == [True]


def test_the_mark_goes_with_the_connection(database: SqliteDatabase) -> None:
    seen: list[bool] = []

    @in_transaction
    def marked(_sender: type, **_sent: Any) -> None:
        pass

    @pre_save.connect_via(Order)
    def look(_sender: type, **_sent: Any) -> None:
        seen.append(database.in_transaction())

    with post_save.connected_to(marked, sender=Order):
        Order.create(customer="Ada")
    Order.create(customer="Bob")

    assert seen == [True, False]


def test_a_coroutine_function_is_refused_when_it_would_be_called() -> None:
    @pre_save.connect_via(Order)
    async def later(sender: type, instance: Order, created: bool) -> None:
        pass

    with pytest.raises(RuntimeError, match="coroutine"):
        Order.create(customer="Ada")

    assert Order.select(fn.COUNT(Order.id)).scalar() == 0
