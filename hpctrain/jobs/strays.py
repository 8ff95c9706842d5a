"""Jobs of ours whose run is not in the runs directory: removed, or made with another one (service)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hpctrain.errors import NotFoundError, SlurmError
from hpctrain.jobs.find import Run, find_run, read_run
from hpctrain.jobs.layout import RunDir
from hpctrain.slurm.model import Job
from hpctrain.slurm.port import Slurm

MARK = "hpctrain:"
"""What the comment of every job that hpctrain submits starts with; the run's name follows."""


def find_or_ask(key: str, runs_dir: str | Path, slurm: Slurm | None) -> Run:
    """The run that a person means, also when only Slurm still knows it; see :func:`hpctrain.jobs.find.find_run`.

    Raises:
        NotFoundError: neither the runs directory nor Slurm knows it.
    """
    try:
        return find_run(key, runs_dir)
    except NotFoundError:
        try:
            jobs = slurm.jobs() if slurm is not None else []
        except SlurmError:
            jobs = []
        named = [run for run in strays(jobs, ()) if key in (run.name, str(run.job_id))]
        if not named:
            raise
        return named[-1]


def strays(jobs: Iterable[Job], runs: Sequence[Run]) -> list[Run]:
    """A run for each of our jobs that has not ended and is none of ``runs``."""
    have = {(run.job_id, run.name) for run in runs}
    ours = [job for job in jobs if job.comment.startswith(MARK) and not job.state.finished]
    return [_run_of(job) for job in ours if (job.job_id, job.comment[len(MARK):]) not in have]


def _run_of(job: Job) -> Run:
    directory = Path(job.work_dir or "/nonexistent")
    found = read_run(directory)
    if found is not None and found.job_id == job.job_id:
        return found
    return Run(
        name=job.comment[len(MARK):], dir=RunDir(directory), job_id=job.job_id, submitted_time=job.submit_time or 0.0,
        user=job.user, record={"job_name": job.name},
    )
