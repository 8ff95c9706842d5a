"""A recipe for a model, a method and the GPUs at hand, and why it is laid out so (service): ``recipes suggest``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.recipe.check_method import check_architecture
from hpctrain.recipe.compose import Composed, compose
from hpctrain.recipe.generate import other_configs, wish_for
from hpctrain.recipe.layout import Try, explain
from hpctrain.recipe.model_size import Shape, shape_of
from hpctrain.recipe.resolve import config_of
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.suggest import nearest
from hpctrain.recipe.tables import Gpus, Method, Model, Variant, known_model, tables
from hpctrain.recipe.units import format_bytes, several

_ORDER = ("full", "lora", "qlora")
"""What ``auto`` tries: everything first, then less and less."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recipe and its reasons.

    Attributes:
        reasons: lines for people, the last about the layout that was chosen.
        tries: every way that was tried, over all adapters.
    """

    recipe: Composed
    reasons: tuple[str, ...]
    tries: tuple[Try, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``-o json``."""
        return {
            "recipe": dict(self.recipe.values), "text": self.recipe.text, "reasons": list(self.reasons),
            "memory": [{"what": item.what, "arithmetic": item.arithmetic, "bytes": item.size_bytes}
                       for item in self.recipe.layout.estimate.items],
            "memory_per_gpu_bytes": self.recipe.layout.estimate.total_bytes,
            "tries": [{"layout": item.words, "bytes": item.needs_bytes, "fits": item.fits, "why": item.why}
                      for item in self.tries],
        }


