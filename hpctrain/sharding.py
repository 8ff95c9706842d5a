"""FSDP2: every rank holds a share of each parameter (adapter over ``torch.distributed.fsdp``).

A model that is worth sharding may not fit on one rank. So only rank 0 builds real weights, in its host's memory; every
rank builds the same structure without any, shards that, and receives its share of rank 0's weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


def shard(model: torch.nn.Module, mesh: DeviceMesh, *, bf16: bool) -> None:
    """Shard each decoder layer by itself, so that one at a time is gathered, and the rest as a whole.

    Args:
        mesh: one dimension shards; two replicate over the first and shard over the second.
        bf16: compute in bfloat16; parameters stay, and gradients are added up, in float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The repeated blocks of a transformer."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    if found:
        return found
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    # The outermost list, not the longest: a layer's experts may outnumber the layers.
    return list(lists[0]) if lists else []


@contextlib.contextmanager
def parameters_without_memory() -> Iterator[None]:
    """Modules built inside have parameters on the meta device, but real buffers.

    ``with torch.device("meta")`` would make the buffers (rotary frequencies, masks) meta too, and they are in no state
    dict to be filled from.
    """
    register = torch.nn.Module.register_parameter

    def register_on_meta(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    torch.nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register  # type: ignore[method-assign]


def fill_from_first(model: torch.nn.Module, source: torch.nn.Module | None, device: torch.device) -> None:
    """Give a sharded model without memory its memory, and rank 0's weights; all ranks together.

    Args:
        source: the real model, on rank 0; None on the others.
    """
    apply: Any = model._apply  # like Module.to_empty, which would empty the buffers too
    apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))
    weights = source.state_dict() if source is not None else {}
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
