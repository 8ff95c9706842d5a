"""What a result depends on, as one short text (service): a result with the same key need not be measured again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from hpctrain import __version__
from hpctrain.errors import HpctrainError
from hpctrain.evaluate.language_model import Place
from hpctrain.evaluate.model_directory import inspect
from hpctrain.evaluate.rows import fingerprint
from hpctrain.evaluate.task import SetRow
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Judge, Suite


def result_key(
    suite: Suite, rows: Sequence[SetRow], model: str, compared_with: str, *, place: Place, recipe: Recipe | None,
    judge: Judge | None, chat_template: str,
) -> str:
    """Suite, rows, models, judge, rewards and the way of measuring; "" for what must be measured anew each time.

    Args:
        model: see :func:`identity_of`.
        compared_with: the first model's.
    """
    if suite.kind in ("function", "harness"):
        return ""  # code and data that we do not see
    if not model or not compared_with:
        return ""
    asks = judge is not None and suite.kind in ("judge", "reward")
    parts = [
        __version__, suite.model_dump(mode="json"), fingerprint(rows), [model, compared_with],
        judge.model_dump(mode="json") if judge is not None and asks else None,
        [one.model_dump(mode="json") for one in recipe.rewards] if recipe is not None and suite.kind == "reward" else None,
        place.precision, place.sequence_length, chat_template,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(path: str) -> str:
    """What changes with a model; "" where it is none, or not whole."""
    try:
        return inspect(path).identity
    except HpctrainError:
        return ""
