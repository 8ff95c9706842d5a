"""What a site or a user may set once, apart from recipes (pure).

Read by :mod:`hpctrain.settings_file` from ``/etc/hpctrain/config.toml``, then ``~/.config/hpctrain/config.toml``,
then ``HPCTRAIN_*`` variables; a later one wins. The ``[recipe]`` table holds defaults for recipes and is layered
under the recipe by :mod:`hpctrain.recipe.overlay`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ADAPTERS = ("auto", "cli", "pyslurm")
"""Ways to talk to Slurm, for the setting ``slurm_adapter``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Frozen settings of this process.

    Attributes:
        runs_dir: directory that run directories are made in; must be visible on all nodes. Absolute.
        slurm_timeout_s: longest wait for one Slurm command.
        slurm_retries: further tries when the controller does not answer.
        slurm_adapter: ``auto``, ``cli`` or ``pyslurm``; see :mod:`hpctrain.slurm.adapter`.
        cluster: name of a private cluster to use, "" to find one.
        gpu_memory_bytes: memory of one GPU by Slurm's GPU type, for the size check.
        watchdog: the ``[watchdog]`` tables of the files, key by key; see :mod:`hpctrain.watchdog.config`.
        remote: the ``[remote]`` table of the files, profile by profile; see :mod:`hpctrain.fleet.remote_profile`.
        recipe_layers: (origin, values) of each file that has a ``[recipe]`` table, weakest first.
    """

    runs_dir: str
    slurm_timeout_s: float = 20.0
    slurm_retries: int = 3
    slurm_adapter: str = "auto"
    cluster: str = ""
    gpu_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    watchdog: Mapping[str, Any] = field(default_factory=dict)
    remote: Mapping[str, Any] = field(default_factory=dict)
    recipe_layers: tuple[tuple[str, Mapping[str, Any]], ...] = ()
