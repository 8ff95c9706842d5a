"""Put together what the database, the controller and run directories know of jobs (pure).

The database is believed about what is over. The controller knows better what is going on now: the database hears of it a
moment later, or after as long as it was down. A job that runs in the database and is unknown to the controller is a
*runaway*: the record of its end was lost, and until an administrator mends it, its hours would grow for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpctrain.ids import JobId
from hpctrain.jobs.event import Event
from hpctrain.jobs.goodput import Size
from hpctrain.jobs.text import iso
from hpctrain.slurm.accounting import QUEUED_AGAIN, AccountedJob, Attempt, Tres
from hpctrain.slurm.model import Job, JobState

SAME_S = 2.0
"""Two records whose submissions lie no further apart are of the same attempt."""
_ENDS = {"job.finished": "COMPLETED", "job.failed": "FAILED", "job.cancelled": "CANCELLED", "job.requeued": "REQUEUED"}


def from_queue(job: Job, size: Size | None = None) -> Attempt:
    """The present attempt of a job, as the controller knows it. It says how many nodes there are, not what they hold.

    Args:
        size: what the job's plan says that it holds.
    """
    ran = bool(job.nodes)
    start = job.start_time if ran else None
    end = job.end_time if job.state.finished else None
    return Attempt(
        job_id=job.job_id, label=str(job.job_id), name=job.name, user=job.user, account=job.account, partition=job.partition,
        qos=job.qos, outcome=job.state.value, state=job.state, submit_time=job.submit_time, eligible_time=job.eligible_time,
        start_time=start, end_time=end, elapsed_s=max(0.0, end - start) if start is not None and end is not None else 0.0,
        time_limit_s=job.time_limit_s, held=_held(job.num_nodes or len(job.nodes), size) if ran else Tres(), nodes=job.nodes,
        exit_code=job.exit_code, exit_signal=job.exit_signal, reason=job.reason, work_dir=job.work_dir, comment=job.comment,
    )  # fmt: skip


def with_queue(
    attempts: Sequence[Attempt], queue: Iterable[Job], sizes: Mapping[JobId, Size] | None = None,
) -> list[Attempt]:
    """The database's attempts, brought up to what the controller knows."""
    sizes = sizes or {}
    found = list(attempts)
    newest = _newest(found)
    for job in queue:
        present, index = from_queue(job, sizes.get(job.job_id)), newest.get(job.job_id)
        if index is None:
            found.append(present)
            continue
        known = found[index]
        same = abs((job.submit_time or 0.0) - (known.submit_time or 0.0)) <= SAME_S
        if same and known.live:
            found[index] = _brought_up(known, present)
        elif not same and (job.submit_time or 0.0) > (known.submit_time or 0.0):
            if known.live:
                found[index] = _ended(known, job.submit_time or 0.0, "REQUEUED")
            found.append(replace(present, cluster=known.cluster))
    return found


def runaways(attempts: Sequence[Attempt], queue: Iterable[Job], user: str) -> frozenset[JobId]:
    """Jobs that run in the database only.

    A site may hide the jobs of others (``PrivateData``): where the queue shows only the caller's, only those are judged.
    """
    jobs = list(queue)
    known = {job.job_id for job in jobs}
    open_ = any(job.user != user for job in jobs)
    lost = (one for one in attempts if one.live and one.start_time is not None and one.job_id not in known)
    return frozenset(one.job_id for one in lost if open_ or one.user == user)


def from_events(events: Sequence[Event], base: Attempt, *, job: Job | None, last_trace: float | None) -> list[Attempt]:
    """Attempts as a run's own events tell them, for clusters without accounting.

    Args:
        base: what all of them share: the job's id, name and user, when it was submitted, what it holds while it runs.
        job: the job as the controller knows it, None if it does not (or does not answer).
        last_trace: when the run last wrote anything: the end of an attempt whose end nobody has recorded.
    """
    found: list[Attempt] = []
    queued, started = base.submit_time or 0.0, None
    for event in events:
        if event.kind == "job.started":
            if started is not None:
                found.append(_ran(base, queued, started, event.time, "UNKNOWN"))
                queued = event.time
            started = event.time
        elif event.kind in _ENDS and started is not None:
            found.append(_ran(base, queued, started, event.time, _ENDS[event.kind]))
            queued, started = event.time, None
    if started is not None:
        found.append(_unfinished(_ran(base, queued, started, None, "RUNNING"), job, last_trace))
    elif job is not None and job.state in (JobState.RUNNING, JobState.SUSPENDED):
        found.append(_ran(base, queued, job.start_time or queued, None, job.state.value))
    elif job is not None and not job.state.finished:
        waiting = replace(base, submit_time=queued, eligible_time=queued, outcome=job.state.value, state=job.state)
        found.append(replace(waiting, held=Tres()))
    elif not found:
        state = job.state if job else JobState.UNKNOWN
        end = (job.end_time if job else None) or last_trace or queued
        found.append(replace(base, end_time=end, outcome=state.value, state=state, held=Tres()))
    return found


