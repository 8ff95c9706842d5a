"""Suites of ``evaluate:`` that cannot be measured (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.recipe.node import Path
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Suite
from hpctrain.recipe.suites import suite_problem

_NO_ROWS = ("harness", "function")
"""Kinds that can do without rows of their own."""
_OF_TEXT = ("perplexity", *_NO_ROWS)
"""Kinds that can be measured on the held-out rows of a run on text."""


def check_evaluate(recipe: Recipe) -> Iterator[Problem]:
    """What each suite lacks: rows, rewards, a model to compare with, a name of its own; the judge is check_endpoint's."""
    if recipe.evaluate is None:
        return
    names: set[str] = set()
    for index, suite in enumerate(recipe.evaluate.suites):
        place = ("evaluate", "suites", index)
        name = suite.name or suite.kind
        if name in names:
            yield Problem((*place, "name"), f"there are two suites called '{name}'; give each a name of its own")
        names.add(name)
        problem = suite_problem(suite)
        if problem:
            yield Problem(place, problem)
        yield from _needs(recipe, suite, place, before=recipe.evaluate.before)
        yield from _rows(recipe, suite, place)


def _needs(recipe: Recipe, suite: Suite, place: Path, *, before: bool) -> Iterator[Problem]:
    if suite.kind == "reward" and not recipe.rewards and recipe.method != "rlaif":
        yield Problem(place, "measures the recipe's 'rewards', and there are none")
    if suite.pairwise and (not before or recipe.method == "pretrain"):
        yield Problem((*place, "pairwise"), "compares with the model before training: needs evaluate.before and model.path")
    if recipe.method == "reward" and suite.kind not in ("preference", "function"):
        yield Problem((*place, "kind"), f"a reward model writes nothing, so '{suite.kind}' cannot be measured: 'preference'")


def _rows(recipe: Recipe, suite: Suite, place: Path) -> Iterator[Problem]:
    """Its own files, or rows that the run keeps out of training and that the suite can use."""
    if recipe.data is None or suite.paths or suite.kind in _NO_ROWS:
        return
    if not recipe.data.validation_fraction:
        yield Problem(place, "has no rows: give it 'paths', or keep some out of training with data.validation_fraction")
    elif recipe.method in ("pretrain", "cpt") and suite.kind not in _OF_TEXT:
        yield Problem(place, f"'{suite.kind}' asks for prompts or pairs, and the run learns from text; give it 'paths'")
    elif suite.kind == "preference" and recipe.method not in ("dpo", "reward"):
        yield Problem(place, f"'preference' needs pairs of answers, which method '{recipe.method}' has not; give it 'paths'")
