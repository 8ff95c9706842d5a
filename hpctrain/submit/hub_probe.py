"""Asks the Hugging Face hub for what a recipe will load, before anything is queued (adapter over ``huggingface_hub``).

Only what is not in this user's cache is asked for, and only whether it is there: nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from hpctrain.errors import HpctrainError
from hpctrain.hub import Kind, is_unreached, load_error, offline
from hpctrain.jobs.lineage_model import hub_snapshot
from hpctrain.recipe.node import Path as Place
from hpctrain.recipe.problem import dotted
from hpctrain.recipe.schema import Recipe

PATIENCE_S = 5.0
"""Longest wait for one answer."""


def hub_names(recipe: Recipe) -> Iterator[tuple[Place, Kind, str]]:
    """Place, kind and id of everything that the run loads from the hub, or from its cache."""
    found: list[tuple[Place, Kind, str | None]] = [
        (("model", "path"), "model", recipe.model.path if recipe.model else None),
        (("tokenizer", "path"), "tokenizer", recipe.tokenizer.path),
        (("teacher", "path"), "model", recipe.teacher.path if recipe.teacher else None),
        (("data", "name"), "data set", recipe.data.name if recipe.data and recipe.data.source == "huggingface" else None),
    ]
    found += [(("rewards", index, "path"), "model", reward.path) for index, reward in enumerate(recipe.rewards)]
    for place, kind, name in found:
        if name and not Path(name).is_absolute():
            yield place, kind, name


def ask_hub(recipe: Recipe, origins: Mapping[str, str], *, one_host: bool) -> list[str]:
    """Whether the hub has what is not in the cache; sentences about what could not be asked.

    Args:
        origins: where each value of the recipe was written.
        one_host: the job will run on this machine: what cannot be reached from here cannot be reached by it.

    Raises:
        NotFoundError: the hub has no such model or data set, or is out of reach for the job.
    """
    env = {**os.environ, **recipe.env}
    notes = []
    for place, kind, name in hub_names(recipe):
        if _cached(name, kind, recipe.env):
            continue
        try:
            _ask(name, kind, env)
        except ImportError:
            return []
        except Exception as error:  # noqa: BLE001 - the hub's client raises dozens of classes
            where = origins.get(dotted(place), "") or "recipe"
            found: HpctrainError = load_error(error, kind, name, where=f"{where}: {dotted(place)}", env=env)
            if not is_unreached(error) or one_host or offline(env):
                raise found from None
            notes.append(f"{found.message}; the job asks again from its nodes, and fails there if they have no network")
    return notes


def _ask(name: str, kind: Kind, env: Mapping[str, str]) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    if offline(env):
        raise OfflineModeIsEnabled(name)
    HfApi(endpoint=env.get("HF_ENDPOINT")).repo_info(
        name, repo_type="dataset" if kind == "data set" else "model", timeout=PATIENCE_S)


def _cached(name: str, kind: Kind, env: Mapping[str, str]) -> bool:
    """It is in this user's cache; where the recipe sets another cache, nothing is known and the hub is asked."""
    if any(key in env for key in ("HF_HOME", "HF_HUB_CACHE")):
        return False
    return hub_snapshot(name, "datasets" if kind == "data set" else "models")[0] is not None
