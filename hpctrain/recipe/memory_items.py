"""Lines of the memory arithmetic that all methods share (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpctrain.recipe.arithmetic import world_size
from hpctrain.recipe.model_size import Shape
from hpctrain.recipe.schema import Recipe

GPU_MEMORY_MIB: Mapping[str, int] = {
    "h100": 81559, "h200": 143771, "b200": 183359, "l40s": 46068, "a10": 23028, "l4": 23034, "t4": 15360,
}
"""Usable memory as the driver reports it. Types made in several sizes (A100, V100, ...) are left out on purpose."""

GPU_RUNTIME_BYTES = 3 * 2**30
"""CUDA context, NCCL's buffers, the allocator's slack."""
CPU_RUNTIME_BYTES = 3 * 2**28
"""Python with torch and transformers loaded."""


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the arithmetic."""

    what: str
    arithmetic: str
    size_bytes: int


def ranks_text(shards: int) -> str:
    """The ranks that share something: ``8 ranks``."""
    return f"{shards} {'rank' if shards == 1 else 'ranks'}"


def state_item(recipe: Recipe, parameters: int, shards: int, what: str = "weights") -> Item:
    """Float32 weights, gradients and the optimizer's state of what is trained."""
    optimizer = recipe.training.optimizer
    state = 8 if optimizer.kind == "adamw" else 4 if optimizer.momentum else 0
    name = "AdamW" if optimizer.kind == "adamw" else "SGD"
    sums = f"{parameters:,} x (4 + 4 + {state}) B / {ranks_text(shards)}"
    return Item(f"{what}, gradients, {name}", sums, -(-parameters * (8 + state) // shards))


def gathered_item(shape: Shape, compute: int, *, trained: bool = True) -> Item:
    """What FSDP2 makes whole for a moment: all outside the layers, two layers, and one unit's gradient."""
    gathered = shape.embedding_parameters + 2 * shape.layer_parameters
    if not trained:
        return Item("working copies", f"{gathered:,} x {compute} B", gathered * compute)
    largest = max(shape.embedding_parameters, shape.layer_parameters)
    sums = f"{gathered:,} x {compute} B + {largest:,} x {compute + 4} B"
    return Item("working copies", sums, gathered * compute + largest * (compute + 4))


def layer_bytes_per_token(shape: Shape, compute: int, eager_length: int) -> int:
    """What autograd keeps of one decoder layer per token.

    Args:
        compute: bytes of a number of the compute type.
        eager_length: length of the sequence where attention stores its score matrix, else 0.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * shape.hidden * (4 + 2 * compute)  # the float32 input, the normalised value, the output
    attention = compute * (3 * queries + 2 * keys)  # q, k, v, the result, and its copy in the layout of the projection
    scores = shape.heads * eager_length * (6 if compute == 2 else 4)  # the softmax in float32, and its bfloat16 copy
    mlp = compute * shape.inner * (4 if shape.gated else 2)
    return norms + attention + scores + mlp


def activations_item(recipe: Recipe, layer: int, tokens: int, kept: int, layers: int) -> Item:
    """Activations of one pass: all layers in full, or one in full and one residual of each."""
    if recipe.training.activation_checkpointing:
        sums = f"{tokens:,} tokens x ({layers} layers x {kept:,} B + one x {layer:,} B)"
        return Item("activations", sums, tokens * (layers * kept + layer))
    return Item("activations", f"{tokens:,} tokens x {layers} layers x {layer:,} B", tokens * layers * layer)


def runtime_item(gpu: bool) -> Item:
    """What is there before anything is trained."""
    runtime = GPU_RUNTIME_BYTES if gpu else CPU_RUNTIME_BYTES
    return Item("runtime", "CUDA context, NCCL, allocator" if gpu else "Python, torch, transformers", runtime)


def several_ranks(recipe: Recipe) -> bool:
    """Gradients are exchanged."""
    return world_size(recipe.resources) > 1
