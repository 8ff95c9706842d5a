"""Learning from rewards: killed at random it ends with the bytes of a calm run; faults of rewards are one clear error."""

from __future__ import annotations

import json
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from hpctrain.testing.openai_question import Question
from hpctrain.testing.openai_server import Fault, OpenAiServer
from tests.train.ranks import Start, WarmRanks, event_kinds, final_weights, logs
from tests.train.tuning import SLOWLY, curve, killed_after_every_step, killed_once, modules, tuning_recipe

pytest.importorskip("trl")
pytest.importorskip("peft")

MEASURED = ("loss", "grad_norm", "reward", "reward_std", "completions/mean_length", "entropy", "tokens", "kl",
            "validation_reward")
"""Metrics that a killed run must share with a calm one."""
DIGITS: dict[str, Any] = {"kind": "regex", "pattern": "[a-m]", "name": "early_letters"}
SHORT: dict[str, Any] = {"kind": "length", "max_tokens": 4, "weight": 0.5}
FUNCTION = """
def score(prompts, completions, **columns):
    return [sum(len(message["content"]) for message in completion) % 3 / 2 for completion in completions]
"""
LORA = {"adapter": {"rank": 4, "dropout": 0.1}}
TWICE = {"updates_per_generation": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("rlvr", {"rewards": [DIGITS, SHORT]}),
    "grpo twice": ("rlvr", {"rewards": [DIGITS, SHORT], "generation": TWICE}),
    "grpo lora, held": ("rlvr", {**LORA, "rewards": [DIGITS], "generation": {"beta": 0.1}}),
    "grpo held": ("rlvr", {"rewards": [DIGITS], "generation": {"beta": 0.1}}),
    "grpo fsdp2": ("rlvr", {"rewards": [DIGITS], "training": {"parallelism": {"kind": "fsdp2"}}}),
    "dr_grpo": ("rlvr", {"rewards": [DIGITS], "generation": {"algorithm": "dr_grpo"}}),
    "dapo": ("rlvr", {"rewards": [DIGITS], "generation": {"algorithm": "dapo"}}),
    "rloo lora": ("rlvr", {**LORA, "rewards": [DIGITS], "generation": {"algorithm": "rloo", **TWICE}}),
    "rlhf": ("rlhf", {"rewards": [{"kind": "model"}]}),
    "function": ("rlvr", {"rewards": [{"kind": "function"}]}),
}
"""What is killed: a method, and the sections of its recipe."""
USUAL = ("grpo twice",)
"""Those that every run of the tests kills; --long kills all of them, after each step."""


def recipe_of(case: str, place: Path) -> dict[str, Any]:
    """The recipe of a case, with what its rewards need."""
    method, sections = CASES[case]
    generation = {"completions_per_prompt": 4, "max_new_tokens": 6, **sections.get("generation", {})}
    training = {"global_batch_size": 16, "micro_batch_size": 2, "steps": 8, **sections.get("training", {})}
    rewards = [dict(reward) for reward in sections["rewards"]]
    for reward in rewards:
        if reward["kind"] == "model":
            reward["path"] = str(reward_model(place / "scores"))
        if reward["kind"] == "function":
            (place / "mine.py").write_text(FUNCTION)
            reward |= {"function": f"{place}/mine.py:score", "timeout_s": 60}
    return tuning_recipe(method, place, **{
        **sections, "generation": generation, "training": training, "rewards": rewards, "checkpoint": {"every_steps": 2}})


