"""Pending reasons in sentences."""

from __future__ import annotations

import pytest

from hpctrain.jobs.reasons import explain


@pytest.mark.parametrize(("reason", "part"), [
    ("Resources", "busy with other jobs"), ("Priority", "higher priority"), ("BeginTime", "start time"),
    ("Dependency", "another job"), ("JobHeldUser", "you hold it"), ("JobHeldAdmin", "administrator"),
    ("PartitionDown", "does not start jobs"), ("Reservation", "reservation"), ("Licenses", "license"),
    ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "down, drained or reserved"),
    ("Nodes required for job are DOWN, DRAINED or reserved", "down, drained or reserved"),
    ("launch_failed_requeued_held", "could not be started"), ("launch failed requeued held", "could not be started"),
    ("job requeued in held state", "is held"), ("PartitionTimeLimit", "time limit"),
    ("DependencyNeverSatisfied", "never start"),
    ("None", "not looked at it yet"), ("", "not looked at it yet"),
])
def test_known_reasons(reason, part):
    """Slurm's common reasons become a sentence."""
    assert part in explain(reason).sentence


@pytest.mark.parametrize(("reason", "parts"), [
    ("QOSGrpGRES", ["all jobs of its QOS together", "GPUs"]), ("QOSMaxJobsPerUserLimit", ["your jobs", "jobs", "its QOS"]),
    ("AssocGrpCpuLimit", ["all jobs of its account together", "CPUs"]), ("AssocMaxJobsLimit", ["your jobs", "its account"]),
    ("QOSMaxWallDurationPerJobLimit", ["one job", "run time", "never start"]),
    ("AssocGrpNodeLimit", ["nodes"]), ("QOSMaxGRESPerUser", ["GPUs", "your jobs"]),
    ("QOSMaxMemoryPerJob", ["memory", "one job"]),
])
def test_limits_are_recognised_by_their_parts(reason, parts):
    """Limits of QOS and account say whose limit, of what, and who uses it up."""
    sentence = explain(reason).sentence
    assert all(part in sentence for part in [*parts, reason])


def test_unknown_reason_is_quoted():
    """A word of a newer Slurm is shown as it is, not hidden."""
    assert explain("BrandNewThing").sentence == "Slurm's reason is 'BrandNewThing'"
