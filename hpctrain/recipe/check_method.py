"""Combinations of a method and its sections that cannot work (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hpctrain.recipe.adapter_size import adapts_experts
from hpctrain.recipe.model_size import Shape, shape_of
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import REINFORCED, TUNING

SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
"""Losses of trl that look at ``label_smoothing``."""

_BELONGS: dict[str, tuple[str, ...]] = {
    "adapter": TUNING, "chat": TUNING, "preference": ("dpo",), "generation": (*REINFORCED, "distill"),
}
"""The methods that each section is for; rewards, judge and teacher are looked at by the modules that know who asks them."""
NO_REWARD_MODEL = ("llama4", "llama4_text")
"""Architectures of which transformers has no form that gives one number."""
_NAMES = "name the layers, such as [q_proj, k_proj, v_proj, o_proj]"


def check_method(recipe: Recipe, config: Mapping[str, Any] | None = None) -> list[Problem]:
    """All that is wrong with how a model is tuned; nothing for ``command``.

    Args:
        config: the model's architecture, where it is known.
    """
    if recipe.method is None:
        return []
    problems = [*_sections(recipe)]
    if recipe.method in TUNING:
        problems += [*_training(recipe), *check_adapter(recipe), *_chat(recipe), *check_architecture(recipe, config or {})]
    if recipe.method == "dpo":
        problems += _preference(recipe)
    return problems


def _sections(recipe: Recipe) -> Iterator[Problem]:
    default = type(recipe).model_fields
    for name, methods in _BELONGS.items():
        if recipe.method not in methods and getattr(recipe, name) != default[name].get_default(call_default_factory=True):
            yield Problem((name,), f"belongs to {_or(methods)}, but the method is '{recipe.method}'")


def _training(recipe: Recipe) -> Iterator[Problem]:
    training, method = recipe.training, recipe.method
    if training.tokens is not None:
        yield Problem(("training", "tokens"), (
            f"rows of method '{method}' differ in length: say training.steps or training.epochs"))
    if training.compile:
        yield Problem(("training", "compile"), f"is for pretrain and cpt, but the method is '{method}'")


def check_adapter(recipe: Recipe) -> Iterator[Problem]:
    """What an adapter does not go with."""
    adapter = recipe.adapter
    if adapter is None:
        return
    if adapter.kind == "qlora" and recipe.resources.gpus_per_node == 0:
        yield Problem(("adapter", "kind"), "'qlora' needs GPUs; resources.gpus_per_node is 0")
    parallelism = recipe.training.parallelism.kind
    if adapter.kind != "lora" and parallelism == "fsdp2":
        yield Problem(("adapter", "kind"), (
            f"'{adapter.kind}' goes with parallelism ddp, but the kind is '{parallelism}'; take lora or ddp"))
    if parallelism == "hsdp":
        yield Problem(("adapter",), "goes with parallelism ddp or fsdp2, but the kind is 'hsdp'")
    if recipe.method == "reward" and parallelism == "fsdp2":
        yield Problem(("adapter",), "of a reward model goes with parallelism ddp: its new head is trained whole beside it")
    if isinstance(adapter.target_modules, list) and not adapter.target_modules:
        yield Problem(("adapter", "target_modules"), "is an empty list: nothing would be trained")
    if "lm_head" in adapter.target_modules:
        yield Problem(("adapter", "target_modules"), (
            "trl computes losses from lm_head's own weights: an adapter there is never trained"))


def check_architecture(recipe: Recipe, config: Mapping[str, Any]) -> Iterator[Problem]:
    """What the libraries cannot do with an architecture.

    Args:
        config: the model's architecture; empty where it is not known.
    """
    kind, adapter = str(config.get("model_type") or ""), recipe.adapter
    if recipe.method == "reward" and kind in NO_REWARD_MODEL:
        yield Problem(("method",), f"transformers has no reward model of the architecture '{kind}': train one of another")
    if adapter is None or adapter.target_modules != "all-linear":
        return
    shape = shape_of(config) if config else ""
    if kind.startswith("llama4"):
        yield Problem(("adapter", "target_modules"), f"'all-linear' means the router too, which peft cannot adapt; {_NAMES}")
    elif adapter.kind == "dora" and isinstance(shape, Shape) and adapts_experts(shape, adapter):
        yield Problem(("adapter", "target_modules"), (
            f"'all-linear' means the experts too, which peft cannot adapt with 'dora'; {_NAMES}, or take 'lora'"))


def _chat(recipe: Recipe) -> Iterator[Problem]:
    chat, default = recipe.chat, type(recipe.chat)()
    for key in ("packing", "loss_on"):
        if recipe.method not in ("sft", "distill") and getattr(chat, key) != getattr(default, key):
            yield Problem(("chat", key), f"belongs to sft, but the method is '{recipe.method}'")


def _preference(recipe: Recipe) -> Iterator[Problem]:
    section = recipe.preference
    if section.loss == "exo_pair" and not section.label_smoothing:
        yield Problem(("preference", "label_smoothing"), "must be above 0 for the loss exo_pair, such as 0.001")
    elif section.label_smoothing and section.loss not in SMOOTHED:
        yield Problem(("preference", "label_smoothing"), f"belongs to {_or(SMOOTHED)}, but the loss is '{section.loss}'")
    if not section.beta:
        yield Problem(("preference", "beta"), "0 takes the preferences out of the loss: nothing would be learned")


def _or(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
