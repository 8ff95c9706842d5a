"""Read what jobs used and how they ended: from the database where there is one, else from what is left (service)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpctrain.clock import Clock
from hpctrain.errors import AccountingDownError, NoAccountingError, SlurmError
from hpctrain.ids import JobId
from hpctrain.jobs import reader
from hpctrain.jobs.books import as_job, from_events, from_queue, runaways, with_queue
from hpctrain.jobs.find import Run
from hpctrain.jobs.goodput import Size
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.usage import MARK, Key, key_of
from hpctrain.slurm.accounting import AccountedJob, AccountingQuery, Attempt, Tres, by_job
from hpctrain.slurm.model import Job, JobState
from hpctrain.slurm.port import Slurm

DATABASE, RECORDS = "accounting", "records"
"""Where what is told comes from: Slurm's database, or the controller and the run directories."""
LOOK_AHEAD_S = 3600.0
"""sacct leaves out what may start after the window only, as a requeued job does for two minutes: without that record, the
attempt before it would look like the end."""
MARGIN_S = 60.0
"""A run's own time of submission may be this much later than Slurm's."""


@dataclass(frozen=True, slots=True)
class Books:
    """What is known of the jobs that were asked for.

    Attributes:
        source: :data:`DATABASE` or :data:`RECORDS`.
        problems: a sentence for everything that could not be asked or read.
        runaways: see :func:`hpctrain.jobs.books.runaways`.
        runs: the run of each job that has one in the runs directory.
    """

    jobs: tuple[AccountedJob, ...]
    source: str
    problems: tuple[str, ...] = ()
    runaways: frozenset[JobId] = frozenset()
    runs: Mapping[Key, Run] | None = None


class Accounts:
    """The accounting of one Slurm, as one user sees it.

    Args:
        user: the caller, whose own jobs are meant where a query names no user.

    Attributes:
        problem: why the database could not be read, "" while it could.
    """

    def __init__(self, slurm: Slurm | None, clock: Clock, user: str) -> None:
        self._slurm, self._clock, self._user = slurm, clock, user
        self.problem = "" if slurm is not None else "there is no Slurm here to ask"

    def ask(self, query: AccountingQuery) -> list[Attempt] | None:
        """The database's answer; None where there is none, and :attr:`problem` then says why.

        Raises:
            SlurmError: the database answers, and refuses the users or accounts that the query names.
        """
        if self._slurm is None:
            return None
        until = (self._clock.time() if query.until is None else query.until) + LOOK_AHEAD_S
        try:
            return self._slurm.accounting(replace(query, until=until))
        except SlurmError as error:
            missing = isinstance(error, (NoAccountingError, AccountingDownError))
            if not missing and (query.users or query.accounts):
                raise
            self.problem = error.message
            return None

    def of(self, run: Run) -> AccountedJob | None:
        """One run's job, with all its attempts."""
        query = AccountingQuery(since=run.submitted_time - MARGIN_S, ids=(run.job_id,), all_users=True)
        return match([run], by_job(self.ask(query) or ())).get(run.name)

    def recall(self, runs: Sequence[Run], *, since: float, in_queue: bool | None) -> tuple[dict[str, Job], list[Run]]:
        """What the database knows of jobs that the controller does not know any more.

        Args:
            runs: those that are asked for.
            in_queue: False where the controller has said that it knows none of them, None where it does not answer.

        Returns:
            The jobs that are over, by name of the run; and runs of ours whose directory is gone, whose jobs are among them.
        """
        jobs = by_job(self.ask(AccountingQuery(since=since - MARGIN_S)) or ())
        now = self._clock.time()
        have = {run.name for run in runs}
        removed = [run for run in _removed(jobs, now) if run.name not in have]
        found = {name: as_job(job, now, in_queue=in_queue) for name, job in match([*runs, *removed], jobs).items()}
        return {name: job for name, job in found.items() if job is not None}, removed

    def read(self, query: AccountingQuery, runs: Iterable[Run]) -> Books:
        """All jobs of a query: the database brought up to the queue, or what queue and run directories tell.

        Args:
            runs: the caller's runs, any of them.
        """
        attempts = self.ask(query)
        queue, problem = self._queue(query)
        problems = [self.problem] if attempts is None else []
        problems += [problem] if problem else []
        mine = [run for run in runs if self._wanted(run, query)]
        if attempts is None:
            jobs = by_job(self._from_records(mine, queue or ()))
            return Books(tuple(jobs), RECORDS, tuple(problems), runs=_by_key(mine, jobs))
        lost = frozenset[JobId]() if queue is None else runaways(attempts, queue, self._user)
        jobs = by_job(with_queue(attempts, queue or (), _sizes(mine, queue or ())))
        return Books(tuple(jobs), DATABASE, tuple(problems), lost, _by_key(mine, jobs))

    def _queue(self, query: AccountingQuery) -> tuple[list[Job] | None, str]:
        """The controller's jobs that the query means (None where it does not answer), and what is the matter with it."""
        if self._slurm is None:
            return None, ""
        others = query.all_users or any(user != self._user for user in query.users)
        try:
            jobs = self._slurm.jobs(all_users=others, exclusions=False)
        except SlurmError as error:
            return None, f"Slurm's controller was not asked: {error.message}"
        users = set(query.users) or (None if query.all_users else {self._user})
        return [
            job for job in jobs
            if (users is None or job.user in users) and (not query.accounts or job.account in query.accounts)
            and (job.end_time is None or not job.state.finished or query.since is None or job.end_time >= query.since)
        ], ""  # fmt: skip

    def _wanted(self, run: Run, query: AccountingQuery) -> bool:
        """The run lies in the query's window, as far as run.json tells."""
        if query.users and self._user not in query.users:
            return False
        if query.until is not None and run.submitted_time > query.until:
            return False
        traces = reader.newest_sign_of_life(run.dir)
        return query.since is None or max(traces or 0.0, run.submitted_time) >= query.since - MARGIN_S

    def _from_records(self, runs: Sequence[Run], queue: Sequence[Job]) -> list[Attempt]:
        known = {job.job_id: job for job in queue}
        found: list[Attempt] = []
        for run in runs:
            job = known.get(run.job_id)
            if job is not None and not is_of(run, job.name, job.comment):
                job = None
            if job is not None:
                del known[run.job_id]
            base = _base(run, self._user)
            last = reader.newest_sign_of_life(run.dir)
            found += from_events(reader.read_events(run.dir), base, job=job, last_trace=last)
        return found + [from_queue(job) for job in known.values()]