def suggest(
    model: str, method: str, *, gpus: int, gpu_memory_gib: float, gpus_per_node: int = 8, adapter: str = "auto",
    sequence_length: int | None = None,
) -> Proposal:
    """A recipe that fits.

    Args:
        model: a name of the catalogue, a hub id, or a directory with a ``config.json``.
        gpus: over all nodes.
        adapter: ``full``, ``lora``, ``dora``, ``qlora``, or ``auto``: all weights where that fits, else LoRA, else QLoRA.
        sequence_length: tokens per sample; default: the method's.

    Raises:
        NotFoundError: no such method, or nothing is known of the model.
        RecipeError: it fits in no way, or the GPUs are not whole nodes.
    """
    ways = _method(method)
    found = _model(model)
    per_node = min(gpus, gpus_per_node)
    if gpus % per_node:
        raise RecipeError(f"{gpus} GPUs are not whole nodes of {per_node}", where="--gpus", hint=(
            f"give a multiple of {per_node}, or another --gpus-per-node"))
    node = Gpus("", f"{several(per_node, 'GPU')} of {gpu_memory_gib:g} GiB", per_node, round(gpu_memory_gib * 1024))
    reasons = [_about(found)]
    tries: list[Try] = []
    wanted = _adapters(ways, adapter)
    for name in wanted:
        variant = _variant(ways, name)
        wish = wish_for(ways, variant, found, node, gpus // per_node)
        _refuse_architecture(found, method, wish.adapter)
        if sequence_length:
            wish.values["data"]["sequence_length"] = sequence_length  # ours to change: wish_for has copied it
        made = compose(wish, f"{found.name}_{name}_{{nodes}}node{{s}}", _heading(found, ways, gpus, gpu_memory_gib),
                       other_configs(wish.values, tables()))
        if isinstance(made, Composed):
            reasons += _reasons(made, name, wanted, gpu_memory_gib)
            return Proposal(made, tuple(reasons), (*tries, *made.layout.tries))
        tries += [dataclasses.replace(item, words=f"{name}, {item.words}") for item in made]
    lines = explain(tuple(tries), node.memory_mib * 2**20)
    message = "\n  ".join([f"{found.title} with method '{method}' fits in no way:", *lines])
    raise RecipeError(message, where=f"--gpus {gpus}", hint=(
        "give more GPUs or larger ones, --adapter qlora, or a shorter --sequence-length"))


def _refuse_architecture(model: Model, method: str, adapter: Mapping[str, Any]) -> None:
    sections = {"adapter": dict(adapter)} if adapter else {}
    recipe = Recipe.model_validate({"version": 1, "name": "any", "method": method, **sections})
    for problem in check_architecture(recipe, model.config):
        raise RecipeError(problem.message, where=model.title, hint=(
            f"'hpctrain recipes list --method {method}' shows for which models there is one"))


def _method(name: str) -> Method:
    known = tables().methods
    if name in known:
        return known[name]
    near = nearest(name, known)
    raise NotFoundError(f"the catalogue has no method '{name}'", hint=(
        f"did you mean '{near}'? " if near else "") + f"there are: {', '.join(known)}")


def _model(name: str) -> Model:
    known = tables().models
    found = known.get(name) or known_model(name)
    if found is not None:
        return found
    path = _path(name)
    config, _ = config_of(path)
    shape = shape_of(config) if config else "it is not in the catalogue, and no such directory holds a config.json"
    if config and isinstance(shape, Shape):
        short = name.rstrip("/").rsplit("/", 1)[-1].lower()
        like = next((item for item in known.values() if item.config["model_type"] == config["model_type"]), None)
        return Model(_word(short), "", name, path, shape.parameters, config,
                     target_modules=like.target_modules if like else ())
    near = nearest(name.rsplit("/", 1)[-1].lower().replace("-", "_").replace(".", "_"), known)
    raise NotFoundError(f"nothing is known of the model {name!r}: {shape}", hint=(
        f"did you mean '{near}'? " if near else "") + "give a hub id of the catalogue or a directory with a config.json")


def _path(name: str) -> str:
    """A directory as an absolute path, a hub id as it is."""
    path = Path(name).expanduser()
    return str(path.absolute()) if (path / "config.json").is_file() else name


def _word(text: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in text)[:40] or "model"


def _adapters(method: Method, adapter: str) -> tuple[str, ...]:
    if adapter != "auto":
        return (adapter,)
    return ("full",) if method.name == "cpt" else _ORDER


def _variant(method: Method, name: str) -> Variant:
    """The table's variant of that adapter, or a like one."""
    for variant in method.variants:
        if (str(variant.adapter.get("kind", "full")) or "full") == name:
            return variant
    if name == "full":
        if method.name == "cpt":
            return method.variants[0]
        like = method.variants[0]
        changes = {key: value for key, value in like.changes.items() if key != "training"}
        return Variant("full", {}, {**changes, "training": {"optimizer": {"learning_rate": 1e-6}}}, (), ())
    if method.name == "cpt":
        raise RecipeError("continued pretraining trains all weights", where=f"--adapter {name}", hint="give --adapter full")
    like = next((item for item in method.variants if item.adapter), method.variants[0])
    return Variant(name, {"rank": 16, "alpha": 32, **like.adapter, "kind": name}, like.changes, (), ())


def _about(model: Model) -> str:
    shape = shape_of(model.config)
    experts = f", {shape.active_parameters:,} of them for one token" if isinstance(shape, Shape) and shape.routed else ""
    return f"{model.title}: {model.parameters:,} parameters{experts}"


def _heading(model: Model, method: Method, gpus: int, gpu_memory_gib: float) -> str:
    return f"# {model.title} {method.about}, on {several(gpus, 'GPU')} of {gpu_memory_gib:g} GiB.\n#"


def _reasons(made: Composed, adapter: str, wanted: tuple[str, ...], gpu_memory_gib: float) -> list[str]:
    training: Mapping[str, Any] = made.values["training"]
    lines = []
    if wanted.index(adapter):
        lines.append(f"{' and '.join(wanted[:wanted.index(adapter)])} fit in no way, so: {adapter}")
    lines += explain(made.layout.tries, round(gpu_memory_gib * 2**30))
    kind = training["parallelism"]["kind"]
    lines.append({
        "ddp": "ddp: a whole copy on each GPU, and only gradients travel",
        "hsdp": "hsdp: sharded inside a node, where links are fast; copied between nodes",
        "fsdp2": "fsdp2: sharded over all GPUs, because one copy is too large for fewer",
    }[kind])
    if training.get("activation_checkpointing"):
        lines.append("activation_checkpointing: a third more computing, for activations that do not fit otherwise")
    lines += [f"  {line}" for line in made.layout.estimate.lines()]
    lines.append(f"  {format_bytes(made.layout.estimate.total_bytes)} in all")
    return lines
