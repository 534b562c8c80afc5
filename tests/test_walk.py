"""walk() meets every row once, in bounded memory."""

import tracemalloc

import pytest
from peewee import CompositeKey, ForeignKeyField, IntegerField, Model, TextField

from peewee_honker import walk


class Item(Model):
    name = TextField()


class Part(Model):
    item = ForeignKeyField(Item, backref="parts")


class Cell(Model):
    x = IntegerField()
    y = TextField()

    class Meta:
        primary_key = CompositeKey("x", "y")


@pytest.fixture(autouse=True)
def _tables(db):
    with db.bind_ctx([Item, Part, Cell]):
        db.create_tables([Item, Part, Cell])
        yield


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 57])
def test_every_row_once_in_the_order_of_the_key(count):
    Item.insert_many([{"name": str(number)} for number in range(count)]).execute()
    assert [item.name for item in walk(Item.select(), size=10)] == [str(number) for number in range(count)]
    assert [row["id"] for row in walk(Item.select(Item.id).where(Item.id > 5).dicts(), size=3)] == list(range(6, count + 1))


def test_composite_keys():
    cells = [(x, y) for x in range(7) for y in "abc"]
    Cell.insert_many(cells, fields=[Cell.x, Cell.y]).execute()
    assert [(cell.x, cell.y) for cell in walk(Cell.select(), size=4)] == cells


def test_a_join_with_many_rows_for_one_key():
    for parts in (1, 0, 25, 3):
        item = Item.create(name="x")
        Part.insert_many([{"item": item} for _ in range(parts)]).execute()
    query = Item.select(Item.id, Part.id.alias("part")).join(Part).dicts()
    assert sorted(row["part"] for row in walk(query, size=4)) == list(range(1, 30))


def test_memory_holds_one_page(db):
    db.execute_sql(
        "INSERT INTO item (name) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        "SELECT 'name of ' || i FROM n"
    )
    tracemalloc.start()
    count = sum(1 for _ in walk(Item.select(), size=200))
    walked = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    whole = sum(1 for _ in Item.select().iterator())
    iterated = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, whole) == (20000, 20000)
    assert walked < iterated / 10


def test_what_cannot_be_walked_is_refused():
    for query in (Item.select().order_by(Item.name), Item.select().limit(3), Item.select().distinct(), Item.raw("SELECT 1")):
        with pytest.raises(ValueError, match="walk"):
            walk(query)
    Item.create(name="x")
    with pytest.raises(ValueError, match="primary key"):
        list(walk(Item.select(Item.name).dicts(), size=1))