def match(runs: Iterable[Run], jobs: Iterable[AccountedJob]) -> dict[str, AccountedJob]:
    """The job of each run, by the run's name. Ids come again, so that the name must fit, too."""
    found: dict[str, AccountedJob] = {}
    by_id: dict[JobId, list[AccountedJob]] = {}
    for job in jobs:
        by_id.setdefault(job.job_id, []).append(job)
    for run in runs:
        fitting = [job for job in by_id.get(run.job_id, ()) if is_of(run, job.name, job.newest.comment) and _here(run, job)]
        if fitting:
            found[run.name] = min(fitting, key=lambda job: abs((job.submit_time or 0.0) - run.submitted_time))
    return found


def is_of(run: Run, name: str, comment: str) -> bool:
    """A job of that name and comment is the run's."""
    names = {as_recorded(str(one)) for one in (run.name, run.record.get("job_name", run.name))}
    return as_recorded(comment) == as_recorded(MARK + run.name) or as_recorded(name) in names


def as_recorded(text: str) -> str:
    """The database keeps every quote as a backquote, and 255 characters."""
    return text.replace('"', "`").replace("'", "`")[:255]


def _here(run: Run, job: AccountedJob) -> bool:
    return not run.cluster or not job.newest.cluster or run.cluster == job.newest.cluster


def _by_key(runs: Sequence[Run], jobs: Sequence[AccountedJob]) -> dict[Key, Run]:
    names = {run.name: run for run in runs}
    return {key_of(job): names[name] for name, job in match(runs, jobs).items()}


def _removed(jobs: Iterable[AccountedJob], now: float) -> list[Run]:
    """A run for each job of ours that is over and whose directory is no more."""
    found = []
    for job in jobs:
        one = job.newest
        if one.comment.startswith(MARK) and job.over(now) and not Path(one.work_dir or "/nonexistent").is_dir():
            directory = RunDir(Path(one.work_dir or "/nonexistent"))
            found.append(Run(
                name=one.comment[len(MARK):], dir=directory, job_id=job.job_id, submitted_time=job.submit_time or 0.0,
                user=one.user, cluster=one.cluster, record={"job_name": one.name},
            ))
    return found


def _sizes(runs: Iterable[Run], queue: Iterable[Job]) -> dict[JobId, Size]:
    """What jobs in the queue hold, by their runs' plans; an old run may have had the same number."""
    jobs = {job.job_id: job for job in queue}
    ours = [run for run in runs if run.job_id in jobs and is_of(run, jobs[run.job_id].name, jobs[run.job_id].comment)]
    return {run.job_id: reader.planned_size(reader.read_plan(run.dir)) for run in ours}


def _base(run: Run, user: str) -> Attempt:
    plan = reader.read_plan(run.dir)
    slurm, size = plan.get("slurm"), reader.planned_size(plan)
    asked: Mapping[str, object] = slurm if isinstance(slurm, Mapping) else {}
    words = {key: str(asked.get(key) or "") for key in ("partition", "account", "qos")}
    held = Tres(nodes=size.nodes, gpus=size.gpus)
    base = Attempt(
        job_id=run.job_id, label=str(run.job_id), cluster=run.cluster, name=run.name, user=run.user or user,
        state=JobState.UNKNOWN, submit_time=run.submitted_time, held=held, comment=MARK + run.name,
    )  # fmt: skip
    return replace(base, partition=words["partition"], account=words["account"], qos=words["qos"])
