"""Rewards that cannot work are refused before anything is queued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain.recipe.load import anchor
from hpctrain.recipe.node import from_plain, to_plain
from hpctrain.recipe.problem import dotted
from hpctrain.recipe.reward_files import missing_rewards
from hpctrain.recipe.rewards import check_rewards, effective_rewards, reward_names
from hpctrain.recipe.schema import Recipe

Make = Callable[..., Recipe]
GPUS = {"resources": {"gpus_per_node": 1}}


@pytest.fixture
def make(make: Make) -> Make:
    """Recipes whose answers leave room for a prompt in the short texts of these tests."""
    return lambda **sections: make(**{**sections, "generation": {"max_new_tokens": 8, **sections.get("generation", {})}})


def problems(recipe: Recipe) -> list[tuple[str, str]]:
    return [(dotted(problem.path), problem.message) for problem in check_rewards(recipe)]


def test_good_rewards(make: Make) -> None:
    """Every kind with what it needs passes."""
    rewards = [
        {"kind": "exact_match"}, {"kind": "math", "extract": "= (.*)"}, {"kind": "code", "field": "tests"},
        {"kind": "regex", "pattern": "x"},
        {"kind": "json_schema", "json_schema": {"type": "object"}}, {"kind": "length", "max_tokens": 9},
        {"kind": "function", "function": "rules:score"}, {"kind": "model", "path": "/m"}, {"kind": "judge"},
    ]
    assert problems(make(method="rlvr", rewards=rewards)) == []
    assert problems(make()) == []


@pytest.mark.parametrize(("reward", "key", "message"), [
    ({"kind": "regex"}, "rewards[0]", "needs 'pattern'"), ({"kind": "json_schema"}, "rewards[0]", "needs 'json_schema'"),
    ({"kind": "function"}, "rewards[0]", "needs 'function'"), ({"kind": "model"}, "rewards[0]", "needs 'path'"),
    ({"kind": "length"}, "rewards[0]", "needs 'min_tokens' or 'max_tokens'"),
    ({"kind": "length", "min_tokens": 9, "max_tokens": 3}, "rewards[0].max_tokens", "less than min_tokens"),
    ({"kind": "regex", "pattern": "("}, "rewards[0].pattern", "no regular expression"),
    ({"kind": "math", "extract": "x"}, "rewards[0].extract", "has no group"),
    ({"kind": "math", "pattern": "x"}, "rewards[0].pattern", "belongs to regex"),
    ({"kind": "regex", "pattern": "x", "field": "y"}, "rewards[0].field", "belongs to exact_match and math and code"),
    ({"kind": "json_schema", "json_schema": {"typ": "object"}}, "rewards[0].json_schema", "'typ' is not supported"),
    ({"kind": "function", "function": "rules.py"}, "rewards[0].function", "is not module:function"),
    ({"kind": "math", "weight": 0.0}, "rewards", "all weights are 0"),
])
def test_a_bad_reward(make: Make, reward: dict[str, Any], key: str, message: str) -> None:
    """What is missing, meaningless or malformed is named with its place."""
    found = problems(make(method="rlvr", rewards=[reward]))

    assert len(found) == 1
    assert found[0][0] == key
    assert message in found[0][1]


@pytest.mark.parametrize(("changes", "key", "message"), [
    ({"method": "rlvr"}, "", "needs 'rewards'"), ({"method": "rlhf"}, "", "kind 'model'"),
    ({"method": "rlhf", "rewards": [{"kind": "math"}]}, "rewards", "needs a reward of kind 'model'"),
    ({"method": "sft", "rewards": [{"kind": "math"}]}, "rewards", "belong to rlvr, rlaif, rlhf"),
    ({"method": "rlaif", "generation": {"completions_per_prompt": 3}},
     "training.global_batch_size", "nearest that work: 6 or 9"),
    ({"method": "rlaif", "generation": {"max_new_tokens": 64}}, "generation.max_new_tokens", "no room for a prompt"),
    ({"method": "rlaif", "generation": {"engine": "vllm"}}, "generation.engine", "needs GPUs"),
    ({"method": "rlaif", "generation": {"placement": "separate"}, **GPUS}, "generation", "needs 'server_gpus'"),
    ({"method": "rlaif", "generation": {"placement": "separate", "server_gpus": 1},
      "resources": {"gpus_per_node": 1, "container": "image.sqsh"}}, "generation.server_gpus", "no server in a container"),
    ({"method": "rlaif", "generation": {"placement": "separate", "server_gpus": 1}}, "generation.placement",
     "gpus_per_node is 0"),
    ({"method": "rlaif", "generation": {"engine": "vllm"}, "training": {"parallelism": {"kind": "fsdp2"}}, **GPUS},
     "training.parallelism.kind", "ranks that each hold all of them"),
    ({"method": "rlaif", "generation": {"placement": "separate", "server_gpus": 1, "server": "http://x:1"}, **GPUS},
     "generation.server", "two servers"),
    ({"method": "rlaif", "generation": {"server_gpus": 1}}, "generation.server_gpus", "belongs to placement 'separate'"),
    ({"method": "rlaif", "generation": {"placement": "separate", "server": "http://x:1", "server_command": ["a"]}, **GPUS},
     "generation.server_command", "that 'server_gpus' starts"),
    ({"method": "rlaif", "generation": {"server": "http://x:1"}}, "generation.server", "belongs to placement 'separate'"),
    ({"method": "rlaif", "generation": {"engine": "transformers", "placement": "separate"}, **GPUS},
     "generation.placement", "with vLLM"),
])
def test_methods_and_generation(make: Make, changes: dict[str, Any], key: str, message: str) -> None:
    """A method without its rewards, rewards without their method and groups that do not fill a step are refused."""
    found = problems(make(**changes))

    assert len(found) == 1
    assert found[0][0] == key
    assert message in found[0][1]


def test_rewards_measured_by_a_suite(make: Make) -> None:
    """Another method may have rewards where a suite measures them."""
    assert problems(make(method="sft", rewards=[{"kind": "math"}], evaluate={"suites": [{"kind": "reward"}]})) == []


def test_rlaif_has_its_judge(make: Make) -> None:
    """Without rewards of its own, rlaif learns from the judge; names differ."""
    assert [reward.kind for reward in effective_rewards(make(method="rlaif"))] == ["judge"]
    rewards = effective_rewards(make(method="rlvr", rewards=[
        {"kind": "math"}, {"kind": "math"}, {"kind": "regex", "name": "math"}]))
    assert reward_names(rewards) == ["math", "math_2", "math_3"]


def test_functions_are_looked_at_not_run(make: Make, tmp_path: Path) -> None:
    """A missing file, a syntax error and a missing function are found without importing the module."""
    (tmp_path / "good.py").write_text("raise SystemExit\ndef score(): ...\n")
    (tmp_path / "bad.py").write_text("\ndef score(:\n")

    def told(target: str) -> str:
        recipe = make(method="rlvr", rewards=[{"kind": "function", "function": target}], workdir=str(tmp_path))
        return "".join(problem.message for problem in missing_rewards(recipe))

    assert told(f"{tmp_path}/good.py:score") == told("good:score") == told("installed_elsewhere:score") == ""
    assert told(f"{tmp_path}/none.py:score").startswith("no such file")
    assert "bad.py:2: " in told("bad:score")
    assert told("good:scores") == f"{tmp_path}/good.py defines no 'scores'; it has score"


@pytest.mark.parametrize(("files", "message"), [
    ({}, "holds no readable config.json"), ({"config.json": "{"}, "holds no readable config.json"),
    ({"config.json": '{"architectures": ["LlamaForCausalLM"]}', "model.safetensors": ""},
     "is a LlamaForCausalLM, which gives no score"),
    ({"config.json": '{"architectures": ["LlamaForSequenceClassification"]}'}, "it is incomplete"),
    ({"config.json": '{"architectures": ["LlamaForSequenceClassification"]}', "model.safetensors": ""}, ""),
    ({"adapter_config.json": "{}"}, ""),
])
def test_reward_models_are_looked_at(make: Make, tmp_path: Path, files: dict[str, str], message: str) -> None:
    """A directory that is no complete reward model is refused before GPUs are held."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    recipe = make(method="rlhf", rewards=[{"kind": "model", "path": str(tmp_path)}])
    found = [problem.message for problem in missing_rewards(recipe)]

    assert len(found) == (1 if message else 0)
    assert message in "".join(found)


def test_paths_become_absolute(tmp_path: Path) -> None:
    """Files of rewards are relative to the recipe; names of modules and of the hub stay as they are."""
    (tmp_path / "judge").mkdir()
    values = {"rewards": [{"function": "rules.py:f", "path": "judge"}, {"function": "rules:f", "path": "org/model"}]}

    assert to_plain(anchor(from_plain(values, "x"), tmp_path)) == {"rewards": [
        {"function": f"{tmp_path}/rules.py:f", "path": f"{tmp_path}/judge"}, {"function": "rules:f", "path": "org/model"}]}
