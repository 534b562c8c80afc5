"""The shop: two tables, and what may be done with them."""

import os
from typing import Any

from peewee import CharField, Check, ForeignKeyField, IntegerField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.operations import (
    AccessControl,
    Context,
    ErrorSpec,
    OperationError,
    OperationRegistry,
    OperationSpec,
    OperationType,
    operations_for,
)
from peewee_honker.signals import Model

db = HonkerDatabase(os.environ.get("SHOP_DB", "shop.db"))


class Item(Model):
    name = CharField(max_length=40, unique=True)
    cents = IntegerField(constraints=[Check("cents > 0")])
    stock = IntegerField(constraints=[Check("stock >= 0")])

    class Meta:
        database = db


class Order(Model):
    customer = CharField(max_length=80)
    item = ForeignKeyField(Item)
    pieces = IntegerField(constraints=[Check("pieces > 0")])

    class Meta:
        database = db


bus = EventBus(db)
registry = OperationRegistry()
operations_for(Item, bridge=bus.bridge(Item)).register(registry)
operations_for(Order, bridge=bus.bridge(Order, durable=True)).register(registry)

sell = OperationSpec(
    "shop",
    "sell",
    OperationType.MUTATION,
    title="Sell an item",
    description="Take pieces of an item from the stock and make the order, both or neither. Tells the price.",
    input_schema={
        "type": "object",
        "properties": {
            "customer": {"type": "string", "minLength": 1, "maxLength": 80},
            "item": {"type": "string", "description": "The item's name, as items-list tells it"},
            "pieces": {"type": "integer", "minimum": 1},
        },
        "required": ["customer", "item", "pieces"],
        "additionalProperties": False,
    },
    output_schema={
        "type": "object",
        "properties": {"order": {"type": "integer"}, "cents": {"type": "integer"}},
        "required": ["order", "cents"],
    },
    error_schemas=(
        ErrorSpec("NO_SUCH_ITEM", "There is no item of that name."),
        ErrorSpec("SOLD_OUT", "There are not enough pieces; the details say how many there are.", http_status=409),
    ),
    access_control=AccessControl(required_scopes=("shop:sell",)),
    meta={"destructive": False},
)


def sell_item(data: Any, _context: Context) -> dict[str, int]:
    with db.atomic():
        item = Item.get_or_none(Item.name == data["item"])
        if item is None:
            raise OperationError("NO_SUCH_ITEM", f"there is no item {data['item']}")
        if item.stock < data["pieces"]:
            raise OperationError("SOLD_OUT", f"there are {item.stock} of {item.name}", {"stock": item.stock})
        item.stock -= data["pieces"]
        item.save()
        order = Order.create(customer=data["customer"], item=item, pieces=data["pieces"])
        return {"order": order.id, "cents": item.cents * data["pieces"]}


registry.register(sell, sell_item)
