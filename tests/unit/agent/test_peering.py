"""How nodes find the one that gets copies of their checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpctrain.agent.control import Control, PeerEndpoint
from hpctrain.agent.peering import LOOK_S, Peering, failure_domain
from hpctrain.ids import Incarnation
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter
from hpctrain.testing.fake_clock import FakeClock

CLOCK = FakeClock()


class FakeKeeper:
    """Listens at a port, and remembers who its peer is."""

    def __init__(self, port: int | None = 7000) -> None:
        self.port, self.pid = port, 1
        self.peers: list[tuple[str, str, int]] = []

    def about(self) -> Mapping[str, Any]:
        return {"pid": self.pid, "listening": {"addr": "10.0.0.1", "port": self.port} if self.port else None}

    def set_peer(self, node: str, addr: str, port: int) -> bool:
        self.peers.append((node, addr, port))
        return True


def swap(nodes: Sequence[str], domains: Mapping[str, str]) -> dict[str, str]:
    assert set(nodes) == set(domains)
    return {nodes[0]: nodes[1], nodes[1]: nodes[0]}


def peering(path: Path, keeper: FakeKeeper, domain: str = "s1") -> Peering:
    control = Control(RunDir(path), Incarnation(0))
    control.run_dir.control.mkdir(exist_ok=True)
    return Peering(control, keeper, swap, node="n1", nodes=("n1", "n2"), domain=domain,
                   events=EventWriter(path, "agent", "n1", CLOCK), clock=CLOCK)


def look(one: Peering) -> None:
    CLOCK.advance(LOOK_S)
    one.look()


def test_each_node_is_told_its_peer_once(tmp_path: Path) -> None:
    """As soon as all nodes have said where they listen the keeper knows its peer; then nothing more is said."""
    keeper = FakeKeeper()
    one, control = peering(tmp_path, keeper), Control(RunDir(tmp_path), Incarnation(0))
    look(one)
    assert [] == keeper.peers
    assert PeerEndpoint("n1", "10.0.0.1", 7000, "s1") == control.peers()["n1"]

    control.publish_peer(PeerEndpoint("n2", "10.0.0.2", 8000, "s2"))
    look(one)
    look(one)
    assert [("n2", "10.0.0.2", 8000)] == keeper.peers
    assert ["n1 sends copies of its checkpoints to n2"] == [event.reason for event in read_events(RunDir(tmp_path))]


def test_new_processes_are_told_again(tmp_path: Path) -> None:
    """A peer whose writer listens elsewhere, and an own keeper that was started again, lead to a new word to the keeper."""
    keeper = FakeKeeper()
    one, control = peering(tmp_path, keeper), Control(RunDir(tmp_path), Incarnation(0))
    control.publish_peer(PeerEndpoint("n2", "10.0.0.2", 8000))
    look(one)
    control.publish_peer(PeerEndpoint("n2", "10.0.0.2", 8001))
    look(one)
    keeper.pid = 2
    look(one)

    assert [("n2", "10.0.0.2", port) for port in (8000, 8001, 8001)] == keeper.peers


def test_a_writer_that_does_not_listen_yet_is_not_published(tmp_path: Path) -> None:
    """Nobody is sent to a place where nobody listens."""
    look(peering(tmp_path, FakeKeeper(port=None)))

    assert {} == Control(RunDir(tmp_path), Incarnation(0)).peers()


def test_a_peer_of_the_same_domain_is_said_to_be_one(tmp_path: Path) -> None:
    """Where there is no other domain copies are made all the same, and the event says what they are worth."""
    one, control = peering(tmp_path, FakeKeeper(), "s2"), Control(RunDir(tmp_path), Incarnation(0))
    control.publish_peer(PeerEndpoint("n2", "10.0.0.2", 8000, "s2"))
    look(one)

    assert "of the same failure domain" in read_events(RunDir(tmp_path))[0].reason


@pytest.mark.parametrize(("address", "pattern", "domain"), [
    ("core.leaf3.n07", "switch.switch.node", "core.leaf3"), ("leaf3.n07.cluster", "switch.node", "leaf3"),
    ("b1.n07", "block.node", "b1"), ("n07", "node", ""), ("", "", ""), ("n07.a", "unknown.node", ""),
])
def test_the_domain_is_the_switch(address: str, pattern: str, domain: str) -> None:
    """Slurm's topology address gives the switches above a node; without a topology nothing is known."""
    assert domain == failure_domain(address, pattern)
