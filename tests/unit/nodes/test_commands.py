"""Rebooting, replacing and keeping spares by command."""

from __future__ import annotations

import pytest

from hpctrain.errors import NoSuchNodeError, SlurmError
from hpctrain.ids import NodeName
from hpctrain.nodes import spares
from hpctrain.nodes.service import Nodes
from tests.unit.nodes.conftest import DEAD, LIMITS, World

N1 = NodeName("n1")


def nodes(world: World) -> Nodes:
    return Nodes(world.slurm, world.config, world.clock, LIMITS, journal=world.journal, by="alice@login")


def test_a_reboot_by_command_is_checked_and_returned_by_tending(world: World) -> None:
    """Who asked and why is in reason and journal; it does not count as a remedy of a fault."""
    assert "would be" in nodes(world).reboot("n1", "new kernel", dry_run=True)
    assert not world.node("n1").drained
    nodes(world).reboot("n1", "new kernel")
    assert world.node("n1").reason.startswith("hpctrain: new kernel (reboot n1-")
    with pytest.raises(SlurmError, match="already"):
        nodes(world).reboot("n1", "again")
    for _ in range(4):
        world.look()
        world.live()
    assert world.node("n1").available
    (intent,) = [entry for entry in world.journal.entries() if entry.kind == "intent" and entry.step == "reboot"]
    assert (intent.by, intent.reason, intent.rule, intent.fault) == ("alice@login", "new kernel", "asked for", "")


def test_a_replacement_by_command_drains_gives_a_spare_and_asks(world: World) -> None:
    """The dry run shows both; afterwards the node stays out, and undrain brings it back."""
    world.slurm.create_reservation("hpctrain-spares", [NodeName("n4")], ["root"])
    assert "take a spare" in nodes(world).replace("n1", "rattles", dry_run=True)
    assert not world.node("n1").drained
    # The commands of this world are not configured through a file, so the one of the service has none.
    told = nodes(world).replace("n1", "rattles")
    assert "no command asks for another node here" in told
    assert world.slurm.reservations() == []
    assert world.node("n1").reason == "hpctrain: to be replaced: rattles"
    for _ in range(4):
        world.live()
        world.look()
    assert world.node("n1").drained
    nodes(world).undrain("n1")
    assert world.node("n1").available


@pytest.mark.parametrize("verb", ["reboot", "replace"])
def test_a_persons_drain_is_refused(world: World, verb: str) -> None:
    """Nothing is done to a node that somebody else has, and nothing is written down."""
    world.slurm.drain([N1], "alice: fan")
    world.faults["n1"] = DEAD
    with pytest.raises(SlurmError, match="alice: fan"):
        getattr(nodes(world), verb)("n1", "x")
    assert world.node("n1").reason == "alice: fan"
    assert world.journal.entries() == []


def test_a_refused_reboot_is_an_error(world: World) -> None:
    """Without operator rights the command fails, and says why."""
    world.slurm.operator = False
    with pytest.raises(SlurmError, match="may not change nodes"):
        nodes(world).reboot("n1", "x")


def test_a_rebooted_node_is_brought_back_by_resume(world: World) -> None:
    """UNDRAIN does not revive a node that a reboot left DOWN; a drained one is only undrained."""
    nodes(world).reboot("n1", "x")
    world.live()
    nodes(world).undrain("n1")
    assert world.node("n1").state == "IDLE"
    world.slurm.drain([N1], "hpctrain: x")
    world.slurm.calls.clear()
    nodes(world).undrain("n1")
    assert "resume" not in world.slurm.calls


def test_spares_are_added_listed_and_removed(world: World) -> None:
    """A reservation is made for the first and deleted with the last."""
    site = world.site()
    assert spares.listed(site) == (None, [])
    assert spares.add(site, ["n3"], dry_run=True) == "reservation hpctrain-spares would have n3"
    assert spares.listed(site)[0] is None
    spares.add(site, ["n3"])
    assert spares.add(site, ["n4", "n3"]) == "reservation hpctrain-spares has n3, n4"
    world.slurm.drain([NodeName("n4")], "alice: fan")
    assert [(node.name, ready) for node, ready in spares.listed(site)[1]] == [("n3", True), ("n4", False)]
    with pytest.raises(SlurmError, match="n1: not in reservation"):
        spares.remove(site, ["n1"])
    with pytest.raises(NoSuchNodeError):
        spares.add(site, ["zz"])
    spares.remove(site, ["n3"])
    assert spares.remove(site, ["n4"]) == "reservation hpctrain-spares has no node left"
    assert world.slurm.reservations() == []
