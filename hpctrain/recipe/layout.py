"""How a run is spread over GPUs: the cheapest way that fits, and why the others were passed over (pure).

The order is that of speed: a full copy per GPU before sharding, sharding inside a node before sharding over all, activations
kept before activations computed again, large passes before small ones; and few nodes before many.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpctrain.recipe.check_method import check_adapter
from hpctrain.recipe.memory import Estimate, estimate
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.units import format_bytes, several

HEADROOM = 0.92
"""Share of a GPU's memory that may be planned with: the arithmetic is right within 15 %, and memory breaks into pieces."""
MOST_NODES = 64
PASSES = (8, 4, 2, 1)
"""Samples per forward pass that are tried, the largest first."""


@dataclass(frozen=True, slots=True)
class Try:
    """One way to spread the run, and what it needs.

    Attributes:
        words: the way in words.
        needs_bytes: memory of one GPU.
        fits: into it, and may be done.
        why: what forbids it, whatever its memory; "" where nothing does.
    """

    words: str
    needs_bytes: int
    fits: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """The way that was chosen.

    Attributes:
        values: sections of a recipe: training and resources.
        estimate: its memory arithmetic.
        tries: the best of each way that was passed over, and last the one that was chosen.
    """

    values: Mapping[str, Any]
    estimate: Estimate
    tries: tuple[Try, ...] = field(default=())


def propose(
    values: Mapping[str, Any], config: Mapping[str, Any], *, per_node: int, memory_bytes: int, nodes: int | None = None,
    others: Mapping[str, Mapping[str, Any]] | None = None,
) -> Layout | tuple[Try, ...]:
    """Spread a recipe over GPUs.

    Args:
        values: the recipe's sections, without a layout.
        config: the model's architecture; it must be known to :func:`hpctrain.recipe.model_size.shape_of`.
        per_node: GPUs of a node.
        memory_bytes: memory of one GPU.
        nodes: exactly so many; None for as few as will do, at most :data:`MOST_NODES`.
        others: architectures of further models that the recipe names, by path.

    Returns:
        The layout, or everything that was tried when nothing fits.
    """
    tries: list[Try] = []
    for count in [nodes] if nodes else _powers(MOST_NODES):
        for words, kind in _kinds(count, per_node):
            best: Try | None = None
            for found in _passes(values, kind, count, per_node, memory_bytes):
                recipe = Recipe.model_validate(found)
                size = estimate(recipe, config, {}, None, others)
                training, why = found["training"], "; ".join(problem.message for problem in check_adapter(recipe))
                again = ", activations computed again" if training.get("activation_checkpointing") else ""
                one = Try(f"{words}, {several(training['micro_batch_size'], 'sample')} per pass{again}", size.total_bytes,
                          not why and size.total_bytes <= HEADROOM * memory_bytes, why)
                if one.fits:
                    return Layout({"training": training, "resources": found["resources"]}, size, (*tries, one))
                best = one if best is None or one.needs_bytes < best.needs_bytes else best
            tries += [best] if best else []
    return tuple(tries)


def explain(tries: tuple[Try, ...], memory_bytes: int) -> list[str]:
    """One line per way that was tried: what it needs, and the verdict."""
    width = max((len(item.words) for item in tries), default=0)
    room = f"{HEADROOM:.0%} of {format_bytes(memory_bytes)}"

    def verdict(item: Try) -> str:
        return f"adapter: {item.why}" if item.why else f"{'fits into' if item.fits else 'more than'} {room}"

    return [f"{item.words:<{width}}  {format_bytes(item.needs_bytes):>10}  {verdict(item)}" for item in tries]


def _powers(most: int) -> list[int]:
    found = [1]
    while found[-1] * 2 <= most:
        found.append(found[-1] * 2)
    return found


def _kinds(nodes: int, per_node: int) -> Iterator[tuple[str, dict[str, Any]]]:
    where = f"{several(nodes, 'node')} x {several(per_node, 'GPU')}"
    yield f"{where}: a whole model on each GPU", {"kind": "ddp"}
    if nodes > 1 and per_node > 1:
        yield f"{where}: sharded over each node's GPUs", {"kind": "hsdp", "shard_size": per_node}
    if nodes * per_node > 1:
        yield f"{where}: sharded over all GPUs", {"kind": "fsdp2"}


def _passes(
    values: Mapping[str, Any], kind: Mapping[str, Any], nodes: int, per_node: int, memory_bytes: int,
) -> Iterator[dict[str, Any]]:
    """The recipe with every size of a pass that divides the batch, activations kept first."""
    ranks = nodes * per_node
    for again in (False, True):
        for samples in PASSES:
            found = copy.deepcopy(dict(values))
            training = found.setdefault("training", {})
            wanted = max(training.get("global_batch_size", 32), ranks)
            if wanted % (samples * ranks) and samples > 1:
                continue
            training["global_batch_size"] = -(-wanted // (samples * ranks)) * samples * ranks
            training["micro_batch_size"] = samples
            training.pop("activation_checkpointing", None)
            if again:
                training["activation_checkpointing"] = True
            training["parallelism"] = dict(kind)
            found["resources"] = {"nodes": nodes, "gpus_per_node": per_node, "gpu_memory": memory_bytes,
                                  **found.get("resources", {})}
            yield found
