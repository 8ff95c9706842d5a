"""Judges and teachers of a recipe that cannot work, and where a recipe uses an endpoint (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpctrain.recipe.endpoint_url import is_open, url_problem
from hpctrain.recipe.node import Path
from hpctrain.recipe.problem import Problem, shown
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Endpoint, Judge


@dataclass(frozen=True, slots=True)
class EndpointUse:
    """An endpoint that a recipe uses.

    Attributes:
        path: its place in the recipe.
    """

    path: Path
    endpoint: Endpoint

    @property
    def role(self) -> str:
        """``judge`` or ``teacher``, for messages."""
        return str(self.path[0])

    @property
    def judge(self) -> Judge | None:
        """The same as a judge; None for a teacher."""
        return self.endpoint if isinstance(self.endpoint, Judge) else None


def endpoints_of(recipe: Recipe) -> list[EndpointUse]:
    """Every endpoint that the run will ask: the teacher before training, the judge while training or at the end."""
    found = []
    if recipe.method == "distill" and recipe.teacher is not None and recipe.teacher.endpoint is not None:
        found.append(EndpointUse(("teacher", "endpoint"), recipe.teacher.endpoint))
    if recipe.judge is not None and needs_judge(recipe):
        found.append(EndpointUse(("judge",), recipe.judge))
    return found


def needs_judge(recipe: Recipe) -> bool:
    """Whether the run asks ``judge``."""
    return _asks_judge(recipe) is not None


def _asks_judge(recipe: Recipe) -> Path | None:
    """The first key that makes the run ask its judge; None where nothing does."""
    found: list[Path] = [("rewards", index) for index, reward in enumerate(recipe.rewards) if reward.kind == "judge"]
    if recipe.method == "rlaif" and not recipe.rewards:
        found.append(("method",))
    suites = recipe.evaluate.suites if recipe.evaluate is not None else ()
    found += [("evaluate", "suites", index) for index, suite in enumerate(suites) if suite.kind == "judge"]
    return found[0] if found else None


def check_endpoints(recipe: Recipe) -> Iterator[Problem]:
    """Judge, teacher, and their URLs."""
    teacher, asks = recipe.teacher, _asks_judge(recipe)
    if recipe.judge is not None:
        yield from _url(("judge", "url"), recipe.judge.url)
        if asks is None:
            yield Problem(("judge",), "has no effect: neither a reward nor a suite of kind 'judge' asks it")
    elif asks is not None:
        yield Problem(asks, "needs a 'judge' section with the url and the model's name")
    if teacher is None:
        if recipe.method == "distill":
            yield Problem((), "method 'distill' needs a 'teacher' section, with 'endpoint' or 'path'")
        return
    if recipe.method != "distill":
        yield Problem(("teacher",), f"belongs to method 'distill', but the method is '{recipe.method}'")
    if (teacher.endpoint is None) == (teacher.path is None):
        yield Problem(("teacher",), "needs exactly one of 'endpoint' (a model to ask) and 'path' (a local model)")
    if teacher.path is not None and recipe.chat.packing:
        yield Problem(("chat", "packing"), "rows are not packed where a local teacher's probabilities are learned")
    if teacher.endpoint is not None:
        yield from _url(("teacher", "endpoint", "url"), teacher.endpoint.url)
        for key, default in (("on_policy_share", 0.0), ("temperature", 1.0)):
            if getattr(teacher, key) != default:
                yield Problem(("teacher", key), "belongs to a teacher with a 'path', whose probabilities are learned")


def endpoint_notes(recipe: Recipe) -> Iterator[str]:
    """What works, but should be known."""
    for use in endpoints_of(recipe):
        if use.endpoint.api_key_env and is_open(use.endpoint.url):
            yield f"the key of the {use.role} is sent over plain HTTP, readable on the way to {use.endpoint.url}"


def _url(path: Path, url: str) -> Iterator[Problem]:
    problem = url_problem(url)
    if problem:
        # A URL with a password must not be repeated.
        yield Problem(path, f"{shown(url) + ' ' if '@' not in url else ''}{problem}")
