"""What a run has written about itself, read without asking Slurm (adapter over the file system)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.files import read_jsonl
from hpctrain.jobs.event import Event, merge
from hpctrain.jobs.goodput import Size
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.records import Progress, loss_of, real, whole


def read_progress(run: RunDir) -> Progress | None:
    """The newest heartbeat; None before the first, or if it cannot be read."""
    try:
        record = json.loads(run.progress.read_text(encoding="utf-8"))
        return Progress(
            time=float(record["time"]), phase=str(record.get("phase") or ""), step=whole(record.get("step")),
            total_steps=whole(record.get("total_steps")), loss=loss_of(record),
            tokens_per_s=real(record.get("tokens_per_s")), detail=str(record.get("detail") or ""),
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


def planned_ranks(plan: Mapping[str, Any]) -> int:
    """Number of training processes of a plan; 0 if it does not say."""
    nodes, each = plan.get("nodes"), plan.get("ranks_per_node")
    return nodes * each if isinstance(nodes, int) and isinstance(each, int) else 0


def planned_size(plan: Mapping[str, Any]) -> Size:
    """What the job of a plan holds, spares included; simulated GPUs cost nothing and are not counted."""
    nodes = (whole(plan.get("nodes")) or 0) + (whole(plan.get("spares")) or 0)
    slurm = plan.get("slurm")
    each = whole(slurm.get("gpus_per_node")) if isinstance(slurm, Mapping) and plan.get("device") == "cuda" else None
    return Size(nodes, nodes * (each or 0))


def newest_sign_of_life(run: RunDir) -> float | None:
    """When anything was last written: heartbeat, metrics or output of the batch step."""
    times = [_mtime(path) for path in (run.progress, run.metrics, run.job_log)]
    return max((time for time in times if time is not None), default=None)


def _events_of(path: Path) -> list[Event]:
    return [event for record in read_jsonl(path) if (event := Event.from_json(record)) is not None]


def _mtime(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
