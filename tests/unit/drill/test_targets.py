"""Processes of a job are told apart from everybody else's."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.devcluster import processes
from hpctrain.drill import hit
from hpctrain.drill.damage import damage_newest
from hpctrain.drill.starve import feed, starve
from hpctrain.drill.targets import AGENT, COORDINATOR, KEEPER, RANK, WRITER, find_targets
from hpctrain.errors import NotFoundError
from hpctrain.jobs.rank_pids import newest_ranks
from hpctrain.testing.run_builder import RunBuilder
from tests.unit.jobs.story import Story

STAND_IN = """
import subprocess, sys, time
# The agent has a keeper and a rank; all of them only wait.
if len(sys.argv) > 1 and sys.argv[1] == "node":
    for words in (["-m", "hpctrain.checkpoint.keeper_main", "--node", "n1"], ["-c", "import time; time.sleep(60)"]):
        print(subprocess.Popen([sys.executable, *words]).pid, flush=True)
print("ready", flush=True)
time.sleep(60)
"""

Start = Callable[..., process.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Processes with the arguments of ours, which do nothing."""
    package = tmp_path / "stand-in" / "hpctrain"
    for name in ("agent/__main__", "checkpoint/keeper_main"):
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STAND_IN)
        (path.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    made: list[process.Popen[bytes]] = []

    def build(role: str, run_dir: str, job: int = 7, node: str = "n1", *more: str) -> process.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(package.parent), "SLURM_JOB_ID": str(job), "SLURMD_NODENAME": node}
        argv = [sys.executable, "-m", "hpctrain.agent", role, "--run-dir", run_dir, *more]
        child = process.start(argv, env=env, stdout=process.PIPE, cwd=str(tmp_path))
        made.append(child)
        return child

    yield build
    for child in made:
        process.kill_group(child)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def until_ready(child: process.Popen[bytes]) -> list[int]:
    """Numbers that it prints before it is ready."""
    assert child.stdout is not None
    found = []
    while (line := child.stdout.readline().strip()) != b"ready":
        assert line, "it ended"
        found.append(int(line))
    return found


def test_targets_are_told_apart_by_job_node_and_run(start: Start) -> None:
    """Another run, another job, another node: none of them is hit."""
    agent, coordinator = start("node", "/runs/a"), start("coordinate", "/runs/a", 7, "n1", "--", "srun", "python", "node")
    others = [start("node", "/runs/b"), start("node", "/runs/a", 8)]
    keeper, rank = until_ready(agent)
    for child in (coordinator, *others):
        until_ready(child)

    found = {(target.what, target.node, target.rank): target.pid
             for target in find_targets(7, Path("/runs/a"), [("n1", 3, rank), ("n2", 4, os.getpid())])}

    assert found == {(AGENT, "n1", None): agent.pid, (COORDINATOR, "n1", None): coordinator.pid,
                     (KEEPER, "n1", None): keeper, (RANK, "n1", 3): rank}


def test_a_process_that_ended_is_no_target(start: Start) -> None:
    """A pid that the events name and that is gone, or somebody else's now, is not touched."""
    agent = start("node", "/runs/a")
    _, rank = until_ready(agent)
    os.kill(rank, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while processes.is_alive(rank) and time.monotonic() < deadline:
        time.sleep(0.01)

    found = find_targets(7, Path("/runs/a"), [("n1", 0, rank), ("n1", 1, os.getpid())])

    assert RANK not in {target.what for target in found}


def test_a_process_of_another_node_is_hit_there(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    """The step that a drill starts on a node finds the rank as the drill would, and says when there is none."""
    builder = RunBuilder(tmp_path / "runs", "a", job_id=7)
    agent = start("node", str(builder.dir.path))
    _, rank = until_ready(agent)
    builder.event(1.0, "agent", "ranks.started", node="n1", incarnation=0, ranks=[5], pids=[rank])
    monkeypatch.setenv("SLURMD_NODENAME", "n1")

    assert 0 == hit.main(["7", str(builder.dir.path), RANK, "SIGKILL", "5"])
    deadline = time.monotonic() + 30
    while processes.is_alive(rank) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not processes.is_alive(rank)
    assert processes.is_alive(agent.pid)
    assert 4 == hit.main(["7", str(builder.dir.path), WRITER, "SIGKILL"])
    assert "no writer" in capsys.readouterr().err


def test_the_newest_incarnations_ranks_count() -> None:
    """Ranks of earlier incarnations are dead, and their numbers may be others' by now."""
    story = Story()
    story.tell("ranks.started", node="n1", incarnation=0, ranks=[0, 1], pids=[11, 12])
    story.tell("ranks.started", node="n2", incarnation=1, ranks=[1], pids=[22])
    story.tell("ranks.started", node="n1", incarnation=1, ranks=[0], pids=[21])

    assert (("n1", 0, 21), ("n2", 1, 22)) == newest_ranks(story.events)
    assert () == newest_ranks([])


def test_the_newest_complete_checkpoint_is_damaged(tmp_path: Path) -> None:
    """One byte in the middle of its largest file; an incomplete one that is newer is left alone."""
    for step, complete in ((10, True), (20, True), (30, False)):
        folder = tmp_path / str(CheckpointName(0, step))
        folder.mkdir()
        (folder / "__0_0.distcp").write_bytes(bytes(1000))
        if complete:
            (folder / "commit.json").write_text("{}")

    told = damage_newest(tmp_path)

    damaged = (tmp_path / str(CheckpointName(0, 20)) / "__0_0.distcp").read_bytes()
    assert told.startswith(str(CheckpointName(0, 20)))
    assert [500] == [index for index, byte in enumerate(damaged) if byte]
    assert bytes(1000) == (tmp_path / str(CheckpointName(0, 30)) / "__0_0.distcp").read_bytes()
    with pytest.raises(NotFoundError, match="no complete checkpoint"):
        damage_newest(tmp_path / "nowhere")


def test_a_starved_process_gets_no_block_of_memory(tmp_path: Path) -> None:
    """The limit holds for files in memory, is seen as an error and not as a signal, and can be lifted."""
    program = ("import os, sys\nhandle = os.memfd_create('x')\nprint('ready', flush=True)\nfor _ in sys.stdin:\n"
               "    try:\n        os.posix_fallocate(handle, 0, 1 << 20)\n        print('has it', flush=True)\n"
               "    except OSError as error:\n        print(error.errno, flush=True)\n")
    child = process.start([sys.executable, "-c", program], stdin=process.PIPE, stdout=process.PIPE)
    assert child.stdin is not None and child.stdout is not None

    def ask() -> bytes:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
        return child.stdout.readline().strip()

    try:
        assert b"ready" == child.stdout.readline().strip()
        assert starve(child.pid)
        assert str(errno.EFBIG).encode() == ask()
        assert feed(child.pid)
        assert b"has it" == ask()
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()
    assert not starve(child.pid)
