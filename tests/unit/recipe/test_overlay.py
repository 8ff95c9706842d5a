"""Layers over one another, each value remembering who set it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.errors import RecipeError
from hpctrain.recipe.node import Node, find, from_plain, origin_of, to_plain, walk
from hpctrain.recipe.overlay import merge_layers, parse_set
from hpctrain.recipe.parse import parse_document


def layer(text: str, name: str) -> Node:
    return parse_document(text, name)


def test_stronger_layer_wins_and_is_remembered() -> None:
    """The later layer's value stands, with the later layer's place; the rest keeps its own."""
    merged = merge_layers([layer("training:\n  steps: 1\n  seed: 2\n", "low"), layer("training:\n  steps: 3\n", "high")])

    assert to_plain(merged) == {"training": {"steps": 3, "seed": 2}}
    assert origin_of(merged, ("training", "steps")) == "high:2"
    assert origin_of(merged, ("training", "seed")) == "low:3"


def test_lists_replace() -> None:
    """A list is replaced as a whole, not joined."""
    merged = merge_layers([layer("data: {paths: [a, b]}", "low"), layer("data: {paths: [c]}", "high")])

    assert to_plain(merged) == {"data": {"paths": ["c"]}}


def test_null_resets_to_the_default() -> None:
    """Null takes a weaker layer's value away, so that the built-in default applies."""
    merged = merge_layers([layer("resources: {time_limit: 2h, nodes: 2}", "low"), parse_set("resources.time_limit=null")])

    assert to_plain(merged) == {"resources": {"nodes": 2}}


def test_null_is_a_value_in_an_architecture() -> None:
    """Free-form keys keep null: a transformers config gives it a meaning."""
    low, high = layer("model: {config: {head_dim: 64}}", "low"), layer("model: {config: {head_dim: null}}", "high")
    merged = merge_layers([low, high])

    assert to_plain(merged) == {"model": {"config": {"head_dim": None}}}


def test_key_with_nothing_after_it_says_nothing() -> None:
    """A section whose lines are all commented out does not take away what the site has set."""
    merged = merge_layers([layer("resources: {nodes: 2}", "low"), layer("resources:\n  # nodes: 4\nname: x\n", "high")])

    assert to_plain(merged) == {"resources": {"nodes": 2}, "name": "x"}


def test_misspelt_null_is_kept_for_the_schema() -> None:
    """A key the schema does not have is not silently dropped because its value is null."""
    assert to_plain(merge_layers([layer("trainng: null", "r")])) == {"trainng": None}


@pytest.mark.parametrize(("low", "high", "result"), [
    ("training: {tokens: 5}", "training: {steps: 1}", {"training": {"steps": 1}}),
    ("model: {config: {model_type: llama}, seed: 1}", "model: {path: x}", {"model": {"seed": 1, "path": "x"}}),
    ("checkpoint: {every: 10m}", "checkpoint: {every_steps: 3}", {"checkpoint": {"every_steps": 3}}),
])
def test_choosing_one_of_several_drops_a_weaker_choice(low: str, high: str, result: dict[str, Any]) -> None:
    """--set training.steps works on a recipe that says tokens."""
    assert to_plain(merge_layers([layer(low, "low"), layer(high, "high")])) == result


def test_two_choices_in_one_layer_stay() -> None:
    """Who says both in one file is told so by the checks, not silently overruled."""
    merged = merge_layers([layer("training: {tokens: 5, steps: 1}", "r")])

    assert to_plain(merged) == {"training": {"tokens": 5, "steps": 1}}


@pytest.mark.parametrize(("text", "message"), [
    ("training.stpes=1", "did you mean 'training.steps'"),
    ("trainng.steps=1", "did you mean 'training.steps'"),
    ("learning_rate=1", "training.optimizer.learning_rate"),
    ("training.steps.x=1", "training.steps has no keys below it"),
    ("training..steps=1", "empty part"),
    ("training.steps", "expected KEY=VALUE"),
    ("=1", "expected KEY=VALUE"),
    ("", "expected KEY=VALUE"),
])
def test_wrong_set_names_the_nearest_key(text: str, message: str) -> None:
    """A --set that cannot be meant is refused with what would have been right."""
    with pytest.raises(RecipeError, match=message):
        parse_set(text)


@pytest.mark.parametrize(("text", "value"), [
    ("env.A=b=c", {"env": {"A": "b=c"}}), ("env.A=", {"env": {"A": ""}}), ("env.A=x\ny", {"env": {"A": "x\ny"}}),
    ("model.config.rope_scaling.factor=8.0", {"model": {"config": {"rope_scaling": {"factor": 8.0}}}}),
    ("data.paths=[a, b]", {"data": {"paths": ["a", "b"]}}),
])
def test_set_makes_a_layer(text: str, value: dict[str, Any]) -> None:
    """The first equals sign divides key from value; free-form keys are taken as they are."""
    assert to_plain(parse_set(text)) == value


KEYS = st.sampled_from(["a", "b", "c"])
TREES = st.recursive(st.integers(0, 9), lambda below: st.dictionaries(KEYS, below, max_size=3), max_leaves=12)
LAYERS = st.lists(st.dictionaries(KEYS, TREES, max_size=3), min_size=1, max_size=5)


@given(LAYERS)
def test_every_leaf_remembers_the_last_layer_that_set_it(values: list[dict[str, Any]]) -> None:
    """For any layers, each remaining leaf has the value and the name of the strongest layer that holds that path."""
    layers = [from_plain(value, f"layer {index}") for index, value in enumerate(values)]

    merged = merge_layers(layers)

    for path, node in walk(merged):
        if not isinstance(node.value, dict):
            index = int(node.origin.split()[1])
            source = find(layers[index], path)
            assert source is not None and source.value == node.value
            assert all(find(above, path) is None for above in layers[index + 1 :])
