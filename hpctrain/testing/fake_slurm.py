r"""A Slurm in memory that remembers, for tests of anything that submits, watches or steers jobs.

It passes the same contract suite as the real adapter (``tests/contract/test_slurm_port.py``)::

    clock = FakeClock()
    slurm = FakeSlurm(nodes=("n1", "n2"), clock=clock)
    job_id = slurm.submit(Submission("#!/bin/sh\n#SBATCH --nodes=2\nsrun train", "/home/alice"))
    slurm.jobs([job_id])[0].state          # RUNNING: both nodes were free
    slurm.requeue(job_id)                  # PENDING for 121 s, as on a real Slurm
    clock.advance(122)
    slurm.finish(job_id, exit_code=0)      # the batch script ends

Nothing runs, so jobs end when a test says so. A job takes whole nodes; jobs start first in, first out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hpctrain.clock import Clock
from hpctrain.errors import (
    ControllerDownError,
    JobStateError,
    NoSuchJobError,
    NoSuchNodeError,
    NotPermittedError,
    SlurmError,
)
from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import Job, JobState, JobUpdate, Node, Partition, Submission, clean_reason
from hpctrain.slurm.nodelist import expand, natural_sort
from hpctrain.slurm.parse import parse_limit
from hpctrain.slurm.script_options import script_options
from hpctrain.testing.fake_clock import FakeClock

REQUEUE_DELAY_S = 121.0
MIN_JOB_AGE_S = 300.0
DEFAULT_PARTITION = "main"


@dataclass(slots=True)
class _Entry:
    """A job and what Slurm's listings do not show of it."""

    job: Job
    submission: Submission
    can_requeue: bool
    no_kill: bool
    begin_time: float = 0.0


