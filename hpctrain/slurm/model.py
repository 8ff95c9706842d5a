"""Slurm's things as values, the same for every Slurm version and every adapter (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from hpctrain.ids import JobId, NodeName


class JobState(str, Enum):
    """Base state of a job. Flags such as COMPLETING are kept beside it (:attr:`Job.flags`)."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    NODE_FAIL = "NODE_FAIL"
    PREEMPTED = "PREEMPTED"
    BOOT_FAIL = "BOOT_FAIL"
    DEADLINE = "DEADLINE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    UNKNOWN = "UNKNOWN"

    @property
    def finished(self) -> bool:
        """The job will not run again by itself."""
        return self not in (JobState.PENDING, JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the controller sees it now.

    Times are seconds since the epoch, None where Slurm has none yet.

    Attributes:
        flags: state flags beside the base state, upper case: COMPLETING, CONFIGURING, REQUEUE_HOLD,
            SPECIAL_EXIT, STAGE_OUT, SIGNALING, STOPPED, ... and HELD where Slurm gives it no priority. While a job
            is COMPLETING Slurm's text hides its base state; :attr:`state` then says RUNNING, as it still has nodes.
        reason: Slurm's own word for why it waits or ended, such as ``Resources``; "" for none.
        nodes: the nodes it holds or held, expanded, in Slurm's order.
        start_time: for a pending job when Slurm expects to start it, if it says so.
        end_time: for a running job when its time limit ends it; None for a pending one.
        restarts: how often Slurm has queued it again; the batch script sees it as ``SLURM_RESTART_COUNT``.
        exit_code: exit status of the batch script, None while unknown.
        exit_signal: signal that ended the batch script, 0 for none.
        comment: the ``--comment`` of the submission.
        excluded_nodes: nodes it must not use; read only while the job is not over.
    """

    job_id: JobId
    name: str
    user: str
    state: JobState
    flags: frozenset[str] = frozenset()
    reason: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    num_nodes: int = 0
    nodes: tuple[NodeName, ...] = ()
    batch_host: NodeName | None = None
    submit_time: float | None = None
    eligible_time: float | None = None
    start_time: float | None = None
    end_time: float | None = None
    time_limit_s: int | None = None
    restarts: int = 0
    priority: int = 0
    exit_code: int | None = None
    exit_signal: int = 0
    comment: str = ""
    work_dir: str = ""
    excluded_nodes: tuple[NodeName, ...] = ()

    @property
    def held(self) -> bool:
        """Nobody will start it until it is released."""
        return self.state is JobState.PENDING and (
            self.reason in ("JobHeldUser", "JobHeldAdmin") or bool(self.flags & {"HELD", "REQUEUE_HOLD", "SPECIAL_EXIT"})
        )


@dataclass(frozen=True, slots=True)
class Node:
    """One node as the controller sees it now.

    Attributes:
        state: base state, upper case: IDLE, ALLOCATED, MIXED, DOWN, UNKNOWN, FUTURE, ERROR.
        flags: DRAIN, NOT_RESPONDING, COMPLETING, MAINTENANCE, REBOOT_ISSUED, POWERED_DOWN, ...
        memory_mib: configured memory in MiB.
        gpus: configured GPUs of any type.
        gpu_type: their type as in ``gpu:h100:8``; "" for none. The private cluster says ``sim``.
        reason: why it was drained or set down; "" for none, and for a node that is in service.
        reason_user: who set the reason, "" if unknown.
        reason_time: when, in seconds since the epoch.
        boot_time: when the node last booted, in seconds since the epoch; None while Slurm has not heard from it.
    """

    name: NodeName
    state: str
    flags: frozenset[str] = frozenset()
    partitions: tuple[str, ...] = ()
    cpus: int = 0
    memory_mib: int = 0
    gpus: int = 0
    gpu_type: str = ""
    gpus_allocated: int = 0
    features: tuple[str, ...] = ()
    reason: str = ""
    reason_user: str = ""
    reason_time: float | None = None
    boot_time: float | None = None

    @property
    def drained(self) -> bool:
        """New jobs do not go there, on somebody's request."""
        return "DRAIN" in self.flags

    @property
    def available(self) -> bool:
        """Answering and in service (it may be busy)."""
        out = {"DRAIN", "NOT_RESPONDING", "FAIL", "MAINTENANCE"}
        return self.state in ("IDLE", "ALLOCATED", "MIXED") and not self.flags & out


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: what it offers and what it allows.

    Attributes:
        max_time_s: longest time limit allowed, None for no limit.
        default_time_s: time limit of jobs that ask for none, None where it is ``max_time_s``.
    """

    name: str
    is_default: bool = False
    up: bool = True
    max_time_s: int | None = None
    default_time_s: int | None = None
    nodes: tuple[NodeName, ...] = ()


@dataclass(frozen=True, slots=True)
class Reservation:
    """Nodes set aside.

    Attributes:
        users: who may use them; empty where Slurm goes by groups or accounts.
        end_time: in seconds since the epoch; the nodes are everybody's again then.
    """

    name: str
    nodes: tuple[NodeName, ...] = ()
    users: tuple[str, ...] = ()
    end_time: float | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """What :meth:`Slurm.submit` sends.

    Attributes:
        script: the whole batch script, with its ``#SBATCH`` lines.
        work_dir: directory that sbatch is run from.
    """

    script: str
    work_dir: str
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """Changes to one job; None leaves a value as it is.

    Attributes:
        start_now: lift a BeginTime (the 121 s that Slurm holds a requeued job back).
        exclude: the complete new list of excluded nodes (pending jobs only); empty clears it.
    """

    start_now: bool = False
    exclude: tuple[NodeName, ...] | None = None
    time_limit_s: int | None = None
    comment: str | None = None


def clean_reason(text: str) -> str:
    """A drain reason as Slurm keeps it: one line, and no double quotes (scontrol eats some of them)."""
    return " ".join(text.replace('"', "'").split())
