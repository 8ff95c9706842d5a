"""What an agent says of a rank, as the detectors see it (pure, standard library only)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hpctrain.detect.beat import RankBeat


def beat_of(report: Mapping[str, Any], node: str, incarnation: int, seen: float) -> RankBeat:
    """Read one rank's part of a beat; whatever is not understood is left out.

    Args:
        report: rank, pid, heartbeat, output_bytes, cpu_s.
        seen: seconds since the epoch.
    """
    own = report.get("heartbeat")
    heartbeat: Mapping[str, Any] = own if isinstance(own, Mapping) and own.get("incarnation") == incarnation else {}
    return RankBeat(
        rank=int(report["rank"]), node=node, incarnation=incarnation, time=_number(heartbeat.get("time")) or 0.0, seen=seen,
        phase=str(heartbeat.get("phase") or ""), step=_count(heartbeat.get("step")),
        total_steps=_count(heartbeat.get("total_steps")), loss=_number(heartbeat.get("loss")),
        tokens_per_s=_number(heartbeat.get("tokens_per_s")), detail=str(heartbeat.get("detail") or ""),
        output_bytes=_count(report.get("output_bytes")) or 0, cpu_s=_number(report.get("cpu_s")) or 0.0,
        pid=_count(report.get("pid")) or 0,
    )


def _number(value: Any) -> float | None:
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and math.isfinite(number) else None
