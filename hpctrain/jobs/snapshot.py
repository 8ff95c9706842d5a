"""Look at runs: one question to Slurm for all of them, the rest from their files (service)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpctrain.clock import Clock
from hpctrain.errors import SlurmError
from hpctrain.jobs import reader
from hpctrain.jobs.books import as_job
from hpctrain.jobs.eta import pace, remaining_s
from hpctrain.jobs.event import RUN_ENDS, Event
from hpctrain.jobs.find import Run
from hpctrain.jobs.metrics import read_tail
from hpctrain.jobs.records import Point, Progress, whole
from hpctrain.jobs.state import Facts, SlurmAnswer, judge
from hpctrain.jobs.status import JobStatus
from hpctrain.jobs.strays import strays
from hpctrain.slurm.accounting import AccountedJob
from hpctrain.slurm.model import Job
from hpctrain.slurm.port import Slurm

REMEMBERED_S = 30 * 86400.0
"""How far back the accounts are asked for runs whose directory is gone, where nobody says."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Slurm said about one run's job; see :class:`hpctrain.jobs.state.SlurmAnswer`.

    Attributes:
        error: why Slurm gave no answer, for what cannot do without one.
    """

    kind: SlurmAnswer
    job: Job | None = None
    detail: str = ""
    error: SlurmError | None = None


@dataclass(frozen=True, slots=True)
class Records:
    """What a run has written: its events, its newest heartbeat, its newest steps."""

    events: Sequence[Event]
    progress: Progress | None
    points: Sequence[Point]


class Memory(Protocol):
    """Who knows jobs that the controller has forgotten: :class:`hpctrain.jobs.accounts.Accounts`."""

    def recall(self, runs: Sequence[Run], *, since: float, in_queue: bool | None) -> tuple[dict[str, Job], list[Run]]:
        """The jobs that are over, by name of the run, and runs whose directory is gone."""


def look(runs: Sequence[Run], slurm: Slurm | None, clock: Clock) -> list[JobStatus]:
    """The status of each run, with at most one query of Slurm's job list.

    Args:
        slurm: None where there is no Slurm; the files then tell what they can.
    """
    answers = ask(runs, slurm)
    return [status_from_files(run, answers[run.name], clock.time()) for run in runs]


def look_at_list(
    runs: Sequence[Run], slurm: Slurm | None, clock: Clock, *, newest: int | None, since: float | None = None,
    memory: Memory | None = None,
) -> list[JobStatus]:
    """The status of the newest runs (all for None), of older ones that have not ended, and of jobs that have lost theirs.

    Args:
        since: only runs that were submitted, or did anything, from then on.
        memory: asked about jobs that the controller does not know (any more), and for runs whose directory is gone.
    """
    answers: Mapping[str, Answer]
    if slurm is None:
        answers = ask(runs, None)
    else:
        try:
            jobs = slurm.jobs()
            runs = sorted([*runs, *strays(jobs, runs)], key=lambda run: run.submitted_time, reverse=True)
            answers = _answers(runs, jobs, slurm)
        except SlurmError as error:
            answers = _no_answer(runs, f"Slurm does not answer: {error.message}", error)
    if memory is not None:
        runs, answers = _remembered(runs, answers, memory, clock.time() - REMEMBERED_S if since is None else since)
    chosen = [run for index, run in enumerate(runs) if newest is None or index < newest or _active(answers[run.name])]
    if since is not None:
        chosen = [run for run in chosen if _is_since(run, answers[run.name], since)]
    return [status_from_files(run, answers[run.name], clock.time()) for run in chosen]


def _remembered(
    runs: Sequence[Run], answers: Mapping[str, Answer], memory: Memory, since: float,
) -> tuple[Sequence[Run], Mapping[str, Answer]]:
    """Answers with what the accounts know where the controller knows nothing, and runs that only they know."""
    unknown = [run for run in runs if answers[run.name].kind in (SlurmAnswer.FORGOTTEN, SlurmAnswer.NO_ANSWER)]
    silent = any(answers[run.name].kind is SlurmAnswer.NO_ANSWER for run in unknown)
    begin = min([since, *(run.submitted_time for run in unknown)])
    known, removed = memory.recall(unknown, since=begin, in_queue=None if silent else False)
    gone = [run for run in removed if run.name not in answers]
    recalled = {name: Answer(SlurmAnswer.KNOWN, job) for name, job in known.items()}
    forgotten = {run.name: Answer(SlurmAnswer.FORGOTTEN) for run in gone}
    together = sorted([*runs, *gone], key=lambda run: run.submitted_time, reverse=True)
    wanted = {run.name for run in (*unknown, *gone)}
    return together, {**answers, **forgotten, **{name: answer for name, answer in recalled.items() if name in wanted}}


def _is_since(run: Run, answer: Answer, since: float) -> bool:
    ended = (answer.job.end_time if answer.job else None) or 0.0
    return _active(answer) or max(run.submitted_time, reader.newest_sign_of_life(run.dir) or 0.0, ended) >= since


def _active(answer: Answer) -> bool:
    return answer.job is not None and not answer.job.state.finished


def look_at(run: Run, slurm: Slurm | None, clock: Clock, accounted: AccountedJob | None = None) -> JobStatus:
    """The status of one run.

    Args:
        accounted: the run's job as the accounts have it, for when the controller does not know it (any more).
    """
    answer = ask([run], slurm)[run.name]
    if accounted is not None and answer.kind in (SlurmAnswer.FORGOTTEN, SlurmAnswer.NO_ANSWER):
        in_queue = False if answer.kind is SlurmAnswer.FORGOTTEN else None
        ended = as_job(accounted, clock.time(), in_queue=in_queue)
        answer = Answer(SlurmAnswer.KNOWN, ended) if ended is not None else answer
    return status_from_files(run, answer, clock.time())


def ask(runs: Sequence[Run], slurm: Slurm | None) -> Mapping[str, Answer]:
    """Slurm's answer for each run, by run name; errors of Slurm become NO_ANSWER."""
    if slurm is None:
        return _no_answer(runs, "there is no Slurm here to ask")
    try:
        jobs = slurm.jobs([runs[0].job_id]) if len(runs) == 1 else slurm.jobs()
        return _answers(runs, jobs, slurm)
    except SlurmError as error:
        return _no_answer(runs, f"Slurm does not answer: {error.message}", error)


