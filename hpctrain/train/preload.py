"""Imports what a rank of the trainer needs before its first step, and does nothing else (adapter over ``importlib``).

A process that will be forked runs this: no tensor is made, no device asked for, no thread started.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from pathlib import Path
from typing import Any

MODULES = (
    "torch", "torch._dynamo", "torch.distributed", "torch.distributed.fsdp", "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.state_dict", "torch.nn.parallel", "hpctrain.train.loop",
)
"""What every recipe needs. ``torch._dynamo`` is what torch itself imports in the first step (1.5 s)."""

_TUNE = ("hpctrain.train.tune.run", "hpctrain.train.tune.context", "accelerate", "transformers.trainer", "datasets")
TUNING_MODULES: dict[str, tuple[str, ...]] = {
    "sft": (*_TUNE, "hpctrain.train.tune.sft", "trl.trainer.sft_trainer"),
    "dpo": (*_TUNE, "hpctrain.train.tune.preference", "trl.trainer.dpo_trainer"),
    "reward": (*_TUNE, "hpctrain.train.tune.reward_model", "trl.trainer.reward_trainer"),
    "rlvr": (*_TUNE, "hpctrain.train.tune.rl", "trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer"),
    "distill": (*_TUNE, "hpctrain.train.tune.distill", "trl.trainer.sft_trainer"),
}
"""What each method that tunes a model needs besides; trl alone takes seconds."""
TUNING_MODULES |= dict.fromkeys(("rlaif", "rlhf"), TUNING_MODULES["rlvr"])


def preload(recipe: Path) -> None:
    """Import everything, the classes of the recipe's model included.

    Args:
        recipe: the resolved recipe, as JSON. Whatever is wrong with it the ranks themselves will say.
    """
    for name in MODULES:
        importlib.import_module(name)
    from hpctrain.train.hugging_face import quiet

    quiet()
    sections: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        sections = json.loads(recipe.read_bytes())
    for name in _recipe_modules(sections):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _recipe_modules(recipe: dict[str, Any]) -> list[str]:
    """Modules that only some recipes need."""
    names = ["transformers.models.auto.modeling_auto", "transformers.modeling_utils"]
    model = recipe.get("model") or {}
    architecture = (model.get("config") or {}).get("model_type") or _model_type(model.get("path"))
    if architecture:
        from transformers.models.auto.configuration_auto import model_type_to_module_name

        module = model_type_to_module_name(architecture)
        names += [f"transformers.models.{module}", f"transformers.models.{module}.modeling_{module}"]
    names += TUNING_MODULES.get(str(recipe.get("method")), ())
    if (recipe.get("teacher") or {}).get("path"):
        names.append("hpctrain.train.tune.distill_trainer")
    if recipe.get("adapter"):
        names += ["peft", "peft.tuners.lora"]
    if (recipe.get("tracking") or {}).get("tensorboard"):
        names.append("torch.utils.tensorboard")
    if (recipe.get("tokenizer") or {}).get("kind") == "pretrained":
        names.append("transformers.models.auto.tokenization_auto")
    return names


def _model_type(path: str | None) -> str:
    """The architecture of a local model directory, "" where it is not known without looking further."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        return str(json.loads(Path(str(path), "config.json").read_bytes()).get("model_type") or "")
    return ""
