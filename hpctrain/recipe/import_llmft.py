"""HyperPod's own fine-tuning recipes (SFT, DPO) to ours (pure)."""

from __future__ import annotations

from typing import Any, get_args

from hpctrain.errors import RecipeError
from hpctrain.recipe.import_reader import Reader, drop_empty, run_name
from hpctrain.recipe.schema_method import Preference
from hpctrain.recipe.units import parse_duration

_ARGS, _MODEL, _DATA = "training_config.training_args", "training_config.model_config", "training_config.datasets"
_SHARDING = {"FULL_SHARD": "fsdp2", "SHARD_GRAD_OP": "fsdp2", "HYBRID_SHARD": "hsdp", "NO_SHARD": "ddp"}
_ADAPTERS = {"lora": "lora", "qlora_4bit": "qlora", "qlora": "qlora", "dora": "dora"}


def from_llmft(reader: Reader) -> dict[str, Any]:
    """The sections of our recipe.

    Raises:
        RecipeError: it trains neither answers nor preferences.
    """
    kind = str(reader.take(f"{_ARGS}.trainer_type") or "sft")
    if kind not in ("sft", "dpo"):
        raise RecipeError(f"trainer_type {kind!r} cannot be carried over, only sft and dpo", where="training_args")
    nodes, gpus = reader.whole("trainer.num_nodes") or 1, reader.whole("trainer.devices") or 8
    values: dict[str, Any] = {
        "version": 1, "name": run_name(reader.take("run.name")), "method": kind, "model": _model(reader),
        "data": _data(reader), "adapter": _adapter(reader), "training": _training(reader, nodes, gpus),
        "resources": drop_empty({"nodes": nodes, "gpus_per_node": gpus, "exclusive": True, "time_limit": _time(reader)}),
        "checkpoint": _checkpoint(reader), "tracking": tracking(reader, "training_config.mlflow.tracking_uri"),
    }
    if reader.take(f"{_ARGS}.use_tensorboard"):
        values["tracking"]["tensorboard"] = True
    if kind == "dpo":
        values["preference"] = _preference(reader)
    elif reader.take(f"{_ARGS}.packing_samples"):
        values["chat"] = {"packing": True}
    settle(reader, values, f"{_ARGS}.eval_steps")
    return values


def settle(reader: Reader, values: dict[str, Any], evaluates: str) -> None:
    """Change what would be refused here together, and say so.

    Args:
        evaluates: their key for how often is measured.
    """
    training, adapter = values["training"], (values["adapter"] or {}).get("kind")
    kind = training["parallelism"]["kind"]
    instead = "fsdp2" if adapter == "lora" and kind == "hsdp" else "ddp" if adapter in ("dora", "qlora") else kind
    if instead != kind:
        training["parallelism"] = {"kind": instead}
        reader.notes.append(f"training.parallelism is {instead}, not {kind}, which does not go with the adapter '{adapter}'")
    if training.get("evaluate_every_steps") and not values["data"].get("validation_fraction"):
        del training["evaluate_every_steps"]
        reader.leave(evaluates, "needs rows that are kept out of training: data.validation_fraction")


def tracking(reader: Reader, key: str) -> dict[str, Any]:
    """MLflow's server, where one is given."""
    uri = reader.take(key)
    if uri and str(uri).startswith("arn:"):
        reader.leave(key, "an AWS resource name; set tracking.mlflow_uri to a server or a directory")
        return {}
    return {"mlflow": True, "mlflow_uri": str(uri)} if uri else {}


def data_paths(reader: Reader, key: str, words: str) -> list[str]:
    """Their files, or a place for the user's."""
    found = reader.take(key)
    paths = [str(item) for item in found] if isinstance(found, list) else [str(found)] if found else []
    remote = [path for path in paths if "://" in path]
    if remote:
        reader.leave(key, "lies in an object store; copy it to the cluster's file system")
        paths = []
    return paths or [reader.mine("data.paths", "/path/to/your/data.jsonl", words)]


def _model(reader: Reader) -> dict[str, Any]:
    path = reader.take(f"{_MODEL}.model_name_or_path") or reader.mine(
        "model.path", "/path/to/your/model", "a hub id or a directory")
    attention = reader.take(f"{_MODEL}.attn_implementation")
    if attention not in (None, "eager", "sdpa", "flash_attention_2"):
        reader.leave(f"{_MODEL}.attn_implementation", "transformers' own choice is taken (model.attention)")
        attention = None
    return drop_empty({"path": str(path), "attention": attention})


