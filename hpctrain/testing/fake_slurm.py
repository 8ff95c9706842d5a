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
from dataclasses import replace

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
from hpctrain.slurm.model import (
    Job,
    JobState,
    JobUpdate,
    Node,
    Partition,
    Reservation,
    Submission,
    clean_reason,
)
from hpctrain.slurm.nodelist import expand, natural_sort
from hpctrain.slurm.parse import parse_limit
from hpctrain.slurm.script_options import script_options
from hpctrain.testing.fake_accounting import FakeAccounting
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_nodes import FakeNodes
from hpctrain.testing.fake_scheduler import Entry, FakeScheduler, holds_nodes

DEFAULT_PARTITION = "main"


class FakeSlurm(FakeNodes, FakeAccounting):
    """An in-memory :class:`hpctrain.slurm.port.Slurm`.

    Args:
        nodes: names of the cluster's nodes.
        clock: the clock that begin times, time limits and the 300 s memory of ended jobs are read from.
        user: who calls; may be changed at any time to act as somebody else.
        partitions: None makes one partition ``main`` with all nodes and no time limit.

    Attributes:
        controller_up: false makes every call that needs slurmctld raise ControllerDownError.
        operator: false makes drain, undrain and touching other users' jobs raise NotPermittedError.
        keeps_accounts, database_up: see :class:`hpctrain.testing.fake_accounting.FakeAccounting`.
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
        parts = tuple(partitions or (Partition(DEFAULT_PARTITION, is_default=True, nodes=names),))
        self.clock: Clock = clock or FakeClock()
        self.user, self.operator, self.controller_up = user, True, True
        self.calls: list[str] = []
        self._cluster = cluster
        self._ids = itertools.count(1)
        empty = Node(
            NodeName(""), "IDLE", cpus=cpus_per_node, memory_mib=memory_mib_per_node, gpus=gpus_per_node,
            gpu_type=gpu_type if gpus_per_node else "",
        )  # fmt: skip
        members = {name: tuple(part.name for part in parts if name in part.nodes) for name in names}
        self._scheduler = FakeScheduler(
            (replace(empty, name=name, partitions=members[name]) for name in names), parts, self.clock
        )
        self._reservations: dict[str, Reservation] = {}

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
        partition = self._scheduler.partition(options.get("partition", ""))
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
        self._scheduler.entries[job_id] = Entry(job, submission, "no-requeue" not in options, "no-kill" in options, count)
        self._scheduler.schedule()
        return job_id

    def jobs(
        self, ids: Iterable[JobId] | None = None, *, all_users: bool = False,
        exclusions: bool = True,  # noqa: ARG002 - they cost nothing here
    ) -> list[Job]:
        """Jobs not yet forgotten, by id."""
        self._call("jobs")
        jobs = [entry.job for _, entry in sorted(self._scheduler.entries.items())]
        if ids is not None:
            wanted = set(ids)
            return [job for job in jobs if job.job_id in wanted]
        return [job for job in jobs if all_users or job.user == self.user]

    def nodes(self, names: Iterable[NodeName] | None = None) -> list[Node]:
        """Nodes in natural order."""
        self._call("nodes")
        wanted = list(self._scheduler.nodes if names is None else natural_sort(set(names)))
        self._require_nodes(wanted)
        busy = {name for entry in self._scheduler.entries.values() if holds_nodes(entry.job) for name in entry.job.nodes}
        return [self._scheduler.as_seen(self._scheduler.nodes[name], busy=name in busy) for name in wanted]

    def partitions(self) -> list[Partition]:
        """The partitions given to the constructor."""
        self._call("partitions")
        return list(self._scheduler.partitions)

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
            self._scheduler.make_eligible(entry, self.clock.time())
        job = entry.job
        entry.job = replace(
            job,
            excluded_nodes=job.excluded_nodes if update.exclude is None else update.exclude,
            time_limit_s=_whole_minutes(update.time_limit_s) or job.time_limit_s,
            comment=job.comment if update.comment is None else update.comment,
        )
        if entry.job.start_time is not None and entry.job.time_limit_s is not None:
            entry.job = replace(entry.job, end_time=entry.job.start_time + entry.job.time_limit_s)
        self._scheduler.schedule()

    def requeue(self, job_id: JobId, *, hold: bool = False) -> None:
        """Queue a started (or ended) job again; it may start 121 s later, or when released."""
        self._call("requeue")
        entry = self._mine(job_id)
        if entry.job.state is JobState.PENDING:
            raise JobStateError(f"job {job_id}: Job is pending execution")
        if not entry.can_requeue:
            raise JobStateError(f"job {job_id}: Requested operation is presently disabled")
        self._scheduler.back_to_queue(entry, hold=hold)
        self._scheduler.schedule()

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
            self._scheduler.make_eligible(entry, max(entry.begin_time, self.clock.time()))
        self._scheduler.schedule()

    def cancel(self, job_id: JobId) -> None:
        """End a job; nothing happens to one that has ended."""
        self._call("cancel")
        entry = self._mine(job_id)
        if not entry.job.state.finished:
            self._scheduler.end(entry, JobState.CANCELLED, 0, 15 if entry.job.state is JobState.RUNNING else 0)

    def drain(self, names: Iterable[NodeName], reason: str) -> None:
        """Set DRAIN and the reason."""
        self._call("drain")
        nodes, text = self._steer(names), clean_reason(reason)
        if not text:
            raise SlurmError("You must specify a reason when DOWNING or DRAINING a node")
        for name in nodes:
            node = self._scheduler.nodes[name]
            self._scheduler.nodes[name] = replace(
                node, flags=node.flags | {"DRAIN"}, reason=text, reason_user=self.user, reason_time=self.clock.time(),
            )

    def undrain(self, names: Iterable[NodeName]) -> None:
        """Clear DRAIN; a node that is down stays down, with its reason."""
        self._call("undrain")
        for name in self._steer(names):
            node = self._scheduler.nodes[name]
            keep = node.state == "DOWN"
            self._scheduler.nodes[name] = replace(
                node, flags=node.flags - {"DRAIN"}, reason=node.reason if keep else "",
                reason_user=node.reason_user if keep else "", reason_time=node.reason_time if keep else None,
            )
        self._scheduler.schedule()

    # -- what only a test may do -------------------------------------------------------------------------------------

    def finish(self, job_id: JobId, exit_code: int = 0, *, signal: int = 0, state: JobState | None = None) -> None:
        """Let a running job's batch script end; ``state`` overrides COMPLETED or FAILED."""
        entry = self._scheduler.entries[job_id]
        if entry.job.state is not JobState.RUNNING:
            raise ValueError(f"job {job_id} is {entry.job.state.value}, not RUNNING")
        good = exit_code == 0 and signal == 0
        self._scheduler.end(entry, state or (JobState.COMPLETED if good else JobState.FAILED), exit_code, signal)

    def node_down(self, name: str, reason: str = "Not responding") -> None:
        """Lose a node. Its jobs shrink (``--no-kill``), are queued again, or end as NODE_FAIL."""
        node = self._scheduler.nodes[NodeName(name)]
        self._scheduler.nodes[NodeName(name)] = replace(
            node, state="DOWN", flags=node.flags | {"NOT_RESPONDING"}, reason=node.reason or reason,
            reason_user=node.reason_user or "slurm", reason_time=node.reason_time or self.clock.time(),
        )  # fmt: skip
        for entry in self._scheduler.entries.values():
            if holds_nodes(entry.job) and name in entry.job.nodes:
                self._scheduler.lose(entry, NodeName(name))
        self._scheduler.schedule()

    def node_up(self, name: str) -> None:
        """Bring a lost node back; a drain stays."""
        nodes, key = self._scheduler.nodes, NodeName(name)
        keep = nodes[key].reason if nodes[key].drained else ""
        nodes[key] = replace(nodes[key], state="IDLE", flags=nodes[key].flags - {"NOT_RESPONDING"}, reason=keep)
        self._scheduler.schedule()

    def forget(self, job_id: JobId) -> None:
        """Drop an ended job, as slurmctld does 300 s after its end."""
        del self._scheduler.entries[job_id]

    def submission(self, job_id: JobId) -> Submission:
        """What was submitted under that id."""
        return self._scheduler.entries[job_id].submission

    # -- inside ------------------------------------------------------------------------------------------------------

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if not self.controller_up:
            raise ControllerDownError("Slurm's controller does not answer")
        self._scheduler.schedule()

    def _mine(self, job_id: JobId) -> Entry:
        entry = self._scheduler.entries.get(job_id)
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
        unknown = [name for name in names if name not in self._scheduler.nodes]
        if unknown:
            raise NoSuchNodeError(f"Slurm does not know node {', '.join(unknown)}")


def _minutes(text: str | None, default_s: int | None) -> int | None:
    """``--time`` in any of Slurm's forms, as seconds."""
    return parse_limit(text) if text else default_s


def _whole_minutes(seconds: int | None) -> int | None:
    """Slurm keeps time limits in minutes, rounded up."""
    return None if seconds is None else -(-seconds // 60) * 60
