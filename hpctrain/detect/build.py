"""All detectors of a job, from its plan (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpctrain.detect.beat import Detector
from hpctrain.detect.hang import HangDetector
from hpctrain.detect.log_rules import LogRuleDetector, Search, plain_search
from hpctrain.detect.loss import LossDetector
from hpctrain.detect.node_health import NodeHealthDetector
from hpctrain.detect.settings import OFF, DetectionSettings
from hpctrain.detect.throughput import ThroughputDetector


def build_detectors(
    plan_detection: Mapping[str, Any], *, is_trainer: bool, search: Search = plain_search
) -> list[Detector]:
    """Make the detectors; one of them, if nodes are watched, is a :class:`NodeHealthDetector`, which wants reports.

    Our own trainer judges its losses itself, at every step, so that no detector does it again.

    Args:
        plan_detection: the plan's ``detection``.
        is_trainer: the ranks are our trainer's; others may have no heartbeats.
        search: how log rules search lines; see :mod:`hpctrain.agent.bounded_search`.
    """
    settings = DetectionSettings.read(plan_detection)
    detectors: list[Detector] = []
    if settings.hang.action != OFF:
        detectors.append(HangDetector(settings.hang, is_trainer=is_trainer))
    if not is_trainer and (settings.loss.action, settings.loss.spike.action) != (OFF, OFF):
        detectors.append(LossDetector(settings.loss))
    if settings.throughput.action != OFF:
        detectors.append(ThroughputDetector(settings.throughput))
    if (settings.node.fault, settings.node.drained) != (OFF, OFF):
        detectors.append(NodeHealthDetector(settings.node))
    detectors += [LogRuleDetector(rule, search) for rule in settings.log_rules]
    return detectors


def line_patterns(plan_detection: Mapping[str, Any]) -> list[str]:
    """What agents search ranks' lines for: a line that matches one of them is passed on to the coordinator."""
    rules = DetectionSettings.read(plan_detection).log_rules
    found = [pattern for rule in rules for pattern in (rule.pattern, rule.stop_pattern) if pattern is not None]
    return list(dict.fromkeys(found))
