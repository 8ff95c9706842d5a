"""End runs for good (service)."""

from __future__ import annotations

from dataclasses import dataclass

from hpctrain.clock import Clock
from hpctrain.errors import NoSuchJobError, SlurmError, StorageError
from hpctrain.jobs.find import Run
from hpctrain.jobs.snapshot import ask
from hpctrain.jobs.state import SlurmAnswer
from hpctrain.jobs.text import plural
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.port import Slurm


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of one run.

    Attributes:
        changed: it was ended by this call (or would be, in a dry run).
        message: one sentence for people.
    """

    name: str
    job_id: int
    changed: bool
    message: str


def cancel(run: Run, slurm: Slurm, clock: Clock, *, host: str, user: str, dry_run: bool = False) -> Cancelled:
    """Cancel a run's job, queued or running; one that has ended is left alone, so that a second call is safe.

    The event ``job.cancelled`` says who did it.

    Raises:
        ControllerDownError: Slurm does not answer; nothing was cancelled.
        SlurmError: Slurm does not permit it, or failed.
    """
    answer = ask([run], slurm)[run.name]
    if answer.kind is SlurmAnswer.NO_ANSWER:
        # Of the class of the cause, so that a controller that is down has its own exit code here too.
        raise type(answer.error or SlurmError(""))(
            f"job {run.job_id} was not cancelled: {answer.detail}", hint="try again once 'scontrol ping' says UP",
        )
    if answer.kind is SlurmAnswer.OTHER_CLUSTER:
        raise NoSuchJobError(
            f"{run.name} (job {run.job_id}) was submitted to another cluster, {answer.detail!r}",
            hint="go there: 'hpctrain --cluster NAME cancel ...' for a private cluster, SLURM_CONF for a site's",
        )
    job = answer.job
    if job is None or job.state.finished:
        how = f"it is {job.state.value}" if job else "Slurm no longer knows it"
        return Cancelled(run.name, run.job_id, False, f"{run.name} (job {run.job_id}) has already ended: {how}")
    where = f"running on {plural(len(job.nodes), 'node')}" if job.nodes else "queued"
    if dry_run:
        return Cancelled(run.name, run.job_id, True, f"would cancel {run.name} (job {run.job_id}), {where}")
    try:
        slurm.cancel(run.job_id)
    except NoSuchJobError:
        return Cancelled(run.name, run.job_id, False, f"{run.name} (job {run.job_id}) ended just now by itself")
    # Afterwards, so that a refused cancel leaves no false record.
    _record(run, f"cancelled by {user} while it was {job.state.value.lower()}", host=host, clock=clock)
    return Cancelled(run.name, run.job_id, True, f"cancelled {run.name} (job {run.job_id}), which was {where}")


def _record(run: Run, reason: str, *, host: str, clock: Clock) -> None:
    try:
        EventWriter(run.dir, "cli", host, clock, run.job_id).write("job.cancelled", reason)
    except StorageError:
        # A full disk or a removed directory must not keep anybody from ending a job.
        return
