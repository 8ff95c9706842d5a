"""A recipe's rewards, ready to be called (service)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.errors import RecipeError
from hpctrain.recipe.rewards import NEEDS_FIELD, effective_rewards, reward_names
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Judge, Reward
from hpctrain.train.rewards.batch import Batch
from hpctrain.train.rewards.code import code_rewards
from hpctrain.train.rewards.exact_match import exact_match
from hpctrain.train.rewards.extract import by_pattern, code_block
from hpctrain.train.rewards.function import FunctionReward
from hpctrain.train.rewards.json_answer import json_answer
from hpctrain.train.rewards.length import length
from hpctrain.train.rewards.limit import TooLongError, at_most
from hpctrain.train.rewards.math_equal import find_answer, math_reward
from hpctrain.train.rewards.regex import regex
from hpctrain.train.rewards.sandbox import Limits, protections

Score = Callable[[Batch], list[float | None]]
"""One number per answer; None where the reward does not apply to the row."""


@dataclass(frozen=True, slots=True)
class NamedReward:
    """One reward of a run.

    Attributes:
        name: in metrics.
        weight: its share of the sum.
        score: judges a batch.
        close: ends what it started.
    """

    name: str
    weight: float
    score: Score
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What some rewards need from the program that calls them.

    Attributes:
        device: where a reward model computes, as torch names it.
        dtype: of its weights, as torch names it.
        marks: folder in which a judge's marks are kept; None keeps none beyond this process.
        writer: name of this process among those that use the folder.
        notify: told in one sentence of what is wrong but goes on.
        beat: told what is being waited for, about once a second while a judge is asked.
        share: processes of this node that ask a judge at once.
    """

    device: str = "cpu"
    dtype: str = "float32"
    marks: Path | None = None
    writer: str = "marks"
    notify: Callable[[str], None] = lambda _: None
    beat: Callable[[str], None] = lambda _: None
    share: int = 1


def build_rewards(recipe: Recipe, around: Surroundings | None = None) -> list[NamedReward]:
    """All rewards of a recipe, in its order. User functions are imported, reward models are loaded.

    Raises:
        RecipeError: one cannot work, with its place and what is wrong.
        EndpointError: the judge's key is missing.
    """
    rewards = effective_rewards(recipe)
    around = around or Surroundings()
    built: list[NamedReward] = []
    try:
        for name, reward in zip(reward_names(rewards), rewards, strict=True):
            score, close = _build(reward, name, recipe, around)
            built.append(NamedReward(name, reward.weight, score, close))
    except BaseException:
        close_rewards(built)
        raise
    return built


def close_rewards(rewards: list[NamedReward]) -> None:
    """End the processes of all, and let go of their models."""
    for reward in rewards:
        reward.close()


def check_columns(recipe: Recipe, names: set[str]) -> None:
    """Whether the rows have what the rewards compare with.

    Args:
        names: keys of the rows.

    Raises:
        RecipeError: one is missing.
    """
    for index, reward in enumerate(effective_rewards(recipe)):
        if reward.kind in NEEDS_FIELD and reward.field not in names:
            raise RecipeError(
                f"the rows have no key {reward.field!r}, which kind '{reward.kind}' compares with; they have "
                f"{', '.join(sorted(names))}", where=f"rewards[{index}]",
                hint="set 'field' of this reward to the key that holds it")


def _build(reward: Reward, name: str, recipe: Recipe, around: Surroundings) -> tuple[Score, Callable[[], None]]:
    if reward.kind == "function":
        function = FunctionReward(str(reward.function), name=name, timeout_s=reward.timeout_s, directory=recipe.workdir)
        return function, function.close
    if reward.kind == "judge":
        return _judge(recipe.judge, around), _nothing
    if reward.kind == "model":
        from hpctrain.train.rewards.model import ModelReward  # which brings transformers

        scores = ModelReward(str(reward.path), name=name, device=around.device, dtype=around.dtype)
        return scores, scores.close
    if reward.kind == "code":
        around.notify(_held(protections()))
        return _code(reward), _nothing
    if reward.kind == "length":
        return _length(reward), _nothing
    return _bounded(_TEXT_KINDS[reward.kind](reward), reward.timeout_s), _nothing


