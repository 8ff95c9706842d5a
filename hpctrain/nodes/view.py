"""What is known of nodes: Slurm's word, their checks' records and our journal, put together (service).

Records of checks are read where they lie; a node whose records are not here has no verdict, and nothing is decided about it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock
from hpctrain.files import read_jsonl
from hpctrain.health.config import Config
from hpctrain.health.finding import Action
from hpctrain.health.node_state import NodeFiles
from hpctrain.health.policy import (
    Decision,
    Deed,
    Facts,
    Fleet,
    Limits,
    Step,
    decide,
    fault_key,
    is_persons,
    under_way,
)
from hpctrain.nodes.record import Book, Entry, interrupted, verdict_used
from hpctrain.slurm.model import Node

_BUSY = ("ALLOCATED", "MIXED")
_REBOOTING = frozenset({"REBOOT", "REBOOT_REQUESTED", "REBOOT_ISSUED", "REBOOT^", "REBOOT@"})
_GPU = re.compile(r"gpu(\d{1,3})(?::|$)")
_TOLD = ("warn", "drain", "unknown")


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, what its checks say, and what the policy would do.

    Attributes:
        by: ``hpctrain``, ``other`` (a person or Slurm), "" for a node in service.
        evidence: findings of the last verdict above ``observe``, as JSON.
        reason: what the last verdict would drain it for, as a drain reason.
        history: what is on record about it, oldest first.
    """

    node: Node
    by: str
    facts: Facts
    decision: Decision
    evidence: tuple[dict[str, Any], ...] = ()
    reason: str = ""
    history: tuple[Entry, ...] = ()


@dataclass(slots=True)
class Fleets:
    """Who of each partition is out because of us; kept true while nodes are drained and mended.

    Attributes:
        size: partition -> nodes.
        ours: partition -> nodes that we have drained.
        under_way: nodes with a remedy under way.
    """

    size: dict[str, int] = field(default_factory=dict)
    ours: dict[str, set[str]] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)

    def of(self, node: Node) -> Fleet:
        """The node's smallest partition."""
        name = min(node.partitions, key=lambda part: self.size.get(part, 0), default="")
        ours = self.ours.get(name, set())
        return Fleet(self.size.get(name, 0), len(ours), len(ours & (self.under_way - {node.name})))

    def drained(self, node: Node) -> None:
        """Count a node that we have just drained."""
        for name in node.partitions or ("",):
            self.ours.setdefault(name, set()).add(node.name)


