"""Goes on with a run as another job while Slurm waits for a dead node (service over Slurm and the run directory).

A job that was queued again after a node died stays COMPLETING until slurmctld declares the node DOWN: SlurmdTimeout, five
minutes by default. An ordinary user cannot declare that. So the run is submitted once more, held and without the dead
nodes; the run's record is given the new job's number; the old job is cancelled; and only when Slurm shows that it is, the
new one is released. At no moment can both start. Each step looks first whether it was done, so that they may be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock
from hpctrain.errors import NoSuchJobError, SlurmError
from hpctrain.files import write_json_atomic
from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.slurm.model import Job, JobState, Submission
from hpctrain.slurm.nodelist import fold
from hpctrain.slurm.port import Slurm
from hpctrain.watchdog.causes import waits_for_dead_node
from hpctrain.watchdog.model import COMMENT_PREFIX, Command


class Continuation:
    """Continues runs of this user.

    Args:
        point: called between the steps, for tests that end the process there.
    """

    def __init__(self, slurm: Slurm, clock: Clock, point: Callable[[str], None] = lambda _: None) -> None:
        self._slurm, self._clock, self._point = slurm, clock, point

    def carry_on(self, command: Command) -> tuple[str, str]:
        """Do what is left to do; the journal's state ("" for not yet) and what came of it.

        Raises:
            SlurmError, StorageError: a step failed; it may be tried again.
        """
        mine = self._slurm.jobs()
        old = next((job for job in mine if job.job_id == command.job_id), None)
        new = self._find(command, mine)
        run = RunDir(Path(command.run_dir))
        record = _read(run)
        if new is None:
            if old is None or old.restarts != command.restarts or not waits_for_dead_node(old, self._clock.time()):
                return "void", "the job does not wait for a dead node any more"
            new_id = self._slurm.submit(Submission(_script(run, command.nodes), str(run.path)))
        elif old is not None and not _over(old, self._clock.time()) and not waits_for_dead_node(old, self._clock.time()):
            return self._go_back(run, record, old, new)
        else:
            new_id = new.job_id
        self._point("submitted")
        if record.get("job_id") != new_id:
            earlier = [*record.get("earlier_jobs", []), command.job_id]
            write_json_atomic(run.record, {**record, "job_id": new_id, "earlier_jobs": list(dict.fromkeys(earlier))})
        self._point("recorded")
        if not self._end(command.job_id):
            return "", f"job {command.job_id} is not cancelled yet"
        self._point("fenced")
        if new is None or new.held:
            self._slurm.release(new_id)
        return "done", f"continues as job {new_id}"

    def _find(self, command: Command, mine: list[Job]) -> Job | None:
        """The continuation that an earlier try has submitted."""
        comment = COMMENT_PREFIX + command.run_name
        found = [
            job for job in mine
            if job.comment == comment and job.work_dir == command.run_dir and job.job_id > command.job_id
            and not job.state.finished
        ]  # fmt: skip
        return found[-1] if found else None

    def _end(self, job_id: int) -> bool:
        """Cancel the old job; True when Slurm shows that it will not start again."""
        try:
            self._slurm.cancel(JobId(job_id))
        except NoSuchJobError:
            return True
        left = self._slurm.jobs([JobId(job_id)], exclusions=False)
        return not left or _over(left[0], self._clock.time())

    def _go_back(self, run: RunDir, record: dict[str, Any], old: Job, new: Job) -> tuple[str, str]:
        """Slurm was quicker: the old job starts by itself, so that the new one, still held, is taken away."""
        if not new.held:
            raise SlurmError(f"jobs {old.job_id} and {new.job_id} of one run are both active", hint="cancel one of them")
        self._slurm.cancel(new.job_id)
        if record.get("job_id") == new.job_id:
            write_json_atomic(run.record, {**record, "job_id": old.job_id})
        return "void", "the old job starts after all"


def _over(job: Job, now: float) -> bool:
    """Slurm will not start it again; while it is cleaned up, its end lies in the past."""
    if job.state in (JobState.RUNNING, JobState.UNKNOWN) and "COMPLETING" in job.flags:
        return job.end_time is not None and job.end_time <= now + 5.0
    return job.state.finished


def _read(run: RunDir) -> dict[str, Any]:
    try:
        record = json.loads(run.record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SlurmError(f"the run's record cannot be read: {error}", where=str(run.record)) from None
    return record if isinstance(record, dict) else {}


def _script(run: RunDir, exclude: tuple[str, ...]) -> str:
    """The run's own batch script, held and kept from some nodes."""
    try:
        first, _, rest = run.script.read_text(encoding="utf-8").partition("\n")
    except OSError as error:
        raise SlurmError(f"the run's batch script cannot be read: {error.strerror}", where=str(run.script)) from None
    nodes = fold(NodeName(node) for node in exclude)
    return f"{first}\n#SBATCH --hold\n#SBATCH --exclude={nodes}\n{rest}"
