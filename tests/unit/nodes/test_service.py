"""Nodes out of service: who may bring them back, when, and what is given back with them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpctrain.clock import SystemClock
from hpctrain.errors import SlurmError, UsageError
from hpctrain.health.breaker import held_slots, take_slot
from hpctrain.health.config import Breaker, Config
from hpctrain.health.kernel_log import LogMemory
from hpctrain.health.node_state import NodeFiles, NodeState
from hpctrain.health.policy import Limits, Step
from hpctrain.health.reading import KernelEvent
from hpctrain.ids import NodeName
from hpctrain.nodes.service import Nodes
from hpctrain.slurm.model import Node
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm

OURS = "hpctrain: xid: GPU 3: Xid 79"
FINDING = {"level": "drain", "check": "xid", "entity": "gpu3", "action": "reboot the node", "message": "Xid 79"}


@dataclass
class Site:
    """A cluster in memory with records of health checks on disk."""

    slurm: FakeSlurm
    config: Config

    @property
    def nodes(self) -> Nodes:
        return Nodes(self.slurm, self.config, SystemClock(), Limits(recovery_s=10.0))

    def checked(self, level: str, *, seconds: float, context: str = "periodic") -> None:
        """A check of n1, so many seconds from now."""
        when, found = time.time() + seconds, [FINDING] if level == "drain" else []
        files = NodeFiles(Path(self.config.state_dir), "n1")
        log = LogMemory("boot", 5, (KernelEvent("xid", when, "0000:3b:00", 79, first=when),))
        files.save(NodeState("boot", log=log, verdict={"time": when, "level": level, "findings": found}))
        files.append({"time": when, "kind": "health", "context": context, "level": level})

    def node(self) -> Node:
        return self.slurm.nodes([NodeName("n1")])[0]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Four nodes; the breaker permits one drain, and n1 has it."""
    (tmp_path / "slots").mkdir()
    take_slot(tmp_path / "slots", 1, "n1", OURS)
    config = Config(state_dir=str(tmp_path / "state"), breaker=Breaker(directory=str(tmp_path / "slots")))
    return Site(FakeSlurm(clock=SystemClock()), config)


def test_a_faulty_node_is_shown_with_evidence_and_next_step(site: Site) -> None:
    """Who drained it, what was found, and what would mend it."""
    site.slurm.drain([NodeName("n1")], OURS)
    site.checked("drain", seconds=0)

    (view,) = site.nodes.look(["n1"])

    assert ("hpctrain", Step.REBOOT, (FINDING,)) == (view.by, view.decision.step, view.evidence)


def test_a_node_is_not_validated_while_it_is_faulty(site: Site) -> None:
    """Nothing changes, and the answer says why."""
    site.slurm.drain([NodeName("n1")], OURS)
    site.checked("drain", seconds=0)

    done, text = site.nodes.validate("n1")

    assert (False, "n1: reboot: xid/gpu3") == (done, text)
    assert site.node().drained


@pytest.mark.parametrize(("context", "seconds"), [("periodic", -60.0), ("prolog", -20.0)])
def test_a_clean_check_must_be_periodic_and_later_than_the_drain(site: Site, context: str, seconds: float) -> None:
    """Neither what was clean before the drain nor a prolog's narrower look brings a node back."""
    site.slurm.drain([NodeName("n1")], OURS)
    site.checked("ok", seconds=seconds, context=context)
    assert not site.nodes.validate("n1")[0]


def test_a_healed_node_comes_back_with_slot_and_clean_log(site: Site) -> None:
    """Validated only after its recovery window; then its slot is free and the old Xid settled."""
    site.slurm.drain([NodeName("n1")], OURS)
    site.checked("ok", seconds=0.2)
    assert "n1: wait: healthy for" in site.nodes.validate("n1")[1]
    assert site.node().drained

    patient = Nodes(site.slurm, site.config, FakeClock(time.time() + 30), Limits(recovery_s=10.0))
    assert patient.validate("n1", dry_run=True)[0]
    assert (True, {0: "n1"}) == (site.node().drained, held_slots(Path(site.config.breaker.directory)))

    assert patient.validate("n1")[0]

    assert not site.node().drained
    assert {} == held_slots(Path(site.config.breaker.directory))


def test_undraining_settles_the_kernel_log(site: Site) -> None:
    """The Xid that a person has dealt with is forgotten, so that the next check does not drain for it again."""
    site.slurm.drain([NodeName("n1")], OURS)
    site.checked("drain", seconds=-5)

    site.nodes.undrain("n1")

    log = NodeFiles(Path(site.config.state_dir), "n1").load().log
    assert () == log.events
    assert "" in log.cleared


def test_a_persons_drain_survives_every_command(site: Site) -> None:
    """drain, undrain and validate refuse, and state, reason and slot stay."""
    site.slurm.drain([NodeName("n1")], "alice: memory test")
    site.checked("ok", seconds=0.1)
    for change in (lambda: site.nodes.drain("n1", "x"), lambda: site.nodes.undrain("n1"), lambda: site.nodes.validate("n1")):
        with pytest.raises(SlurmError, match="alice: memory test"):
            change()

    assert (True, "alice: memory test") == (site.node().drained, site.node().reason)
    assert {0: "n1"} == held_slots(Path(site.config.breaker.directory))


def test_a_drain_by_command_is_a_persons(site: Site) -> None:
    """Its reason may not look like ours, and nothing of ours brings the node back; a dry run changes nothing."""
    with pytest.raises(UsageError):
        site.nodes.drain("n1", OURS)
    site.nodes.drain("n1", "swap the fan", dry_run=True)
    assert not site.node().drained
    site.nodes.drain("n1", "swap the fan")
    assert Step.KEEP is site.nodes.look(["n1"])[0].decision.step


def test_a_node_in_service_cannot_be_undrained(site: Site) -> None:
    """The answer says that there is nothing to undo."""
    with pytest.raises(SlurmError, match="not drained"):
        site.nodes.undrain("n1")


def test_missing_records_are_told(site: Site) -> None:
    """A person may bring the node back from another machine, and learns that its kernel log still counts."""
    site.slurm.drain([NodeName("n1")], OURS)
    assert "what its kernel log said still counts" in site.nodes.undrain("n1")
    assert not site.node().drained
