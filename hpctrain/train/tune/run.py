"""Methods that tune a trained model, on trl's trainers (service)."""

from __future__ import annotations

import importlib
import importlib.util

from hpctrain.errors import MissingDependencyError, RecipeError
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Recipe
from hpctrain.train.environment import RankEnvironment

METHODS = {
    "sft": "hpctrain.train.tune.sft", "dpo": "hpctrain.train.tune.preference", "reward": "hpctrain.train.tune.reward_model",
    "rlvr": "hpctrain.train.tune.rl", "rlaif": "hpctrain.train.tune.rl", "rlhf": "hpctrain.train.tune.rl",
    "distill": "hpctrain.train.tune.distill",
}
"""The module of each method; its ``run(context)`` trains to the end and returns the exit code."""


def tune(recipe: Recipe, run_dir: RunDir, environment: RankEnvironment) -> int:
    """Tune a model on this rank; return the exit code.

    Raises:
        HpctrainError: what the user or the site can mend; on every rank, with the same exit code.
    """
    for name in ("trl", "accelerate"):
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(f"method '{recipe.method}' needs the package '{name}'",
                                         hint="pip install 'hpctrain[train]'")
    name = METHODS.get(recipe.method or "", "")
    if not name or importlib.util.find_spec(name) is None:
        raise RecipeError(f"method '{recipe.method}' is not in this version", where="method")
    from hpctrain.train.tune.context import open_context

    method = importlib.import_module(name)
    code: int = method.run(open_context(recipe, run_dir, environment))
    return code
