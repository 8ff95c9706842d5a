"""A recipe of one process that runs a command of ours, such as preparing data or measuring a model (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hpctrain.recipe.schema import Resources

_PLACE = ("partition", "account", "qos", "reservation", "time_limit", "container", "container_runtime", "container_mounts")
_OF_CPUS = ("cpus_per_node", "memory_per_node")
_OF_GPUS = ("gpu_type", "gpu_memory", "constraint")


def command_recipe(
    name: str, command: Sequence[str], resources: Mapping[str, Any], *, description: str, workdir: str,
    env: Mapping[str, str] | None = None, sections: Mapping[str, Any] | None = None,
) -> str:
    """The text of the recipe.

    Args:
        name: of the run.
        command: program and arguments.
        resources: from :func:`without_gpus` or :func:`with_gpus`.
        description: what it does, for people.
        workdir: where the command runs; the recipe's own directory is gone by then. "" is the run directory.
        env: variables for it.
        sections: more of the recipe.
    """
    values = {"version": 1, "name": name, "description": description, "command": list(command),
              "resources": {key: value for key, value in resources.items() if value is not None},
              **({"workdir": workdir} if workdir else {}), **({"env": dict(env)} if env else {}), **(sections or {})}
    return json.dumps(values, indent=2) + "\n"  # JSON is YAML


def without_gpus(resources: Resources) -> dict[str, Any]:
    """One node and no GPU, with the account, partition, limits and container of a recipe that this is done for."""
    return {**_kept(resources, (*_PLACE, *_OF_CPUS)), "nodes": 1, "ranks_per_node": 1}


def with_gpus(resources: Resources, gpus: int = 1) -> dict[str, Any]:
    """One node, and so many GPUs where the recipe has any, with the rest as :func:`without_gpus`."""
    if not resources.gpus_per_node:
        return {**_kept(resources, (*_PLACE, "constraint")), "nodes": 1}
    return {**_kept(resources, (*_PLACE, *_OF_GPUS)), "nodes": 1, "gpus_per_node": gpus}


def _kept(resources: Resources, keys: Sequence[str]) -> dict[str, Any]:
    own = resources.model_dump(mode="json")
    return {key: own[key] for key in keys if own[key] and (own["container"] or not key.startswith("container"))}
