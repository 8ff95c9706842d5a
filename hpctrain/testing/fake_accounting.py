"""The part of :class:`hpctrain.testing.fake_slurm.FakeSlurm` that keeps accounts."""

from __future__ import annotations

from hpctrain.errors import AccountingDownError, NoAccountingError
from hpctrain.slurm.accounting import AccountingQuery, Attempt, Tres
from hpctrain.slurm.model import JobState
from hpctrain.testing.fake_scheduler import Entry, FakeScheduler


class FakeAccounting:
    """An accounting database in memory. What happens while it is down is on record when it is back, as on a real cluster.

    Attributes:
        keeps_accounts: false makes :meth:`accounting` raise NoAccountingError.
        database_up: false makes it raise AccountingDownError.
    """

    user: str
    calls: list[str]
    keeps_accounts = True
    database_up = True
    _scheduler: FakeScheduler
    _cluster: str

    def accounting(self, query: AccountingQuery) -> list[Attempt]:
        """Attempts on record; answers also while the controller is down."""
        self.calls.append("accounting")
        if not self.keeps_accounts:
            raise NoAccountingError("this cluster keeps no accounting (it has no slurmdbd)")
        if not self.database_up:
            raise AccountingDownError("Slurm's accounting database does not answer (connection refused)")
        self._scheduler.schedule()
        now = self._scheduler.clock.time()
        current = [entry for entry in self._scheduler.entries.values() if not entry.job.state.finished]
        ended = [self._attempt(entry, outcome, end) for entry, outcome, end in self._scheduler.ended]
        found = [*ended, *(self._attempt(entry, entry.job.state.value, None) for entry in current)]
        since, until = query.since or 0.0, now if query.until is None else query.until
        return [
            one for one in found
            if (one.end_time is None or one.end_time >= since) and (one.start_time or one.submit_time or 0.0) <= until
            and (not query.ids or one.job_id in query.ids) and (not query.accounts or one.account in query.accounts)
            and ((query.all_users and not query.users) or one.user in (query.users or (self.user,)))
        ]  # fmt: skip

    def _attempt(self, entry: Entry, outcome: str, end: float | None) -> Attempt:
        job, now = entry.job, self._scheduler.clock.time()
        start = job.start_time if job.nodes else None
        each = next(iter(self._scheduler.nodes.values()))
        count = len(job.nodes)
        held = Tres(each.cpus * count, each.gpus * count, each.gpu_type, each.memory_mib * count, count)
        return Attempt(
            job_id=job.job_id, label=str(job.job_id), cluster=self._cluster, name=job.name, user=job.user,
            account=job.account, partition=job.partition, qos=job.qos, outcome=outcome,
            state=JobState[outcome] if outcome in JobState.__members__ else JobState.PENDING,
            submit_time=entry.queued_time or job.submit_time, eligible_time=job.eligible_time, start_time=start,
            end_time=end, elapsed_s=0.0 if start is None else (now if end is None else end) - start,
            time_limit_s=job.time_limit_s, held=held, asked=Tres(nodes=entry.num_nodes), nodes=job.nodes,
            exit_code=job.exit_code, exit_signal=job.exit_signal, reason=job.reason, work_dir=job.work_dir,
            comment=job.comment,
        )  # fmt: skip
