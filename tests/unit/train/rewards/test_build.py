"""A recipe's rewards, together."""

from __future__ import annotations

import time
from typing import Any

import pytest

from hpctrain.errors import RecipeError
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Reward
from hpctrain.train.rewards.batch import Batch, text_of
from hpctrain.train.rewards.build import build_rewards, check_columns, close_rewards


def recipe(*rewards: dict[str, Any], **values: Any) -> Recipe:
    return Recipe.model_validate({"version": 1, "name": "t", "method": "rlvr", "rewards": list(rewards), **values})


def score(reward: dict[str, Any], text: str, wanted: Any = None, tokens: int = 1) -> float | None:
    built = build_rewards(recipe(reward))
    return built[0].score(Batch(["?"], [text], {"answer": [wanted]}, [tokens]))[0]


@pytest.mark.parametrize(("reward", "text", "wanted", "expected"), [
    ({"kind": "exact_match"}, " yes\n", "yes", 1.0), ({"kind": "exact_match"}, "yes!", "yes", 0.0),
    ({"kind": "exact_match"}, "x", None, None),
    ({"kind": "exact_match"}, "b", ["a", "b"], 1.0),
    ({"kind": "exact_match", "extract": r"<a>(.*?)</a>"}, "<a>1</a> <a> 2 </a>", 2, 1.0),
    ({"kind": "exact_match", "extract": r"<a>(.*?)</a>"}, "2", "2", 0.0), ({"kind": "math"}, "so 3 + 4 = 7", "7.0", 1.0),
    ({"kind": "math"}, "seven", "7", 0.0),
    ({"kind": "regex", "pattern": r"\A<think>.*</think>"}, "<think>x</think> y", None, 1.0),
    ({"kind": "regex", "pattern": "^z"}, "y", None, 0.0),
    ({"kind": "json_schema", "json_schema": {"type": "array"}}, "```\n[1]\n```", None, 1.0),
    ({"kind": "code"}, "Look:\n```python\nx = 2\n```\n", "assert x == 2", 1.0),
    ({"kind": "code", "extract": "@(.*)@"}, "x = 2", "assert x", 0.0),
])
def test_kinds(reward: dict[str, Any], text: str, wanted: Any, expected: float | None) -> None:
    """Each kind finds its answer in the text and judges it by what the row has."""
    assert score(reward | ({"timeout_s": 20} if reward["kind"] == "code" else {}), text, wanted) == expected


@pytest.mark.parametrize(("tokens", "expected"), [(5, 0.5), (10, 1.0), (20, 1.0), (40, 0.5)])
def test_length(tokens: int, expected: float) -> None:
    """Full marks between the bounds, and less the further outside."""
    assert score({"kind": "length", "min_tokens": 10, "max_tokens": 20}, "", tokens=tokens) == expected


def test_length_needs_a_count() -> None:
    """Where nobody counted tokens, it says so instead of guessing."""
    built = build_rewards(recipe({"kind": "length", "max_tokens": 20}))
    with pytest.raises(RecipeError, match="were not counted"):
        built[0].score(Batch(["?"], ["x"]))


def test_a_pattern_that_never_ends() -> None:
    """A regular expression that would search for ever is given up after its time and counts 0, as pattern and as extract."""
    started = time.monotonic()
    for reward in ({"kind": "regex", "pattern": r"\A(a+)+\Z"}, {"kind": "exact_match", "extract": r"\A((a+)+)\Z"},
                   {"kind": "code", "extract": r"\A((a+)+)\Z"}):
        assert score({**reward, "timeout_s": 0.2}, "a" * 60 + "!", "x") == 0.0
    assert time.monotonic() - started < 20


def test_names_and_what_does_not_apply() -> None:
    """Two of a kind get different names; a row without an answer is not judged."""
    built = build_rewards(recipe(
        {"kind": "regex", "pattern": "a"}, {"kind": "regex", "pattern": "b", "weight": 0.5}, {"kind": "math"}))
    batch = Batch(["?", "?"], ["ab 1", "b"], {"answer": ["1", None]})
    scores = [reward.score(batch) for reward in built]
    close_rewards(built)

    assert [reward.name for reward in built] == ["regex", "regex_2", "math"]
    assert scores == [[1.0, 0.0], [1.0, 1.0], [1.0, None]]


def test_columns_are_looked_for() -> None:
    """A row without the key that a reward compares with is an error that names both."""
    check_columns(recipe({"kind": "math", "field": "solution"}), {"prompt", "solution"})
    with pytest.raises(RecipeError, match=r"no key 'answer'.*they have prompt, solution") as caught:
        check_columns(recipe({"kind": "regex", "pattern": "x"}, {"kind": "math"}), {"prompt", "solution"})
    assert caught.value.where == "rewards[1]"


def test_text_of_messages() -> None:
    """Messages count as the text of their contents, parts and missing ones included."""
    parts = [{"type": "text", "text": "a"}, {"type": "image"}]

    assert text_of([{"role": "assistant", "content": parts}, {"role": "assistant", "content": None}]) == "a\n"
    assert Reward(kind="math").field == "answer"
