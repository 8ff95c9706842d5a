"""How many parameters an adapter has, and how large a model is whose weights are in four bits (pure).

Held against peft's own adapters, on models without memory, in ``tests/unit/recipe/test_memory_tune.py``.
"""

from __future__ import annotations

from hpctrain.recipe.model_size import Linear, Shape
from hpctrain.recipe.schema_method import Adapter

NF4_BLOCK, NF4_OUTER_BLOCK = 64, 256
"""bitsandbytes: four-bit weights share a scale per block of 64; with double quantisation the scale is one byte, and 256 of
those share a float32 scale and offset (Dettmers et al. 2023, QLoRA, section 3)."""

_MLP = ("gate_proj", "up_proj", "down_proj")
"""Dense MLPs and shared experts, which peft leaves alone where it adapts the experts."""


def adapted(shape: Shape, adapter: Adapter) -> tuple[Linear, ...]:
    """The linear layers that get an adapter, without experts."""
    if adapter.target_modules == "all-linear":
        return shape.linears
    return tuple(item for item in shape.linears if item.name in adapter.target_modules)


def adapts_experts(shape: Shape, adapter: Adapter) -> bool:
    """Whether peft adapts the experts too, for which it makes a changed copy of a layer's experts in each pass."""
    return adapter.target_modules == "all-linear" and bool(shape.experts)


def adapter_parameters(shape: Shape, adapter: Adapter) -> int:
    """Parameters that are trained: two matrices per layer; with DoRA also a length per output."""
    per_output = adapter.rank + (1 if adapter.kind == "dora" else 0)
    layers = adapted(shape, adapter)
    if adapts_experts(shape, adapter):
        layers = shape.experts + tuple(item for item in layers if item.name not in _MLP)
    return sum(item.count * (adapter.rank * item.inputs + per_output * item.outputs) for item in layers)


def trained_parameters(shape: Shape, adapter: Adapter | None) -> int:
    """Parameters that have gradients: the adapter's, or all."""
    return shape.parameters if adapter is None else adapter_parameters(shape, adapter)


def four_bit_bytes(shape: Shape) -> int:
    """The frozen weights where linear layers are in four bits and everything else (embeddings, norms, experts that are
    one tensor) is in bfloat16.
    """
    linear = sum(item.count * item.inputs * item.outputs for item in shape.linears)
    scales = linear // NF4_BLOCK + 8 * linear // (NF4_BLOCK * NF4_OUTER_BLOCK)
    return linear // 2 + scales + 2 * (shape.parameters - linear)
