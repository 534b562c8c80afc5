"""Schemas made from a model beside schemas written by hand: dump and load of 10,000 rows of 8 fields.

Run `python benchmarks/schemas.py`. With `--other PYTHON`, a Python that has marshmallow-peewee (and with it marshmallow 3),
its ModelSchema is measured too, in that environment. Sides take turns, sample by sample; the median of the rounds is given,
and its ratio to the schema written by hand. Garbage is collected before a sample, not during it.
"""

import argparse
import datetime
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any

import marshmallow
import peewee
from marshmallow import fields, validate

ROWS = 10_000


class Shop(peewee.Model):
    name = peewee.CharField()


class Order(peewee.Model):
    number = peewee.IntegerField()
    shop = peewee.ForeignKeyField(Shop)
    state = peewee.CharField(choices=[("new", "New"), ("paid", "Paid")])
    note = peewee.TextField(null=True)
    weight = peewee.FloatField()
    paid = peewee.BooleanField()
    at = peewee.DateTimeField()


class ByHand(marshmallow.Schema):
    """What one would write for Order, with the limits that the made schemas have."""

    id = fields.Integer(strict=True, required=True, validate=validate.Range(-(2**53) + 1, 2**53 - 1))
    number = fields.Integer(strict=True, required=True, validate=validate.Range(-(2**53) + 1, 2**53 - 1))
    shop = fields.Integer(strict=True, required=True, attribute="shop_id", validate=validate.Range(-(2**53) + 1, 2**53 - 1))
    state = fields.String(required=True, validate=[validate.OneOf(["new", "paid"]), validate.Length(max=255)])
    note = fields.String(required=True, allow_none=True)
    weight = fields.Float(required=True)
    paid = fields.Boolean(required=True)
    at = fields.DateTime(required=True)


def row(number: int) -> dict[str, Any]:
    return {
        "id": number + 1,
        "number": number * 7,
        "shop": number % 10 + 1,
        "state": "paid" if number % 2 else "new",
        "note": None if number % 3 else f"Note {number}",
        "weight": number / 8,
        "paid": bool(number % 2),
        "at": datetime.datetime(2026, 1, 1) + datetime.timedelta(minutes=number),
    }


def work(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Give the median of each side's seconds; the sides take turns."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 2):
        names = list(sides) if number % 2 else list(reversed(sides))
        for name in names:
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            sides[name]()
            seconds = time.perf_counter() - start
            gc.enable()
            if number >= 2:
                taken[name].append(seconds)
    return {name: median(seconds) for name, seconds in taken.items()}


def own_sides() -> dict[str, dict[str, Callable[[], Any]]]:
    from peewee_honker.schemas import ModelSchema, create_select_schema
    from peewee_honker.schemas.compiled import compile_dump, compile_load

    class OrderSchema(ModelSchema[Order]):
        pass

    class DictSchema(ModelSchema[Order]):
        class Meta:
            load_instance = False

    rows = [row(number) for number in range(ROWS)]
    instances = [Order(**values) for values in rows]
    sent = [{**values, "at": values["at"].isoformat()} for values in rows]
    by_name = type("ByName", (ByHand,), {"shop": fields.Integer(strict=True, required=True)})()
    hand, made, model, plain = ByHand(), create_select_schema(Order)(), OrderSchema(), DictSchema()
    dump, load = compile_dump(made), compile_load(made)
    assert dump(instances, many=True) == dump(rows, many=True) == made.dump(rows, many=True)
    assert load(sent, many=True) == rows
    assert hand.dump(instances, many=True) == made.dump(instances, many=True) == model.dump(instances, many=True)
    assert made.load(sent, many=True) == plain.load(sent, many=True) == rows
    return {
        "dump of instances": {
            "by hand": lambda: hand.dump(instances, many=True),
            "select schema": lambda: made.dump(instances, many=True),
            "ModelSchema": lambda: model.dump(instances, many=True),
            "compiled": lambda: dump(instances, many=True),
        },
        "dump of .dicts()": {
            "by hand": lambda: by_name.dump(rows, many=True),
            "select schema": lambda: made.dump(rows, many=True),
            "compiled": lambda: dump(rows, many=True),
        },
        "load to dicts": {
            "by hand": lambda: hand.load(sent, many=True),
            "select schema": lambda: made.load(sent, many=True),
            "ModelSchema": lambda: plain.load(sent, many=True),
            "compiled": lambda: load(sent, many=True),
        },
        "load to instances": {
            "by hand, then Order(**data)": lambda: [Order(**data) for data in hand.load(sent, many=True)],
            "ModelSchema": lambda: model.load(sent, many=True, transient=True),
        },
    }


def other_sides() -> dict[str, dict[str, Callable[[], Any]]]:
    """The sides of marshmallow-peewee, in its own environment."""
    from marshmallow_peewee import ModelSchema

    class OrderSchema(ModelSchema):
        class Meta:
            model = Order
            dump_only_pk = False

    instances = [Order(**row(number)) for number in range(ROWS)]
    # Its key would be looked up in the database, row by row.
    sent = [{**row(number), "at": row(number)["at"].isoformat(), "shop": str(row(number)["shop"])} for number in range(ROWS)]
    for body in sent:
        del body["id"]
    schema = OrderSchema()
    return {
        "dump of instances": {"marshmallow-peewee": lambda: schema.dump(instances, many=True)},
        "load to instances": {"marshmallow-peewee": lambda: schema.load(sent, many=True)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--other", metavar="PYTHON", help="a Python with marshmallow-peewee")
    parser.add_argument("--only-other", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_other:
        json.dump({name: work(sides, options.rounds) for name, sides in other_sides().items()}, sys.stdout)
        return
    found = {name: work(sides, options.rounds) for name, sides in own_sides().items()}
    if options.other:
        command = [options.other, __file__, "--only-other", "--rounds", str(options.rounds)]
        for name, taken in json.loads(subprocess.run(command, check=True, capture_output=True).stdout).items():
            found[name] |= taken
    print(
        f"peewee {version('peewee')}, marshmallow {version('marshmallow')}, Python {sys.version.split()[0]}; {ROWS:,} rows"
    )
    for name, taken in found.items():
        print(f"\n{name}")
        base = next(iter(taken.values()))
        for side, seconds in taken.items():
            print(f"    {side:30} {seconds * 1000:8.1f} ms   {seconds / base:5.2f}")


if __name__ == "__main__":
    main()
