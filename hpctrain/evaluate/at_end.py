"""The evaluation at the end of a run, of the model before and after (service).

Training is done and the model is saved: what goes wrong here is told and costs nothing of that. Called by all ranks
together, after they have let go of the model that they trained.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import HpctrainError
from hpctrain.evaluate.codec import codec_of
from hpctrain.evaluate.files import HTML
from hpctrain.evaluate.language_model import Place
from hpctrain.evaluate.loading import device_of, free_memory, memory_of
from hpctrain.evaluate.model_directory import inspect, locate
from hpctrain.evaluate.results import Evaluation, compare
from hpctrain.evaluate.run import Helpers, Order, Subject, evaluate
from hpctrain.evaluate.spread import is_too_large
from hpctrain.evaluate.table import number, render, words
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Recipe
from hpctrain.train.environment import RankEnvironment

Tell = Callable[[str, str, Mapping[str, Any]], None]
"""Told of events: kind, reason, evidence."""
BEFORE, AFTER = "before", "after"
MOST_ROWS = 16
"""Rows at once, or as many as training took: no gradient and no optimizer are in memory now."""


def evaluate_run(
    recipe: Recipe, run_dir: RunDir, environment: RankEnvironment, *, helpers: Helpers | None = None,
    tell: Tell | None = None,
) -> bool:
    """Measure what the recipe's ``evaluate:`` asks for; the results are in ``evaluation.json`` of the run directory.

    Args:
        recipe: resolved.
        helpers: what the trainer lends; without them it measures on these ranks all the same, without a heartbeat, and
            rewards and held-out text cannot be measured.
        tell: told of the events ``evaluation.finished`` and ``evaluation.failed``.

    Returns:
        False when the ranks were asked to stop before the end: the next start goes on behind what is finished.
    """
    if recipe.evaluate is None:
        return True
    lent = helpers or Helpers(Ranks())
    say: Tell = tell or (lambda _kind, _reason, _evidence: None)
    free_memory()
    started = time.monotonic()
    try:
        found = evaluate(_order(recipe, run_dir, environment, lent.ranks), lent)
    except HpctrainError as error:
        say("evaluation.failed", str(error), {"exit_code": error.exit_code})
        return True
    if found is None:
        return False
    if lent.ranks.is_first:
        lent.say(render(found))
        evidence = {"seconds": round(time.monotonic() - started, 3), "changes": [line.to_json() for line in compare(found)]}
        for label, one in found.problems:
            say("evaluation.failed", f"{one.name} of {label}: {one.problem}", {"exit_code": one.exit_code})
        if any(one.measures for model in found.models for one in model.suites):
            say("evaluation.finished", f"{summary(found)}; the page is {run_dir.path / HTML}", evidence)
    return True


def summary(evaluation: Evaluation) -> str:
    """The first measure of each suite, in one line: ``perplexity 52.3 -> 11.2 (better)``."""
    parts, seen = [], set()
    for line in compare(evaluation):
        if line.suite in seen:
            continue
        seen.add(line.suite)
        values = " -> ".join(number(one.value if one is not None else None) for one in line.values)
        name = words(line.measure) if line.measure == line.suite else f"{line.suite}: {words(line.measure)}"
        parts.append(f"{name} {values}" + (f" ({line.verdict})" if line.verdict else ""))
    return ", ".join(parts)


def _order(recipe: Recipe, run_dir: RunDir, environment: RankEnvironment, ranks: Ranks) -> Order:
    if recipe.evaluate is None:
        raise ValueError("the recipe has no 'evaluate'")
    subjects = []
    base = recipe.model.path if recipe.model is not None and recipe.method != "pretrain" else None
    if base is not None and recipe.evaluate.before:
        subjects.append(Subject(BEFORE, locate(base)))
    subjects.append(Subject(AFTER, str(run_dir.model)))
    on_cpu = environment.device == "cpu"
    place = Place(
        device="cpu" if on_cpu else "", precision="fp32" if on_cpu else "auto",
        batch_size=max(MOST_ROWS, recipe.training.micro_batch_size),
        sequence_length=recipe.data.sequence_length if recipe.data else 0,
        local_world_size=environment.local_world_size,
        trust_remote_code=bool(recipe.model and recipe.model.trust_remote_code),
    )
    if spread := recipe.evaluate.spread:
        place = replace(place, spread=True)
    elif spread is None:
        weights = ranks.on_first(lambda: _largest(subjects))
        place = replace(place, spread=is_too_large(weights, min(ranks.everyone(memory_of(device_of(place))))))
    return Order(run_dir.name, tuple(subjects), tuple(recipe.evaluate.suites), place, recipe, recipe.judge,
                 chat_template_of(str(run_dir.model)), run_dir.path, time.time())


def _largest(subjects: Sequence[Subject]) -> int:
    """Bytes of the largest model's weights; one that is not there is told of when it is loaded."""
    largest = 0
    for subject in subjects:
        with contextlib.suppress(HpctrainError):
            largest = max(largest, inspect(subject.path).weights_bytes)
    return largest


def chat_template_of(path: str) -> str:
    """The chat template of a model's tokenizer, "" where it has none: the model before training is asked in the same way."""
    try:
        return codec_of(inspect(path)).template
    except HpctrainError:
        return ""
