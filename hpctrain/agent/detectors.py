"""Asks all detectors of a recipe, and writes down what they find (service)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpctrain.agent.bounded_search import BoundedSearch
from hpctrain.detect.beat import Detection, RankBeat
from hpctrain.detect.build import build_detectors
from hpctrain.detect.node_health import NodeHealthDetector
from hpctrain.jobs.writer import EventWriter
from hpctrain.submit.plan_model import Plan

LOOK_S = 0.5


class Detectors:
    """Of one job. Only for the main thread: rules are searched for within a bounded time there."""

    def __init__(self, plan: Plan, events: EventWriter) -> None:
        self._events = events
        self._detectors = build_detectors(
            plan.detection, is_trainer=plan.command.is_trainer, search=BoundedSearch())
        self._next = 0.0

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

    def _tell(self, found: Sequence[Detection]) -> list[Detection]:
        for one in found:
            if one.action == "alert":
                self._events.note("detection.alert", one.reason, step=one.step, evidence={
                    "detector": one.detector, "cause": one.cause, "ranks": list(one.ranks), "nodes": list(one.nodes),
                    **one.evidence})
        return [one for one in found if one.action != "alert"]
