"""Combinations of a method and its sections that cannot work (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import REINFORCED, TUNING

SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
"""Losses of trl that look at ``label_smoothing``."""

_BELONGS: dict[str, tuple[str, ...]] = {
    "adapter": TUNING, "chat": TUNING, "preference": ("dpo",), "generation": (*REINFORCED, "distill"),
}
"""The methods that each section is for; rewards, judge and teacher are looked at by the modules that know who asks them."""


def check_method(recipe: Recipe) -> list[Problem]:
    """All that is wrong with how a model is tuned; nothing for ``command``."""
    if recipe.method is None:
        return []
    problems = [*_sections(recipe)]
    if recipe.method in TUNING:
        problems += [*_training(recipe), *_adapter(recipe), *_chat(recipe)]
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


def _adapter(recipe: Recipe) -> Iterator[Problem]:
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
