"""Asks all detectors of a recipe, and writes down what they find (service)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpctrain.agent.bounded_search import BoundedSearch
from hpctrain.detect.beat import Detection, RankBeat
from hpctrain.detect.build import build_detectors
from hpctrain.detect.node_health import NodeHealthDetector
from hpctrain.detect.stacks import Stack, cluster, minority, parse, summary
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter
from hpctrain.submit.plan_model import Plan

LOOK_S = 0.5
FRAMES, MOST_GROUPS = 12, 16
"""Of a hang's stacks that are told in the event; the files have all."""


class Detectors:
    """Of one job. Only for the main thread: rules are searched for within a bounded time there."""

    def __init__(self, plan: Plan, events: EventWriter) -> None:
        self._events = events
        self._detectors = build_detectors(
            plan.detection, is_trainer=plan.command.is_trainer, search=BoundedSearch())
        self._next = 0.0
        self._stacks: dict[int, tuple[Stack, str]] = {}

    def begin(self, incarnation: int, now: float) -> None:
        """New ranks are being started."""
        for detector in self._detectors:
            detector.begin(incarnation, now)

    def look(self, beats: Sequence[RankBeat], incarnation: int, now: float) -> list[Detection]:
        """What is wrong, about twice a second."""
        if now < self._next:
            return []
        self._next = now + LOOK_S
        present = [beat for beat in beats if beat.incarnation == incarnation]
        return self._tell([found for detector in self._detectors for found in detector.look(present, now)])

    def lines(self, node: str, message: Mapping[str, Any], now: float) -> list[Detection]:
        """Lines that an agent has passed on."""
        rank = int(message.get("rank", -1))
        return self._tell([
            found for text in message.get("lines", ()) for detector in self._detectors
            for found in detector.line(rank, node, str(text), now)])

    def node(self, node: str, reports: Iterable[Mapping[str, Any]], now: float) -> None:
        """What an agent, or Slurm, says of a node; the next :meth:`look` says what follows from it."""
        for report in reports:
            for detector in self._detectors:
                if isinstance(detector, NodeHealthDetector):
                    detector.report(node, report, now)

    def stacks(self, message: Mapping[str, Any], node: str) -> None:
        """Take what an agent has read of its ranks."""
        for rank, text in dict(message.get("stacks") or {}).items():
            if (stack := parse(str(text))) is not None:
                self._stacks[int(rank)] = (stack, node)

    def tell_stacks(self, run_dir: RunDir, incarnation: int) -> None:
        """All ranks are gone: say where they were, and who stands out."""
        if not self._stacks:
            return
        stacks = [stack for stack, _ in self._stacks.values()]
        groups = cluster(stacks)
        said = summary(stacks, {rank: node for rank, (_, node) in self._stacks.items()})
        self._events.note("hang.stacks", said, evidence={
            "incarnation": incarnation, "minority_ranks": list(minority(groups)),
            "groups": [{"ranks": list(group.ranks), "frames": [str(frame) for frame in group.frames[:FRAMES]]}
                       for group in groups[:MOST_GROUPS]],
            "files": str(run_dir.logs / f"i{incarnation:03d}" / "stacks"),
        })
        self._stacks.clear()

    def _tell(self, found: Sequence[Detection]) -> list[Detection]:
        for one in found:
            if one.action == "alert":
                self._events.note("detection.alert", one.reason, step=one.step, evidence={
                    "detector": one.detector, "cause": one.cause, "ranks": list(one.ranks), "nodes": list(one.nodes),
                    **one.evidence})
        return [one for one in found if one.action != "alert"]
