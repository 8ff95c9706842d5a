"""The processes of a job on this host, told apart by node (adapter over /proc).

Nodes of a private cluster share a host, and job numbers begin again on every cluster: a process belongs to a job when its
environment names the job *and* the node, and when it is, or descends from, an agent or coordinator whose arguments name the
run's directory. Processes of other users are never looked at further.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpctrain.devcluster import processes

RANK, AGENT, COORDINATOR, KEEPER, WRITER, WARM = "rank", "agent", "coordinator", "keeper", "writer", "warm"


@dataclass(frozen=True, slots=True)
class Target:
    """A process of a job.

    Attributes:
        started: clock ticks since boot; with the pid, its identity.
        rank: of a rank, else None.
    """

    pid: int
    started: int
    what: str
    node: str
    rank: int | None = None

    def __str__(self) -> str:
        name = f"rank {self.rank}" if self.rank is not None else f"the {self.what}"
        return f"{name} on {self.node} (process {self.pid})"


def find_targets(job_id: int, run_dir: Path, rank_pids: Iterable[tuple[str, int, int]] = ()) -> list[Target]:
    """The job's processes on this host.

    Args:
        rank_pids: (node, rank, pid) of the ranks as the run's events tell them; a process is believed to be that rank only
            if it belongs to the job and to that node.
    """
    told = {pid: (node, rank) for node, rank, pid in rank_pids}
    parent_of = processes.parents()
    mine = [pid for pid in parent_of if _is_ours(pid)]
    roots = {pid for pid in mine if _names_run(processes.command_line(pid), str(run_dir))}
    family = roots | processes.descendants(roots, parent_of)
    found: list[Target] = []
    for pid in mine:
        environment = processes.environment(pid)
        node, started = environment.get("SLURMD_NODENAME", ""), processes.start_ticks(pid)
        if environment.get("SLURM_JOB_ID") != str(job_id) or not node or started is None:
            continue
        arguments = processes.command_line(pid)
        what = _role(arguments, str(run_dir))
        is_of_run = pid in family or environment.get("HPCTRAIN_RUN_DIR") == str(run_dir)
        if told.get(pid, ("", 0))[0] == node and what in ("", WARM) and is_of_run:
            # A forked rank has the arguments of the warm process.
            found.append(Target(pid, started, RANK, node, told[pid][1]))
            continue
        if what in (KEEPER, WRITER, WARM) and pid not in family:
            continue  # they are told of no run, and another cluster may have a job of this number
        if what:
            found.append(Target(pid, started, what, node))
    return found


def _role(arguments: tuple[str, ...], run_dir: str) -> str:
    """What our own processes say of themselves in their arguments."""
    if "hpctrain.checkpoint.keeper_main" in arguments:
        return KEEPER
    if "hpctrain.checkpoint.writer_main" in arguments:
        return WRITER
    if not _names_run(arguments, run_dir):
        return WARM if any("hpctrain.agent.warm" in word for word in arguments) else ""
    for role, what in (("coordinate", COORDINATOR), ("node", AGENT), ("writer", WRITER)):
        if role in arguments[:6]:
            return what
    return ""


def _names_run(arguments: tuple[str, ...], run_dir: str) -> bool:
    """``python -m hpctrain.agent ROLE --run-dir DIR``."""
    if "hpctrain.agent" not in arguments or "--run-dir" not in arguments:
        return False
    place = arguments.index("--run-dir")
    # The batch script's srun has these words among its own; only Python runs them.
    return place + 1 < len(arguments) and arguments[place + 1] == run_dir and arguments[1:2] == ("-m",)


def _is_ours(pid: int) -> bool:
    try:
        return (processes.PROC / str(pid)).stat().st_uid == os.getuid() and processes.shares_our_root(pid)
    except OSError:
        return False
