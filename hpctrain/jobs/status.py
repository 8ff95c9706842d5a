"""How a run is doing, as one value (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hpctrain.jobs.text import iso


class State(str, Enum):
    """The states of a run in plain words; Slurm's own state is kept beside it."""

    QUEUED = "queued"
    HELD = "held"
    REQUEUED = "requeued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUSPENDED = "suspended"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A snapshot of one run. Times are seconds since the epoch; None means not known (yet).

    Attributes:
        id: Slurm's job id.
        name: the run's name.
        run_dir: its directory, "" if that is gone.
        state: see :class:`State`; compares equal to its word: ``status.state == "running"``.
        explanation: one sentence: why it is in that state.
        advice: what to do about it, "" for nothing.
        final: it will not change any more by itself.
        succeeded: the work is complete; None while running and where the end is not known.
        slurm_state: Slurm's word, "" if Slurm does not know the job (any more) or does not answer.
        slurm_error: why Slurm could not be asked, "" if it answered; the rest is then from the run's own records.
        reason: Slurm's reason code, "" for none.
        phase: what rank 0 was doing at its last heartbeat: ``data``, ``step``, ``save``, ``load``.
        step: completed optimizer steps.
        eta_s: seconds to the last step at the present speed.
        queued_s: time spent in the queue before the first start.
        elapsed_s: time since the first start, up to the end.
        restarts: how often the ranks were started again.
        heartbeat_age_s: seconds since rank 0's last sign of life.
        silent: that is longer than it should be.
    """

    id: int | None
    name: str
    run_dir: str
    state: State
    explanation: str = ""
    advice: str = ""
    final: bool = False
    succeeded: bool | None = None
    slurm_state: str = ""
    slurm_error: str = ""
    reason: str = ""
    cluster: str = ""
    recipe: str = ""
    partition: str = ""
    nodes: tuple[str, ...] = ()
    num_nodes: int = 0
    phase: str = ""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    step_time_s: float | None = None
    eta_s: float | None = None
    submitted_time: float | None = None
    started_time: float | None = None
    ended_time: float | None = None
    queued_s: float | None = None
    elapsed_s: float | None = None
    time_limit_s: int | None = None
    restarts: int = 0
    incarnation: int = 0
    heartbeat_age_s: float | None = None
    silent: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: no NaN (it becomes the word), times also as ISO 8601 in UTC."""
        values: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            values[name] = json_value(value)
            if name.endswith("_time"):
                values[f"{name}_iso"] = iso(value)
        return values


def json_value(value: Any) -> Any:
    """A value as strict JSON has it: NaN and infinities become ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""
    if isinstance(value, State):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: json_value(item) for key, item in value.items()}
    return value
