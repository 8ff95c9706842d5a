"""The recipe in transformers' own words: what every trainer's configuration gets (adapter over ``transformers``)."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

from hpctrain.train.tune.context import TuneContext


def common_arguments(context: TuneContext) -> dict[str, Any]:
    """Keyword arguments for ``SFTConfig``, ``DPOConfig``, ``GRPOConfig`` and their like.

    What is ours stays ours, and is switched off there: data order, learning rate, clipping, checkpoints, logs. A trainer's
    own options are added by its method.
    """
    training, batch = context.training, context.batch
    on_cpu = context.place.device.type == "cpu"
    return {
        "output_dir": str(context.run_dir.cache / "trainer"),
        "max_steps": context.steps,
        "per_device_train_batch_size": batch.micro_batch_size,
        "per_device_eval_batch_size": batch.micro_batch_size,
        "gradient_accumulation_steps": batch.accumulation,
        "learning_rate": training.optimizer.learning_rate,
        "weight_decay": training.optimizer.weight_decay,
        "max_grad_norm": training.clip_grad_norm or math.inf,
        "seed": context.seed,
        # FSDP2 computes in bfloat16 by itself; elsewhere autocast does.
        "bf16": training.precision == "bf16" and context.mesh is None,
        "fp16": False,
        **_recomputation(training.activation_checkpointing),
        # Without it, DDP regroups its gradients after the first backward pass of each start, which changes the order in
        # which three or more ranks add them up: a resumed run would not end byte-equal. Two ranks have no order, and are
        # spared the search and torch's warning of it.
        "ddp_find_unused_parameters": training.deterministic and context.place.world_size > 2,
        "logging_strategy": "steps", "logging_steps": 1, "logging_nan_inf_filter": False,
        "save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "use_cpu": on_cpu, "dataloader_pin_memory": not on_cpu,
    }


def _recomputation(wanted: bool) -> dict[str, Any]:
    """Activation checkpointing under the name that this version of transformers gives it; trl switches it on by default."""
    from transformers import TrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: wanted, f"{name}_kwargs": {"use_reentrant": False}}


def without_preparation(trainer: Any) -> Any:
    """A trainer of trl's that takes its rows as they are: they are tokens already, and were made once for all ranks.

    Args:
        trainer: the class.
    """
    def keep(_own: Any, dataset: Any, *_arguments: Any, **_options: Any) -> Any:
        return dataset

    return type(trainer.__name__, (trainer,), {"_prepare_dataset": keep})
