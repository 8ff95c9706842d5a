"""How many processes the kernel has killed for their memory in our control group (adapter over control group files)."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hpctrain.checkpoint.memory_budget_probe import control_groups

_COUNTERS = ("memory.events", "memory.oom_control")
"""Version 2 and 1; both have a line ``oom_kill N``."""


def count(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The number since the group was made; None where no group counts.

    An agent and its ranks are in one group, that of their Slurm task, so that no other job is counted.
    """
    for folder in control_groups(proc, cgroups):
        for name in _COUNTERS:
            with contextlib.suppress(OSError, ValueError):
                for line in (folder / name).read_text().splitlines():
                    word, _, number = line.partition(" ")
                    if word == "oom_kill":
                        return int(number)
    return None
