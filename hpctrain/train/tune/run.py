"""Methods that tune a trained model, on trl's trainers (service)."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from hpctrain.errors import MissingDependencyError, RecipeError
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.check_endpoint import endpoints_of
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import REINFORCED
from hpctrain.train.environment import RankEnvironment

if TYPE_CHECKING:
    from hpctrain.train.tune.context import TuneContext

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
    context = open_context(recipe, run_dir, environment)
    _ask_judge(context)
    code: int = method.run(context)
    return code


def _ask_judge(context: TuneContext) -> None:
    """Ask the recipe's judge one question, before a model is loaded.

    A judge that only measures at the end is asked in the first start alone: later ones have trained models to lose.

    Raises:
        EndpointError: it does not answer; on every rank.
    """
    recipe = context.recipe
    if not endpoints_of(recipe) or (context.environment.incarnation and recipe.method not in REINFORCED):
        return
    from hpctrain.endpoint.probe import probe_at_start  # HTTP and TLS, which other recipes do without

    def ask() -> None:
        for line in probe_at_start(recipe, notify=lambda text: context.report.say(f"warning: {text}")):
            context.report.say(line)

    context.heartbeat.beat("init", detail="asking the judge")
    context.ranks.on_first(ask)
