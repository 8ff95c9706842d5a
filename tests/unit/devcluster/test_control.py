"""Reading Slurm's account of nodes."""

from __future__ import annotations

import pytest

from hpctrain.devcluster.cluster import KILL_REASON, is_resumable, is_settled
from hpctrain.devcluster.control import NodeState, parse_node

LINE = (
    "NodeName=n2 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 Gres=gpu:sim:8 NodeAddr=127.0.0.1 NodeHostName=box Port=17002"
    " Version=22.05.8 RealMemory=256000 State={state} ThreadsPerCore=1 Partitions=main  BootTime=2026-11-21T01:53:47"
    " SlurmdStartTime=2026-11-21T02:14:41 AllocTRES= CapWatts=n/a{reason}"
)


def node(state: str, reason: str = "") -> NodeState:
    """A node as scontrol prints it."""
    parsed = parse_node(LINE.format(state=state, reason=f" Reason={reason} [root@2026-11-21T02:16:13]" if reason else ""))
    assert parsed is not None
    return parsed


def test_a_line_is_read_whole() -> None:
    """Name, state, reason and start time come out as Slurm wrote them, a reason with blanks and brackets too."""
    expected = NodeState("n2", "DOWN+DRAIN", responds=True, reason="disk [sda] | bad", slurmd_started="2026-11-21T02:14:41")

    assert expected == node("DOWN+DRAIN", "disk [sda] | bad")


@pytest.mark.parametrize("state", ["IDLE*", "DOWN*+DRAIN", "IDLE+NOT_RESPONDING", "UNKNOWN", "UNKNOWN*"])
def test_silence_is_seen_in_every_versions_writing(state: str) -> None:
    """A node that does not answer is marked with a star by old versions and with a flag by new ones."""
    assert not node(state).responds
    assert "NOT_RESPONDING" not in node(state).state


def test_lines_that_are_no_nodes_are_skipped() -> None:
    """An empty line, or a message, is no node."""
    assert parse_node("") is None
    assert parse_node("No nodes in the system") is None


@pytest.mark.parametrize("reason", [KILL_REASON, "Not responding", "Node unexpectedly rebooted", ""])
def test_what_we_or_slurm_wrote_is_undone(reason: str) -> None:
    """A node that is DOWN only because it was away is put back."""
    assert is_resumable(node("DOWN", reason))
    assert not is_settled(node("DOWN", reason))


@pytest.mark.parametrize(("state", "reason"), [("DOWN", "fan broken"), ("DOWN+DRAIN", "fan broken"), ("IDLE+DRAIN", "x")])
def test_a_persons_reason_stays(state: str, reason: str) -> None:
    """A node that a person took out of service is left there, and nobody waits for it."""
    assert not is_resumable(node(state, reason))
    assert is_settled(node(state, reason))


def test_an_absent_node_is_neither_resumed_nor_settled() -> None:
    """A node that does not answer is waited for, whatever its reason."""
    assert not is_resumable(node("DOWN*", KILL_REASON))
    assert not is_settled(node("IDLE*"))
