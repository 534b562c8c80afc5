"""An async API whose contract, checks and events come from one model.

uvicorn --app-dir examples/fastapi_app app:app
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from marshmallow import ValidationError
from peewee import CharField, Check, DecimalField, TextField

from peewee_honker import EventBus, HonkerDatabase
from peewee_honker.contrib.sse import Feed
from peewee_honker.contrib.starlette import events_endpoint
from peewee_honker.schemas import create_insert_schema, create_select_schema, create_update_schema, reported
from peewee_honker.schemas.contract import openapi_components
from peewee_honker.signals import Model

db = HonkerDatabase(os.environ.get("ORDERS_DB", "orders.db"))


class Order(Model):
    number = CharField(max_length=12, unique=True)
    customer = CharField(max_length=80)
    total = DecimalField(max_digits=8, decimal_places=2, constraints=[Check("total >= 0")], help_text="In euros")
    note = TextField(null=True)
    state = CharField(default="new", choices=[("new", "New"), ("packed", "Packed"), ("sent", "Sent")])

    class Meta:
        database = db


OrderOut = create_select_schema(Order, name="Order")
OrderIn = create_insert_schema(Order, exclude=["id", "state"], name="OrderIn")
OrderChange = create_update_schema(Order, exclude=["id"], name="OrderChange")

bus = EventBus(db, consumer="packing", start_at="beginning")
orders = bus.bridge(Order, durable=True)
feed = Feed(db, stream="order")


@orders.saved.connect
async def pack(_sender: type[Order], event: Any) -> None:
    """A receiver on the application's own loop, once for each new order, also after a restart."""
    if event.operation == "insert":
        await asyncio.sleep(0.01)  # asking the warehouse
        await asyncio.to_thread(update, event.id, {"state": "packed"})


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    db.create_tables([Order])
    db.close()
    async with bus:
        yield
    feed.close()
    db.close_engine()


app = FastAPI(title="Orders", lifespan=lifespan)
app.add_route("/events", events_endpoint(feed))


@app.exception_handler(ValidationError)
async def not_valid(_: Request, error: ValidationError) -> JSONResponse:
    return JSONResponse({"errors": error.messages}, 422)


# What writes or reads the file runs beside the loop, in a thread, with a connection of its own.


def find(key: str) -> dict[str, Any]:
    with db.connection_context():
        order = Order.get_or_none(Order.id == key)
        if order is None:
            raise HTTPException(404, f"there is no order {key}")
        return OrderOut().dump(order)


def insert(data: dict[str, Any]) -> dict[str, Any]:
    with db.connection_context(), reported(Order), db.atomic():
        return OrderOut().dump(Order.create(**data))  # the event commits with the row


def update(key: str, data: dict[str, Any]) -> dict[str, Any]:
    with db.connection_context(), reported(Order), db.atomic():
        order = Order.get_or_none(Order.id == key)
        if order is None:
            raise HTTPException(404, f"there is no order {key}")
        for name, value in data.items():
            setattr(order, name, value)
        order.save()
        return OrderOut().dump(order)


def described(summary: str, *, takes: str | None = None) -> dict[str, Any]:
    """A route's part of the OpenAPI document, by the names of schemas."""

    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    found: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "The order.", "content": content("Order")}},
    }
    return {**found, "requestBody": {"required": True, "content": content(takes)}} if takes else found


@app.get("/orders/{key}", openapi_extra=described("One order"))
async def get_order(key: str) -> JSONResponse:
    return JSONResponse(await asyncio.to_thread(find, key))


@app.post("/orders", openapi_extra=described("A new order", takes="OrderIn"))
async def post_order(request: Request) -> JSONResponse:
    return JSONResponse(await asyncio.to_thread(insert, OrderIn().load(await request.json())))


@app.patch("/orders/{key}", openapi_extra=described("Change an order", takes="OrderChange"))
async def patch_order(key: str, request: Request) -> JSONResponse:
    return JSONResponse(await asyncio.to_thread(update, key, OrderChange().load(await request.json())))


def openapi() -> dict[str, Any]:
    """FastAPI's document, with the schemas that the models give."""
    if not app.openapi_schema:
        document = FastAPI.openapi(app)
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(openapi_components(OrderOut, OrderIn, OrderChange)["schemas"])
    return app.openapi_schema


app.openapi = openapi
