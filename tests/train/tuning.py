"""A tiny model, small sets of each format, and recipes that tune the one on the other."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain.recipe.schema import Recipe
from hpctrain.train.preload import TUNING_MODULES
from hpctrain.train.tokenizers import ByteTokenizer
from tests.train.ranks import WarmRanks, event_kinds, final_weights, logs, metric_lines

SLOWLY = {"TEST_SLOW_S": "0.05"}
"""Each step lasts long enough to be seen on a busy machine."""

TRAINING: dict[str, Any] = {
    "global_batch_size": 8, "micro_batch_size": 1, "steps": 12, "precision": "fp32", "evaluate_every_steps": 4,
    "schedule": {"warmup_steps": 2}, "optimizer": {"learning_rate": 3e-3},
}
WORDS = ("red", "green", "blue", "black", "white", "grey", "pink", "brown")


def make_model(folder: Path, **numbers: Any) -> Path:
    """A llama with random weights and dropout, on bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = {
        "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "attention_dropout": 0.1, "eos_token_id": 256,
        "bos_token_id": 256, **numbers,
    }
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    ByteTokenizer().save(folder)
    return folder


def make_rows(file: Path, method: str, count: int = 44) -> Path:
    """Rows of the format that a method learns from."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        one, two = WORDS[number % 8], WORDS[(number * 3 + 1) % 8]
        asked = [{"role": "user", "content": f"{number}: {one} or {two}?"}]
        right, wrong = [{"role": "assistant", "content": word + "!" * (number % 5)} for word in (one, two + "?")]
        rows.append({"messages": [*asked, right]} if method == "sft" else
                    {"prompt": asked, "chosen": [right], "rejected": [wrong]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def tuning_recipe(method: str, place: Path, **sections: Any) -> dict[str, Any]:
    """A whole recipe, as the trainer reads it, with its model and its rows made where they are not there yet."""
    model, rows = place / "base", place / f"{method}.jsonl"
    if not model.exists():
        make_model(model)
    if not rows.exists():
        make_rows(rows, method)
    values: dict[str, Any] = {
        "version": 1, "name": "tiny", "method": method, "model": {"path": str(model)},
        "data": {"source": "files", "paths": [str(rows)], "sequence_length": 64, "validation_fraction": 0.1},
        "training": dict(TRAINING),
        "checkpoint": {"every_steps": 3},
    }
    for name, section in sections.items():
        values[name] = values[name] | section if isinstance(values.get(name), dict) else section
    return Recipe.model_validate(values).model_dump(mode="json")


def modules(method: str) -> tuple[str, ...]:
    """What ranks import for a method."""
    return ("peft", *TUNING_MODULES[method])


def curve(run_dir: Path, names: Sequence[str]) -> dict[int, list[Any]]:
    """What each step's metrics say under these names; of steps that were done twice the later."""
    return {line["step"]: [line.get(name) for name in names] for line in metric_lines(run_dir)}


def killed_once(
    trainers: WarmRanks, place: Path, recipe: dict[str, Any], imports: tuple[str, ...], *, after_step: int,
    names: Sequence[str],
) -> tuple[Path, Path]:
    """SIGKILL of all four ranks in a step, and another start; a calm run and this one, which end alike.

    Args:
        names: metrics that are compared besides the weights.
    """
    calm, stormy = place / "calm", place / "stormy"
    assert [0] * 4 == trainers.finish(calm, recipe, modules=imports), logs(calm)

    first = trainers.start(stormy, recipe, modules=imports, **SLOWLY)
    first.wait_until(lambda beat: beat.get("step", 0) >= after_step, timeout_s=120)
    first.kill()
    first.wait()
    assert [0] * 4 == trainers.finish(stormy, recipe, modules=imports), logs(stormy)

    assert "checkpoint.restored" in event_kinds(stormy)
    assert final_weights(calm) == final_weights(stormy)
    assert curve(calm, names) == curve(stormy, names)
    return calm, stormy


def killed_after_every_step(
    trainers: WarmRanks, place: Path, recipe: dict[str, Any], imports: tuple[str, ...], *, within_s: float,
    names: Sequence[str],
) -> Path:
    """SIGKILL after each step in turn, so long after it at most; the calm run, which ends as the other does."""
    calm, stormy, seed = place / "calm", place / "stormy", time.time_ns()
    chance = random.Random(seed)
    assert [0] * 4 == trainers.finish(calm, recipe, modules=imports), logs(calm)

    for step in range(recipe["training"]["steps"]):
        start = trainers.start(stormy, recipe, modules=imports)
        start.wait_until(lambda beat, step=step: beat.get("phase") in ("step", "save", "finish") and beat["step"] >= step,
                         timeout_s=120)
        time.sleep(chance.uniform(0, within_s))
        start.kill()
        start.wait()
    assert [0] * 4 == trainers.finish(stormy, recipe, modules=imports), logs(stormy)

    assert final_weights(calm) == final_weights(stormy), f"seed {seed}"
    assert curve(calm, names) == curve(stormy, names)
    return calm
