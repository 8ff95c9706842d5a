"""Writes down each failure and how the job came back, with what every phase took (service over the event log)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpctrain.agent.control import try_write
from hpctrain.agent.ladder_model import Fault, Start
from hpctrain.clock import Clock
from hpctrain.files import write_json_atomic
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter


@dataclass(slots=True)
class Recovery:
    """One failure on its way back to a new step; times in seconds since the epoch, 0 while not reached."""

    fault_time: float
    detected: float
    cause: str
    reason: str
    best_step: int | None
    rung: str = ""
    incarnation: int = -1
    killed: float = 0.0
    started: float = 0.0


class RecoveryLog:
    """Of one start of the job; what a requeue interrupts the next start continues, through ``control/recovery.json``."""

    def __init__(self, run_dir: RunDir, events: EventWriter, clock: Clock) -> None:
        self._run_dir, self._events, self._clock = run_dir, events, clock
        self._open: Recovery | None = None
        self._path = run_dir.control / "recovery.json"

    @property
    def is_open(self) -> bool:
        """A failure waits for its first new step."""
        return self._open is not None

    def take_over(self, incarnation: int) -> None:
        """The failure that made the last start end, if this one continues it."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._open = Recovery(**json.loads(self._path.read_text(encoding="utf-8")))
            self._open.rung, self._open.incarnation = "R3", incarnation
        with contextlib.suppress(OSError):
            self._path.unlink()

    def fault(self, fault: Fault, incarnation: int, best_step: int | None) -> None:
        """Something has failed."""
        if self._open is None or self._open.started:
            self._open = Recovery(fault.fault_time, fault.time, fault.cause.value, fault.reason, best_step)
        self._events.note("fault.detected", fault.reason, step=best_step, evidence={
            "cause": fault.cause.value, "ranks": list(fault.ranks), "nodes": list(fault.nodes), "signal": fault.signal,
            "exit_code": fault.exit_code, "incarnation": incarnation, "detected_by": fault.detected_by,
            "fault_time": round(fault.fault_time, 6), "detect_s": round(max(fault.time - fault.fault_time, 0.0), 4),
        })

    def killed(self) -> None:
        """All ranks are gone."""
        if self._open is not None and not self._open.killed:
            self._open.killed = self._clock.time()

    def started(self, start: Start, spares_left: Sequence[str]) -> None:
        """The next incarnation has been sent for."""
        if self._open is None:
            return
        now = self._clock.time()
        attempt = start.attempt
        self._open.started, self._open.rung, self._open.incarnation = now, start.rung or "R3", start.ranks.incarnation
        self._open.killed = self._open.killed or now
        if attempt is not None:
            self._open.cause, self._open.reason = attempt.cause.value, start.reason
        if start.rung:
            self._events.note("recovery.started", f"{start.rung}: {start.reason}", evidence={
                "rung": start.rung, "incarnation": start.ranks.incarnation, "cause": self._open.cause,
                "reason": start.reason, "nodes": list(start.ranks.nodes), "spares_left": list(spares_left),
                "fingerprint": attempt.fingerprint if attempt else "",
                "blamed": list(attempt.nodes) if attempt else [],
            })

    def first_step(self, timings: Mapping[str, Any], step: int | None) -> None:
        """The first new step is done.

        Args:
            timings: of rank 0's heartbeat: ``init_s data_s load_s step_s at``; {} for a script that has none.
            step: completed steps, None if unknown.
        """
        if self._open is None:
            return
        one, self._open = self._open, None
        at = float(timings.get("at") or self._clock.time())
        restored = self._restored(one.fault_time)
        restored_step = restored.get("step")
        redone = max((one.best_step or 0) - restored_step, 0) if restored_step is not None else None
        total = max(at - one.fault_time, 0.0)
        took = f"{one.rung} after {one.reason}: the first new step came {total:.2f} s after the fault"
        self._events.note("recovery.finished", took, step=step, evidence={
            "rung": one.rung, "incarnation": one.incarnation, "cause": one.cause, "fault_time": round(one.fault_time, 6),
            "detect_s": _span(one.fault_time, one.detected), "kill_s": _span(one.detected, one.killed),
            "regroup_s": _span(one.killed, one.started), "init_s": timings.get("init_s"), "state_s": timings.get("load_s"),
            "data_s": timings.get("data_s"), "first_step_s": timings.get("step_s"), "total_s": round(total, 4),
            "redone_steps": redone, "restored_step": restored_step, "tier": restored.get("tier"),
            "measured": "first step" if timings else "first output",
        })

    def keep_for_next_start(self, cause: str, reason: str) -> None:
        """The job is queued again: the next start tells how long it took.

        Args:
            cause, reason: what is known now of the failure; at first it may have shown elsewhere.
        """
        if self._open is not None:
            self._open.cause, self._open.reason = cause, reason
            try_write(lambda: write_json_atomic(self._path, asdict(self._open) if self._open else {}, durable=False))

    def _restored(self, since: float) -> dict[str, Any]:
        """What rank 0 said it continued from: completed steps, and the tier."""
        for event in reversed(read_events(self._run_dir)):
            if event.time < since:
                break
            if event.kind == "checkpoint.restored":
                return {"step": event.step, "tier": next(iter(event.evidence.get("tiers") or ()), None)}  # most parts first
        return {}


def _span(start: float, end: float) -> float | None:
    return round(max(end - start, 0.0), 4) if start and end else None