def _adapter(reader: Reader) -> dict[str, Any]:
    key = f"{_MODEL}.peft_config"
    name = reader.take(f"{key}.peft_type")
    if name is None:
        return {}
    kind = _ADAPTERS.get(str(name))
    if kind is None:
        reader.leave(f"{key}.peft_type", "adapters are lora, dora or qlora")
        return {}
    if reader.take(f"{key}.use_dora"):
        kind = "dora"
    targets = reader.take(f"{key}.target_modules")
    return drop_empty({
        "kind": kind, "rank": reader.whole(f"{key}.r"), "alpha": reader.number(f"{key}.lora_alpha"),
        "dropout": reader.number(f"{key}.lora_dropout"), "target_modules": targets,
        "merge": True if reader.take(f"{_ARGS}.merge_weights") else None,
    })


def _data(reader: Reader) -> dict[str, Any]:
    share = reader.number(f"{_DATA}.train_val_split_ratio")
    words = "jsonl with messages, or with prompt and completion; for dpo with prompt, chosen, rejected"
    return drop_empty({
        "source": "files", "paths": data_paths(reader, f"{_DATA}.train_data.file_path", words),
        "sequence_length": reader.whole(f"{_ARGS}.max_len", 8),
        "validation_fraction": round(1 - share, 6) if share is not None and 0 < share <= 1 else None,
    })


def _training(reader: Reader, nodes: int, gpus: int) -> dict[str, Any]:
    micro = reader.whole(f"{_ARGS}.micro_train_batch_size") or 1
    wanted = reader.whole(f"{_ARGS}.train_batch_size") or 0
    unit = micro * nodes * gpus
    whole = max(1, -(-wanted // unit)) * unit
    if wanted and whole != wanted:
        reader.notes.append(f"training.global_batch_size is {whole}, not {wanted}: {wanted} do not divide by {unit} = "
                            f"{micro} x {nodes * gpus} ranks")
    betas = reader.take(f"{_ARGS}.adam_betas")
    clip = reader.number(f"{_ARGS}.gradient_clipping_threshold")
    if clip is None:
        clip = reader.number(f"{_ARGS}.max_norm")
    if reader.take(f"{_ARGS}.gradient_clipping") is False:
        clip = 0.0
    evaluates = reader.whole(f"{_ARGS}.eval_steps")
    return drop_empty({
        "epochs": reader.number(f"{_ARGS}.max_epochs") or 1, "global_batch_size": whole, "micro_batch_size": micro,
        "optimizer": drop_empty({
            "learning_rate": reader.number(f"{_ARGS}.learning_rate"),
            "weight_decay": reader.number(f"{_ARGS}.weight_decay"),
            "betas": betas if isinstance(betas, list) and len(betas) == 2 else None}),
        "schedule": schedule(reader, f"{_ARGS}.lr_scheduler"), "clip_grad_norm": clip,
        "seed": reader.whole(f"{_ARGS}.seed", 0),
        "activation_checkpointing": reader.take(f"{_ARGS}.gradient_checkpointing"),
        "log_every_steps": reader.whole(f"{_ARGS}.logging_steps"), "evaluate_every_steps": evaluates,
        "parallelism": _parallelism(reader, nodes),
    })


def schedule(reader: Reader, key: str) -> dict[str, Any]:
    """The shape of the learning rate, where we have it."""
    found = str(reader.take(key) or "")
    kind = next((name for name in ("cosine", "linear", "constant") if found.startswith(name)), None)
    if found and kind is None:
        reader.leave(key, "schedules are cosine, linear or constant")
    return {"kind": kind} if kind else {}


def _parallelism(reader: Reader, nodes: int) -> dict[str, Any]:
    name = reader.take(f"{_ARGS}.strategy.fsdp_config.sharding_strategy")
    kind = _SHARDING.get(str(name), "fsdp2")
    return {"kind": "fsdp2" if kind == "hsdp" and nodes == 1 else kind}


def _checkpoint(reader: Reader) -> dict[str, Any]:
    kept = reader.whole(f"{_ARGS}.max_ckpt_num")
    return drop_empty({"every_steps": reader.whole(f"{_ARGS}.save_steps"), "keep_last": kept})


def _preference(reader: Reader) -> dict[str, Any]:
    loss = reader.take(f"{_ARGS}.loss_type")
    if loss is not None and loss not in get_args(Preference.model_fields["loss"].annotation):
        reader.leave(f"{_ARGS}.loss_type", "trl has no loss of that name")
        loss = None
    return drop_empty({
        "loss": loss, "beta": reader.number(f"{_ARGS}.beta"), "label_smoothing": reader.number(f"{_ARGS}.label_smoothing"),
    })


def _time(reader: Reader) -> str | None:
    value = reader.take("run.time_limit")
    if value is None:
        return None
    try:
        parse_duration(value)
    except ValueError:
        reader.leave("run.time_limit", "is no duration that Slurm takes")
        return None
    return str(value)
