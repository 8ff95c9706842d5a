"""The scheduler inside :class:`hpctrain.testing.fake_slurm.FakeSlurm`: when jobs start, end and come back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hpctrain.clock import Clock
from hpctrain.errors import SlurmError
from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import Job, JobState, Node, Partition, Submission

REQUEUE_DELAY_S = 121.0
MIN_JOB_AGE_S = 300.0


@dataclass(slots=True)
class Entry:
    """A job and what Slurm's listings do not show of it.

    Attributes:
        queued_time: when it was last queued again; 0 for never.
    """

    job: Job
    submission: Submission
    can_requeue: bool
    no_kill: bool
    num_nodes: int
    begin_time: float = 0.0
    queued_time: float = 0.0


class FakeScheduler:
    """First in, first out, whole nodes; everything happens when somebody looks, at the time the clock then shows."""

    def __init__(self, nodes: Iterable[Node], partitions: Iterable[Partition], clock: Clock) -> None:
        self.clock = clock
        self.nodes = {node.name: node for node in nodes}
        self.partitions = tuple(partitions)
        self.entries: dict[JobId, Entry] = {}
        self.ended: list[tuple[Entry, str, float]] = []
        """What the accounts have: attempts as they were at their end, Slurm's word for that, and when it was."""

    def schedule(self) -> None:
        """Bring every job to where the clock says it is: end what is over its limit, start what can start."""
        now = self.clock.time()
        for job_id, entry in list(self.entries.items()):
            job = entry.job
            if job.state is JobState.RUNNING and job.end_time is not None and job.end_time <= now:
                self.end(entry, JobState.TIMEOUT, 0, 1, at=job.end_time)
            elif job.state.finished and (job.end_time or now) + MIN_JOB_AGE_S < now:
                del self.entries[job_id]
        blocked = False
        for entry in list(self.entries.values()):
            if entry.job.state is not JobState.PENDING or entry.job.held:
                continue
            if entry.begin_time > now:
                entry.job = replace(entry.job, reason="BeginTime")
            elif blocked:
                entry.job = replace(entry.job, reason="Priority")
            else:
                blocked = not self._try_start(entry, now)

    def _try_start(self, entry: Entry, now: float) -> bool:
        job = entry.job
        partition = self.partition(job.partition)
        if not partition.up or len(partition.nodes) < job.num_nodes:
            entry.job = replace(job, reason="PartitionConfig" if partition.up else "PartitionDown")
            return True  # it can never start, so it does not keep others waiting
        busy = {name for other in self.entries.values() if holds_nodes(other.job) for name in other.job.nodes}
        usable = [n for n in partition.nodes if self.nodes[n].available and n not in busy and n not in job.excluded_nodes]
        if len(usable) < job.num_nodes:
            entry.job = replace(job, reason="Resources")
            return False
        chosen = tuple(usable[: job.num_nodes])
        entry.job = replace(
            job, state=JobState.RUNNING, reason="", nodes=chosen, batch_host=chosen[0], start_time=now,
            eligible_time=job.eligible_time or now, end_time=None if job.time_limit_s is None else now + job.time_limit_s,
        )  # fmt: skip
        return True

    def end(self, entry: Entry, state: JobState, code: int, signal: int, at: float | None = None) -> None:
        """End a job; ``at`` is for ends that the clock has already passed."""
        reason = {JobState.TIMEOUT: "TimeLimit", JobState.FAILED: "NonZeroExitCode", JobState.NODE_FAIL: "NodeDown"}
        entry.job = replace(
            entry.job, state=state, reason=reason.get(state, ""), end_time=self.clock.time() if at is None else at,
            exit_code=code, exit_signal=signal, flags=frozenset(),
        )  # fmt: skip
        self.ended.append((replace(entry), state.value, entry.job.end_time or 0.0))
        if at is None:
            self.schedule()

    def back_to_queue(self, entry: Entry, *, hold: bool = False) -> None:
        """Requeue a job: it may start after Slurm's delay, or when it is released."""
        now, job = self.clock.time(), entry.job
        held_before = job.priority == 0
        if not job.state.finished:
            self.ended.append((replace(entry), "REQUEUED", now))
        entry.begin_time, entry.queued_time = now + REQUEUE_DELAY_S, now
        entry.job = replace(
            job, state=JobState.PENDING, reason=_why_waiting(hold=hold, held=held_before),
            flags=frozenset({"REQUEUE_HOLD"}) if hold else frozenset(), nodes=(), batch_host=None, num_nodes=entry.num_nodes,
            start_time=entry.begin_time, eligible_time=entry.begin_time, end_time=None, restarts=job.restarts + 1,
            exit_code=None, exit_signal=0, priority=0 if hold or held_before else 1000,
        )  # fmt: skip

    def make_eligible(self, entry: Entry, when: float) -> None:
        """Let a pending job start from that time on."""
        entry.begin_time = when
        entry.job = replace(entry.job, eligible_time=when, start_time=None)

    def lose(self, entry: Entry, name: NodeName) -> None:
        """Do to a job what Slurm does when one of its nodes is lost."""
        left = tuple(node for node in entry.job.nodes if node != name)
        if entry.no_kill and left:
            # The batch host is not replaced: a job whose batch host died stays RUNNING without a batch script.
            entry.job = replace(entry.job, nodes=left, num_nodes=len(left))
        elif entry.can_requeue:
            self.back_to_queue(entry)
        else:
            self.end(entry, JobState.NODE_FAIL, 0, 0)

    def as_seen(self, node: Node, *, busy: bool) -> Node:
        """A node as Slurm shows it while jobs run on it or not."""
        if node.state == "DOWN":
            return node
        return replace(node, state="ALLOCATED" if busy else "IDLE", gpus_allocated=node.gpus if busy else 0)

    def partition(self, name: str) -> Partition:
        """The partition of that name, or the default one for no name."""
        for partition in self.partitions:
            if partition.name == name or (not name and partition.is_default):
                return partition
        known = ", ".join(partition.name for partition in self.partitions)
        raise SlurmError(f"there is no partition {name!r}", hint=f"partitions here: {known}")


def holds_nodes(job: Job) -> bool:
    """The job's nodes are not free."""
    return job.state in (JobState.RUNNING, JobState.SUSPENDED)


def _why_waiting(*, hold: bool, held: bool) -> str:
    """Slurm's word for why a job that was queued again waits."""
    if held:
        return "JobHeldUser"
    return "job requeued in held state" if hold else "BeginTime"
