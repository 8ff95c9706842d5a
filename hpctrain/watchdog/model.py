"""What the watchdog sees and what it does, as values (pure, standard library only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hpctrain.slurm.model import Job, Node
from hpctrain.watchdog.budget import Attempt, BudgetLimits, Cause

COMMENT_PREFIX = "hpctrain:"
"""How the comment of a job of ours begins; the run's name follows."""


CONTINUE_AFTER_S = 45.0
"""A healthy node is cleaned up in seconds, so by then some node is dead; slurmctld's SlurmdTimeout is 300 s by default."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a job's coordinator last said of itself, as in ``control/coordinator.json``.

    Attributes:
        time: when it was written, seconds since the epoch on the batch host.
        beat: grows with every writing.
        host: the batch host as Slurm names it.
        restarts: SLURM_RESTART_COUNT of the start that wrote it.
        incarnation: the newest ranks.
        state: ``over`` once it has ended by decision, anything else while it works.
        exit_code: of the batch script, once that is decided.
        job: Slurm's id of the job that wrote it, 0 if it does not say.
    """

    time: float
    beat: int
    host: str
    restarts: int
    incarnation: int
    state: str
    exit_code: int | None = None
    job: int = 0

    @property
    def over(self) -> bool:
        """The coordinator of that start has ended by its own decision."""
        return self.state == "over"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Beat:
        """Read the file's object; unknown keys are ignored.

        Raises:
            ValueError: it is no such object.
        """
        try:
            code = data.get("exit_code")
            return cls(
                float(data["time"]), int(data["beat"]), str(data["host"]), int(data.get("restarts") or 0),
                int(data.get("incarnation") or 0), str(data["state"]), None if code is None else int(code),
                int(data.get("job") or 0),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no coordinator's record: {error}") from None


@dataclass(frozen=True, slots=True)
class Managed:
    """What is known of a job's run.

    Attributes:
        run_dir: its directory; "" where the watchdog may not look into it (one watchdog for the whole cluster).
        requeue: the recipe lets the job be queued again.
        nodes_needed: nodes the job asks for, spares included.
        continue_after_s: how long a job may wait for a dead node before its run goes on as another job.
        fenced: the run has gone on as another job; this one is not to be brought back.
    """

    run_name: str
    run_dir: str = ""
    requeue: bool = True
    limits: BudgetLimits = field(default_factory=BudgetLimits)
    nodes_needed: int = 1
    continue_after_s: float = CONTINUE_AFTER_S
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as it was found in a poll."""

    job: Job
    managed: Managed
    beat: Beat | None = None


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Polled:
    """The controller has answered: all our jobs that it knows."""

    time: float
    views: Sequence[JobView]


@dataclass(frozen=True, slots=True)
class Silence:
    """The controller does not answer. Nothing follows from that."""

    time: float
    why: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What a closer look at one job has found.

    Attributes:
        restarts: of the job in the poll that asked for the look.
        nodes: all nodes of the job's partition.
        attempts: earlier failures of the run, oldest first.
        step: completed optimizer steps, None while unknown.
        over: the run's own record says that it has ended.
        out_of_memory: Slurm's output of this start tells of the kernel's OOM killer.
        blamed: node -> how many earlier failures, of any job, lie at its door within the time that counts; only what a
            watchdog of the whole cluster knows.
    """

    time: float
    job_id: int
    restarts: int
    nodes: Sequence[Node]
    attempts: Sequence[Attempt]
    step: int | None = None
    over: bool = False
    out_of_memory: bool = False
    blamed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beats:
    """The signs of life of running jobs, read between two polls; the controller was not asked."""

    time: float
    beats: Mapping[int, Beat | None]


Event = Polled | Silence | Beats | Looked

# ---------------------------------------------------------------- commands


class Deed(str, Enum):
    """What can be done."""

    LOOK = "look"
    """Look closer (reads only); answered with :class:`Looked`."""
    ATTEMPT = "attempt"
    """Write a failure down where the budget is counted."""
    RECORD = "record"
    """Add an event to the run's record."""
    REQUEUE = "requeue"
    REQUEUE_HOLD = "requeuehold"
    """Queue the job again, held, so that nodes can be excluded before it starts."""
    EXCLUDE = "exclude"
    """Add nodes to those the job is kept from."""
    INCLUDE = "include"
    """Take nodes from that list again."""
    RELEASE = "release"
    START_NOW = "start_now"
    """Lift Slurm's delay after a requeue."""
    CONTINUE = "continue"
    """Submit the run again as another job without its dead nodes, and end the old one."""
    DRAIN = "drain"
    """Take a node out of service, through the health policy; with an administrator's rights."""
    CANCEL = "cancel"
    NOTIFY = "notify"


@dataclass(frozen=True, slots=True)
class Command:
    """Something to be done once.

    Attributes:
        key: names the deed for all time: a deed whose key is in the journal is not done again.
        restarts: the job's restart count that the decision was made for; it is void for any other.
        data: what the deed needs: ``attempt``, ``kind`` and ``evidence`` of an event, ``held`` for a requeue of a job that
            has ended.
    """

    deed: Deed
    key: str
    job_id: int
    restarts: int
    run_name: str
    run_dir: str = ""
    cause: Cause = Cause.UNKNOWN
    reason: str = ""
    nodes: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the journal."""
        return {
            "deed": self.deed.value, "key": self.key, "job_id": self.job_id, "restarts": self.restarts,
            "run_name": self.run_name, "run_dir": self.run_dir, "cause": self.cause.value, "reason": self.reason,
            "nodes": list(self.nodes), "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Command:
        """Read it back."""
        return cls(
            Deed(data["deed"]), str(data["key"]), int(data["job_id"]), int(data["restarts"]), str(data["run_name"]),
            str(data["run_dir"]), Cause(data["cause"]), str(data["reason"]), tuple(data["nodes"]), dict(data["data"]),
        )
