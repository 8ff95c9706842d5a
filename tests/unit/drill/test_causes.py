"""Who is hit by a fault, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.drill.catalogue import KINDS
from hpctrain.drill.causes import Aim, Causer, Scene
from hpctrain.errors import NotFoundError, UsageError
from hpctrain.jobs.layout import RunDir
from hpctrain.slurm.model import Submission
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm

RANKS = (("n1", 0, 11), ("n1", 1, 12), ("n2", 2, 21), ("n2", 3, 22))


class Stage:
    """A job on a private cluster that does not exist; faults are only rehearsed unless they are Slurm's business."""

    def __init__(self, tmp_path: Path, *, dry: bool = True, private: bool = True) -> None:
        self.clock, self.told = FakeClock(1000.0), []
        self.slurm = FakeSlurm(clock=self.clock)
        self.job_id = self.slurm.submit(Submission("#!/bin/bash\n#SBATCH --nodes=2\n", str(tmp_path)))
        cluster = (Layout(tmp_path / "state", tmp_path / "run"), Spec("t", 4, 8, 7000, str(tmp_path))) if private else None
        scene = Scene(self.job_id, RunDir(tmp_path), ("n1", "n2"), RANKS, "n1", cluster)
        self.causer = Causer(scene, self.slurm, self.clock, self.told.append, dry=dry)

    def cause(self, kind: str, *, node: str | None = None, rank: int | None = None) -> str:
        self.causer.cause(kind, Aim(node, rank))
        return self.told[-1]


@pytest.mark.parametrize(("kind", "aim", "victim"), [
    ("kill-node", {}, "n2"), ("kill-node", {"node": "n1"}, "n1"), ("kill-batch-host", {}, "n1"), ("drain-node", {}, "n2"),
    ("xid79", {"node": "n1"}, "n1"),
])
def test_the_node_without_the_coordinator_is_hit_unless_another_is_named(tmp_path, kind, aim, victim) -> None:
    """The loss of the coordinator's node is a kind of its own."""
    told = Stage(tmp_path).cause(kind, **aim)

    assert told.startswith("would ")
    assert victim in told


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_can_be_caused_or_says_what_is_missing(tmp_path, kind) -> None:
    """Each kind of the catalogue is known here; a process that is not there is named."""
    stage = Stage(tmp_path)
    try:
        stage.cause(kind)
    except NotFoundError as error:
        assert f"job {stage.job_id}" in str(error)
    else:
        assert stage.told
    assert "RUNNING" == stage.slurm.jobs()[0].state.value


def test_what_does_not_exist_is_not_hit(tmp_path) -> None:
    """A rank or node that is none of the job's is named with those that are."""
    stage = Stage(tmp_path)

    with pytest.raises(NotFoundError, match="no such rank"):
        stage.cause("kill-rank", rank=9)
    with pytest.raises(NotFoundError, match="'n3'"):
        stage.cause("kill-node", node="n3")
    with pytest.raises(UsageError, match="cannot be caused"):
        stage.cause("kill-moon")


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values() if kind.needs != "anywhere"])
def test_a_sites_nodes_are_left_alone(tmp_path, kind) -> None:
    """Whole nodes and Slurm itself are broken on a private cluster only."""
    with pytest.raises(UsageError, match="only a private cluster"):
        Stage(tmp_path, private=False).cause(kind)


def test_slurm_is_told_by_its_own_commands(tmp_path) -> None:
    """Preemption queues the job again; a drain of ours ends with the drill, a person's would stay."""
    stage = Stage(tmp_path, dry=False)
    stage.cause("preemption")
    assert "PENDING" == stage.slurm.jobs()[0].state.value
    stage.cause("drain-node", node="n2")
    assert [node.name for node in stage.slurm.nodes() if node.drained] == ["n2"]
    stage.causer.clean_up()
    assert not [node.name for node in stage.slurm.nodes() if node.drained]
