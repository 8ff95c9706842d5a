"""Starts ranks the fastest way that is sure to be the same: forked from a warm process, or as new processes (service).

A forked rank has torch imported and is at its first step in a fraction of the time. It must not differ from a started
one, so it is forked only when nothing of its environment that an interpreter, a C library or torch reads while it starts
differs from the warm process's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpctrain.agent.python_command import parse
from hpctrain.agent.rank_environment import common_environment
from hpctrain.agent.rank_process import RankProcess, RunningRank
from hpctrain.agent.warm_link import State, WarmLink, WarmOrder
from hpctrain.clock import Clock
from hpctrain.jobs.layout import RunDir
from hpctrain.submit.plan_model import Plan

WARM_LIMIT_S = 60.0
"""Longest wait for the imports. Ranks that do not wait import the same files, each for itself."""
LATE_NAMES = frozenset({
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CUDA_VISIBLE_DEVICES",
})
LATE_PREFIXES = ("TORCHELASTIC_", "HPCTRAIN_", "GLOO_", "NCCL_", "SLURM_")
"""With :data:`LATE_NAMES`, what is read after imports: by the program, or when a group or a device is opened."""
SCRIPT_MODULES = (
    "torch", "torch._dynamo", "torch.distributed", "torch.distributed.fsdp", "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.state_dict", "torch.nn.parallel", "torch.utils.data",
)
"""What a program of the user's most likely imports; ``torch._dynamo`` is what torch itself imports in the first step."""


class Launcher:
    """Starts the ranks of one node, incarnation after incarnation.

    Args:
        env: the agent's environment; the plan's is added here.
        say: a line for the job's output.
        watch, forget: tell the agent's warden of a process group, and that it is gone. Every process started here is
            watched; ranks are forgotten by whoever has killed their groups.
    """

    def __init__(
        self, plan: Plan, *, node: str, env: Mapping[str, str], clock: Clock, say: Callable[[str], None],
        watch: Callable[[int], None], forget: Callable[[int], None],
    ) -> None:
        self._node, self._say, self._watch = node, say, watch
        self._common = common_environment(plan, env)
        self._told: set[str] = set()
        self._link: WarmLink | None = None
        command = plan.command
        apptainer = plan.container is not None and plan.container.runtime == "apptainer"
        if plan.warm_imports and not apptainer and parse(command.argv, self._common, command.workdir, sys.executable):
            order = WarmOrder(
                self._common, command.workdir, () if command.is_trainer else SCRIPT_MODULES,
                str(RunDir(Path(plan.run_dir)).resolved_json) if command.is_trainer else "",
            )
            self._link = WarmLink(order, clock=clock, say=self._tell, watch=watch, forget=forget)

    def start(self) -> None:
        """Begin to import in the background, where ranks can be forked at all; returns at once."""
        if self._link is not None:
            self._link.start()

    @property
    def warm(self) -> bool:
        """Whether the next rank would be forked without a wait."""
        return self._link is not None and self._link.state is State.READY

    @property
    def warming(self) -> bool:
        """Whether a launch now would wait for imports."""
        return self._link is not None and self._link.state is State.STARTING

    @property
    def warm_pid(self) -> int | None:
        """Process id of the warm process while there is one."""
        return self._link.pid if self._link is not None else None

    def launch(self, argv: Sequence[str], env: Mapping[str, str], workdir: str) -> RunningRank:
        """Start one rank.

        Args:
            argv: program and arguments, no shell.
            env: its complete environment.

        Raises:
            MissingDependencyError: it cannot be started.
        """
        rank: RunningRank = self._fork(argv, env, workdir) or RankProcess(argv, env, workdir)
        self._watch(rank.pid)
        return rank

    def stop(self) -> None:
        """End the warm process, and with it every rank that it forked."""
        if self._link is not None:
            self._link.stop()

    def _fork(self, argv: Sequence[str], env: Mapping[str, str], workdir: str) -> RunningRank | None:
        if self._link is None or self._link.state in (State.OFF, State.GIVEN_UP):
            return None
        command = parse(argv, env, workdir, sys.executable)
        if command is None:
            return None
        if different := early_differences(self._common, env):
            self._tell(f"ranks are started as new processes: {', '.join(different)} must be known before imports")
            return None
        return self._link.fork(command, env, workdir) if self._link.wait(WARM_LIMIT_S) else None

    def _tell(self, text: str) -> None:
        """Say it once."""
        if text not in self._told:
            self._told.add(text)
            self._say(f"{self._node}: {text}")


def early_differences(common: Mapping[str, str], env: Mapping[str, str]) -> list[str]:
    """Names of variables that differ and may have been read already when a warm process is ready."""
    names = {name for name in common.keys() | env.keys() if common.get(name) != env.get(name)}
    return sorted(name for name in names if name not in LATE_NAMES and not name.startswith(LATE_PREFIXES))