def _no_answer(runs: Iterable[Run], detail: str, error: SlurmError | None = None) -> dict[str, Answer]:
    return {run.name: Answer(SlurmAnswer.NO_ANSWER, detail=detail, error=error) for run in runs}


def _answers(runs: Sequence[Run], jobs: Iterable[Job], slurm: Slurm) -> dict[str, Answer]:
    found = {job.job_id: job for job in jobs}
    answers = {run.name: match(run, found.get(run.job_id)) for run in runs}
    missing = [run for run in runs if answers[run.name].kind is SlurmAnswer.FORGOTTEN and run.cluster]
    here = slurm.cluster_name() if missing else ""
    other = {run.name: Answer(SlurmAnswer.OTHER_CLUSTER, detail=run.cluster) for run in missing if run.cluster != here}
    return {**answers, **other}


def match(run: Run, job: Job | None) -> Answer:
    """Is this job the run's? Job ids start again on a new cluster, the name of a run is its own."""
    if job is None or job.name not in (run.name, run.record.get("job_name", run.name)):
        return Answer(SlurmAnswer.FORGOTTEN)
    return Answer(SlurmAnswer.KNOWN, job)


def read_records(run: Run) -> Records:
    """Read what the run has written about itself."""
    return Records(reader.read_events(run.dir), reader.read_progress(run.dir), read_tail(run.dir.metrics))


