"""ModelSchema: which instance is loaded, what `class Meta` says, and relations both ways."""

import datetime
import threading

import marshmallow
import peewee
import pytest
from marshmallow import ValidationError, fields, post_load, pre_load, validates

from peewee_honker.errors import SchemaError
from peewee_honker.schemas import ModelSchema, Nested, Related, auto_field

database = peewee.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})


class Base(peewee.Model):
    class Meta:
        database = database


class Country(Base):
    code = peewee.CharField(max_length=2, primary_key=True)


class Author(Base):
    email = peewee.CharField(unique=True)
    country = peewee.ForeignKeyField(Country, backref="authors", null=True)
    mentor = peewee.ForeignKeyField("self", backref="pupils", null=True)


class Book(Base):
    title = peewee.CharField(max_length=20)
    author = peewee.ForeignKeyField(Author, backref="books")
    price = peewee.IntegerField(default=100)
    published = peewee.DateTimeField(null=True)


class Price(Base):
    country = peewee.ForeignKeyField(Country)
    currency = peewee.CharField()
    cents = peewee.IntegerField()

    class Meta:
        primary_key = peewee.CompositeKey("country", "currency")


class Tag(Base):
    name = peewee.CharField()
    books = peewee.ManyToManyField(Book, backref="tags")


MODELS = [Country, Author, Book, Price, Tag, Tag.books.get_through_model()]


@pytest.fixture(autouse=True)
def tables():
    with database.connection_context():
        database.create_tables(MODELS)
        Country.create(code="IS")
        ada = Author.create(email="ada@example.org", country="IS")
        Author.create(email="bo@example.org", mentor=ada)
        Book.create(title="One", author=ada)
        Book.create(title="Two", author=ada)
        yield
        database.drop_tables(MODELS)


@pytest.fixture
def queries(monkeypatch):
    """The SQL that the test has run since it asked."""
    sent: list[str] = []
    execute = database.execute_sql

    def spy(sql, *arguments, **options):
        sent.append(sql)
        return execute(sql, *arguments, **options)

    monkeypatch.setattr(database, "execute_sql", spy)
    return sent


class BookSchema(ModelSchema[Book]):
    pass


# Which instance


def test_a_new_instance_is_loaded_and_not_saved(queries):
    book = BookSchema().load({"title": "Three", "author": 1})
    assert isinstance(book, Book)
    assert (book.id, book.title, book.author_id, book.price) == (None, "Three", 1, 100)
    assert queries == []


def test_the_row_whose_key_is_in_the_data_is_changed():
    book = BookSchema().load({"id": 2, "title": "Zwei"}, partial=True)
    assert (book.id, book.title, book.author_id) == (2, "Zwei", 1)
    assert book.save() == 1
    assert Book.get_by_id(2).title == "Zwei"


def test_a_key_that_no_row_has_gives_a_new_instance():
    book = BookSchema().load({"id": 77, "title": "Late", "author": 1})
    assert (book.id, book.price) == (77, 100)


def test_many_rows_are_found_by_one_query(queries):
    books = BookSchema().load([{"id": 2, "title": "B"}, {"id": 1, "title": "A"}, {"title": "C"}], many=True, partial=True)
    assert [(book.id, book.title) for book in books] == [(2, "B"), (1, "A"), (None, "C")]
    assert len(queries) == 1


def test_a_row_is_found_by_a_composite_key():
    Price.create(country="IS", currency="ISK", cents=1)

    class PriceSchema(ModelSchema[Price]):
        pass

    prices = [{"country": "IS", "currency": "ISK", "cents": 2}, {"country": "IS", "currency": "EUR", "cents": 3}]
    old, new = PriceSchema().load(prices, many=True)
    assert old.cents == 2
    assert new.currency == "EUR"


def test_a_given_instance_is_changed_where_the_data_says(queries):
    held = Book.get_by_id(1)
    del queries[:]
    book = BookSchema().load({"title": "Eins"}, instance=held, partial=True)
    assert book is held
    assert (book.title, book.price) == ("Eins", 100)
    assert queries == []


def test_a_given_instance_keeps_its_key():
    with pytest.raises(ValidationError, match="Not the key of the row"):
        BookSchema().load({"id": 2, "title": "x"}, instance=Book.get_by_id(1), partial=True)
    with pytest.raises(ValueError, match="one by one"):
        BookSchema().load([], many=True, instance=Book())


