"""What a run has written about itself, read without asking Slurm (adapter over the file system)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.files import read_jsonl
from hpctrain.jobs.event import Event, merge
from hpctrain.jobs.layout import RunDir


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest heartbeat of rank 0.

    Attributes:
        time: when rank 0 said so, seconds since the epoch.
        phase: what it was doing: ``data``, ``step``, ``save``, ``load`` ...
        step: completed optimizer steps, None before the loop.
    """

    time: float
    phase: str = ""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None


def read_progress(run: RunDir) -> Progress | None:
    """The newest heartbeat; None before the first, or if it cannot be read."""
    try:
        record = json.loads(run.progress.read_text(encoding="utf-8"))
        return Progress(
            time=float(record["time"]), phase=str(record.get("phase") or ""), step=whole(record.get("step")),
            total_steps=whole(record.get("total_steps")), loss=real(record.get("loss")),
            tokens_per_s=real(record.get("tokens_per_s")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_events(run: RunDir) -> list[Event]:
    """All events of all sources, in order of time; torn and foreign lines are left out."""
    files = sorted(run.events.glob("*.jsonl"))
    return merge(_events_of(path) for path in files)


def read_plan(run: RunDir) -> Mapping[str, Any]:
    """``plan.json`` as plain data; empty if there is none."""
    try:
        plan = json.loads(run.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def newest_sign_of_life(run: RunDir) -> float | None:
    """When anything was last written: heartbeat, metrics or output of the batch step."""
    times = [_mtime(path) for path in (run.progress, run.metrics, run.job_log)]
    return max((time for time in times if time is not None), default=None)


def whole(value: object) -> int | None:
    """An integer out of JSON, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value)


def real(value: object) -> float | None:
    """A number out of JSON (NaN and infinity included), None for anything else."""
    return None if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)


def _events_of(path: Path) -> list[Event]:
    return [event for record in read_jsonl(path) if (event := Event.from_json(record)) is not None]


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
