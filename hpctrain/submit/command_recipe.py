"""A recipe of one process that runs a command of ours, such as preparing data (pure)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hpctrain.recipe.schema import Resources

_KEPT = ("partition", "account", "qos", "reservation", "time_limit", "cpus_per_node", "memory_per_node", "container",
         "container_runtime", "container_mounts")


def command_recipe(name: str, command: Sequence[str], resources: Resources) -> str:
    """The text of the recipe: one node, no GPU, and the account, partition and limits of another recipe.

    Args:
        name: of the run.
        command: program and arguments.
        resources: of the recipe that this is done for.
    """
    kept = {key: getattr(resources, key) for key in _KEPT if getattr(resources, key)}
    values = {
        "version": 1, "name": name, "description": "made by hpctrain", "command": list(command),
        "resources": {"nodes": 1, "ranks_per_node": 1, **kept},
    }
    return json.dumps(values, indent=2) + "\n"  # JSON is YAML
