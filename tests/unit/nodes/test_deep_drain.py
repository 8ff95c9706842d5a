"""What deep checks blame is taken out of service within limits, and no clean reading brings it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.health.config import Config
from hpctrain.health.policy import DEEP_PREFIX, Facts, Fleet, Limits, Step, decide
from hpctrain.ids import NodeName
from hpctrain.nodes.journal import Journal
from hpctrain.nodes.service import Nodes
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm


@pytest.fixture
def slurm() -> FakeSlurm:
    """Four nodes."""
    return FakeSlurm(clock=FakeClock())


def test_blamed_nodes_are_drained_within_the_limit(slurm: FakeSlurm, tmp_path: Path) -> None:
    """One of four at a time; a person's drain keeps its reason; a dry run changes nothing; the journal has it."""
    journal = Journal(tmp_path / "journal")
    config = Config(state_dir=str(tmp_path / "records"))
    nodes = Nodes(slurm, config, slurm.clock, journal=journal, by="alice@login")
    slurm.drain([NodeName("n4")], "operator: fans")
    blamed = {"n1": "gemm.float32 corrupt: row 3", "n2": "slow", "n4": "slow", "n9": "slow"}

    told = nodes.drain_blamed(blamed, dry_run=True)
    assert "would be drained: hpctrain: deep gemm.float32 corrupt: row 3" == told["n1"]
    assert not slurm.nodes([NodeName("n1")])[0].drained

    told = nodes.drain_blamed(blamed)
    assert "drained: hpctrain: deep gemm.float32 corrupt: row 3" == told["n1"]
    assert "1 of 4 nodes are drained by us, and 1 are permitted" in told["n2"]
    assert "by somebody else: 'operator: fans'" in told["n4"]
    assert "does not know" in told["n9"]
    assert ["n1", "n4"] == [node.name for node in slurm.nodes() if node.drained]
    assert [("n1", "drain", "deep check", "alice@login")] == [
        (one.node, one.step, one.rule, one.by) for one in journal.entries() if one.kind == "intent"
    ]
    assert "by us" in nodes.drain_blamed({"n1": "slow"})["n1"]


def test_who_may_not_drain_is_told_so(slurm: FakeSlurm, tmp_path: Path) -> None:
    """For each node, so that the report is not lost over it."""
    slurm.operator = False
    nodes = Nodes(slurm, Config(state_dir=str(tmp_path)), slurm.clock, journal=Journal(tmp_path / "journal"))

    assert "could not be drained" in nodes.drain_blamed({"n1": "slow"})["n1"]


def test_an_undrained_node_gives_its_place_back(slurm: FakeSlurm, tmp_path: Path) -> None:
    """A person mends and undrains the first; then the second may be drained."""
    nodes = Nodes(slurm, Config(state_dir=str(tmp_path)), slurm.clock, journal=Journal(tmp_path / "journal"))
    nodes.drain_blamed({"n1": "slow"})

    nodes.undrain("n1")

    assert "drained: " in nodes.drain_blamed({"n2": "slow"})["n2"]


def test_clean_readings_do_not_return_what_a_deep_check_drained() -> None:
    """No reading shows a wrong product: a person returns the node."""
    facts = Facts("n1", True, f"{DEEP_PREFIX} gemm.float32 corrupt", verdict_time=1000.0, healthy_since=10.0)

    assert (Step.PERSON, "deep check") == (
        (found := decide(facts, [], Fleet(4, 1), Limits(), 100_000.0)).step, found.rule,
    )
    other = replace(facts, reason="hpctrain: xid: GPU 0: Xid 79")
    assert Step.RETURN is decide(other, [], Fleet(4, 1), Limits(), 100_000.0).step
