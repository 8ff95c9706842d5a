"""Ranks that are killed continue from memory, at the step they had reached, and end with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from hpctrain.checkpoint.keeper_client import KeeperClient, shared_secret
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.tier_ram_connect import SECRET_FILE
from hpctrain.jobs.event import Event
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from tests.train.ranks import Start, WarmRanks, final_weights, logs, make_recipe

IN_MEMORY: dict[str, Any] = {
    "checkpoint__every_steps": 1000, "checkpoint__ram": {"enabled": True, "every_steps": 1}, "training__steps": 16,
}
SLOWLY = {"TEST_SLOW_S": "0.1"}
"""Each step lasts long enough to be seen on a busy machine."""


def keeper_pid(run_dir: Path) -> int:
    """The process that holds the memory of a run without an agent; 0 while there is none."""
    try:
        client = KeeperClient(shared_secret(run_dir / "checkpoints" / SECRET_FILE), "n1")
    except WireError:
        return 0
    pid = int(client.request("about")["pid"])
    client.close()
    return pid


def restored(run_dir: Path) -> list[Event]:
    """What each start that found something told of it."""
    return [event for event in read_events(RunDir(run_dir)) if event.kind == "checkpoint.restored"]


def until_step(start: Start, step: int) -> None:
    """Wait until rank 0 has come so far."""
    start.wait_until(lambda beat: beat.get("phase") in ("step", "save") and beat["step"] >= step)


def until_event(run_dir: Path, kind: str, timeout_s: float = 60) -> None:
    """Wait until something has been told."""
    deadline = time.monotonic() + timeout_s
    while kind not in [event.kind for event in read_events(RunDir(run_dir))]:
        assert time.monotonic() < deadline, logs(run_dir)
        time.sleep(0.02)


@pytest.fixture
def stormy(tmp_path: Path) -> Any:
    """A run directory whose keeper is ended with the test."""
    run_dir = tmp_path / "stormy"
    yield run_dir
    if pid := keeper_pid(run_dir):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_killed_ranks_go_on_where_they_were(trainers: WarmRanks, tmp_path: Path, stormy: Path, kind: str) -> None:
    """One rank, then all ranks, then the keeper and a rank are killed: each start continues at most two steps back."""
    recipe, calm = make_recipe(**IN_MEMORY, training__parallelism={"kind": kind}), tmp_path / "calm"
    without = make_recipe(**{**IN_MEMORY, "checkpoint__ram": {"enabled": False}}, training__parallelism={"kind": kind})
    assert [0] * 4 == trainers.finish(calm, without), logs(calm)

    first = trainers.start(stormy, recipe, **SLOWLY)
    until_step(first, 3)
    first.kill(1)
    assert 0 not in first.wait(), logs(stormy)
    second = trainers.start(stormy, recipe, **SLOWLY)
    until_step(second, 6)
    second.kill()
    second.wait()
    third = trainers.start(stormy, recipe, TEST_SLOW_S="0.3")
    until_step(third, 8)
    os.kill(keeper_pid(stormy), signal.SIGKILL)
    until_event(stormy, "checkpoint.recovered")  # training went on, and a new keeper holds a new copy
    third.kill(0)
    assert 0 not in third.wait(), logs(stormy)
    assert [0] * 4 == trainers.finish(stormy, recipe), logs(stormy)

    assert [True, True, True] == [event.evidence["tiers"] == {"ram": 4} for event in restored(stormy)]
    assert all(event.evidence["steps_lost"] <= 2 for event in restored(stormy)), restored(stormy)
    assert final_weights(calm) == final_weights(stormy)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_any_kill_after_any_step(trainers: WarmRanks, tmp_path: Path, stormy: Path, kind: str) -> None:
    """After each step in turn some ranks, or all, are killed at a random moment: never more than two steps are lost."""
    recipe, seed = make_recipe(**IN_MEMORY, training__parallelism={"kind": kind}), time.time_ns()
    calm, chance = tmp_path / "calm", random.Random(seed)
    assert [0] * 4 == trainers.finish(calm, recipe), logs(calm)

    for step in range(1, 16):
        start = trainers.start(stormy, recipe, **SLOWLY)
        until_step(start, step)
        time.sleep(chance.uniform(0, 0.1))
        start.kill(*chance.sample(range(4), chance.randint(1, 4)))
        start.wait()
    assert [0] * 4 == trainers.finish(stormy, recipe), logs(stormy)

    assert all(event.evidence["steps_lost"] <= 2 for event in restored(stormy)), f"seed {seed}: {restored(stormy)}"
    assert final_weights(calm) == final_weights(stormy), f"seed {seed}"
