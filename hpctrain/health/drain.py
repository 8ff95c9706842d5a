"""Drain this node through scontrol, unless a person has a say in it already (adapter over scontrol)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from hpctrain import process
from hpctrain.health.verdict import PREFIX

_REASON = re.compile(r"\bReason=(.*?)(?: \[[^\]]*@[^\]]*\])?(?:\s+\w+=|\s*$)", re.DOTALL)
_DRAINED = re.compile(r"\bState=\S*DRAIN")
_OUT = re.compile(r"\bState=(?:\S*DRAIN|DOWN)")
_BUSY = re.compile(r"\bState=(?:ALLOCATED|MIXED|\S*COMPLETING)")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node stands with Slurm.

    Attributes:
        ours: it is out of service for a reason of ours.
        busy: jobs still run there.
    """

    ours: bool
    busy: bool


def standing(node: str, *, scontrol: str, slurm_conf: str, timeout_s: float = 3.0) -> Standing | None:
    """How this node stands; None if scontrol does not answer."""
    shown = process.run([scontrol, "show", "node", "-o", node], timeout_s=timeout_s, env=_environment(slurm_conf))
    if not shown.ok:
        return None
    match = _REASON.search(shown.stdout)
    ours = bool(_OUT.search(shown.stdout)) and match is not None and match.group(1).strip().startswith(PREFIX)
    return Standing(ours, bool(_BUSY.search(shown.stdout)))


def drain(node: str, reason: str, *, scontrol: str, slurm_conf: str, timeout_s: float = 3.0) -> str:
    """Set the node to drain with this reason; return "" if that was done, else why not, in one sentence.

    A reason that is not ours belongs to a person or to Slurm itself: it is left as it is, and so is the node's state. A node
    that we have drained already keeps its reason, too.
    """
    environment = _environment(slurm_conf)
    shown = process.run([scontrol, "show", "node", "-o", node], timeout_s=timeout_s, env=environment)
    if not shown.ok:
        return f"scontrol does not answer: {(shown.stderr or 'timeout').strip()[:200]}"
    match = _REASON.search(shown.stdout)
    old = match.group(1).strip() if match else ""
    if old and old.lower() != "none" and not old.startswith(PREFIX):
        return f"the node has the reason of somebody else: '{old}'"
    if old and _DRAINED.search(shown.stdout):
        return ""  # drained by us already: the first reason says since when, and a new one would reset that
    update = [scontrol, "update", f"NodeName={node}", "State=DRAIN", f"Reason={reason}"]
    done = process.run(update, timeout_s=timeout_s, env=environment)
    return "" if done.ok else f"scontrol refused: {(done.stderr or 'timeout').strip()[:200]}"


def _environment(slurm_conf: str) -> dict[str, str]:
    environment = {"PATH": "/usr/bin:/bin", **({"SLURM_CONF": slurm_conf} if slurm_conf else {})}
    return environment | {key: value for key, value in os.environ.items() if key == "SLURM_CONF" and not slurm_conf}
