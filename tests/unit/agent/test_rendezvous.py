"""The port for rank 0's store belongs to it alone, and the address is one that others can reach."""

from __future__ import annotations

import socket

import pytest

from hpctrain.agent import rendezvous
from hpctrain.agent.rank_environment import COORDINATOR
from hpctrain.agent.rendezvous import own_address
from hpctrain.errors import HpctrainError
from hpctrain.network import HeldPort


def test_held_port_is_refused_to_others_and_free_for_the_store() -> None:
    """Nobody can bind the port by chance, while a listener that asks for reuse, as torch's store does, gets it."""
    held = HeldPort()
    stranger, store = socket.socket(), socket.socket()
    with pytest.raises(OSError, match="in use"):
        stranger.bind(("", held.port))
    store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    store.bind(("127.0.0.1", held.port))
    store.listen()
    with socket.create_connection(("127.0.0.1", held.port), timeout=5):
        pass
    for opened in (stranger, store):
        opened.close()
    held.close()


def test_torchs_store_listens_on_a_held_port() -> None:
    """The real TCPStore, with libuv and without, starts on the port that an agent holds."""
    distributed = pytest.importorskip("torch.distributed")
    for libuv in (True, False):
        held = HeldPort()
        store = distributed.TCPStore("127.0.0.1", held.port, 1, True, use_libuv=libuv)
        store.set("key", "value")
        assert store.get("key") == b"value"
        held.close()


def test_ports_are_all_different() -> None:
    """Two agents on one host never hold the same port."""
    held = [HeldPort() for _ in range(50)]
    assert len({one.port for one in held}) == 50
    for one in held:
        one.close()


def test_address_of_an_interface() -> None:
    """A named interface gives its own address; one that does not exist is refused with those that do."""
    assert own_address("lo", True, {}) == ("127.0.0.1", "lo")
    with pytest.raises(HpctrainError, match="'nope0' has no IPv4 address on n7") as caught:
        own_address("nope0", True, {"SLURMD_NODENAME": "n7"})
    assert "lo" in caught.value.advice


def test_single_node_stays_on_loopback() -> None:
    """With one node no network is needed."""
    assert own_address("", False, {"SLURM_LAUNCH_NODE_IPADDR": "192.0.2.1"}) == ("127.0.0.1", "")


class Network:
    """Stands for the host's own network: names, and the address that the kernel would use towards each peer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, named: str, routes: dict[str, str]) -> None:
        monkeypatch.setattr(rendezvous, "_resolved", lambda _: named)
        monkeypatch.setattr(rendezvous, "_source_address", routes.get)
        monkeypatch.setattr(rendezvous, "interface_of", lambda address: f"to-{address}")


def test_several_nodes_use_the_address_towards_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that the kernel would use to reach it, else the host that launched the step, else the host name's."""
    Network(monkeypatch, named="192.0.2.9", routes={"192.0.2.1": "192.0.2.7", "198.51.100.1": "198.51.100.7"})
    launched = {"SLURM_LAUNCH_NODE_IPADDR": "192.0.2.1"}
    assert own_address("", True, {**launched, COORDINATOR: "198.51.100.1:4711"}) == ("198.51.100.7", "")
    assert own_address("", True, launched) == ("192.0.2.7", "")
    assert own_address("", True, {"SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}) == ("192.0.2.9", "")


def test_a_host_name_that_means_loopback_is_not_offered_to_other_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian writes 127.0.1.1 into /etc/hosts: the coordinator takes the address towards another node of its job."""
    Network(monkeypatch, named="127.0.1.1", routes={"c1": "127.0.0.1", "c2": "192.0.2.7"})
    assert own_address("", True, {}, ("c1", "c2")) == ("192.0.2.7", "to-192.0.2.7")
    # Its own agent is launched from 127.0.0.1, and finds the network by the coordinator's address.
    Network(monkeypatch, named="127.0.1.1", routes={"127.0.1.1": "127.0.0.1", "192.0.2.7": "192.0.2.7"})
    env = {"SLURM_LAUNCH_NODE_IPADDR": "127.0.1.1", COORDINATOR: "192.0.2.7:4711"}
    assert own_address("", True, env) == ("192.0.2.7", "to-192.0.2.7")


def test_nodes_that_share_one_host_meet_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing leads anywhere else the loopback has to do."""
    Network(monkeypatch, named="127.0.1.1", routes={"127.0.0.1": "127.0.0.1"})
    assert own_address("", True, {"SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1"}, ("n1", "n2")) == ("127.0.0.1", "to-127.0.0.1")
