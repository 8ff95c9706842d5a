"""What becomes known of a node while the job runs on it (pure).

Reports come from the agents (:mod:`hpctrain.agent.node_watch`: kernel log, the node's health verdict) and from whoever asks
Slurm for the states of the job's nodes. A report is plain data::

    {"kind": "xid", "time": 1.0, "entity": "0000:3b:00", "numbers": [79], "action": "reset", "blame": "node",
     "reason": "..."}
    {"kind": "verdict", "time": 1.0, "level": "drain", "reason": "hpctrain: gpu_lost ..."}
    {"kind": "kernel", "time": 1.0, "entity": "mce", "reason": "..."}
    {"kind": "slurm", "time": 1.0, "state": "MIXED+DRAIN", "reason": "..."}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hpctrain.detect.beat import Action, Detection, RankBeat
from hpctrain.detect.settings import OFF, NodeSettings, action_of

OURS = "hpctrain:"
"""How drain reasons begin that health checks have set; any other belongs to a person."""
MENDS_HARDWARE = ("reset", "reboot", "inspect", "replace")
"""Remedies that a node cannot get while a job runs on it."""
_LEAVING = {"DRAIN", "DRAINING", "DRAINED", "FAIL", "FAILING"}
_GONE = {"DOWN", "NOT_RESPONDING", "POWERED_DOWN", "REBOOT_ISSUED"}


class NodeHealthDetector:
    """Turns reports into detections; each trouble of a node is told once, also over restarts.

    Args:
        settings: the recipe's.
    """

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._told: set[tuple[str, str, str]] = set()
        self._found: list[Detection] = []

    def begin(self, incarnation: int, now: float) -> None:
        """Nothing is forgotten: a node does not get well because ranks are started."""
        del incarnation, now

    def line(self, rank: int, node: str, text: str, now: float) -> Sequence[Detection]:
        """Nothing: what ranks print is the log rules' business."""
        del rank, node, text, now
        return ()

    def look(self, beats: Sequence[RankBeat], now: float) -> Sequence[Detection]:
        """What has been reported since the last look, of nodes that run ranks or are spare alike."""
        del beats, now
        found, self._found = self._found, []
        return found

    def report(self, node: str, report: Mapping[str, Any], now: float) -> None:
        """Take what is known of a node; an unknown kind of report is passed over."""
        found = self._judge(node, report, float(report.get("time") or now))
        if found is None:
            return
        key = (node, str(report.get("kind")), _identity(report))
        if key not in self._told:
            self._told.add(key)
            self._found.append(found)

    def _judge(self, node: str, report: Mapping[str, Any], time: float) -> Detection | None:
        kind, reason = str(report.get("kind")), str(report.get("reason") or "")
        fault, evidence = self._settings.fault, {"node": node, **report}
        if kind == "xid":
            mild = report.get("blame") != "node" or report.get("action") not in MENDS_HARDWARE
            # "foreign": the job has no GPU that could have failed it.
            action = "alert" if fault != OFF and (mild or report.get("unlisted") or report.get("foreign")) else fault
            return _found(node, action, f"{node}: {reason}", time, evidence)
        if kind == "verdict" and report.get("level") == "drain":
            return _found(node, fault, f"{node}: the node's health check failed: {_without_prefix(reason)}", time, evidence)
        if kind == "slurm":
            return self._judge_state(node, str(report.get("state") or ""), reason, time, evidence)
        if kind == "kernel":
            return _found(node, OFF if fault == OFF else "alert", f"{node}: {reason}", time, evidence)
        return None

    def _judge_state(
        self, node: str, state: str, reason: str, time: float, evidence: Mapping[str, Any]
    ) -> Detection | None:
        words = set(re.split(r"[+&,\s]+", state.upper().rstrip("*$~#!%@^-")))
        if words & _GONE or state.rstrip("$~#!%@^-").endswith("*"):
            return _found(node, self._settings.fault, f"{node}: Slurm has lost the node ({state})", time, evidence)
        if not words & _LEAVING:
            return None
        if reason.startswith(OURS):
            text = f"{node}: drained by its health check: {_without_prefix(reason)}"
            return _found(node, self._settings.fault, text, time, evidence)
        return _found(node, self._settings.drained, f"{node}: somebody drains the node: {reason or 'no reason given'}", time,
                      evidence)


def _found(node: str, action: str, reason: str, time: float, evidence: Mapping[str, Any]) -> Detection | None:
    if action == OFF:
        return None
    known: Action = action_of(action)
    return Detection("node_health", known, reason, "node", time, nodes=(node,), evidence=evidence)


def _identity(report: Mapping[str, Any]) -> str:
    """What makes two reports of one kind about one node the same."""
    if report.get("kind") == "xid":
        return f"{report.get('entity')} {report.get('action')}"
    if report.get("kind") == "slurm":
        return f"{'ours' if str(report.get('reason') or '').startswith(OURS) else 'theirs'} {report.get('state')}"
    return str(report.get("entity") or report.get("reason") or "")


def _without_prefix(reason: str) -> str:
    return reason.removeprefix(OURS).strip()