class FakeSlurm:
    """An in-memory :class:`hpctrain.slurm.port.Slurm`.

    Args:
        nodes: names of the cluster's nodes.
        clock: the clock that begin times, time limits and the 300 s memory of ended jobs are read from.
        user: who calls; may be changed at any time to act as somebody else.
        partitions: None makes one partition ``main`` with all nodes and no time limit.

    Attributes:
        controller_up: false makes every call that needs slurmctld raise ControllerDownError.
        operator: false makes drain, undrain and touching other users' jobs raise NotPermittedError.
        calls: names of the methods called so far, oldest first.
    """

    def __init__(
        self,
        nodes: Sequence[str] = ("n1", "n2", "n3", "n4"),
        *,
        gpus_per_node: int = 8,
        gpu_type: str = "sim",
        cpus_per_node: int = 64,
        memory_mib_per_node: int = 512 * 1024,
        partitions: Sequence[Partition] | None = None,
        clock: Clock | None = None,
        user: str = "alice",
        cluster: str = "fake",
    ) -> None:
        names = tuple(natural_sort(nodes))
        self.clock: Clock = clock or FakeClock()
        self.user, self.operator, self.controller_up = user, True, True
        self.calls: list[str] = []
        self._cluster = cluster
        self._ids = itertools.count(1)
        self._entries: dict[JobId, _Entry] = {}
        self._partitions = tuple(partitions or (Partition(DEFAULT_PARTITION, is_default=True, nodes=names),))
        self._nodes = {
            name: Node(
                name, "IDLE", cpus=cpus_per_node, memory_mib=memory_mib_per_node, gpus=gpus_per_node,
                gpu_type=gpu_type if gpus_per_node else "",
                partitions=tuple(part.name for part in self._partitions if name in part.nodes),
            )
            for name in names
        }  # fmt: skip

    # -- the port ----------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """A version string, also when the controller is down."""
        self.calls.append("version")
        return "22.05.8"

    def cluster_name(self) -> str:
        """The name given to the constructor."""
        self._call("cluster_name")
        return self._cluster

    def submit(self, submission: Submission) -> JobId:
        """Queue a job; the options that matter to scheduling are read from its ``#SBATCH`` lines."""
        self._call("submit")
        if not submission.script.startswith("#!"):
            raise SlurmError("This does not look like a batch script")
        options = script_options(submission.script)
        partition = self._partition(options.get("partition", ""))
        count = int(options.get("nodes", "1").split("-")[0])
        excluded = expand(options.get("exclude"))
        self._require_nodes(excluded)
        job_id, now = JobId(next(self._ids)), self.clock.time()
        held = "hold" in options
        job = Job(
            job_id, options.get("job-name", "sbatch"), self.user, JobState.PENDING,
            reason="JobHeldUser" if held else "", partition=partition.name, account=options.get("account", ""),
            qos=options.get("qos", ""), num_nodes=count, submit_time=now, eligible_time=None if held else now,
            time_limit_s=_minutes(options.get("time"), partition.default_time_s or partition.max_time_s),
            priority=0 if held else 1000, comment=options.get("comment", ""), work_dir=submission.work_dir,
            excluded_nodes=excluded,
        )  # fmt: skip
        self._entries[job_id] = _Entry(job, submission, "no-requeue" not in options, "no-kill" in options)
        self._schedule()
        return job_id

    def jobs(self, ids: Iterable[JobId] | None = None, *, all_users: bool = False) -> list[Job]:
        """Jobs not yet forgotten, by id."""
        self._call("jobs")
        jobs = [entry.job for _, entry in sorted(self._entries.items())]
        if ids is not None:
            wanted = set(ids)
            return [job for job in jobs if job.job_id in wanted]
        return [job for job in jobs if all_users or job.user == self.user]

    def nodes(self, names: Iterable[NodeName] | None = None) -> list[Node]:
        """Nodes in natural order."""
        self._call("nodes")
        wanted = list(self._nodes if names is None else natural_sort(set(names)))
        self._require_nodes(wanted)
        busy = {name for entry in self._entries.values() if _holds_nodes(entry.job) for name in entry.job.nodes}
        return [self._as_seen(self._nodes[name], busy=name in busy) for name in wanted]

    def partitions(self) -> list[Partition]:
        """The partitions given to the constructor."""
        self._call("partitions")
        return list(self._partitions)

    def update_job(self, job_id: JobId, update: JobUpdate) -> None:
        """Change a job that has not ended; begin time and exclusions of a pending one only."""
        self._call("update_job")
        entry = self._mine(job_id)
        if entry.job.state.finished:
            raise JobStateError(f"job {job_id}: Job has already finished")
        if (update.start_now or update.exclude is not None) and entry.job.state is not JobState.PENDING:
            raise JobStateError(f"job {job_id}: Job is no longer pending execution")
        self._require_nodes(update.exclude or ())
        if update.start_now:
            self._make_eligible(entry, self.clock.time())
        job = entry.job
        entry.job = replace(
            job,
            excluded_nodes=job.excluded_nodes if update.exclude is None else update.exclude,
            time_limit_s=_whole_minutes(update.time_limit_s) or job.time_limit_s,
            comment=job.comment if update.comment is None else update.comment,
        )
        if entry.job.start_time is not None and entry.job.time_limit_s is not None:
            entry.job = replace(entry.job, end_time=entry.job.start_time + entry.job.time_limit_s)
        self._schedule()

    def requeue(self, job_id: JobId, *, hold: bool = False) -> None:
        """Queue a started (or ended) job again; it may start 121 s later, or when released."""
        self._call("requeue")
        entry = self._mine(job_id)
        if entry.job.state is JobState.PENDING:
            raise JobStateError(f"job {job_id}: Job is pending execution")
        if not entry.can_requeue:
            raise JobStateError(f"job {job_id}: Requested operation is presently disabled")
        self._back_to_queue(entry, hold=hold)
        self._schedule()

    def hold(self, job_id: JobId) -> None:
        """Hold a job; a running one runs on, and stays queued when it is queued again."""
        self._call("hold")
        entry = self._mine(job_id)
        if entry.job.state.finished:
            raise JobStateError(f"job {job_id}: Job has already finished")
        entry.job = replace(entry.job, reason="JobHeldUser", priority=0)

    def release(self, job_id: JobId) -> None:
        """Undo a hold."""
        self._call("release")
        entry = self._mine(job_id)
        if entry.job.state.finished:
            raise JobStateError(f"job {job_id}: Job has already finished")
        entry.job = replace(entry.job, reason="", priority=1000, flags=entry.job.flags - {"REQUEUE_HOLD", "HELD"})
        if entry.job.state is JobState.PENDING:
            self._make_eligible(entry, max(entry.begin_time, self.clock.time()))
        self._schedule()

    def cancel(self, job_id: JobId) -> None:
        """End a job; nothing happens to one that has ended."""
        self._call("cancel")
        entry = self._mine(job_id)
        if not entry.job.state.finished:
            self._end(entry, JobState.CANCELLED, 0, 15 if entry.job.state is JobState.RUNNING else 0)

    def drain(self, names: Iterable[NodeName], reason: str) -> None:
        """Set DRAIN and the reason."""
        self._call("drain")
        nodes, text = self._steer(names), clean_reason(reason)
        if not text:
            raise SlurmError("You must specify a reason when DOWNING or DRAINING a node")
        for name in nodes:
            node = self._nodes[name]
            self._nodes[name] = replace(
                node, flags=node.flags | {"DRAIN"}, reason=text, reason_user=self.user, reason_time=self.clock.time(),
            )

    def undrain(self, names: Iterable[NodeName]) -> None:
        """Clear DRAIN; a node that is down stays down, with its reason."""
        self._call("undrain")
        for name in self._steer(names):
            node = self._nodes[name]
            keep = node.state == "DOWN"
            self._nodes[name] = replace(
                node, flags=node.flags - {"DRAIN"}, reason=node.reason if keep else "",
                reason_user=node.reason_user if keep else "", reason_time=node.reason_time if keep else None,
            )
        self._schedule()

    # -- what only a test may do -------------------------------------------------------------------------------------

    def finish(self, job_id: JobId, exit_code: int = 0, *, signal: int = 0, state: JobState | None = None) -> None:
        """Let a running job's batch script end; ``state`` overrides COMPLETED or FAILED."""
        entry = self._entries[job_id]
        if entry.job.state is not JobState.RUNNING:
            raise ValueError(f"job {job_id} is {entry.job.state.value}, not RUNNING")
        good = exit_code == 0 and signal == 0
        self._end(entry, state or (JobState.COMPLETED if good else JobState.FAILED), exit_code, signal)

    def node_down(self, name: str, reason: str = "Not responding") -> None:
        """Lose a node. Its jobs shrink (``--no-kill``), are queued again, or end as NODE_FAIL."""
        node = self._nodes[NodeName(name)]
        self._nodes[NodeName(name)] = replace(
            node, state="DOWN", flags=node.flags | {"NOT_RESPONDING"}, reason=node.reason or reason,
            reason_user=node.reason_user or "slurm", reason_time=node.reason_time or self.clock.time(),
        )  # fmt: skip
        for entry in self._entries.values():
            if _holds_nodes(entry.job) and name in entry.job.nodes:
                self._lose(entry, NodeName(name))
        self._schedule()

    def node_up(self, name: str) -> None:
        """Bring a lost node back; a drain stays."""
        node = self._nodes[NodeName(name)]
        keep = node.reason if node.drained else ""
        self._nodes[NodeName(name)] = replace(node, state="IDLE", flags=node.flags - {"NOT_RESPONDING"}, reason=keep)
        self._schedule()

    def forget(self, job_id: JobId) -> None:
        """Drop an ended job, as slurmctld does 300 s after its end."""
        del self._entries[job_id]

    def submission(self, job_id: JobId) -> Submission:
        """What was submitted under that id."""
        return self._entries[job_id].submission

    # -- inside ------------------------------------------------------------------------------------------------------

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if not self.controller_up:
            raise ControllerDownError("Slurm's controller does not answer")
        self._schedule()

    def _schedule(self) -> None:
        """Bring every job to where the clock says it is: end what is over its limit, start what can start."""
        now = self.clock.time()
        for job_id, entry in list(self._entries.items()):
            job = entry.job
            if job.state is JobState.RUNNING and job.end_time is not None and job.end_time <= now:
                self._end(entry, JobState.TIMEOUT, 0, 1, at=job.end_time)
            elif job.state.finished and (job.end_time or now) + MIN_JOB_AGE_S < now:
                del self._entries[job_id]
        blocked = False
        for entry in list(self._entries.values()):
            if entry.job.state is not JobState.PENDING or entry.job.held:
                continue
            if entry.begin_time > now:
                entry.job = replace(entry.job, reason="BeginTime")
            elif blocked:
                entry.job = replace(entry.job, reason="Priority")
            else:
                blocked = not self._try_start(entry, now)

    def _try_start(self, entry: _Entry, now: float) -> bool:
        job = entry.job
        partition = self._partition(job.partition)
        if not partition.up or len(partition.nodes) < job.num_nodes:
            entry.job = replace(job, reason="PartitionConfig" if partition.up else "PartitionDown")
            return True  # it can never start, so it does not keep others waiting
        busy = {name for other in self._entries.values() if _holds_nodes(other.job) for name in other.job.nodes}
        usable = [n for n in partition.nodes if self._nodes[n].available and n not in busy and n not in job.excluded_nodes]
        if len(usable) < job.num_nodes:
            entry.job = replace(job, reason="Resources")
            return False
        chosen = tuple(usable[: job.num_nodes])
        entry.job = replace(
            job, state=JobState.RUNNING, reason="", nodes=chosen, batch_host=chosen[0], start_time=now,
            eligible_time=job.eligible_time or now, end_time=None if job.time_limit_s is None else now + job.time_limit_s,
        )  # fmt: skip
        return True

    def _end(self, entry: _Entry, state: JobState, code: int, signal: int, at: float | None = None) -> None:
        reason = {JobState.TIMEOUT: "TimeLimit", JobState.FAILED: "NonZeroExitCode", JobState.NODE_FAIL: "NodeDown"}
        entry.job = replace(
            entry.job, state=state, reason=reason.get(state, ""), end_time=self.clock.time() if at is None else at,
            exit_code=code, exit_signal=signal, flags=frozenset(),
        )  # fmt: skip
        if at is None:
            self._schedule()

    def _back_to_queue(self, entry: _Entry, *, hold: bool = False) -> None:
        now, job = self.clock.time(), entry.job
        held_before = job.priority == 0
        entry.begin_time = now + REQUEUE_DELAY_S
        entry.job = replace(
            job, state=JobState.PENDING, reason="JobHeldUser" if hold or held_before else "BeginTime",
            flags=frozenset({"REQUEUE_HOLD"}) if hold else frozenset(), nodes=(), batch_host=None,
            start_time=entry.begin_time, eligible_time=entry.begin_time, end_time=None, restarts=job.restarts + 1,
            exit_code=None, exit_signal=0, priority=0 if hold or held_before else 1000,
        )  # fmt: skip

    def _make_eligible(self, entry: _Entry, when: float) -> None:
        entry.begin_time = when
        entry.job = replace(entry.job, eligible_time=when, start_time=None)

    def _lose(self, entry: _Entry, name: NodeName) -> None:
        left = tuple(node for node in entry.job.nodes if node != name)
        if entry.no_kill and left:
            # The batch host is not replaced: a job whose batch host died stays RUNNING without a batch script.
            entry.job = replace(entry.job, nodes=left, num_nodes=len(left))
        elif entry.can_requeue:
            self._back_to_queue(entry)
        else:
            self._end(entry, JobState.NODE_FAIL, 0, 0)

    def _as_seen(self, node: Node, *, busy: bool) -> Node:
        if node.state == "DOWN":
            return node
        return replace(node, state="ALLOCATED" if busy else "IDLE", gpus_allocated=node.gpus if busy else 0)

    def _mine(self, job_id: JobId) -> _Entry:
        entry = self._entries.get(job_id)
        if entry is None:
            raise NoSuchJobError(f"Slurm does not know job {job_id}")
        if entry.job.user != self.user and not self.operator:
            raise NotPermittedError(f"job {job_id} belongs to {entry.job.user}")
        return entry

    def _steer(self, names: Iterable[NodeName]) -> list[NodeName]:
        wanted = list(names)
        if not self.operator:
            raise NotPermittedError(f"{self.user} may not change nodes")
        self._require_nodes(wanted)
        return wanted

    def _require_nodes(self, names: Iterable[NodeName]) -> None:
        unknown = [name for name in names if name not in self._nodes]
        if unknown:
            raise NoSuchNodeError(f"Slurm does not know node {', '.join(unknown)}")

    def _partition(self, name: str) -> Partition:
        for partition in self._partitions:
            if partition.name == name or (not name and partition.is_default):
                return partition
        known = ", ".join(partition.name for partition in self._partitions)
        raise SlurmError(f"there is no partition {name!r}", hint=f"partitions here: {known}")


def _holds_nodes(job: Job) -> bool:
    return job.state in (JobState.RUNNING, JobState.SUSPENDED)


def _minutes(text: str | None, default_s: int | None) -> int | None:
    """``--time`` in any of Slurm's forms, as seconds."""
    return parse_limit(text) if text else default_s


def _whole_minutes(seconds: int | None) -> int | None:
    """Slurm keeps time limits in minutes, rounded up."""
    return None if seconds is None else -(-seconds // 60) * 60