def status_from_files(run: Run, answer: Answer, now: float, records: Records | None = None) -> JobStatus:
    """Put Slurm's answer and the run's records (read now unless given) together."""
    records = records or read_records(run)
    events, progress, points = records.events, records.progress, records.points
    speed = pace(points)
    verdict = judge(Facts(
        answer=answer.kind, now=now, job=answer.job, detail=answer.detail, name=run.name, events=events,
        progress=progress, last_sign=reader.newest_sign_of_life(run.dir), submitted_time=run.submitted_time,
        step_time_s=speed.step_time_s,
    ))
    newest = points[-1] if points else None
    step, total = _position(newest, progress, events, run)
    started, ended = _started(events, answer.job), _ended(events, answer.job, newest, progress) if verdict.final else None
    job = answer.job
    running = verdict.state in ("running", "stopping")
    since_step = now - newest.time if newest else 0.0
    incarnation = _incarnation(events, newest)
    last_start = next((event.time for event in reversed(events) if event.kind == "job.started"), 0.0)
    beating = running and progress is not None and progress.time >= last_start
    return JobStatus(
        id=run.job_id, name=run.name, run_dir=str(run.dir.path) if run.dir.path.is_dir() else "",
        state=verdict.state, explanation=verdict.explanation, advice=verdict.advice, final=verdict.final,
        succeeded=verdict.succeeded, silent=verdict.silent,
        slurm_error=answer.detail if answer.kind is SlurmAnswer.NO_ANSWER else "",
        slurm_state=job.state.value if job else "", reason=job.reason if job and job.reason != "None" else "",
        cluster=run.cluster, recipe=run.recipe, partition=job.partition if job else "",
        nodes=_nodes(job, events), num_nodes=_num_nodes(run, job), phase=progress.phase if progress and beating else "",
        step=step, total_steps=total,
        loss=newest.loss if newest else progress.loss if progress else None,
        tokens_per_s=speed.tokens_per_s if points else progress.tokens_per_s if progress else None,
        step_time_s=speed.step_time_s,
        eta_s=remaining_s(speed, step, total, since_last_step_s=since_step) if running else None,
        submitted_time=run.submitted_time, started_time=started, ended_time=ended,
        queued_s=max(0.0, (started or ended or now) - run.submitted_time),
        elapsed_s=max(0.0, (ended or now) - started) if started else None,
        time_limit_s=job.time_limit_s if job else None,
        restarts=max(incarnation, job.restarts if job else 0), incarnation=incarnation,
        heartbeat_age_s=max(0.0, now - progress.time) if progress else None,
    )


def _position(
    newest: Point | None, progress: Progress | None, events: Iterable[Event], run: Run
) -> tuple[int | None, int | None]:
    """(steps done, steps in all): from whichever source is newest."""
    step = newest.step if newest else None
    if progress and progress.step is not None and (newest is None or progress.time >= newest.time):
        step = progress.step
    total = progress.total_steps if progress else None
    if total is None:
        told = [whole(event.evidence.get("total_steps")) for event in events if event.kind == "trainer.started"]
        total = told[-1] if told else None
    return step, total if total is not None else whole(reader.read_plan(run.dir).get("total_steps"))


def _incarnation(events: Iterable[Event], newest: Point | None) -> int:
    """The newest incarnation that left a trace."""
    told = [whole(event.evidence.get("incarnation")) or 0 for event in events]
    return max([*told, newest.incarnation if newest else 0], default=0)


def _started(events: Iterable[Event], job: Job | None) -> float | None:
    first = next((event.time for event in events if event.kind == "job.started"), None)
    if first is not None:
        return first
    # A job that was cancelled in the queue has a start time too, but no nodes.
    return job.start_time if job and job.nodes and (job.state.value == "RUNNING" or job.state.finished) else None


def _ended(events: Sequence[Event], job: Job | None, newest: Point | None, progress: Progress | None) -> float | None:
    if job and job.end_time and job.state.finished:
        return job.end_time
    told = next((event.time for event in reversed(events) if event.kind in RUN_ENDS), None)
    traces = [newest.time if newest else 0.0, progress.time if progress else 0.0, events[-1].time if events else 0.0]
    return told or max(traces) or None


def _nodes(job: Job | None, events: Sequence[Event]) -> tuple[str, ...]:
    if job and job.nodes:
        return tuple(job.nodes)
    started = [event for event in events if event.kind == "ranks.started" and event.node]
    newest = max((whole(event.evidence.get("incarnation")) or 0 for event in started), default=0)
    return tuple(dict.fromkeys(e.node for e in started if (whole(e.evidence.get("incarnation")) or 0) == newest))


def _num_nodes(run: Run, job: Job | None) -> int:
    if job and job.num_nodes:
        return job.num_nodes
    plan = reader.read_plan(run.dir)
    return (whole(plan.get("nodes")) or 0) + (whole(plan.get("spares")) or 0)
