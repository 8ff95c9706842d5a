"""Builds run directories for tests of anything that watches runs, and for trying the commands without a cluster.

::

    run = RunBuilder(tmp_path, "quickstart-ab12", job_id=7, submitted=1000.0)
    run.event(1004, "coordinator", "job.started").steps(1, 40, start=1010).progress(40, total=100)
    run.log(0, "n1", [(1010.0, "hello")]).job_log("slurm says hi")
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hpctrain.files import append_jsonl
from hpctrain.ids import Incarnation, JobId, NodeName, Rank
from hpctrain.jobs.event import Event
from hpctrain.jobs.find import Run, read_run
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.text import iso


def falling_loss(step: int) -> float:
    """A loss that falls like a real one."""
    return 1.5 + 4.0 * math.exp(-step / 60) + 0.05 * math.sin(step * 1.7)


class RunBuilder:
    """A run directory that grows as a real one does; every method returns the builder."""

    def __init__(
        self, runs_dir: Path, name: str, *, job_id: int = 1, submitted: float = 1_800_000_000.0, user: str = "alice",
        cluster: str = "fake", recipe: str = "quickstart", total_steps: int | None = 100, nodes: int = 2,
    ) -> None:
        self.dir = RunDir(runs_dir / name)
        self.job_id = job_id
        for path in (self.dir.path, self.dir.events, self.dir.logs):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = {
            "job_id": job_id, "run_name": name, "run_dir": str(self.dir.path), "submitted_time": submitted,
            "recipe": recipe, "user": user, "cluster": cluster, "slurm_conf": "",
        }
        self.dir.record.write_text(json.dumps(record))
        self.dir.plan.write_text(json.dumps({"version": 1, "nodes": nodes, "spares": 0, "total_steps": total_steps}))

    @property
    def run(self) -> Run:
        """The run, read back."""
        run = read_run(self.dir.path)
        if run is None:
            raise ValueError(f"{self.dir.path} is not a run")
        return run

    def event(
        self, time: float, source: str, kind: str, reason: str = "", *, node: str = "", step: int | None = None,
        **evidence: Any,
    ) -> RunBuilder:
        """Add one event."""
        event = Event(time, source, kind, JobId(self.job_id), node, step, reason, evidence)
        append_jsonl(self.dir.events / f"{source}-{node or 'n1'}.jsonl", event.to_json())
        return self

    def steps(
        self, first: int, last: int, *, start: float, seconds: float = 1.0, incarnation: int = 0,
        loss: Callable[[int], float | None] = falling_loss, tokens_per_step: int = 4096,
    ) -> RunBuilder:
        """Add the metrics of steps ``first`` to ``last``; the first is done ``seconds`` after ``start``."""
        lines = []
        for index, step in enumerate(range(first, last + 1), start=1):
            value = loss(step)
            lines.append(json.dumps({
                "step": step, "time": start + index * seconds, "incarnation": incarnation,
                "loss": value if value is not None and math.isfinite(value) else None,
                "learning_rate": 3e-4, "grad_norm": 1.0, "tokens": step * tokens_per_step,
                "tokens_per_s": tokens_per_step / seconds, "step_time_s": seconds * 0.95,
                "epoch": 0.0,
            }) + "\n")
        with self.dir.metrics.open("a") as file:
            file.writelines(lines)
        return self

    def progress(self, step: int, *, time: float, total: int | None = 100, phase: str = "step", **values: Any) -> RunBuilder:
        """Replace the heartbeat."""
        record = {"time": time, "phase": phase, "step": step, "total_steps": total, **values}
        self.dir.progress.write_text(json.dumps(record))
        return self

    def log(self, rank: int, node: str, lines: Iterable[tuple[float, str]], *, incarnation: int = 0) -> RunBuilder:
        """Append stamped lines to a rank's log."""
        path = self.dir.rank_log(Incarnation(incarnation), Rank(rank), NodeName(node))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a") as file:
            file.writelines(f"{iso(time)} {text}\n" for time, text in lines)
        return self

    def job_log(self, *lines: str) -> RunBuilder:
        """Append lines to the batch step's output, as they are."""
        with self.dir.job_log.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        return self
