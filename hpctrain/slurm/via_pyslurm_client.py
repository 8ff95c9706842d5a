"""Slurm through pyslurm, in a helper process, with Slurm's commands for the rest (adapter over the helper).

What is decided here, once:

- **Every call has a timeout**, after which the helper is killed and the next call gets a new one.
- **Reads are repeated**: once in a new helper when the old one died or went silent, and as often as the command-line
  adapter does when slurmctld does not answer.
- **Changes with an unknown outcome** are repeated only where twice is the same as once (release, cancel, drain, ...).
  A requeue is not: the job is looked at first.
- **What pyslurm cannot do, or not safely**, goes through Slurm's commands, openly: :data:`DELEGATED` says what and why.
- **A pyslurm that keeps failing is given up** for the rest of the process's life; Slurm's commands take over.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from hpctrain.clock import Clock, SystemClock
from hpctrain.errors import JobStateError, SlurmError
from hpctrain.ids import JobId, NodeName
from hpctrain.slurm import refusal
from hpctrain.slurm.accounting import AccountingQuery, Attempt
from hpctrain.slurm.model import Job, JobState, JobUpdate, Node, Partition, Reservation, Submission, clean_reason
from hpctrain.slurm.port import Slurm
from hpctrain.slurm.pyslurm_calls import Elsewhere, OutcomeUnknown, PyslurmCalls
from hpctrain.slurm.pyslurm_helper import Helper
from hpctrain.slurm.pyslurm_values import exit_is_unsure, job_of, nodes_of, partition_of, reservation_of
from hpctrain.slurm.via_cli_nodes import folded

DELEGATED = {
    "submit": "pyslurm submits without the user's resource limits, SPANK plugins, cli_filter and --hint, with defaults of"
    " its own, and reads #SBATCH lines in its own way: the job would be another than with sbatch",
    "version": "pyslurm knows only what it was built for",
    "reboot": "pyslurm has no such call",
    "create_reservation": "pyslurm judges the outcome by an error number that an earlier call may have left",
    "update_reservation": "pyslurm sends flags along that nobody set",
    "accounting": "it is asked for seldom, and one reader of its records is enough",
    "hold": "pyslurm's only hold that does not crash is an administrator's if an operator asks: no owner can release that",
    "clearing a comment or the excluded nodes": "pyslurm takes an empty value for no change",
    "exit status of a failed job": "pyslurm takes 128 away from those of 128 and more",
    "nodes with GPUs in use, where a site tracks no GPUs": "pyslurm knows GPUs in use only from the tracked resources"
    " (AccountingStorageTRES=gres/gpu)",
}
"""What goes through Slurm's commands although pyslurm is in use, and why."""

_MANY_IDS = 2000
"""More are not sent: the helper would load the whole queue anyway, and a request must fit into a pipe."""
_MANY_EXITS = 20_000
"""A watchdog lives for months."""


