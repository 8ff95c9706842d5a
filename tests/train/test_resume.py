"""A killed run ends with the same bytes as one that was left alone."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.train.ranks import WarmRanks, event_kinds, final_weights, logs, make_recipe

PARALLELISM: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"}, "fsdp2": {"kind": "fsdp2"}, "hsdp": {"kind": "hsdp", "shard_size": 2},
}

SLOWLY = {"TEST_SLOW_S": "0.1"}
"""Each step, and each flush within a save, lasts long enough to be seen on a busy machine."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARALLELISM)
def test_killed_run_ends_byte_equal(trainers: WarmRanks, tmp_path: Path, kind: str) -> None:
    """SIGKILL in a step, of one rank, and during a save: the final weights are those of an uninterrupted run."""
    recipe = make_recipe(training__parallelism=PARALLELISM[kind])
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    assert [0] * 4 == trainers.finish(calm, recipe), logs(calm)

    first = trainers.start(stormy, recipe, **SLOWLY)
    first.wait_until(lambda beat: beat.get("step") == 2)  # before anything was saved
    first.kill()
    first.wait()
    second = trainers.start(stormy, recipe, **SLOWLY)
    second.wait_until(lambda beat: beat.get("step") == 5)  # one rank only: the others must notice and end
    second.kill(2)
    assert 0 not in second.wait(), logs(stormy)
    third = trainers.start(stormy, recipe, **SLOWLY)
    third.wait_until(lambda beat: beat.get("phase") == "save" and beat["step"] == 9)
    third.kill()
    third.wait()
    assert [0] * 4 == trainers.finish(stormy, recipe), logs(stormy)

    assert "checkpoint.restored" in event_kinds(stormy)
    assert final_weights(calm) == final_weights(stormy)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_kill_after_every_step(trainers: WarmRanks, tmp_path: Path, kind: str) -> None:
    """SIGKILL after each step in turn, at a random moment within the next: the final bytes are those of a calm run."""
    recipe, seed = make_recipe(training__parallelism=PARALLELISM[kind]), time.time_ns()
    calm, stormy, chance = tmp_path / "calm", tmp_path / "stormy", random.Random(seed)
    assert [0] * 4 == trainers.finish(calm, recipe), logs(calm)

    for step in range(12):
        start = trainers.start(stormy, recipe)
        start.wait_until(lambda beat, step=step: beat.get("phase") in ("step", "save", "finish") and beat["step"] >= step)
        time.sleep(chance.uniform(0, 0.1))
        start.kill()
        start.wait()
    assert [0] * 4 == trainers.finish(stormy, recipe), logs(stormy)

    assert final_weights(calm) == final_weights(stormy), f"seed {seed}"
