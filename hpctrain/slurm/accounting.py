"""What Slurm's accounting database remembers of jobs, as values (pure).

Slurm keeps one record for every *attempt*: a job that was queued again has several, all with the same id. People mean the
job by that id, so :func:`by_job` puts the attempts of one job together. Two things make that less simple than it sounds:

- Job ids start again on a rebuilt cluster and after ``MaxJobId``: two records with the same id may be two jobs. A record
  goes on with the job before it if that one was queued again, or if user and name are the same and it was submitted soon
  after the other's end (Slurm can queue an ended job again only while the controller still remembers it).
- ``PREEMPTED`` is where an attempt ends, not the job: it may be in the queue again, or not yet. Only a job that the
  controller has not had for :data:`ABSENT_S` is over. (Tools that call it final are wrong half the time.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import JobState

ABSENT_S = 300.0
"""For so long after its end a preempted or requeued attempt may still be followed by another."""
LONGEST_PAUSE_S = 2 * 3600.0
"""Slurm queues an ended job again only while slurmctld remembers it: ``MinJobAge``, 5 minutes by default."""
QUEUED_AGAIN = frozenset({"REQUEUED", "REQUEUE", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
"""Words that end an attempt and say that the job goes on."""
MAY_COME_BACK = QUEUED_AGAIN | {"PREEMPTED", "NODE_FAIL", "LAUNCH_FAILED", "BOOT_FAIL"}
"""Words that end an attempt and leave open whether the job goes on."""


@dataclass(frozen=True, slots=True)
class AccountingQuery:
    """Which records are wanted: those whose time in Slurm's hands touches the window, and all other conditions.

    Attributes:
        since, until: window in seconds since the epoch; None for the beginning of time and for now.
        ids: only these jobs; empty for all.
        users: only these users' jobs; empty for the caller's own, or everybody's with ``all_users``.
        accounts: only jobs of these accounts; empty for all.
        all_users: everybody's, as far as the site lets the caller see them (``PrivateData``).
    """

    since: float | None = None
    until: float | None = None
    ids: tuple[JobId, ...] = ()
    users: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    all_users: bool = False


@dataclass(frozen=True, slots=True)
class Tres:
    """Trackable resources, as in ``cpu=64,gres/gpu=8,gres/gpu:h100=8,mem=512000M,node=1``.

    Attributes:
        gpus: GPUs of all types, each once; 0 also where the site does not track them (``AccountingStorageTRES``).
        gpu_type: the type of most of them, "" where Slurm says none.
    """

    cpus: int = 0
    gpus: int = 0
    gpu_type: str = ""
    memory_mib: int = 0
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of a job, or one wait that has not led to a start. Times are seconds since the epoch, None for none.

    Attributes:
        job_id: the number that is the job's own, also for a task of an array or a part of a heterogeneous job.
        label: the id as Slurm's commands show it: ``17``, ``17_3``, ``17+1``, ``17_[4-9]``.
        outcome: Slurm's word for how it stands or ended: ``RUNNING``, ``COMPLETED``, ``REQUEUED``, ``PREEMPTED``, ...
        state: the same as one of the states that a job has in the queue; ``REQUEUED`` is PENDING there.
        cancelled_by: user id of who cancelled it, "" for nobody.
        elapsed_s: seconds for which it ran, without those in which it was suspended.
        held: what it held while it ran.
        asked: what it asked for.
        comment: the ``--comment``; "" where the site does not keep them (``AccountingStoreFlags=job_comment``).
    """

    job_id: JobId
    label: str = ""
    cluster: str = ""
    name: str = ""
    user: str = ""
    account: str = ""
    partition: str = ""
    qos: str = ""
    outcome: str = "UNKNOWN"
    state: JobState = JobState.UNKNOWN
    cancelled_by: str = ""
    submit_time: float | None = None
    eligible_time: float | None = None
    start_time: float | None = None
    end_time: float | None = None
    elapsed_s: float = 0.0
    time_limit_s: int | None = None
    held: Tres = Tres()
    asked: Tres = Tres()
    nodes: tuple[NodeName, ...] = ()
    exit_code: int | None = None
    exit_signal: int = 0
    reason: str = ""
    work_dir: str = ""
    comment: str = ""

    @property
    def live(self) -> bool:
        """It waits or runs, as far as this record knows."""
        return self.end_time is None and self.outcome not in QUEUED_AGAIN and not self.state.finished

    @property
    def ran(self) -> bool:
        """It was started: it held nodes for some time, or does now."""
        return self.start_time is not None and (self.elapsed_s > 0 or bool(self.nodes) or self.state is JobState.RUNNING)

    def seconds_between(self, since: float, until: float) -> float:
        """Seconds of its running that lie in a window that ends no later than now."""
        if self.start_time is None:
            return 0.0
        end = self.end_time if self.end_time is not None else until
        wall = end - self.start_time
        inside = min(end, until) - max(self.start_time, since)
        if wall <= 0 or inside <= 0:
            return 0.0
        ended = self.end_time is not None
        # Where it was suspended nobody says when: its running is spread evenly.
        return inside * min(1.0, self.elapsed_s / wall) if ended else inside


@dataclass(frozen=True, slots=True)
class AccountedJob:
    """A job with its attempts, oldest first; there is at least one."""

    attempts: tuple[Attempt, ...]

    @property
    def newest(self) -> Attempt:
        """The attempt that says how the job stands."""
        return self.attempts[-1]

    @property
    def job_id(self) -> JobId:
        """Slurm's number."""
        return self.newest.job_id

    @property
    def name(self) -> str:
        """The job's name."""
        return self.newest.name

    @property
    def submit_time(self) -> float | None:
        """When it was first submitted."""
        return self.attempts[0].submit_time

    @property
    def requeues(self) -> int:
        """How often it was queued again."""
        return len(self.attempts) - 1

    def over(self, now: float, *, in_queue: bool | None = None) -> bool:
        """It will not run again by itself.

        Args:
            in_queue: whether the controller has it, None where that is not known.
        """
        newest = self.newest
        if in_queue or newest.live:
            return False
        if newest.outcome in MAY_COME_BACK:
            return in_queue is False and newest.end_time is not None and now - newest.end_time >= ABSENT_S
        return newest.state.finished


def by_job(attempts: Iterable[Attempt]) -> list[AccountedJob]:
    """Attempts put together by job, in order of the first submission; see the module's docstring."""
    never = float("inf")
    ordered = sorted(attempts, key=lambda one: (one.submit_time or 0.0, one.start_time or never, one.end_time or never))
    groups: list[list[Attempt]] = []
    newest: dict[tuple[str, JobId], list[Attempt]] = {}
    for attempt in ordered:
        key = (attempt.cluster, attempt.job_id)
        group = newest.get(key)
        if group is not None and _goes_on(group[-1], attempt):
            group.append(attempt)
        else:
            newest[key] = [attempt]
            groups.append(newest[key])
    return [AccountedJob(tuple(group)) for group in groups]


def _goes_on(before: Attempt, after: Attempt) -> bool:
    """The later record is of the same job, and not of another one that got its number."""
    if before.user != after.user:
        return False
    if before.outcome in QUEUED_AGAIN:
        return True
    if before.name != after.name or after.submit_time is None:
        return False
    left = before.end_time if before.end_time is not None else before.start_time or before.submit_time
    return left is None or after.submit_time - left <= LONGEST_PAUSE_S