def reward_model(folder: Path) -> Path:
    """A tiny sequence classifier with one score."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from hpctrain.train.byte_tokenizer import byte_tokenizer

    torch.manual_seed(2)
    config = LlamaConfig(vocab_size=258, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=2, max_position_embeddings=128, num_labels=1, pad_token_id=257)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", USUAL)
def test_killed_run_ends_byte_equal(trainers: WarmRanks, tmp_path: Path, case: str) -> None:
    """SIGKILL of all ranks in a step ends, after another start, with weights and rewards of a run that was not killed."""
    recipe = recipe_of(case, tmp_path)
    calm, _ = killed_once(trainers, tmp_path, recipe, modules("rlvr"), after_step=5, names=MEASURED)
    assert len({tuple(values) for values in curve(calm, MEASURED).values()}) == 8  # it changes with every step
    samples = [json.loads(line) for line in (calm / "completions.jsonl").read_text().splitlines()]
    assert {"early_letters", "length"} == set(samples[0]["rewards"])
    assert samples[0]["prompt"].endswith("?")


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_kill_after_every_step(trainers: WarmRanks, tmp_path: Path, case: str) -> None:
    """SIGKILL after each step in turn, at a random moment within the next: the final bytes are those of a calm run."""
    killed_after_every_step(trainers, tmp_path, recipe_of(case, tmp_path), modules("rlvr"), within_s=0.2, names=MEASURED)


@pytest.mark.slow
def test_a_judge_that_goes_down_stops_the_run_which_goes_on_when_it_is_back(trainers: WarmRanks, tmp_path: Path) -> None:
    """The judge is away in mid-run, and all ranks are killed in a later start: the end is a calm run's, byte for byte."""
    calm, stormy, down, imports = tmp_path / "calm", tmp_path / "stormy", threading.Event(), modules("rlaif")

    def judge(question: Question) -> str:
        return f"MARK: {zlib.crc32(str(question.messages[-1]['content']).encode()) % 11}"

    with OpenAiServer(judge, key="secret", fault=lambda _: Fault(status=503) if down.is_set() else None) as server:
        recipe = tuning_recipe(
            "rlaif", tmp_path, generation={"completions_per_prompt": 4, "max_new_tokens": 6}, checkpoint={"every_steps": 2},
            training={"global_batch_size": 16, "micro_batch_size": 8, "steps": 8},
            judge={"url": server.url, "model": "local", "api_key_env": "JUDGE_KEY", "retries": 1, "concurrency": 3})
        assert [0, 0] == trainers.finish(calm, recipe, 2, modules=imports, JUDGE_KEY="secret"), logs(calm)
        assert 3 >= server.most_at_once  # of both ranks together

        def until(step: int) -> Start:
            start = trainers.start(stormy, recipe, 2, modules=imports, JUDGE_KEY="secret", **SLOWLY)
            start.wait_until(lambda beat: beat.get("step", 0) >= step, timeout_s=120)
            return start

        first = until(3)
        down.set()
        codes = first.wait()
        assert 19 in codes and 0 not in codes, logs(stormy)
        down.clear()
        second = until(5)
        second.kill()
        second.wait()
        assert [0, 0] == trainers.finish(stormy, recipe, 2, modules=imports, JUDGE_KEY="secret"), logs(stormy)

    error = next(text for text in map(Path.read_text, stormy.glob("error-*.json")) if "HTTP status 503" in text)
    assert f"judge: {server.url}: it answered with HTTP status 503: this fault was asked for (2 tries)" in error
    assert f"sbatch {stormy}/sbatch.sh" in error
    assert "Traceback" not in error
    assert 2 == event_kinds(stormy).count("checkpoint.restored")
    assert final_weights(calm) == final_weights(stormy)
    assert curve(calm, MEASURED) == curve(stormy, MEASURED)


@pytest.mark.slow
def test_a_function_that_raises_stops_the_run(trainers: WarmRanks, tmp_path: Path) -> None:
    """The rank whose answers it raised on ends with the recipe's exit code, and names the function's own line."""
    recipe = recipe_of("function", tmp_path)
    (tmp_path / "mine.py").write_text("def score(completions, **columns):\n    raise KeyError('weight')\n")
    run = tmp_path / "run"
    recipe["training"] |= {"micro_batch_size": 4}

    assert trainers.finish(run, recipe, ranks=1, modules=modules("rlvr")) == [3]
    assert "mine.py:2: " in logs(run)
    assert "KeyError: 'weight'" in logs(run)


@pytest.mark.slow
def test_the_reward_model_is_gone_when_the_model_is_measured(trainers: WarmRanks, tmp_path: Path) -> None:
    """The evaluation at the end has the memory that the trained model and the reward model took."""
    recipe, run = recipe_of("rlhf", tmp_path), tmp_path / "run"
    recipe["training"] |= {"micro_batch_size": 16, "steps": 1}

    assert [0] == trainers.finish(run, recipe, ranks=1, modules=modules("rlhf"),
                                  target="tests.train.targets:count_models_before_the_evaluation"), logs(run)
    assert "" == (run / "models").read_text()


@pytest.mark.slow
def test_rows_without_what_a_reward_needs(trainers: WarmRanks, tmp_path: Path) -> None:
    """A reward that compares with a key which no row has ends the run before the model is loaded."""
    recipe = recipe_of("grpo", tmp_path)
    recipe["rewards"] = [{"kind": "math", "field": "solution"}]
    run = tmp_path / "run"

    assert trainers.finish(run, recipe, ranks=1, modules=modules("rlvr")) == [3]
    assert "the rows have no key 'solution'" in logs(run)
