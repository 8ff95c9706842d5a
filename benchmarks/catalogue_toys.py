"""What benchmarks/catalogue.py trains: each architecture of the catalogue at toy width, and a recipe for each method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.data.docstrings import docstring_rows
from hpctrain.recipe.check_method import check_architecture
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.tables import tables

STEPS, ROWS = 4, 64
KEY = "HPCTRAIN_BENCHMARK_KEY"
"""Environment variable with the key of the judge and the teacher."""
SERVERS = ("letters", "arithmetic")
"""The judge, who likes small letters, and the teacher, who can add up."""
Sections = Mapping[str, Any]

TOY: Mapping[str, int] = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 257,
}
PARTS: Mapping[str, Mapping[str, Any]] = {
    "llama4_text": {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 2},
    "mixtral": {"num_local_experts": 4}, "gpt_oss": {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": {"head_dim": 8}, "gemma2": {"head_dim": 8}, "gemma3_text": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {"num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1,
                    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16,
                    "q_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
}
"""What an architecture has besides, small."""


def kinds() -> dict[str, list[str]]:
    """The architectures of the table, each once, with the families that have it."""
    found: dict[str, list[str]] = {}
    for model in tables().models.values():
        families = found.setdefault(str(model.config["model_type"]), [])
        families += [] if model.family in families else [model.family]
    return found


def write_rows(folder: Path) -> None:
    """Questions about Python's library as files: each rank would read that library's source again."""
    for format_ in ("chat", "preference", "prompts"):
        rows = [row for row, _ in zip(docstring_rows(format_), range(ROWS), strict=False)]
        (folder / f"{format_}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def methods(url: Mapping[str, str], rows: Path, base: Path, reward: Path) -> dict[str, Sections]:
    """Sections of a recipe by the name of a row of the table.

    Args:
        url: of the judge and the teacher.
        rows: where :func:`write_rows` has written.
        base: the model's own directory.
        reward: what a reward run has left in its model/.
    """
    def questions(format_: str) -> dict[str, Any]:
        return {"source": "files", "paths": [str(rows / f"{format_}.jsonl")], "format": format_, "sequence_length": 160}

    chats, pairs, prompts = questions("chat"), questions("preference"), questions("prompts")
    sums = {"source": "arithmetic", "sequence_length": 96, "rows": ROWS}
    rewards = [{"kind": "math"}, {"kind": "regex", "pattern": "[a-z]"}]  # half of random answers meet the second
    answers = {"completions_per_prompt": 2, "max_new_tokens": 8, "engine": "transformers"}
    nowhere = "http://127.0.0.1:9/v1"
    ask = {role: {"url": url.get(role, nowhere), "model": role, "api_key_env": KEY} for role in SERVERS}
    lora = {"kind": "lora", "rank": 4, "alpha": 8}
    merged = {**lora, "merge": True}
    rlvr = {"method": "rlvr", "data": sums, "generation": answers, "rewards": rewards}
    rlaif = {"method": "rlaif", "data": {**sums, "format": "prompts"}, "generation": answers, "judge": ask["letters"]}
    rlhf = {"method": "rlhf", "data": prompts, "generation": {**answers, "algorithm": "rloo"},
            "rewards": [{"kind": "model", "path": str(reward)}]}
    distill = {"method": "distill", "data": {**sums, "format": "prompts"}, "teacher": {"endpoint": ask["arithmetic"]}}
    return {
        "cpt": {"method": "cpt", "data": {"source": "python-docs", "sequence_length": 64}},
        "sft": {"method": "sft", "data": chats},
        "sft, lora": {"method": "sft", "data": chats, "adapter": lora},
        "sft, dora": {"method": "sft", "data": chats, "adapter": {**lora, "kind": "dora"}},
        "dpo": {"method": "dpo", "data": pairs},
        "dpo, lora": {"method": "dpo", "data": pairs, "adapter": lora},
        "reward": {"method": "reward", "data": pairs},
        "reward, lora": {"method": "reward", "data": pairs, "adapter": merged},
        "rlvr": rlvr,
        "rlvr, lora": {**rlvr, "adapter": lora},
        "rlaif": rlaif,
        "rlaif, lora": {**rlaif, "adapter": lora},
        "rlhf": rlhf,
        "rlhf, lora": {**rlhf, "adapter": lora},
        "distill": distill,
        "distill, lora": {**distill, "adapter": lora},
        "distill, local teacher": {"method": "distill", "data": prompts, "teacher": {"path": str(base)},
                                   "generation": {"max_new_tokens": 8}},
    }


def recipe(kind: str, sections: Sections, base: Path) -> dict[str, Any]:
    """A whole recipe, as the trainer reads it."""
    values = {
        "version": 1, "name": "toy", "model": {"path": str(base)},
        "training": {"steps": STEPS, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32",
                     "optimizer": {"learning_rate": 1e-3}, "schedule": {"warmup_steps": 1}},
        "checkpoint": {"every_steps": 1, "ram": {"enabled": False}}, **sections,
    }
    targets = next(model.target_modules for model in tables().models.values() if model.config["model_type"] == kind)
    if "adapter" in values and targets:  # as the catalogue's recipes say it
        values["adapter"] = {**values["adapter"], "target_modules": list(targets)}
    return Recipe.model_validate(values).model_dump(mode="json")


def impossible(kind: str, values: Mapping[str, Any]) -> str:
    """Why the libraries cannot do this at all, as a submission is told; "" where they can."""
    return "; ".join(problem.message for problem in check_architecture(Recipe.model_validate(values), config_of(kind)))


def config_of(kind: str) -> dict[str, Any]:
    """The toy's config.json, as far as it is not transformers' own."""
    return {"model_type": kind, **TOY, **PARTS.get(kind, {})}


def make_base(kind: str, folder: Path) -> int:
    """A model with random weights and the tokenizer of bytes, as a run leaves it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hpctrain.train.byte_tokenizer import byte_tokenizer

    torch.manual_seed(1)
    config = AutoConfig.for_model(**config_of(kind))
    kind_of_model: Any = AutoModelForCausalLM
    kind_of_model.from_config(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return 0
