"""The one way the rest of hpctrain sees Slurm (pure).

Adapters: :class:`hpctrain.slurm.via_cli.SlurmCli` (the real one) and
:class:`hpctrain.testing.fake_slurm.FakeSlurm` (in memory). ``tests/contract`` runs once per adapter.
All methods raise :class:`~hpctrain.errors.ControllerDownError` when the controller does not answer within
the adapter's bounded retries, and :class:`~hpctrain.errors.NotPermittedError` when Slurm refuses the user.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.accounting import AccountingQuery, Attempt
from hpctrain.slurm.model import Job, JobUpdate, Node, Partition, Reservation, Submission


class Slurm(Protocol):
    """Submit, read and steer jobs; read, drain, reboot and return nodes; set nodes aside in reservations."""

    def version(self) -> str:
        """Slurm's version, such as ``22.05.8``; needs no controller."""

    def cluster_name(self) -> str:
        """``ClusterName`` of the controller."""

    def submit(self, submission: Submission) -> JobId:
        """Queue a batch job and return its id.

        Raises:
            SlurmError: refused; the message is Slurm's own, with what to do where we know it.
        """

    def jobs(
        self, ids: Iterable[JobId] | None = None, *, all_users: bool = False, exclusions: bool = True,
    ) -> list[Job]:
        """Jobs the controller still remembers, in one query.

        Args:
            ids: only these (unknown ones are simply absent from the answer); None for all of this user's.
            all_users: with ``ids=None``, everybody's.
            exclusions: false may leave :attr:`Job.excluded_nodes` empty, which spares the CLI adapter a second query.
        """

    def nodes(self, names: Iterable[NodeName] | None = None) -> list[Node]:
        """Nodes in natural order, in one query; unknown names raise NoSuchNodeError."""

    def partitions(self) -> list[Partition]:
        """All visible partitions."""

    def update_job(self, job_id: JobId, update: JobUpdate) -> None:
        """Change a job. Raises NoSuchJobError, JobStateError."""

    def requeue(self, job_id: JobId, *, hold: bool = False) -> None:
        """Stop a running job and queue it again under the same id. Raises NoSuchJobError, JobStateError."""

    def hold(self, job_id: JobId) -> None:
        """Keep a pending job from starting (user hold). Raises NoSuchJobError, JobStateError."""

    def release(self, job_id: JobId) -> None:
        """Undo :meth:`hold`. Raises NoSuchJobError."""

    def cancel(self, job_id: JobId) -> None:
        """End a job for good. A job that has already ended is left alone; an unknown one raises NoSuchJobError."""

    def drain(self, names: Iterable[NodeName], reason: str) -> None:
        """Take nodes out of service after their present jobs. Raises NoSuchNodeError, SlurmError (no reason given).

        The reason passes through :func:`hpctrain.slurm.model.clean_reason`.
        """

    def undrain(self, names: Iterable[NodeName]) -> None:
        """Put drained nodes back (UNDRAIN, not RESUME: it never revives a node that is DOWN). Raises NoSuchNodeError."""

    def resume(self, names: Iterable[NodeName]) -> None:
        """Put nodes back that are drained or DOWN, with their reason gone. Raises NoSuchNodeError.

        Only for a node that is DOWN because a reboot of ours left it so; for all others there is :meth:`undrain`.
        """

    def reboot(self, names: Iterable[NodeName], reason: str) -> None:
        """Drain nodes at once, reboot each when its jobs are over, and leave it DOWN then, for somebody to check it.

        Slurm appends ``reboot issued`` and ``reboot complete`` to the reason.

        Raises:
            NoSuchNodeError: unknown node.
            SlurmError: no reason given.
        """

    def reservations(self) -> list[Reservation]:
        """All reservations, by name."""

    def create_reservation(self, name: str, nodes: Iterable[NodeName], users: Iterable[str]) -> None:
        """Set nodes aside for these users, from now on and for as long as Slurm allows (a year); running jobs go on.

        Raises NoSuchNodeError, SlurmError (no nodes, no users, the name is taken).
        """

    def update_reservation(self, name: str, nodes: Iterable[NodeName]) -> None:
        """Give a reservation these nodes instead of its own. Raises NoSuchNodeError, SlurmError (unknown; no nodes)."""

    def delete_reservation(self, name: str) -> None:
        """Give all its nodes back. Raises SlurmError (there is none of that name)."""

    def accounting(self, query: AccountingQuery) -> list[Attempt]:
        """What the accounting database has on record, one value per attempt of a job.

        :func:`hpctrain.slurm.accounting.by_job` puts them together.
        Records lag behind the controller by moments, and by as long as the database was down; none is lost then.

        Raises:
            NoAccountingError: the cluster keeps no accounting.
            AccountingDownError: the database does not answer; the controller may.
        """
