"""What a private cluster asks of its controller that the Slurm port does not offer (adapter over ``scontrol``).

The port serves researchers and sysadmins of any cluster; setting nodes DOWN to play their death is for tests only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hpctrain import process
from hpctrain.devcluster.daemons import clean_environment, program
from hpctrain.devcluster.layout import Layout
from hpctrain.errors import ClusterError

TIMEOUT_S = 15.0

_NODE = re.compile(r"^NodeName=(\S+)")
_STATE = re.compile(r" State=(\S+)")
_REASON = re.compile(r" Reason=(.*?) \[[^\]]*@[^\]]*\]|Reason=(.*)$")
_STARTED = re.compile(r" SlurmdStartTime=(\S+)")
_SUFFIX_NOT_RESPONDING = "*"


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as the controller sees it.

    Attributes:
        state: base state and flags joined by '+', such as ``IDLE+DRAIN``.
        responds: slurmctld hears from its slurmd.
        reason: why it was taken out of service. Some versions (24.11) keep it when the node is back, so it says
            nothing about a node that is :attr:`in_service`.
        slurmd_started: when its slurmd started, in Slurm's writing; "None" or "" before it first registered.
    """

    name: str
    state: str
    responds: bool
    reason: str
    slurmd_started: str

    @property
    def base(self) -> str:
        """State without flags."""
        return self.state.partition("+")[0]

    @property
    def in_service(self) -> bool:
        """Jobs can run, or do run, there."""
        return self.responds and self.base in ("IDLE", "ALLOCATED", "MIXED") and "DRAIN" not in self.state.split("+")


class Control:
    """scontrol and squeue, pointed at one private cluster."""

    def __init__(self, layout: Layout) -> None:
        self._environment: Mapping[str, str] = {**clean_environment(), "SLURM_CONF": str(layout.slurm_conf)}

    def nodes(self) -> dict[str, NodeState]:
        """All nodes by name. Raises ClusterError if the controller does not answer."""
        lines = self._run("scontrol", "show", "node", "--oneliner").splitlines()
        return {node.name: node for line in lines if (node := parse_node(line)) is not None}

    def job_counts(self) -> dict[str, int]:
        """How many jobs are in each state, such as ``{"RUNNING": 2}``. Raises ClusterError likewise."""
        counts: dict[str, int] = {}
        for state in self._run("squeue", "--noheader", "--format=%T").split():
            counts[state] = counts.get(state, 0) + 1
        return counts

    def set_down(self, node: str, reason: str) -> None:
        """Declare a node dead. Raises ClusterError."""
        self._run("scontrol", "update", f"NodeName={node}", "State=DOWN", f"Reason={reason}")

    def reconfigure(self) -> None:
        """Let all daemons read slurm.conf again. Raises ClusterError."""
        self._run("scontrol", "reconfigure")

    def resume(self, nodes: Iterable[str]) -> None:
        """Put nodes back into service. Raises ClusterError."""
        if names := ",".join(nodes):
            self._run("scontrol", "update", f"NodeName={names}", "State=RESUME")

    def _run(self, name: str, *arguments: str) -> str:
        result = process.run([program(name), *arguments], timeout_s=TIMEOUT_S, env=self._environment)
        if not result.ok:
            told = "no answer" if result.timed_out else result.stderr.strip() or f"exit status {result.returncode}"
            raise ClusterError(f"{name} {arguments[0]}: {told}", hint="'hpctrain cluster up' restarts what is missing")
        return result.stdout


def parse_node(line: str) -> NodeState | None:
    """One line of ``scontrol show node --oneliner``; None for a line that is something else."""
    name, state = _NODE.search(line), _STATE.search(line)
    if name is None or state is None:
        return None
    reason, started = _REASON.search(line), _STARTED.search(line)
    flags = state[1].replace(_SUFFIX_NOT_RESPONDING, "+NOT_RESPONDING").split("+")
    return NodeState(
        name=name[1],
        state="+".join(flag for flag in flags if flag != "NOT_RESPONDING"),
        responds="NOT_RESPONDING" not in flags and flags[0] != "UNKNOWN",
        reason=(reason[1] or reason[2] or "").strip() if reason else "",
        slurmd_started=started[1] if started else "",
    )
