"""What a recipe's generation section becomes in trl, and who writes the answers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from hpctrain.errors import MissingDependencyError
from hpctrain.recipe.schema_method import Generation
from hpctrain.train.rewards.batch import Batch
from hpctrain.train.tune.rl_arguments import VARIANTS, config_arguments
from hpctrain.train.tune.rl_engine import generation_arguments
from hpctrain.train.tune.rl_samples import SampleLog

pytest.importorskip("trl")


def context(**generation: Any) -> Any:
    """As much of a context as these questions need: one rank on a CPU."""
    return SimpleNamespace(recipe=SimpleNamespace(generation=Generation(**generation)), mesh=None,
                           place=SimpleNamespace(device=SimpleNamespace(type="cpu")))


@pytest.mark.parametrize("algorithm", get_args(Generation.model_fields["algorithm"].annotation))
def test_trl_knows_every_argument(algorithm: str) -> None:
    """Each algorithm of the schema has its arguments, and trl's configuration has fields of these names."""
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.rloo_config import RLOOConfig

    known = {field.name for field in fields(RLOOConfig if algorithm == "rloo" else GRPOConfig)}
    given = {*config_arguments(Generation(algorithm=algorithm)), "use_vllm", "vllm_mode", "vllm_server_base_url",  # type: ignore[arg-type]
             "vllm_server_timeout", "vllm_gpu_memory_utilization", "vllm_max_model_length", "reward_weights"}

    assert algorithm in VARIANTS
    assert given <= known


def test_on_cpus_transformers_writes() -> None:
    """Without a GPU ``auto`` means transformers, and vLLM is refused with what to do."""
    assert generation_arguments(context()) == {"use_vllm": False}
    for wanted in ({"engine": "vllm"}, {"placement": "separate", "server": "http://x:8000"}):
        with pytest.raises(MissingDependencyError, match="needs GPUs"):
            generation_arguments(context(**wanted))


def test_samples_hold_all_rewards_of_an_answer(tmp_path: Path) -> None:
    """A draw's first answers are written once, with every reward; only by the rank that speaks."""
    batch = Batch(["?", "?", "?"], ["a", "b", "c"])
    for speaks in (False, True):
        log = SampleLog(tmp_path / "completions.jsonl", ["one", "two"], speaks=speaks)
        log.add(3, "one", batch, [1.0, 0.0, 0.0])
        log.add(3, "two", batch, [None, 0.5, 0.0])

    assert (tmp_path / "completions.jsonl").read_text() == (
        '{"step": 3, "prompt": "?", "completion": "a", "rewards": {"one": 1.0, "two": null}}\n'
        '{"step": 3, "prompt": "?", "completion": "b", "rewards": {"one": 0.0, "two": 0.5}}\n')