@pytest.mark.parametrize("schema", [lambda: BookSchema(transient=True), BookSchema])
def test_a_transient_load_asks_no_database(queries, schema):
    book = schema().load({"id": 1, "title": "x", "author": 1}, transient=True)
    assert (book.id, book.price) == (1, 100)
    assert queries == []


def test_json_is_loaded_too():
    assert BookSchema().loads('{"title": "Three", "author": 1}').title == "Three"
    assert [book.title for book in BookSchema().loads('[{"title": "T", "author": 1}]', many=True)] == ["T"]
    assert BookSchema().loads('{"title": "E"}', instance=Book.get_by_id(1), partial=True).id == 1


def test_data_that_do_not_fit_are_refused_by_key():
    with pytest.raises(ValidationError) as caught:
        BookSchema().load({"title": "x" * 21, "price": "1", "nme": 2})
    assert set(caught.value.messages) == {"title", "price", "author", "nme"}


def test_threads_that_share_a_schema_load_their_own_instances():
    schema = BookSchema(partial=True)
    held = [Book(id=number) for number in range(8)]
    loaded = {}

    def load(book):
        for _ in range(50):
            loaded.setdefault(book.id, set()).add(id(schema.load({"title": "x"}, instance=book)))

    threads = [threading.Thread(target=load, args=(book,)) for book in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loaded == {book.id: {id(book)} for book in held}


# Options


def test_the_model_is_named_in_brackets_or_in_meta():
    class Other(ModelSchema):
        class Meta:
            model = Book

    assert list(Other().fields) == list(BookSchema().fields) == ["id", "title", "author", "price", "published"]
    with pytest.raises(SchemaError, match="two models"):

        class Both(ModelSchema[Author]):
            class Meta:
                model = Book


def test_fields_and_exclude_choose_columns():
    class Short(ModelSchema[Book]):
        class Meta:
            fields = ("title", "id")

    class Rest(ModelSchema[Book]):
        class Meta:
            exclude = ("published", "price")

    assert set(Short().fields) == {"id", "title"}
    assert list(Rest().fields) == ["id", "title", "author"]


def test_a_column_that_is_left_out_needs_no_converter():
    class Thing(peewee.Model):
        name = peewee.CharField()
        odd = peewee.BareField()

    class ThingSchema(ModelSchema[Thing]):
        class Meta:
            exclude = ("odd",)

    assert list(ThingSchema().fields) == ["id", "name"]


@pytest.mark.parametrize("option", ["fields", "exclude", "dump_only", "load_only"])
def test_a_name_in_meta_that_is_not_there_is_an_error(option):
    with pytest.raises(SchemaError, match=rf"Meta\.{option} has 'titel'"):
        type(ModelSchema)("Bad", (ModelSchema,), {"Meta": type("Meta", (), {"model": Book, option: ("titel",)})})


def test_keys_can_be_dumped_only_or_loaded_only():
    class Guarded(ModelSchema[Book]):
        class Meta:
            dump_only = ("id",)
            load_only = ("price",)

    assert set(Guarded().dump(Book.get_by_id(1))) == {"id", "title", "author", "published"}
    with pytest.raises(ValidationError, match="Unknown field"):
        Guarded().load({"id": 1, "title": "x", "author": 1})


def test_dicts_are_loaded_where_no_instance_is_wanted():
    class Plain(ModelSchema[Book]):
        class Meta:
            load_instance = False
            unknown = marshmallow.EXCLUDE
            partial = True

    assert Plain().load({"title": "x", "nme": 1}) == {"title": "x"}


def test_dates_are_written_as_the_schema_says():
    class Dated(ModelSchema[Book]):
        class Meta:
            datetimeformat = "%d.%m.%Y"

    assert Dated(only=["published"]).dump(Book(published=datetime.datetime(2026, 11, 24))) == {"published": "24.11.2026"}


def test_foreign_keys_can_be_called_by_their_id():
    class ById(ModelSchema[Book]):
        class Meta:
            use_id_keys = True

    assert ById().dump(Book.get_by_id(1))["author_id"] == 1
    assert ById().dump(Book.select().dicts().get())["author_id"] == 1
    assert ById().load({"title": "x", "author_id": 2}).author_id == 2


def test_options_are_inherited_with_meta():
    class Parent(ModelSchema[Book]):
        extra = fields.Constant(1)

        class Meta:
            exclude = ("published",)
            unknown = marshmallow.EXCLUDE

    class Child(Parent):
        class Meta(Parent.Meta):
            use_id_keys = True

    class Same(Parent):
        pass

    assert list(Child().fields) == ["id", "title", "author_id", "price", "extra"]
    assert list(Same().fields) == ["id", "title", "author", "price", "extra"]
    assert Child().load({"title": "x", "author_id": 1, "odd": 1}).title == "x"


def test_declared_fields_take_the_place_of_the_models():
    class Own(ModelSchema[Book]):
        title = auto_field(validate=marshmallow.validate.Length(min=3))
        cents = auto_field("price", dump_only=True)
        price = fields.Integer(load_only=True)
        shout = fields.Function(lambda book: book.title.upper())

    assert Own().dump(Book.get_by_id(1))["cents"] == 100
    assert Own().dump(Book.get_by_id(1))["shout"] == "ONE"
    assert set(Own().validate({"title": "ab", "author": 1})) == {"title"}
    assert set(Own().validate({"title": "x" * 21, "author": 1})) == {"title"}
    with pytest.raises(SchemaError, match="no field 'titel'"):

        class Bad(ModelSchema[Book]):
            name = auto_field("titel")


def test_hooks_of_the_users_run_around_the_instance():
    seen = []

    class Hooked(ModelSchema[Book]):
        @pre_load
        def strip(self, data, **kwargs):
            return {**data, "title": data["title"].strip()}

        @validates("title")
        def not_empty(self, value, **kwargs):
            if not value:
                raise ValidationError("Empty.")

        @post_load
        def note(self, book, **kwargs):
            seen.append(book)
            return book

    assert Hooked().load({"title": " x ", "author": 1}).title == "x"
    assert isinstance(seen[0], Book)
    assert Hooked().validate({"title": " ", "author": 1}) == {"title": ["Empty."]}


def test_a_schema_without_a_model_is_marshmallows():
    class Free(ModelSchema):
        name = fields.String()

    assert Free().load({"name": "x"}) == {"name": "x"}
    with pytest.raises(SchemaError, match="no Peewee model"):

        class Bad(ModelSchema):
            class Meta:
                model = dict


# Relations


def test_a_foreign_key_is_its_key_and_costs_no_query(queries):
    books = list(Book.select())
    del queries[:]
    assert [row["author"] for row in BookSchema().dump(books, many=True)] == [1, 1]
    assert queries == []


def test_related_rows_are_nested_as_deep_as_the_names_say():
    class Deep(ModelSchema[Book]):
        class Meta:
            include_relations = ("author.country",)

    dumped = Deep().dump(Book.get_by_id(1))
    assert dumped["author"] == {"id": 1, "email": "ada@example.org", "country": {"code": "IS"}, "mentor": None}


def test_back_references_are_nested_without_their_way_back():
    class WithBooks(ModelSchema[Author]):
        class Meta:
            include_relations = ("books", "pupils")

    dumped = WithBooks().dump(Author.get_by_id(1))
    assert [book["title"] for book in dumped["books"]] == ["One", "Two"]
    assert "author" not in dumped["books"][0]
    assert [pupil["email"] for pupil in dumped["pupils"]] == ["bo@example.org"]


def test_all_relations_of_a_model_can_be_asked_for():
    class All(ModelSchema[Author]):
        class Meta:
            include_relations = True

    dumped = All().dump(Author.get_by_id(2))
    assert dumped["mentor"]["email"] == "ada@example.org"
    assert dumped["country"] is None
    assert dumped["books"] == dumped["pupils"] == []


def test_nested_rows_are_loaded_both_ways():
    class Deep(ModelSchema[Author]):
        class Meta:
            include_relations = ("country", "books")

    author = Deep().load(
        {"email": "cy@example.org", "country": {"code": "NO"}, "books": [{"title": "A"}, {"id": 2, "title": "B"}]}
    )
    assert author.country.code == "NO"
    assert [(book.id, book.title) for book in author.books] == [(None, "A"), (2, "B")]
    assert all(book.author is author for book in author.books)

    author.country.save(force_insert=True)
    author.save()
    for book in author.books:
        book.save()
    assert {book.title for book in Author.get(email="cy@example.org").books} == {"A", "B"}


def test_errors_of_nested_rows_are_found_by_place():
    class Deep(ModelSchema[Author]):
        class Meta:
            include_relations = ("books",)

    found = Deep().validate({"email": "x", "books": [{"title": "A"}, {"price": "1"}]})
    assert found == {"books": {1: {"price": ["Not a valid integer."], "title": ["Missing data for required field."]}}}


def test_many_to_many_rows_are_dumped():
    class Tagged(ModelSchema[Tag]):
        class Meta:
            include_relations = ("books",)

    tag = Tag.create(name="x")
    tag.books.add(Book.get_by_id(1))
    assert [book["title"] for book in Tagged().dump(tag)["books"]] == ["One"]
    with pytest.raises(ValidationError, match="Unknown field"):
        Tagged().load({"name": "y", "books": []})


def test_a_relation_that_is_not_there_is_an_error():
    with pytest.raises(SchemaError, match="Book has no relation 'autor'; it has author"):

        class Bad(ModelSchema[Book]):
            class Meta:
                include_relations = ("autor",)

    with pytest.raises(SchemaError, match="list of names"):

        class Worse(ModelSchema[Book]):
            class Meta:
                include_relations = "author"


def test_nested_takes_a_schema_of_ones_own():
    class AuthorSchema(ModelSchema[Author]):
        books = Nested(BookSchema, exclude=["author"])

    class BookWithAuthor(ModelSchema[Book]):
        author = Nested(AuthorSchema, only=["email"])

    assert BookWithAuthor().dump(Book.get_by_id(1))["author"] == {"email": "ada@example.org"}
    assert [book["title"] for book in AuthorSchema().dump(Author.get_by_id(1))["books"]] == ["One", "Two"]
    assert "author" in BookWithAuthor().validate({"title": "x"})
    assert AuthorSchema().load({"email": "x"}).email == "x"


def test_nested_follows_itself_to_a_depth():
    class AuthorSchema(ModelSchema[Author]):
        mentor = Nested(lambda: AuthorSchema(only=["email", "mentor.email"]))

    third = Author.create(email="cy@example.org", mentor=Author.get_by_id(2))
    assert AuthorSchema().dump(third)["mentor"] == {"email": "bo@example.org", "mentor": {"email": "ada@example.org"}}


def test_related_finds_the_row_by_its_key_or_by_another_column():
    class ByKey(ModelSchema[Book]):
        author = Related()

    class ByEmail(ModelSchema[Book]):
        author = Related("email", required=True)

    one = Book.get_by_id(1)
    assert ByKey().dump(one)["author"] == 1
    assert ByEmail().dump(one)["author"] == "ada@example.org"
    assert ByKey().load({"title": "x", "author": 2}).author.email == "bo@example.org"
    assert ByEmail().load({"title": "x", "author": "bo@example.org"}).author_id == 2
    assert ByKey().validate({"author": 77}, partial=True) == {"author": ["There is no Author with id 77."]}
    assert ByEmail().validate({"author": 1}) == {
        "author": ["Not a valid string."],
        "title": ["Missing data for required field."],
    }


def test_related_by_several_columns_is_an_object():
    class Offer(Base):
        author = peewee.ForeignKeyField(Author, null=True)

    class OfferSchema(ModelSchema[Offer]):
        author = Related("email", "country", allow_none=True)

    dumped = OfferSchema().dump(Offer(author=Author.get_by_id(1)))
    assert dumped["author"] == {"email": "ada@example.org", "country": "IS"}
    assert OfferSchema().load(dumped | {"id": 1}, transient=True).author.email == "ada@example.org"
    assert OfferSchema(exclude=["id"]).load({"author": dumped["author"]}).author.id == 1
    assert OfferSchema().dump(Offer(author=None))["author"] is None
    assert "author" in OfferSchema().validate({"author": "x"})


def test_a_transient_related_row_is_not_looked_up(queries):
    class ByKey(ModelSchema[Book]):
        author = Related()

    assert ByKey().load({"title": "x", "author": 77}, transient=True).author.id == 77
    assert queries == []


def test_related_is_for_foreign_keys_of_the_model():
    class Backward(ModelSchema[Author]):
        books = Related()

    class Unknown(ModelSchema[Book]):
        author = Related("emial")

    class Free(marshmallow.Schema):
        author = Related()

    for schema, message in ((Backward, "many of them"), (Unknown, "'emial'"), (Free, "needs a ModelSchema")):
        with pytest.raises(SchemaError, match=message):
            schema()
