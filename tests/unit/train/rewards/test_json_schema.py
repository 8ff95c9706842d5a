"""Our part of JSON Schema against the reference implementation."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.json_schema import mismatch, unsupported
from hpctrain.train.rewards.json_answer import json_answer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.0, 1.0, 0.5, 2.5])
    | st.sampled_from(["", "a", "ab", "b1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8)
TYPES = ["string", "number", "integer", "boolean", "null", "object", "array"]


def leaf() -> st.SearchStrategy[Any]:
    """A schema without others inside."""
    return st.one_of(
        st.sampled_from([True, False, {}]), st.builds(lambda name: {"type": name}, st.sampled_from(TYPES)),
        st.builds(lambda names: {"type": names}, st.lists(st.sampled_from(TYPES), min_size=1, max_size=2, unique=True)),
        st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=3)),
        st.builds(lambda value: {"const": value}, VALUES),
        st.builds(lambda low, high: {"minimum": low, "maximum": high}, st.integers(-3, 3), st.integers(-3, 3)),
        st.builds(lambda low, high: {"exclusiveMinimum": low, "exclusiveMaximum": high},
                  st.integers(-3, 3), st.integers(-3, 3)),
        st.builds(lambda unit: {"multipleOf": unit}, st.sampled_from([1, 2, 0.5])),
        st.builds(lambda low, high: {"minLength": low, "maxLength": high, "pattern": "a"},
                  st.integers(0, 2), st.integers(0, 2)),
        st.builds(lambda low, high: {"minItems": low, "maxItems": high, "uniqueItems": True},
                  st.integers(0, 2), st.integers(0, 3)),
        st.builds(lambda low, high: {"minProperties": low, "maxProperties": high}, st.integers(0, 2), st.integers(0, 3)),
        st.builds(lambda names: {"required": names}, st.lists(st.sampled_from("abc"), max_size=2, unique=True)))


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A schema with others inside."""
    several = st.lists(inner, min_size=1, max_size=3)
    fields = st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    return st.one_of(
        st.builds(lambda key, options: {key: options}, st.sampled_from(["anyOf", "allOf", "oneOf"]), several),
        st.builds(lambda below: {"not": below}, inner), st.builds(lambda below: {"items": below}, inner),
        st.builds(lambda known, rest: {"properties": known, "additionalProperties": rest}, fields, inner),
        st.builds(lambda below: {"$ref": "#/$defs/x", "$defs": {"x": below}}, inner))


@settings(max_examples=200, deadline=None)
@given(VALUES, st.recursive(leaf(), around, max_leaves=5))
def test_agrees_with_the_reference(value: Any, schema: Any) -> None:
    """A value fits by our rules exactly where it fits by those of the reference implementation."""
    if "$ref" in str(schema) and not (isinstance(schema, dict) and "$ref" in schema):
        return  # a reference is to the whole schema, of which this one is a part
    if str(schema).count("$ref") > 1:
        return

    assert unsupported(schema) == ""
    assert (mismatch(value, schema) is None) == jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(("schema", "problem"), [
    ({"type": "text"}, "'text' is no type"),
    ({"properties": {"a": {"minimun": 1}}}, "$.properties.a: the keyword 'minimun'"),
    ({"$ref": "http://x"}, "not in this schema"), ({"pattern": "("}, "$.pattern"), ({"items": 3}, "$.items: a schema is"),
    ({"anyOf": [{"if": {}}]}, "$.anyOf[0]: the keyword 'if'"),
])
def test_what_is_not_known_is_named(schema: Any, problem: str) -> None:
    """A keyword, type, reference or pattern that would not be checked is refused, with its place."""
    assert problem in unsupported(schema)


def test_a_schema_of_itself_ends() -> None:
    """A schema that refers to itself without end refuses instead of hanging."""
    assert mismatch(1, {"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}) is not None


@pytest.mark.parametrize(("text", "reward"), [
    ('{"a": 1}', 1.0), ('Here:\n```json\n{"a": 2}\n```\nDone.', 1.0), ('{"a": "1"}', 0.0), ('{"a": 1', 0.0),
    ('{"a": NaN}', 0.0),
    ("[" * 100_000, 0.0), ("", 0.0),
])
def test_reward(text: str, reward: float) -> None:
    """JSON that fits, alone or in a fence, gets 1; anything else 0."""
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}

    assert json_answer(text, schema) == reward
