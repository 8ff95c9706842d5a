"""When Slurm's delay after a requeue may be lifted (pure).

Slurm holds a requeued job back for about two minutes, until the credentials of its old start have expired on the
nodes. Lifting that at once is a trap: credentials are dated in whole seconds, so a start in the second in which the
old one was revoked is taken for the old one, and Slurm *fails* the job ("Job credential revoked"; 2 of 32 requeues with
Slurm 22.05, all nodes on one host). A few seconds, which also cover clocks that differ, are enough.
"""

from __future__ import annotations

from hpctrain.slurm.model import Job, JobState

SAFE_AFTER_S = 4.0


class DelayWatch:
    """Says when the delay of one requeued job may be lifted.

    Time counts from when the job was first seen waiting with all of its old nodes cleaned up, anew for each requeue:
    a start may come and go between two looks.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._restarts = -1

    def may_lift(self, job: Job, now: float) -> bool:
        """Whether to ask Slurm now.

        Args:
            job: as Slurm has just shown it.
            now: seconds of a monotonic clock.
        """
        if job.state is not JobState.PENDING or "COMPLETING" in job.flags or job.reason != "BeginTime":
            self._since = None
            return False
        if self._since is None or job.restarts != self._restarts:
            self._since, self._restarts = now, job.restarts
        return now - self._since >= SAFE_AFTER_S
