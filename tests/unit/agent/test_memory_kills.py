"""A rank that the kernel kills for its memory cannot say so: its control group's counter does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hpctrain.agent import memory_kills
from hpctrain.agent.decide import End, cause_of
from hpctrain.agent.node_report import explained
from hpctrain.agent.rank_result import RankExit
from hpctrain.checkpoint.memory_budget_probe import control_groups
from hpctrain.watchdog.budget import Cause

EVENTS = "low 0\nhigh 0\nmax 31\noom 2\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
TASK = "system.slice/slurmstepd.scope/job_7/step_0/user/task_0"


def tree(place: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


@pytest.mark.parametrize(("group", "counter", "text"), [
    (f"0::/{TASK}\n", f"{TASK}/memory.events", EVENTS),
    ("4:memory:/slurm/uid_1/job_7/step_0/task_0\n", "memory/slurm/uid_1/job_7/step_0/task_0/memory.oom_control", CONTROL),
    ("0::/../../elsewhere\n", "memory.events", EVENTS),
])
def test_kills_are_counted_in_both_versions(tmp_path: Path, group: str, counter: str, text: str) -> None:
    """The number of this group's own file, version 1 and 2, and in a namespace that hides where the group lies."""
    proc = tree(tmp_path / "proc", {"self/cgroup": group})
    groups = tree(tmp_path / "groups", {counter: text.format(3)})

    assert memory_kills.count(proc, groups) == 3


def test_a_container_shows_only_its_own_part_of_the_tree(tmp_path: Path) -> None:
    """The kernel names the group from the host's root; the mount's root says which part of that is missing."""
    groups = tmp_path / "groups"
    mount = f"30 29 0:26 /docker/abc {groups}/memory ro,nosuid - cgroup cgroup rw,memory\n"
    proc = tree(tmp_path / "proc", {"self/cgroup": "4:memory:/docker/abc/slurm/job_7\n", "self/mountinfo": mount})
    tree(groups, {"memory/slurm/job_7/memory.oom_control": CONTROL.format(5)})

    assert memory_kills.count(proc, groups) == 5
    assert control_groups(proc, groups) == [groups / "memory/slurm/job_7", groups / "memory/slurm", groups / "memory"]


def test_where_nobody_counts_nothing_is_said(tmp_path: Path) -> None:
    """A host without control groups gives no number, and the real one a number or none, without an error."""
    assert memory_kills.count(tmp_path, tmp_path) is None
    assert (memory_kills.count() or 0) >= 0


def test_a_rank_killed_for_memory_is_not_taken_for_one_that_crashed() -> None:
    """Its end is called host memory, whatever it printed last; other ends keep their own words."""
    killed = RankExit(3, "n1", -signal.SIGKILL, 1.0)

    end = explained(killed, os.devnull, ["step 12 loss 2.1"], memory_kills=1)

    assert "want of memory" in end.message
    assert cause_of(End(failure=end)) is Cause.HOST_MEMORY
    assert cause_of(End(failure=explained(killed, os.devnull, ["step 12 loss 2.1"]))) is Cause.RANK
    assert explained(RankExit(3, "n1", 1, 1.0), os.devnull, ["boom"], memory_kills=1).message == "boom"
