"""Look at nodes, take them out of service and bring them back (service over Slurm and the records of the health checks).

A drain that is not ours is never changed here. Giving a node back also gives back its slot of the breaker, and settles what
the kernel log said: otherwise the next check would drain it again for what has been mended.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock
from hpctrain.errors import SlurmError, StorageError, UsageError
from hpctrain.files import read_jsonl, storage_errors
from hpctrain.health import breaker
from hpctrain.health.config import Config
from hpctrain.health.kernel_log import clear
from hpctrain.health.node_state import NodeFiles
from hpctrain.health.policy import Decision, Deed, Facts, Fleet, Limits, Step, decide, fault_key, is_persons
from hpctrain.health.verdict import PREFIX
from hpctrain.ids import NodeName
from hpctrain.slurm.model import Node
from hpctrain.slurm.port import Slurm

_BUSY = ("ALLOCATED", "MIXED")


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node, what its checks say, and what the policy would do.

    Attributes:
        by: ``hpctrain``, ``other`` (a person or Slurm), "" for a node in service.
        evidence: findings of the last verdict above ``observe``, as JSON.
    """

    node: Node
    by: str
    facts: Facts
    decision: Decision
    evidence: tuple[dict[str, Any], ...] = ()


class Nodes:
    """The nodes of one cluster; ``config`` says where their health checks keep records."""

    def __init__(self, slurm: Slurm, config: Config, clock: Clock, limits: Limits | None = None) -> None:
        self._slurm, self._config, self._clock = slurm, config, clock
        self._limits = limits or Limits(settle_s=config.settle_s)

    def look(self, names: Sequence[str] = ()) -> list[NodeView]:
        """Nodes in natural order; all of them without names. Raises NoSuchNodeError."""
        everything = self._slurm.nodes()
        chosen = self._slurm.nodes([NodeName(name) for name in names]) if names else everything
        return [self._view(node, everything) for node in chosen]

    def drain(self, name: str, reason: str, *, dry_run: bool = False) -> str:
        """Take a node out of service in a person's name; what was or would be done, in one sentence.

        Raises:
            SlurmError: somebody else has drained it already.
            UsageError: the reason looks like one of ours.
        """
        if reason.strip().startswith(PREFIX):
            raise UsageError(f"a reason that begins with '{PREFIX}' is one of the health checks", hint="use other words")
        (view,) = self.look([name])
        self._refuse_others(view)
        if not dry_run:
            self._slurm.drain([view.node.name], reason)
        return f"{name}: {_would(dry_run)}drained: {reason}"

    def undrain(self, name: str, *, dry_run: bool = False) -> str:
        """Bring back a node that we drained: a person says that the fault is mended.

        Raises:
            SlurmError: the node is not drained, or not by us.
            StorageError: the records of its checks cannot be changed; the node stays drained.
        """
        (view,) = self.look([name])
        self._refuse_others(view)
        if not view.node.drained:
            raise SlurmError(f"node {name} is not drained")
        if not dry_run:
            settled = self._settle_log(name)  # before the node is back: its next check would drain it again
            self._slurm.undrain([view.node.name])
            self._give_back_slot(name)
            if not settled:
                return f"{name}: back in service; its records are not here, so what its kernel log said still counts"
        return f"{name}: {_would(dry_run)}back in service; it was drained for: {view.node.reason}"

    def validate(self, name: str, *, dry_run: bool = False) -> tuple[bool, str]:
        """Bring a node back if its checks say that it is healthy; whether it came back, and why or why not.

        Raises:
            SlurmError: the node is not drained, or not by us.
        """
        (view,) = self.look([name])
        self._refuse_others(view)
        if view.decision.step is not Step.RETURN:
            return False, f"{name}: {view.decision.step.value}: {view.decision.reason}"
        return True, f"{self.undrain(name, dry_run=dry_run)} ({view.decision.reason})"

    def _refuse_others(self, view: NodeView) -> None:
        if view.by == "other":
            who = view.node.reason_user or "somebody"
            raise SlurmError(
                f"node {view.node.name} was drained by {who}: '{view.node.reason}'",
                hint="what is not ours is not changed; its owner can use 'scontrol update NodeName=... State=UNDRAIN'",
            )

    def _settle_log(self, name: str) -> bool:
        """Forget what the node's kernel log said; False if there are no records of this node here."""
        files = self._files(name)
        with storage_errors(files.state):
            if not files.state.exists():
                return False
            with files.locked() as locked:
                if not locked:
                    raise StorageError("the records of the node's checks are busy", where=str(files.state), hint="try again")
                state = files.load()
                files.save(replace(state, log=clear(state.log, "", self._clock.time())))
        return True

    def _give_back_slot(self, name: str) -> None:
        if self._config.breaker.directory:
            with storage_errors(self._config.breaker.directory):
                breaker.release(Path(self._config.breaker.directory), name)

    def _files(self, name: str) -> NodeFiles:
        return NodeFiles(Path(self._config.state_dir.replace("{node}", name)), name, self._config.log_bytes)

    def _view(self, node: Node, everything: Sequence[Node]) -> NodeView:
        files = self._files(node.name)
        verdict, events = dict(files.load().verdict), []
        with contextlib.suppress(PermissionError):  # the records are root's; others still see what Slurm says
            events = list(read_jsonl(files.events))
        found = [one for one in verdict.get("findings", ()) if one.get("level") in ("warn", "drain", "unknown")]
        facts = self._facts(node, verdict, events)
        decision = decide(facts, _history(node, events), _fleet(node, everything), self._limits, self._clock.time())
        by = "" if not node.drained else "other" if is_persons(True, node.reason) else "hpctrain"
        return NodeView(node, by, facts, decision, tuple(found))

    def _facts(self, node: Node, verdict: dict[str, Any], events: Sequence[dict[str, Any]]) -> Facts:
        worst = next((one for one in verdict.get("findings", ()) if one.get("level") == "drain"), None)
        healthy_since, seen = _healthy_since(events, node.reason_time or 0.0), verdict.get("time")
        return Facts(
            node.name, node.drained, node.reason, node.state in _BUSY or "COMPLETING" in node.flags,
            fault=fault_key(worst["check"], worst["entity"]) if worst else "",
            action=str(worst["action"]) if worst else "",
            verdict_time=float(seen) if seen is not None and (worst or healthy_since) else None,
            healthy_since=healthy_since,
        )  # fmt: skip


