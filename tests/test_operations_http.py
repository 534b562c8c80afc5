"""Operations over HTTP: the document is valid, and answers are what it says."""

import peewee
import pytest
from flask import Flask
from openapi_spec_validator import validate

from peewee_honker import EventBus
from peewee_honker.contrib.flask_operations import operations_blueprint
from peewee_honker.operations import Identity, OperationRegistry, OperationSpec, OperationType, operations_for
from peewee_honker.operations.openapi import openapi
from peewee_honker.signals import Model

IDENTITIES = {"clerk": Identity("1", ("orders:read", "orders:write")), "reader": Identity("2", ("orders:read",))}


@pytest.fixture
def registry(db):
    class Order(Model):
        number = peewee.CharField(unique=True)
        total = peewee.IntegerField()

        class Meta:
            database = db

    db.create_tables([Order])
    registry = OperationRegistry()
    operations_for(Order, bridge=EventBus(db).bridge(Order)).register(registry)
    nested = {"$defs": {"N": {"type": "integer"}}, "type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}
    spec = OperationSpec("math", "double", OperationType.QUERY, nested, {}, description="n times two", tags=("a",))
    registry.register(spec, lambda data, _: data["n"] * 2)
    registry.register(OperationSpec("math", "broken", OperationType.QUERY, {}, {}), lambda *_: 1 / 0)
    return registry


@pytest.fixture
def client(registry):
    app = Flask(__name__)
    identify = lambda request: IDENTITIES.get(request.headers.get("X-User"))  # noqa: E731
    app.register_blueprint(operations_blueprint(registry, identify=identify), url_prefix="/api")
    return app.test_client()


def test_the_document_is_valid_and_names_every_call(registry, client):
    document = openapi(registry)
    validate(document)
    assert set(document["paths"]) == {
        *(f"/orders/{name}" for name in ("create", "find", "list", "update", "delete")),
        "/math/double",
        "/math/broken",
    }
    served = client.get("/api/openapi.json").json
    validate(served)
    assert "/api/orders/create" in served["paths"]
    assert set(served["paths"]["/api/orders/find"]["post"]["responses"]) == {"200", "403", "404", "422", "500"}


def test_answers_and_errors_have_their_status(client):
    def ask(path, data, user="clerk"):
        answer = client.post(f"/api/{path}", json=data, headers={"X-User": user})
        return answer.status_code, answer.json

    status, made = ask("orders/create", {"number": "A", "total": 1})
    assert (status, made["data"], made["meta"]["source"]) == (200, {"id": 1, "number": "A", "total": 1}, "http")
    assert ask("math/double", {"n": 4}, "nobody")[1]["data"] == 8
    for path, data, user, status, code in (
        ("orders/create", {"number": "B", "total": 1}, "reader", 403, "ACCESS_DENIED"),
        ("orders/create", {"number": "B"}, "clerk", 422, "VALIDATION_ERROR"),
        ("orders/create", {"number": "A", "total": 1}, "clerk", 422, "VALIDATION_ERROR"),
        ("orders/find", {"id": 9}, "reader", 404, "NOT_FOUND"),
        ("orders/watch", {}, "reader", 422, "VALIDATION_ERROR"),
        ("orders/nothing", {}, "clerk", 404, "OPERATION_NOT_FOUND"),
        ("math/broken", {}, "clerk", 500, "EXECUTION_ERROR"),
    ):
        found = ask(path, data, user)
        assert (found[0], found[1]["code"]) == (status, code)
    assert client.post("/api/math/double", data="{", content_type="application/json").status_code == 422
    assert client.post("/api/math/double", data="n=1").status_code == 422