class Viewer:
    """Puts everything together for one moment.

    Args:
        resets: GPUs can be reset; without that a reset is a reboot.
    """

    def __init__(self, config: Config, clock: Clock, limits: Limits, *, resets: bool) -> None:
        self._config, self._clock, self._limits, self._resets = config, clock, limits, resets

    def files(self, name: str) -> NodeFiles:
        """The records of a node's checks."""
        return NodeFiles(Path(self._config.state_dir.replace("{node}", name)), name, self._config.log_bytes)

    def fleets(self, everything: Sequence[Node], book: Book) -> Fleets:
        """Count the partitions, and who of them is out because of us."""
        found, now = Fleets(), self._clock.time()
        window = [deed for deed in book.deeds if now - deed.time < self._limits.window_s]
        found.under_way |= {entry.node for entry in interrupted(book.entries) if entry.step != Step.DRAIN.value}
        for node in everything:
            for name in node.partitions or ("",):
                found.size[name] = found.size.get(name, 0) + 1
            if is_out(node) and not is_persons(True, node.reason):
                found.drained(node)
                facts = self._facts(node, self._records(node), book.of(node.name))
                if under_way(facts, window, self._limits, now):
                    found.under_way.add(node.name)
        return found

    def view(self, node: Node, fleets: Fleets, book: Book) -> NodeView:
        """One node. Reads its records."""
        own, now = book.of(node.name), self._clock.time()
        records = self._records(node)
        found = tuple(one for one in records.findings if one.get("level") in _TOLD)
        facts = self._facts(node, records, own)
        begun = next((entry for entry in reversed(interrupted(own))), None)
        if begun is not None:
            decision = Decision(Step.WAIT, f"{begun.step} was begun ({begun.id}) and is not over", "under way")
        else:
            history = book.history(node.name, now - self._limits.rate_s) if facts.fault or facts.drained else []
            history += [] if own else _drains(node, records.events)
            decision = decide(facts, history, fleets.of(node), self._limits, now)
        by = "" if not is_out(node) else "other" if is_persons(True, node.reason) else "hpctrain"
        return NodeView(node, by, facts, decision, found, records.reason, tuple(own))

    def _records(self, node: Node) -> _Records:
        files = self.files(node.name)
        verdict, events = dict(files.load().verdict), []
        if is_out(node):
            with contextlib.suppress(PermissionError):  # the records are root's; others still see what Slurm says
                events = list(read_jsonl(files.events))
        return _Records(verdict, events)

    def _facts(self, node: Node, records: _Records, entries: Sequence[Entry]) -> Facts:
        worst = next((one for one in records.findings if one.get("level") == "drain"), None)
        seen, out = records.time, is_out(node)
        if not out and seen is not None and seen <= verdict_used(entries):
            worst = None  # it has drained the node once, or is of before its return
        since = _healthy_since(records.events, max(node.reason_time or 0.0, node.boot_time or 0.0)) if out else None
        return Facts(
            node.name, out, node.reason, node.state in _BUSY or "COMPLETING" in node.flags,
            booted=node.boot_time,
            fault=fault_key(worst["check"], worst["entity"]) if worst else "",
            action=self._action(worst, records) if worst else "",
            verdict_time=seen if not out or worst or since else None,
            healthy_since=since,
            rebooting=bool(node.flags & _REBOOTING),
        )  # fmt: skip

    def _action(self, finding: Mapping[str, Any], records: _Records) -> str:
        """What the finding asks for; several GPUs to be reset are one reboot."""
        action = str(finding.get("action", ""))
        gpus = {gpu_of(str(one.get("entity", ""))) for one in records.findings if one.get("level") == "drain"}
        can = self._resets and len(gpus) == 1 and None not in gpus
        return action if can or action != Action.RESET.value else Action.REBOOT.value


@dataclass(frozen=True, slots=True)
class _Records:
    verdict: Mapping[str, Any]
    events: Sequence[dict[str, Any]]

    @property
    def findings(self) -> Sequence[dict[str, Any]]:
        return tuple(self.verdict.get("findings", ()))

    @property
    def reason(self) -> str:
        return str(self.verdict.get("reason", ""))

    @property
    def time(self) -> float | None:
        seen = self.verdict.get("time")
        return None if seen is None else float(seen)


def is_out(node: Node) -> bool:
    """No new jobs go there, on somebody's or Slurm's decision."""
    return node.drained or node.state == "DOWN"


def is_silent(node: Node) -> bool:
    """Slurm has set it DOWN because it does not answer: that is nobody's decision, and is over when it answers again."""
    return node.state == "DOWN" and not node.drained and node.reason.startswith("Not responding")


def gpu_of(entity: str) -> int | None:
    """Index of the GPU that a fault or finding is about; None if it is about something else."""
    match = _GPU.match(entity)
    return int(match[1]) if match else None


def _healthy_since(events: Sequence[dict[str, Any]], after: float) -> float | None:
    """The first of the newest unbroken row of clean periodic checks since the drain or boot."""
    since = None
    for event in reversed(events):
        if event.get("kind") != "health":
            continue
        if event.get("level") in ("drain", "unknown") or float(event["time"]) <= after:
            break
        if event.get("context") == "periodic":
            since = float(event["time"])
    return since


def _drains(node: Node, events: Iterable[dict[str, Any]]) -> list[Deed]:
    """Each time that the verdict turned to a drain, for a node of which the journal knows nothing."""
    found, before = [], ""
    for event in events:
        level = str(event.get("level", ""))
        if event.get("kind") != "health":
            continue
        if level == "drain" and before != "drain":
            found.append(Deed(float(event["time"]), node.name, Step.DRAIN))
        before = level
    return found
