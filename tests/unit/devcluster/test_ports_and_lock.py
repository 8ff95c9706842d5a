"""Free ports in a row, and one command at a time."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from random import Random

import pytest

from hpctrain.devcluster import lock, ports
from hpctrain.errors import ClusterError


def test_a_row_of_ports_is_free_and_below_the_ephemeral_range() -> None:
    """All ports of the row can be bound, and none is one that outgoing connections are given."""
    first = ports.free_block(5, Random(1))

    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert ports.LOWEST <= first <= first + 4 < ephemeral
    assert all(ports.is_free(port) for port in range(first, first + 5))


def test_a_row_steps_over_a_port_in_use() -> None:
    """A listener in the middle of the first choice moves the row, and is seen in the kernel's table."""
    first = ports.free_block(3, Random(2))
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", first + 1))
        taken.listen()
        assert ports.listens(first + 1)
        assert not ports.is_free(first + 1)
        assert first + 2 <= ports.free_block(3, Random(2))
    assert not ports.listens(first + 1)


def test_more_ports_than_there_are_is_an_error() -> None:
    """A cluster that needs more ports than exist is refused at once."""
    with pytest.raises(ClusterError, match="there are not 70000 ports"):
        ports.free_block(70_000, Random(3))


def test_a_second_command_waits_for_the_first(tmp_path: Path) -> None:
    """The second holder enters only after the first has left, and has said that it waits."""
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(10)
        with lock.cluster_lock(tmp_path, "c", on_wait=lambda: order.append("waits")):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with lock.cluster_lock(tmp_path, "c", on_wait=lambda: None):
        inside.set()
        while "waits" not in order:
            pass
        order.append("first")
    thread.join(10)

    assert ["waits", "first", "second"] == order


def test_a_removed_lock_file_locks_nobody_out_and_nobody_in(tmp_path: Path) -> None:
    """A command that waited on a lock file which 'down' then removed locks the new file, not the removed one."""
    with lock.cluster_lock(tmp_path, "c", on_wait=lambda: None) as path:
        path.unlink()
        with lock.cluster_lock(tmp_path, "c", on_wait=lambda: None) as again:
            assert again.exists()
