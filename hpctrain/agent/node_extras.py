"""What an agent observes beside its ranks: lines that rules ask for, stacks of a hang, the health of its node (service)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hpctrain.agent.bounded_search import LineFilter
from hpctrain.agent.node_watch import NodeWatch
from hpctrain.agent.stack_dump import dump_stacks
from hpctrain.clock import Clock
from hpctrain.detect.build import line_patterns
from hpctrain.detect.settings import OFF, DetectionSettings
from hpctrain.ids import NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.submit.plan_model import Plan

STACKS_S = 5.0
LONGEST_STACK = 64 * 1024
"""Of one rank's text that goes to the coordinator; the file has all of it."""


class NodeExtras:
    """Of one agent."""

    def __init__(self, plan: Plan, run_dir: RunDir, node: NodeName, env: Mapping[str, str], clock: Clock) -> None:
        self._plan, self._run_dir, self._node, self._env, self._clock = plan, run_dir, node, env, clock
        patterns = line_patterns(plan.detection)
        self._filter = LineFilter(patterns) if patterns else None
        self._watch: NodeWatch | None = None
        if DetectionSettings.read(plan.detection).node.fault != OFF:
            self._watch = NodeWatch(node, env, clock, uses_gpus=plan.slurm.gpus_per_node > 0)

    @property
    def listener(self) -> Callable[[int, bytes], None] | None:
        """Takes every line of every rank, from any thread; None where no rule asks for any."""
        return self._filter.offer if self._filter is not None else None

    def lines(self) -> list[tuple[int, list[str]]]:
        """Lines that a rule asks for, by rank, since the last call; in the main thread."""
        found: dict[int, list[str]] = {}
        for rank, text in self._filter.take() if self._filter is not None else ():
            found.setdefault(rank, []).append(text)
        return list(found.items())

    def report(self) -> dict[str, Any]:
        """What belongs into the next beat: now and then, what is known of this node's health."""
        found = self._watch.look() if self._watch is not None else None
        return {"reports": found} if found else {}

    def dump_stacks(self, pids: Mapping[int, int], incarnation: int) -> Mapping[int, str]:
        """Write down where each rank is, and return it; takes no longer than the coordinator puts up with silence."""
        into = self._run_dir.logs / f"i{incarnation:03d}" / "stacks"
        found = dump_stacks(pids, into, clock=self._clock, timeout_s=min(STACKS_S, self._plan.agent_silence_s / 2))
        return {rank: text[:LONGEST_STACK] for rank, text in found.items()}
