"""The breaker: no node drains itself without a slot, and there are only so many (adapter over a shared directory).

A slot is a file that exists or not: ``O_EXCL`` lets exactly one node make it, on NFS too. A driver roll-out that goes wrong
on every node at once takes the slots that are there, and then raises alarms instead of emptying the cluster. ``hpctrain
nodes tend`` and ``undrain`` give slots back.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from hpctrain.health.probe_child import Probe, Report, run_probes


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether a drain is permitted, and why or why not in one sentence."""

    granted: bool
    reason: str


def ask(directory: str, slots: int, node: str, reason: str, timeout_s: float) -> Permission:
    """Take a slot for this node, or find that it has one; wait no longer than the timeout."""

    def take(report: Report) -> None:
        report.step(f"taking a slot in {directory}")
        report.emit(slot=take_slot(Path(directory), slots, node, reason))

    answer = run_probes([Probe("breaker", take, timeout_s)])["breaker"]
    slot = next((record["slot"] for record in answer.records if "slot" in record), None)
    if slot is None:
        return Permission(False, f"the breaker did not answer within {timeout_s:g} s ({answer.state.step})")
    if slot < 0:
        return Permission(False, f"all {slots} drains that the breaker permits are taken")
    return Permission(True, f"slot {slot + 1} of {slots}")


def take_slot(directory: Path, slots: int, node: str, reason: str) -> int:
    """Number of the slot that this node now has; -1 if there is none. Raises OSError."""
    held = held_slots(directory)
    for number, holder in held.items():
        if holder == node and number < slots:
            return number
    for number in range(slots):
        if number in held:
            continue
        with contextlib.suppress(FileExistsError):
            handle = os.open(_file(directory, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            with os.fdopen(handle, "w") as file:
                json.dump({"node": node, "time": time.time(), "reason": reason}, file)
            return number
    return -1


def held_slots(directory: Path) -> dict[int, str]:
    """Slot -> the node that has it ("" while its holder writes, or if the file is damaged). Raises OSError."""
    found = {}
    for entry in os.scandir(directory):
        number = entry.name.removeprefix("slot-").removesuffix(".json")
        if entry.name.startswith("slot-") and number.isdecimal():
            try:
                found[int(number)] = str(json.loads(Path(entry.path).read_bytes())["node"])
            except (OSError, ValueError, KeyError, TypeError):
                found[int(number)] = ""
    return found


def release(directory: Path, node: str) -> bool:
    """Give back the slot of a node that is in service again. Raises OSError."""
    mine = [number for number, holder in held_slots(directory).items() if holder == node]
    for number in mine:
        _file(directory, number).unlink(missing_ok=True)
    return bool(mine)


def _file(directory: Path, number: int) -> Path:
    return directory / f"slot-{number}.json"
