"""The quick check of a value by its JSON Schema never says yes where jsonschema says no."""

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peewee_honker.storage.modules import CallGraph
from peewee_honker.storage.quick import quick_check
from peewee_honker.storage.validation import problems_of

names = st.sampled_from(["a", "b", "c"])
types = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
numbers = st.integers(-2, 3)
plain = st.none() | st.booleans() | numbers | st.sampled_from([1.0, 1.5]) | st.sampled_from(["", "a", "aa", "aaa"])


def nested(leaves):
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=6
    )


constants = nested(plain)  # of schemas, which are JSON
values = nested(plain | st.just(float("nan")))
flat = {
    "type": types | st.lists(types, min_size=1, max_size=3, unique=True),
    "required": st.lists(names, max_size=2, unique=True),
    "enum": st.lists(constants, min_size=1, max_size=3),
    "minLength": st.integers(0, 3),
    "maxLength": st.integers(0, 3),
    "minItems": st.integers(0, 3),
    "maxItems": st.integers(0, 3),
    "minimum": numbers,
    "maximum": numbers,
    "title": st.just("a title"),
    "x-note": constants,
}
other = {"const": constants, "uniqueItems": st.just(True), "exclusiveMinimum": numbers, "pattern": st.just("^a+$")}


def schemas(flat):
    return st.recursive(
        st.booleans() | st.fixed_dictionaries({}, optional=flat),
        lambda inner: st.fixed_dictionaries(
            {},
            optional={
                **flat,
                "properties": st.dictionaries(names, inner, max_size=3),
                "patternProperties": st.dictionaries(st.just("^a"), inner, max_size=1),
                "additionalProperties": inner,
                "items": inner,
                "prefixItems": st.lists(inner, min_size=1, max_size=2),
            },
        ),
        max_leaves=5,
    )


@settings(max_examples=200, deadline=None)
@given(schemas({**flat, **other}), st.lists(values, min_size=1, max_size=5))
def test_what_the_quick_check_takes_jsonschema_takes(schema, some):
    check = quick_check(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for value in some:
        if check is not None and check(value):
            assert validator.is_valid(value)
        if isinstance(schema, dict):
            assert (problems_of(schema, value) == []) == validator.is_valid(value)


@pytest.mark.parametrize(
    "schema", [5, "x", {"required": 5}, {"properties": 5}, {"type": 5}, {"items": 5}, {"enum": 5}, False]
)
def test_what_is_no_schema_has_no_quick_check(schema):
    assert quick_check(schema) is None


def test_the_schemas_of_calls_have_one():
    check = quick_check(CallGraph.node_types["call"].schema)
    assert check({"request_id": "a", "operation_id": "math.double", "status": "pending", "input": {"n": 1}})
    assert not check({"request_id": "a", "operation_id": "math.double", "status": "done"})
    assert not check({"request_id": "", "operation_id": "math.double", "status": "pending"})
    assert not check({"request_id": "a", "operation_id": "math.double", "status": "pending", "more": 1})
