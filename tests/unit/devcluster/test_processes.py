"""Recognising processes, and signalling only the ones that were meant."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpctrain.clock import SystemClock
from hpctrain.devcluster import processes
from hpctrain.devcluster.kill import kill_members
from hpctrain.devcluster.layout import Layout
from hpctrain.devcluster.members import Member, find_members


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Paths of a cluster that only this test knows."""
    return Layout(tmp_path, tmp_path)


@pytest.fixture
def start() -> Iterator[object]:
    """Start programs that end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(argv: list[str], **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(argv, env={"PATH": os.environ["PATH"], **env}, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_zombie_is_not_alive() -> None:
    """A process that has ended and was not reaped counts as gone: nothing may wait for it for ever."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert not processes.is_alive(process.pid)
    process.wait()


def test_a_name_with_a_bracket_does_not_confuse_the_reader(tmp_path: Path) -> None:
    """A program may be called anything, and its state and parent are still read right."""
    odd = tmp_path / ") S 1 (x"
    odd.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(odd), "60"])
    try:
        assert processes.is_alive(process.pid)
        assert os.getpid() == processes.parents()[process.pid]
    finally:
        process.kill()
        process.wait()


def test_a_pid_that_changed_hands_is_not_signalled() -> None:
    """A signal meant for a process that started at another time is not sent."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        started = processes.start_ticks(process.pid)
        assert started is not None
        assert not processes.send(process.pid, signal.SIGKILL, started=started - 1)
        assert process.poll() is None
        assert processes.send(process.pid, signal.SIGKILL, started=started)
        assert -signal.SIGKILL == process.wait(10)
    finally:
        process.kill()


@pytest.mark.parametrize("text", ["", "x", "0", "1", "-5", "\n"])
def test_nonsense_in_a_pid_file_is_no_pid(tmp_path: Path, text: str) -> None:
    """An empty or damaged pid file, or one that names init or a group, leads nowhere."""
    (tmp_path / "pid").write_text(text)

    assert processes.read_pid_file(tmp_path / "pid") is None


def test_tasks_are_known_by_cluster_and_node(layout: Layout, start) -> None:
    """A job's process belongs to the node in its environment; a shell that merely knows the cluster does not belong."""
    conf = str(layout.slurm_conf)
    task = start(["sleep", "60"], SLURM_CONF=conf, SLURMD_NODENAME="n2")
    start(["sleep", "60"], SLURM_CONF=conf)
    start(["sleep", "60"], SLURM_CONF="/another/slurm.conf", SLURMD_NODENAME="n2")

    assert [(task.pid, "task", "n2")] == [(m.pid, m.kind, m.node) for m in find_members(layout)]


def test_killing_one_node_spares_the_others(layout: Layout, start) -> None:
    """All wanted processes are dead when the call returns, and no other."""
    conf = str(layout.slurm_conf)
    doomed = start(["sleep", "60"], SLURM_CONF=conf, SLURMD_NODENAME="n1")
    spared = start(["sleep", "60"], SLURM_CONF=conf, SLURMD_NODENAME="n2")

    killed = kill_members(layout, lambda member: member.node == "n1", SystemClock())

    assert [doomed.pid] == [member.pid for member in killed]
    assert -signal.SIGKILL == doomed.wait(10)
    assert spared.poll() is None


def test_processes_that_are_started_meanwhile_die_too(layout: Layout, start) -> None:
    """A script that starts a new process whenever one dies is outrun."""
    script = "trap '' TERM; while :; do sleep 0.01 & sleep 0.01; done"
    start(["sh", "-c", script], SLURM_CONF=str(layout.slurm_conf), SLURMD_NODENAME="n1")

    kill_members(layout, _everything, SystemClock())

    assert [] == find_members(layout)


def _everything(_member: Member) -> bool:
    return True
