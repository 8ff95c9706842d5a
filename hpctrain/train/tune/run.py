"""Methods that tune a trained model, on trl's trainers (service)."""

from __future__ import annotations

from hpctrain.errors import RecipeError
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Recipe
from hpctrain.train.environment import RankEnvironment


def tune(recipe: Recipe, run_dir: RunDir, environment: RankEnvironment) -> int:
    """Tune a model on this rank; return the exit code.

    Raises:
        RecipeError: this version cannot do it.
    """
    del run_dir, environment
    raise RecipeError(f"method '{recipe.method}' is not in this version", where="method")
