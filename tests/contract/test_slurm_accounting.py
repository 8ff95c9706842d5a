"""What every Slurm adapter does about accounts: the in-memory fake keeps them, a private cluster keeps none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpctrain.errors import NoAccountingError
from hpctrain.slurm.accounting import AccountingQuery, by_job
from hpctrain.slurm.model import JobState
from hpctrain.slurm.port import Slurm
from hpctrain.testing.fake_slurm import FakeSlurm

if TYPE_CHECKING:
    from tests.contract.conftest import Driver, World


def test_requeued_job_is_one_job_on_record_or_there_are_no_records(driver: Driver, slurm: Slurm, world: World) -> None:
    """Both attempts of a job that was queued again, with what they held; or one clear error where nobody keeps records."""
    job = driver.running("--job-name=recorded", nodes=2)
    query = AccountingQuery(since=(job.submit_time or 0.0) - 60, ids=(job.job_id,), all_users=True)
    if not isinstance(slurm, FakeSlurm):
        with pytest.raises(NoAccountingError, match="keeps no accounting"):
            slurm.accounting(query)
        return
    slurm.requeue(job.job_id)
    driver.wait_for(job.job_id, JobState.PENDING)
    (recorded,) = by_job(slurm.accounting(query))
    first, second = recorded.attempts
    assert (first.outcome, first.user, first.name, first.held.nodes, first.nodes) == (
        "REQUEUED", world.user, "recorded", 2, job.nodes,
    )  # fmt: skip
    assert (second.live, second.ran) == (True, False)
    assert slurm.accounting(AccountingQuery(since=query.since, users=("nobody-else",))) == []
