"""HyperPod's VERL recipes (GRPO with verified rewards or a judge) to ours (pure)."""

from __future__ import annotations

from typing import Any

from hpctrain.errors import RecipeError
from hpctrain.recipe.import_llmft import data_paths, schedule, settle, tracking
from hpctrain.recipe.import_reader import Reader, drop_empty, run_name

_ACTOR = "training_config.actor_rollout_ref"
_DATA, _TRAINER = "training_config.data", "training_config.trainer"


def from_verl(reader: Reader) -> dict[str, Any]:
    """The sections of our recipe.

    Raises:
        RecipeError: it is not reinforcement learning, or its algorithm is none that trl has.
    """
    algorithm = str(reader.take("training_config.algorithm.adv_estimator") or "")
    if algorithm not in ("grpo", "rloo"):
        raise RecipeError(
            f"algorithm.adv_estimator is {algorithm or 'not given'!r}; only grpo and rloo can be carried over",
            where="training_config", hint="VERL's SFT and DPO recipes only name others under 'defaults'; compose them first")
    judged = "rlaif" in f"{reader.take('run.name') or ''} {reader.take('display_name') or ''}".lower()
    nodes = reader.whole(f"{_TRAINER}.nnodes") or reader.whole("trainer.num_nodes") or 1
    gpus = reader.whole(f"{_TRAINER}.n_gpus_per_node") or reader.whole("trainer.devices") or 8
    for key in ("trainer.num_nodes", "trainer.devices"):
        reader.take(key)
    values: dict[str, Any] = {
        "version": 1, "name": run_name(reader.take("run.name")), "method": "rlaif" if judged else "rlvr",
        "model": {"path": str(reader.take(f"{_ACTOR}.model.path") or reader.mine(
            "model.path", "/path/to/your/model", "a hub id or a directory"))},
        "data": _data(reader), "adapter": _adapter(reader), "generation": _generation(reader, algorithm),
        "training": _training(reader, nodes * gpus), "rewards": [] if judged else _rewards(reader),
        "resources": {"nodes": nodes, "gpus_per_node": gpus, "exclusive": True},
        "checkpoint": drop_empty({"every_steps": reader.whole(f"{_TRAINER}.save_freq")}),
        "tracking": tracking(reader, "training_config.mlflow.tracking_uri"),
    }
    if judged:
        values["judge"] = {"url": reader.mine("judge.url", "http://127.0.0.1:8000/v1", "an OpenAI-compatible server"),
                           "model": reader.mine("judge.model", "judge", "the name of the judge there")}
    settle(reader, values, f"{_TRAINER}.test_freq")
    return values


def _data(reader: Reader) -> dict[str, Any]:
    share = reader.number(f"{_DATA}.train_val_split_ratio")
    prompt, answer = reader.whole(f"{_DATA}.max_prompt_length"), reader.whole(f"{_DATA}.max_response_length")
    paths = data_paths(reader, f"{_DATA}.train_files", "rows with prompt, and with answer where it is verified")
    return drop_empty({
        "source": "files", "format": "prompts", "paths": paths, "sequence_length": (prompt or 512) + (answer or 1024),
        "validation_fraction": round(1 - share, 6) if share is not None and 0 < share <= 1 else None,
    })


def _adapter(reader: Reader) -> dict[str, Any]:
    rank = reader.whole(f"{_ACTOR}.model.lora_rank")
    if rank is None:
        return {}
    return drop_empty({
        "kind": "lora", "rank": rank, "alpha": reader.number(f"{_ACTOR}.model.lora_alpha"),
        "target_modules": reader.take(f"{_ACTOR}.model.target_modules"),
        "merge": True if reader.take(f"{_TRAINER}.merge_lora_on_final_save") else None,
    })


def _generation(reader: Reader, algorithm: str) -> dict[str, Any]:
    rollout = f"{_ACTOR}.rollout"
    engine, sharded = reader.take(f"{rollout}.name"), bool(reader.take(f"{_ACTOR}.actor.strategy"))
    if engine not in (None, "vllm"):
        reader.leave(f"{rollout}.name", "answers are written by vLLM or transformers (generation.engine)")
    elif engine and sharded:
        reader.leave(f"{rollout}.name", "vLLM takes its weights from ranks that each hold all of them: sharded ones write "
                                        "by themselves; where the model fits, training.parallelism.kind 'ddp' allows it")
        engine = None
    beta = reader.number(f"{_ACTOR}.actor.kl_loss_coef") if reader.take(f"{_ACTOR}.actor.use_kl_loss") else None
    share, top_p = reader.number(f"{rollout}.gpu_memory_utilization"), reader.number(f"{rollout}.top_p")
    answer = reader.whole(f"{rollout}.response_length") or reader.whole(f"{_DATA}.max_response_length")
    return drop_empty({
        "algorithm": algorithm, "completions_per_prompt": reader.whole(f"{rollout}.n", 2) or 8, "max_new_tokens": answer,
        "temperature": reader.number(f"{rollout}.temperature"), "top_p": top_p if top_p and 0 < top_p <= 1 else None,
        "updates_per_generation": reader.whole(f"{_ACTOR}.actor.ppo_epochs"), "beta": beta,
        "engine": "vllm" if engine == "vllm" else None,
        "gpu_memory_share": share if engine == "vllm" and share and 0 < share < 1 else None,
    })


def _training(reader: Reader, ranks: int) -> dict[str, Any]:
    actor = f"{_ACTOR}.actor"
    prompts, answers = reader.whole(f"{_DATA}.train_batch_size") or 32, reader.whole(f"{_ACTOR}.rollout.n", 2) or 8
    micro = reader.whole(f"{actor}.ppo_micro_batch_size_per_gpu") or 1
    unit, wanted = micro * ranks, prompts * answers
    whole = -(-wanted // unit) * unit
    reader.notes.append(f"training.global_batch_size counts answers: {prompts} prompts x {answers}" + (
        f", rounded up to {whole}" if whole != wanted else ""))
    steps = reader.whole(f"{_TRAINER}.total_training_steps")
    kind = reader.take(f"{actor}.strategy")
    return drop_empty({
        "steps": steps, "epochs": None if steps else reader.number(f"{_TRAINER}.total_epochs") or 1,
        "global_batch_size": whole, "micro_batch_size": micro,
        "optimizer": drop_empty({"learning_rate": reader.number(f"{actor}.optim.lr"),
                                 "weight_decay": reader.number(f"{actor}.optim.weight_decay")}),
        "schedule": schedule(reader, f"{actor}.optim.warmup_style") | drop_empty(
            {"warmup_steps": reader.whole(f"{actor}.optim.lr_warmup_steps", 0)}),
        "clip_grad_norm": reader.number(f"{actor}.grad_clip"),
        "activation_checkpointing": reader.take(f"{_ACTOR}.model.enable_gradient_checkpointing"),
        "evaluate_every_steps": reader.whole(f"{_TRAINER}.test_freq"),
        "parallelism": {"kind": "fsdp2" if kind else "ddp"},
    })


def _rewards(reader: Reader) -> list[dict[str, Any]]:
    key = "training_config.custom_reward_function"
    path, name = reader.take(f"{key}.path"), reader.take(f"{key}.name")
    if path:
        return [{"kind": "function", "function": f"{path}:{name or 'compute_score'}"}]
    reader.notes.append("rewards: their verified rewards are code of theirs; 'math' compares with the row's answer")
    return [{"kind": reader.mine("rewards", "math", "docs/reinforcement.md has the other kinds")}]
