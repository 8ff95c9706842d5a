"""A resolved recipe in a few facts, for people and for ``-o json`` (pure)."""

from __future__ import annotations

from typing import Any

from hpctrain.recipe.arithmetic import gradient_accumulation, ranks_per_node, tokens_per_step, total_steps, world_size
from hpctrain.recipe.memory import Estimate
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.units import format_bytes, format_duration, several


def facts_of(recipe: Recipe, size: Estimate | None) -> dict[str, Any]:
    """The facts as plain data; keys carry their units, None where something is not known or does not apply."""
    resources, trains = recipe.resources, recipe.method is not None
    steps, per_step = total_steps(recipe), tokens_per_step(recipe)
    return {
        "name": recipe.name,
        "method": recipe.method or "command",
        "model_type": size.shape.model_type if size and size.shape else None,
        "parameters": size.parameters if size else None,
        "nodes": resources.nodes,
        "spares": resources.spares,
        "gpus_per_node": resources.gpus_per_node,
        "ranks_per_node": ranks_per_node(resources),
        "ranks": world_size(resources),
        "global_batch_size": recipe.training.global_batch_size if trains else None,
        "gradient_accumulation": gradient_accumulation(recipe) if trains else None,
        "tokens_per_step": per_step,
        "steps": steps if trains else None,
        "tokens": steps * per_step if steps and per_step else None,
        "time_limit_s": resources.time_limit,
        "memory_per_rank_bytes": size.total_bytes if size else None,
        "memory_limit_bytes": size.capacity_bytes if size else None,
        "memory": [{"what": item.what, "arithmetic": item.arithmetic, "bytes": item.size_bytes} for item in size.items]
        if size else [],
        "ram_tier_bytes_per_node": size.ram.size_bytes if size and size.ram else None,
    }


def lines_of(recipe: Recipe, size: Estimate | None) -> list[str]:
    """The facts as aligned lines of text."""
    facts = facts_of(recipe, size)
    rows = [("method", facts["method"]), ("model", _model(facts)), ("ranks", _ranks(facts))]
    rows += [("batch", _batch(recipe, facts)), ("length", _length(recipe, facts)), ("time", _time(recipe))]
    lines = [f"  {name:<8}{text}" for name, text in rows if text]
    if size is not None:
        room = f" of {format_bytes(size.capacity_bytes)}, {size.capacity_from}" if size.capacity_bytes else ""
        lines.append(f"  memory  about {format_bytes(size.total_bytes)} per rank{room}")
        lines += [f"            {line}" for line in size.lines()]
        if size.ram is not None:
            lines.append(f"  ram     up to {format_bytes(size.ram.size_bytes)} of each node for checkpoints in memory")
            lines.append(f"            {size.ram.arithmetic}")
    return lines


def short_count(number: int | None) -> str:
    """A number of parameters for people: ``8.03 B``, ``460 K``; "" for None."""
    if number is None:
        return ""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= 0.9995 * limit:  # 999.9 M is 1 B
            return f"{number / limit:.3g} {unit}"
    return str(number)


def _model(facts: dict[str, Any]) -> str:
    return f"{facts['model_type']}, {facts['parameters']:,} parameters" if facts["parameters"] is not None else ""


def _ranks(facts: dict[str, Any]) -> str:
    spares = f", {facts['spares']} spare nodes beside them" if facts["spares"] else ""
    device = f", {facts['gpus_per_node']} GPUs per node" if facts["gpus_per_node"] else ", on CPUs"
    return f"{facts['ranks']} = {several(facts['nodes'], 'node')} x {facts['ranks_per_node']}{device}{spares}"


def _batch(recipe: Recipe, facts: dict[str, Any]) -> str:
    if facts["tokens_per_step"] is None or recipe.data is None:
        return ""
    training = recipe.training
    return (f"{training.global_batch_size} samples = {facts['ranks']} ranks x {training.micro_batch_size} x "
            f"{several(facts['gradient_accumulation'], 'pass', 'passes')}; x {recipe.data.sequence_length} tokens = "
            f"{facts['tokens_per_step']:,} tokens per step")


def _length(recipe: Recipe, facts: dict[str, Any]) -> str:
    if facts["steps"]:
        return f"{several(facts['steps'], 'step')}, {facts['tokens']:,} tokens"
    epochs = recipe.training.epochs
    return f"{epochs:g} epochs; the steps are known once the data is read" if epochs and recipe.data else ""


def _time(recipe: Recipe) -> str:
    limit = recipe.resources.time_limit
    return f"{format_duration(limit)} per start" if limit else ""