class SlurmPyslurm:
    """A :class:`hpctrain.slurm.port.Slurm` made of pyslurm and, for :data:`DELEGATED`, of another adapter.

    Args:
        commands: the command-line adapter for the same cluster and user.
        helper: the process that runs pyslurm.
        uid: whose jobs are "ours"; None is the calling user.
        required, timeout_s, retries, announce: as for :class:`hpctrain.slurm.pyslurm_calls.PyslurmCalls`.
    """

    def __init__(
        self,
        commands: Slurm,
        helper: Helper,
        *,
        required: bool = False,
        timeout_s: float = 20.0,
        retries: int = 3,
        clock: Clock | None = None,
        announce: Callable[[str], None] | None = None,
        uid: int | None = None,
    ) -> None:
        self._commands, self._clock = commands, clock or SystemClock()
        self._calls = PyslurmCalls(
            helper, required=required, timeout_s=timeout_s, retries=retries, clock=clock, announce=announce
        )
        self._uid = os.getuid() if uid is None else uid
        self._exits: dict[tuple[JobId, int, float | None], int | None] = {}

    @property
    def given_up(self) -> str:
        """Why pyslurm is not used any more; "" while it is."""
        return self._calls.given_up

    # -- reading --------------------------------------------------------------------------------------------------------

    def version(self) -> str:
        """Slurm's version, such as ``24.11.5``, from scontrol; asks no controller."""
        return self._commands.version()

    def cluster_name(self) -> str:
        """``ClusterName`` of the controller."""
        action = "cannot read Slurm's configuration"
        return self._calls.through(str, self._commands.cluster_name, action, "cluster_name")

    def jobs(
        self, ids: Iterable[JobId] | None = None, *, all_users: bool = False, exclusions: bool = True,
    ) -> list[Job]:
        """Jobs by id, from one query; the excluded nodes come with it."""
        wanted = None if ids is None else sorted(set(ids))
        if wanted == []:
            return []
        uid = self._uid if wanted is None and not all_users else None
        few = wanted if wanted is None or len(wanted) <= _MANY_IDS else None
        try:
            rows = self._calls.ask("cannot list jobs", "jobs", ids=few, uid=uid)
        except Elsewhere:
            return self._commands.jobs(wanted, all_users=all_users, exclusions=exclusions)
        jobs = [job_of(row, _user_name) for row in rows]
        if wanted is not None:
            known = set(wanted)
            jobs = [job for job in jobs if job.job_id in known]
        return sorted(self._with_exits(jobs), key=lambda job: job.job_id)

    def nodes(self, names: Iterable[NodeName] | None = None) -> list[Node]:
        """Nodes in natural order; GPUs in use come from Slurm's commands where the site does not track them."""
        chosen = None if names is None else set(names)
        if chosen is not None and not folded(chosen):
            return []

        def read(answer: Any) -> list[Node] | None:
            return nodes_of(answer["rows"], tracked=answer["tracked"])

        nodes = self._calls.through(read, lambda: None, "cannot list nodes", "nodes")
        if nodes is None:
            return self._commands.nodes(chosen)
        if chosen is None:
            return nodes
        missing = chosen - {node.name for node in nodes}
        if missing:
            raise refusal.explain(f"Node {min(missing)} not found", "cannot list nodes")
        return [node for node in nodes if node.name in chosen]

    def partitions(self) -> list[Partition]:
        """All partitions, hidden ones too."""

        def read(rows: Any) -> list[Partition]:
            return [partition_of(row) for row in rows]

        return self._calls.through(read, self._commands.partitions, "cannot list partitions", "partitions")

    def reservations(self) -> list[Reservation]:
        """All reservations."""

        def read(rows: Any) -> list[Reservation]:
            return sorted((reservation_of(row) for row in rows), key=lambda one: one.name)

        return self._calls.through(read, self._commands.reservations, "cannot list reservations", "reservations")

    # -- jobs -------------------------------------------------------------------------------------------------------------

    def submit(self, submission: Submission) -> JobId:
        """Queue a batch job, through sbatch."""
        return self._commands.submit(submission)

    def update_job(self, job_id: JobId, update: JobUpdate) -> None:
        """Change a job with one request; time limits are rounded up to Slurm's whole minutes."""
        changes: dict[str, Any] = {}
        if update.start_now:
            changes["begin_time"] = int(self._clock.time())
        if update.exclude is not None:
            changes["excluded_nodes"] = folded(update.exclude)
        if update.time_limit_s is not None:
            changes["time_limit"] = str(-(-update.time_limit_s // 60))
        if update.comment is not None:
            changes["comment"] = update.comment
        if not all(changes.values()):
            self._commands.update_job(job_id, update)
        elif changes:
            self._change(
                lambda: self._commands.update_job(job_id, update),
                f"cannot change job {job_id}", "update_job", job_id=job_id, changes=changes,
            )  # fmt: skip

    def requeue(self, job_id: JobId, *, hold: bool = False) -> None:
        """Stop a job and queue it again. When the answer is lost, the job tells whether the request arrived.

        Raises:
            JobStateError: also where the answer was lost and the job is over.
        """
        action = f"cannot requeue job {job_id}"
        before = self._known(job_id, action)
        try:
            self._calls.ask(action, "requeue", once=True, job_id=job_id, hold=hold)
        except Elsewhere:
            self._commands.requeue(job_id, hold=hold)
        except OutcomeUnknown:
            after = self._known(job_id, action)
            if not _was_requeued(before, after):
                if after.state.finished and not before.state.finished:
                    raise JobStateError(f"{action}: it is {after.state.value} now, and the answer was lost") from None
                self._commands.requeue(job_id, hold=hold)

    def hold(self, job_id: JobId) -> None:
        """Hold a job, through scontrol."""
        self._commands.hold(job_id)

    def release(self, job_id: JobId) -> None:
        """Undo a hold."""
        self._change(lambda: self._commands.release(job_id), f"cannot release job {job_id}", "release", job_id=job_id)

    def cancel(self, job_id: JobId) -> None:
        """End a job. Looks first, because pyslurm does not tell an unknown job from a cancelled one."""
        action = f"cannot cancel job {job_id}"
        if not self._known(job_id, action).state.finished:
            self._change(lambda: self._commands.cancel(job_id), action, "cancel", job_id=job_id)

    # -- nodes ------------------------------------------------------------------------------------------------------------

    def drain(self, names: Iterable[NodeName], reason: str) -> None:
        """Drain nodes. pyslurm would do it without a reason, too."""
        chosen, text = set(names), clean_reason(reason)
        if chosen and not text:
            raise SlurmError(f"cannot drain {folded(chosen)}: You must specify a reason when draining a node")
        self._set_nodes("drain", chosen, {"state": "DRAIN", "reason": text}, lambda: self._commands.drain(chosen, text))

    def undrain(self, names: Iterable[NodeName]) -> None:
        """Undrain nodes. They show NOT_RESPONDING for the seconds until Slurm has pinged them."""
        chosen = set(names)
        self._set_nodes("undrain", chosen, {"state": "UNDRAIN"}, lambda: self._commands.undrain(chosen))

    def resume(self, names: Iterable[NodeName]) -> None:
        """Resume nodes."""
        chosen = set(names)
        self._set_nodes("resume", chosen, {"state": "RESUME"}, lambda: self._commands.resume(chosen))

    def reboot(self, names: Iterable[NodeName], reason: str) -> None:
        """Reboot nodes, through scontrol."""
        self._commands.reboot(names, reason)

    def create_reservation(self, name: str, nodes: Iterable[NodeName], users: Iterable[str]) -> None:
        """Create a reservation, through scontrol."""
        self._commands.create_reservation(name, nodes, users)

    def update_reservation(self, name: str, nodes: Iterable[NodeName]) -> None:
        """Change a reservation, through scontrol."""
        self._commands.update_reservation(name, nodes)

    def delete_reservation(self, name: str) -> None:
        """Delete a reservation."""
        action = f"cannot delete reservation {name}"
        self._change(lambda: self._commands.delete_reservation(name), action, "delete_reservation", name=name)

    def accounting(self, query: AccountingQuery) -> list[Attempt]:
        """What the accounting database has on record, through sacct."""
        return self._commands.accounting(query)

    # -- shared -----------------------------------------------------------------------------------------------------------

    def _change(self, otherwise: Callable[[], None], action: str, call: str, **arguments: Any) -> None:
        """A change that may be sent twice without harm."""
        self._calls.through(lambda _: None, otherwise, action, call, **arguments)

    def _set_nodes(
        self, verb: str, names: set[NodeName], changes: dict[str, str], otherwise: Callable[[], None]
    ) -> None:
        if nodes := folded(names):
            self._change(otherwise, f"cannot {verb} {nodes}", "set_nodes", names=nodes, changes=changes)

    def _known(self, job_id: JobId, action: str) -> Job:
        found = self.jobs([job_id], exclusions=False)
        if not found:
            raise refusal.explain("Invalid job id specified", action)
        return found[0]

    def _with_exits(self, jobs: list[Job]) -> list[Job]:
        """Put exit statuses right that pyslurm may have changed; each job is asked after once."""
        keys = {job.job_id: (job.job_id, job.restarts, job.end_time) for job in jobs if exit_is_unsure(job)}
        unknown = [job_id for job_id, key in keys.items() if key not in self._exits]
        if unknown:
            if len(self._exits) > _MANY_EXITS:
                self._exits.clear()
            for job in self._commands.jobs(unknown, exclusions=False):
                self._exits[keys[job.job_id]] = job.exit_code
        return [
            replace(job, exit_code=self._exits.get(keys[job.job_id], job.exit_code)) if job.job_id in keys else job
            for job in jobs
        ]


def _was_requeued(before: Job, after: Job) -> bool:
    """The request arrived: the job was started again, waits, or is being stopped."""
    waits = after.state is JobState.PENDING and before.state is not JobState.PENDING
    stopped = "COMPLETING" in after.flags and "COMPLETING" not in before.flags
    return after.restarts > before.restarts or waits or stopped


@lru_cache(maxsize=1024)
def _user_name(uid: int) -> str:
    """Name of a user, or the number where there is no name, as Slurm's commands print it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
