"""Methods that tune a model, in real jobs: a killed rank, a node that dies with a spare and without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain.devcluster.state import ClusterInfo
from tests.cluster.test_tier_drills import Drill, begin, trainers, uninterrupted  # noqa: F401 - two are fixtures
from tests.train.ranks import WarmRanks, final_weights
from tests.train.tuning import make_model, modules

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("private_cluster"), pytest.mark.timeout(400),
]

STEPS = 80


def recipe(folder: Path, method: str, **sections: Any) -> str:
    """A recipe that tunes a small model on two nodes with two ranks each, and saves each step in memory."""
    make_model(folder / "base", hidden_size=128, intermediate_size=256, num_attention_heads=4, num_key_value_heads=4)
    values = {
        "version": 1, "name": f"tuned-{method}", "method": method, "model": {"path": "base"},
        "data": {"source": "arithmetic", "sequence_length": 64},
        "training": {"global_batch_size": 16, "micro_batch_size": 4, "precision": "fp32"},
        "resources": {"nodes": 2, "ranks_per_node": 2, "time_limit": "20m"},
        **sections,
    }
    path = folder / f"{method}.yaml"
    path.write_text(json.dumps(values))
    return str(path)


def test_fine_tuning_outlives_a_rank_and_a_node(
    begin: Callable[..., Drill], trainers: WarmRanks, tmp_path: Path, private_cluster: ClusterInfo,  # noqa: F811 - fixtures
) -> None:
    """SFT of an adapter: a killed rank (R1), then a node whose place a spare takes (R2), cost at most a few steps, and the
    adapter is that of a run that was left alone, byte for byte.
    """
    made = recipe(tmp_path, "sft", adapter={"kind": "lora", "rank": 4})
    drill = begin(made, training__steps=STEPS, resources__spares=1)
    drill.until(lambda: drill.step >= 5)
    drill.kill(drill.pids("n1")[1])
    drill.until(lambda: len(drill.events("recovery.finished")) == 1 and drill.step >= 15)
    with drill.without("n2", private_cluster):
        drill.finish()

    rungs = [(event.evidence["rung"], event.evidence["cause"]) for event in drill.events("recovery.finished")]
    assert [("R1", "rank"), ("R2", "node")] == rungs, drill.told()
    assert [] == drill.events("job.requeued")
    assert max(drill.lost()) <= 3, drill.told()
    assert uninterrupted(trainers, drill, tmp_path, modules("sft")) == final_weights(drill.run_dir.path)


def test_learning_from_rewards_outlives_a_rank_and_its_allocation(
    begin: Callable[..., Drill], trainers: WarmRanks, tmp_path: Path, private_cluster: ClusterInfo,  # noqa: F811 - fixtures
) -> None:
    """RLVR: a killed rank (R1), then a node that dies without a spare (R3: the job is queued again), cost at most a few
    steps; the same answers are drawn, and the weights are those of a run that was left alone, byte for byte.
    """
    made = recipe(
        tmp_path, "rlvr", rewards=[{"kind": "math"}, {"kind": "length", "max_tokens": 4}],
        generation={"completions_per_prompt": 4, "max_new_tokens": 8},
    )
    drill = begin(made, training__steps=30)
    drill.until(lambda: drill.step >= 3)
    drill.kill(drill.pids("n1")[1])
    drill.until(lambda: len(drill.events("recovery.finished")) == 1 and drill.step >= 8)
    with drill.without("n2", private_cluster):
        drill.finish()

    assert "R1" == drill.events("recovery.finished")[0].evidence["rung"]
    assert 1 == len(drill.events("job.requeued")), drill.told()
    assert max(drill.lost()) <= 3, drill.told()
    assert uninterrupted(trainers, drill, tmp_path, modules("rlvr")) == final_weights(drill.run_dir.path)