def _judge(judge: Judge | None, around: Surroundings) -> Score:
    from hpctrain.train.rewards.judge import JudgeReward  # which brings an HTTP client

    if judge is None:
        raise RecipeError("a reward of kind 'judge' needs a 'judge' section")
    return JudgeReward(judge, cache=around.marks, writer=around.writer, notify=around.notify, share=around.share,
                       beat=around.beat)


def _code(reward: Reward) -> Score:
    find, limits = _finder(reward, code_block), Limits(reward.timeout_s, reward.memory)

    def score(batch: Batch) -> list[float | None]:
        return code_rewards([_found_in_time(find, text, reward.timeout_s) for text in batch.texts],
                            list(batch.column(reward.field)), limits)
    return score


def _length(reward: Reward) -> Score:
    def score(batch: Batch) -> list[float | None]:
        if len(batch.token_counts) != len(batch):
            raise RecipeError("a reward of kind 'length' needs the answers' tokens, which were not counted here")
        return [length(count, reward.min_tokens, reward.max_tokens) for count in batch.token_counts]
    return score


_One = Callable[[str, Any], float | None]
"""Judges one answer, by its text and what the row has in the reward's ``field``."""


def _bounded(one: tuple[_One, str], seconds: float) -> Score:
    """One answer after the other, each within its time; what takes longer counts 0."""
    judge, field = one

    def score(batch: Batch) -> list[float | None]:
        scores: list[float | None] = []
        for text, wanted in zip(batch.texts, batch.column(field), strict=True):
            try:
                with at_most(seconds):
                    scores.append(judge(text, wanted))
            except TooLongError:
                scores.append(0.0)
        return scores
    return score


def _exact(reward: Reward) -> tuple[_One, str]:
    find = _finder(reward, str.strip)
    return lambda text, wanted: exact_match(find(text), wanted), reward.field


def _math(reward: Reward) -> tuple[_One, str]:
    find = _finder(reward, find_answer)
    return lambda text, wanted: math_reward(find(text), wanted), reward.field


def _json(reward: Reward) -> tuple[_One, str]:
    find, schema = _finder(reward, code_block), reward.json_schema or {}

    def judge(text: str, _wanted: Any) -> float:
        found = find(text)
        return 0.0 if found is None else json_answer(found, schema)
    return judge, ""


def _regex(reward: Reward) -> tuple[_One, str]:
    pattern = re.compile(reward.pattern or "")
    return lambda text, _wanted: regex(pattern, text), ""


_TEXT_KINDS: Mapping[str, Callable[[Reward], tuple[_One, str]]] = {
    "exact_match": _exact, "math": _math, "json_schema": _json, "regex": _regex,
}


def _finder(reward: Reward, default: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """How the answer is found in a text."""
    if reward.extract is None:
        return default
    pattern = re.compile(reward.extract)
    return lambda text: by_pattern(pattern, text)


def _found_in_time(find: Callable[[str], str | None], text: str, seconds: float) -> str | None:
    try:
        with at_most(seconds):
            return find(text)
    except TooLongError:
        return None


def _nothing() -> None:
    """Nothing was started."""


def _held(found: tuple[str, ...]) -> str:
    """What the kernel of this node keeps a model's code from."""
    wanted = {"network": "no network", "processes": "no process outlives it", "files": "it writes only in its own directory"}
    held = [text for name, text in wanted.items() if name in found]
    lacking = [name for name in wanted if name not in found]
    sentence = "code that the model writes is run with limits" + (f"; {', '.join(held)}" if held else "")
    return sentence + (f"; warning: this node's kernel cannot limit its {' and '.join(lacking)}" if lacking else "")
