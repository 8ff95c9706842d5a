"""What a user's own watchdog reads of, and writes into, the run directories of its jobs (adapter over the file system).

A job is ours to look after if its comment names a run, its working directory is that run's directory, and that belongs to
us. Files are read again only when they have changed.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock
from hpctrain.files import read_jsonl
from hpctrain.jobs.event import RUN_ENDS
from hpctrain.jobs.find import read_run
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events, read_progress
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.model import Job, Node
from hpctrain.submit.plan_model import Plan
from hpctrain.watchdog import attempts
from hpctrain.watchdog.budget import Attempt, BudgetLimits
from hpctrain.watchdog.model import COMMENT_PREFIX, CONTINUE_AFTER_S, Beat, Command, Looked, Managed

LOG_TAIL_BYTES = 65_536
DOUBT_S = 20.0
"""A sign of life that seems not to have changed for so long is read again in any case."""
BACK_AFTER_S = 30.0
"""A sign of life this much younger than a decision means that the coordinator is back, whatever the clocks' difference."""
_OUT_OF_MEMORY = re.compile(r"^slurmstepd\S*: error: .*(oom[-_ ]kill|out of memory)", re.I | re.M)


class RunFiles:
    """The runs of one user.

    Args:
        host: of this watchdog, for the name of its event file.
    """

    def __init__(
        self, host: str, clock: Clock, *, uid: int | None = None, continue_after_s: float = CONTINUE_AFTER_S,
    ) -> None:
        self._host, self._clock, self._continue_after_s = host, clock, continue_after_s
        self._uid = os.getuid() if uid is None else uid
        self._managed: dict[tuple[int, str], tuple[tuple[int, int], Managed | None]] = {}
        self._beats: dict[str, tuple[tuple[int, int], float, Beat | None]] = {}

    def refresh(self) -> None:
        """Called before each poll."""

    def managed(self, job: Job) -> Managed | None:
        """The run of a job; None if there is none that we look after."""
        if not job.comment.startswith(COMMENT_PREFIX) or not job.work_dir:
            return None
        path = Path(job.work_dir)
        if path.name != job.comment.removeprefix(COMMENT_PREFIX):
            return None
        stamp = _stamp(path / "run.json", self._uid)
        if stamp is None:
            return None
        key = (int(job.job_id), job.work_dir)
        known = self._managed.get(key)
        if known is None or known[0] != stamp:
            known = self._managed[key] = (stamp, self._read_managed(path, int(job.job_id)))
        return known[1]

    def beat(self, job: Job, managed: Managed) -> Beat | None:
        """The coordinator's last sign of life."""
        path = RunDir(Path(managed.run_dir)).control / "coordinator.json"
        stamp = _stamp(path, self._uid)
        if stamp is None:
            self._beats.pop(managed.run_dir, None)
            return None
        now, known = self._clock.time(), self._beats.get(managed.run_dir)
        if known is None or known[0] != stamp:
            known = self._beats[managed.run_dir] = (stamp, now, _read_beat(path))
        elif now - known[1] > DOUBT_S:
            # NFS may show an old directory entry for a minute; opening a file asks the server.
            known = self._beats[managed.run_dir] = (stamp, known[1], _read_beat(path))
        beat = known[2]
        # A run that went on as another job has the old one's file until the new one starts.
        return beat if beat is None or beat.job in (0, int(job.job_id)) else None

    def _read_managed(self, path: Path, job_id: int) -> Managed | None:
        run = read_run(path)
        try:
            plan = Plan.from_json(json.loads((path / "plan.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if run is None:
            return None
        limits, fenced = BudgetLimits.from_plan(plan), run.job_id != job_id
        return Managed(
            path.name, str(path), plan.slurm.requeue, limits, plan.slurm.nodes, self._continue_after_s, fenced,
        )

    def look(self, command: Command, nodes: list[Node]) -> Looked:
        """A closer look at one run."""
        run = RunDir(Path(command.run_dir))
        progress = read_progress(run)
        over = False
        if command.data.get("lost"):
            kinds = [event.kind for event in read_events(run) if event.kind.startswith("job.")]
            over = (bool(kinds) and kinds[-1] in RUN_ENDS) or not run.record.exists()
        return Looked(
            self._clock.time(), command.job_id, command.restarts, nodes, attempts.read(run),
            step=progress.step if progress else None, over=over,
            out_of_memory=bool(_OUT_OF_MEMORY.search(_tail(run.job_log))),
        )

    def attempt(self, command: Command) -> None:
        """Count a failure, once. Raises StorageError."""
        run, attempt = RunDir(Path(command.run_dir)), Attempt.from_json(command.data["attempt"])
        if attempt not in attempts.read(run):
            attempts.append(run, attempt)

    def event(self, command: Command) -> None:
        """Write an event, once. Raises StorageError."""
        run = RunDir(Path(command.run_dir))
        written = (record for path in run.events.glob("watchdog-*.jsonl") for record in read_jsonl(path))
        if any((record.get("evidence") or {}).get("key") == command.key for record in written):
            return
        data = command.data
        EventWriter(run, "watchdog", self._host, self._clock, command.job_id).write(
            str(data["kind"]), command.reason, node=str(data.get("node") or ""), step=data.get("step"),
            evidence={**data["evidence"], "key": command.key},
        )

    def alive_after(self, command: Command, time_s: float) -> bool:
        """Whether the coordinator has shown life well after a time and not ended since."""
        beat = _read_beat(RunDir(Path(command.run_dir)).control / "coordinator.json")
        return beat is not None and not beat.over and beat.time > time_s + BACK_AFTER_S


def _read_beat(path: Path) -> Beat | None:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        return Beat.from_json(data) if isinstance(data, dict) else None
    except (OSError, ValueError):
        return None


def _stamp(path: Path, uid: int) -> tuple[int, int] | None:
    """What changes with a file; None if there is none of ours."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ino) if status.st_uid == uid else None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