def _would(dry_run: bool) -> str:
    return "would be " if dry_run else ""


def _healthy_since(events: Sequence[dict[str, Any]], drained: float) -> float | None:
    """The first of the newest unbroken row of clean periodic checks since the drain."""
    since = None
    for event in reversed(events):
        if event.get("kind") != "health":
            continue
        if event.get("level") in ("drain", "unknown") or float(event["time"]) <= drained:
            break
        if event.get("context") == "periodic":
            since = float(event["time"])
    return since


def _history(node: Node, events: Sequence[dict[str, Any]]) -> list[Deed]:
    """Each time that the verdict turned to a drain; what the node's own log still has."""
    deeds, before = [], ""
    for event in events:
        level = str(event.get("level", ""))
        if event.get("kind") != "health":
            continue
        if level == "drain" and before != "drain":
            deeds.append(Deed(float(event["time"]), node.name, Step.DRAIN))
        before = level
    return deeds


def _fleet(node: Node, everything: Sequence[Node]) -> Fleet:
    """The smallest partition of the node."""
    sizes = {name: [one for one in everything if name in one.partitions] for name in node.partitions}
    members = min(sizes.values(), key=len, default=list(everything))
    ours = [one for one in members if one.drained and not is_persons(True, one.reason)]
    return Fleet(len(members), len(ours))