def as_job(job: AccountedJob, now: float, *, in_queue: bool | None = None) -> Job | None:
    """The job as the controller would tell it, had it not forgotten it; None where it may still go on."""
    if not job.over(now, in_queue=in_queue):
        return None
    one = job.newest
    state = JobState.CANCELLED if one.outcome in QUEUED_AGAIN else one.state
    return Job(
        job_id=one.job_id, name=one.name, user=one.user, state=state, reason=one.reason, partition=one.partition,
        account=one.account, qos=one.qos, num_nodes=one.held.nodes or len(one.nodes), nodes=one.nodes,
        submit_time=job.submit_time, eligible_time=one.eligible_time, start_time=one.start_time, end_time=one.end_time,
        time_limit_s=one.time_limit_s, restarts=job.requeues, exit_code=one.exit_code, exit_signal=one.exit_signal,
        comment=one.comment, work_dir=one.work_dir,
    )  # fmt: skip


def attempt_json(one: Attempt) -> dict[str, Any]:
    """An attempt as plain JSON."""
    times = {"submit": one.submit_time, "eligible": one.eligible_time, "start": one.start_time, "end": one.end_time}
    return {
        "id": one.job_id, "label": one.label, "outcome": one.outcome, "elapsed_s": one.elapsed_s,
        **{f"{name}_time": value for name, value in times.items()},
        **{f"{name}_time_iso": iso(value) for name, value in times.items()},
        "nodes": list(one.nodes), "num_nodes": one.held.nodes, "gpus": one.held.gpus, "cpus": one.held.cpus,
        "memory_mib": one.held.memory_mib, "exit_code": one.exit_code, "exit_signal": one.exit_signal, "reason": one.reason,
        "user": one.user, "account": one.account, "partition": one.partition, "qos": one.qos,
    }


def _newest(attempts: Sequence[Attempt]) -> dict[JobId, int]:
    newest: dict[JobId, int] = {}
    for index, one in enumerate(attempts):
        before = newest.get(one.job_id)
        if before is None or (one.submit_time or 0.0) >= (attempts[before].submit_time or 0.0):
            newest[one.job_id] = index
    return newest


def _brought_up(known: Attempt, present: Attempt) -> Attempt:
    """The same attempt a moment later; what it holds is the database's to say, if it has said it."""
    start = present.start_time if present.start_time is not None else known.start_time
    return replace(
        known, outcome=present.outcome, state=present.state, start_time=start, end_time=present.end_time,
        elapsed_s=present.elapsed_s, nodes=present.nodes or known.nodes, exit_code=present.exit_code,
        exit_signal=present.exit_signal, held=known.held if known.held != Tres() else present.held,
    )  # fmt: skip


def _ended(one: Attempt, when: float, outcome: str) -> Attempt:
    elapsed = max(0.0, when - one.start_time) if one.start_time is not None else 0.0
    return replace(one, end_time=when, outcome=outcome, state=JobState.PENDING, elapsed_s=elapsed)


def _ran(base: Attempt, queued: float, started: float, ended: float | None, outcome: str) -> Attempt:
    state = JobState[outcome] if outcome in JobState.__members__ else JobState.PENDING
    return replace(
        base, submit_time=queued, eligible_time=queued, start_time=started, end_time=ended, outcome=outcome, state=state,
        elapsed_s=0.0 if ended is None else max(0.0, ended - started),
    )  # fmt: skip


def _unfinished(one: Attempt, job: Job | None, last_trace: float | None) -> Attempt:
    """An attempt that the run has recorded no end of."""
    if job is not None and job.state in (JobState.RUNNING, JobState.SUSPENDED):
        return replace(one, nodes=job.nodes)
    start = one.start_time or 0.0
    over = job if job is not None and job.state.finished else None
    end = max(start, (over.end_time if over else None) or last_trace or start)
    state = over.state if over else JobState.UNKNOWN
    return replace(one, end_time=end, elapsed_s=end - start, outcome=state.value, state=state)


def _held(nodes: int, size: Size | None) -> Tres:
    return Tres(nodes=nodes, gpus=size.gpus if size else 0)
