"""Torch state as named tensors plus JSON (adapter over ``torch``).

:mod:`hpctrain.checkpoint.capture` cuts the tensors into boxes; everything else goes through
:mod:`hpctrain.checkpoint.codec`, so that neither saving nor restoring runs a pickle.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hpctrain.checkpoint.codec import TensorRef


@runtime_checkable
class Stateful(Protocol):
    """Anything that can say and take back what it remembers."""

    def state_dict(self) -> dict[str, Any]:
        """What to save."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take it back."""


class ModelState:
    """A module, plain or wrapped by DDP, FSDP2, activation checkpointing or torch.compile; names are the bare module's."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Parameters and persistent buffers by name; DTensors where the model is sharded."""
        return dict(get_model_state_dict(self._model))

    def load_state_dict(self, state_dict: Any) -> None:
        """Copy the values in."""
        set_model_state_dict(self._model, state_dict)


class AdapterState:
    """What a model with a peft adapter trains; the frozen weights come from where they came from before.

    Args:
        model: wrapped or not; names are the bare module's.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = bare(model)

    def state_dict(self) -> dict[str, Any]:
        """Trained parameters by name."""
        return {name: value.detach() for name, value in self._model.named_parameters() if value.requires_grad}

    def load_state_dict(self, state_dict: Any) -> None:
        """Copy the values in."""
        with torch.no_grad():
            for name, value in self._model.named_parameters():
                if value.requires_grad:
                    value.copy_(state_dict[name])


def bare(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside DDP and torch.compile."""
    inner = getattr(model, "_orig_mod", None) or (model.module if isinstance(model, DistributedDataParallel) else None)
    return model if inner is None else bare(inner)


def has_adapter(model: torch.nn.Module) -> bool:
    """Whether peft has put an adapter on it; asked without importing peft."""
    return hasattr(bare(model), "peft_config") and any(not value.requires_grad for value in model.parameters())


class OptimizerState:
    """An optimizer, its state keyed by parameter name instead of by position."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer

    def state_dict(self) -> dict[str, Any]:
        """State and parameter groups. A fresh optimizer's state is created, so that there is something to load into."""
        return dict(get_optimizer_state_dict(self._model, self._optimizer))

    def load_state_dict(self, state_dict: Any) -> None:
        """Copy the values in."""
        set_optimizer_state_dict(self._model, self._optimizer, state_dict)


class RandomState:
    """The random generators of one rank: Python's, NumPy's if it is used, torch's on the CPU and on its CUDA device."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values, no tensors: each rank has its own."""
        state: dict[str, Any] = {"python": random.getstate(), "torch": _to_bytes(torch.get_rng_state())}
        if "numpy" in sys.modules:
            kind, keys, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
            state["numpy"] = (str(kind), keys.tobytes(), int(position), int(has_gauss), float(gauss))
        if _cuda_in_use():
            # Only this rank's device: asking for the others would create a context on each of them.
            state["cuda"] = _to_bytes(torch.cuda.get_rng_state())
        return state

    def load_state_dict(self, state_dict: Any) -> None:
        """Continue every generator where it was."""
        random.setstate(state_dict["python"])
        torch.set_rng_state(_from_bytes(state_dict["torch"]))
        if "numpy" in state_dict:
            import numpy as np

            kind, keys, position, has_gauss, gauss = state_dict["numpy"]
            np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), position, has_gauss, gauss))
        if "cuda" in state_dict and _cuda_in_use():
            torch.cuda.set_rng_state(_from_bytes(state_dict["cuda"]))


def split(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Move all tensors of a nested value into ``tensors``; return the value with a :class:`TensorRef` in each place.

    Raises:
        ValueError: two tensors would get the same name.
    """
    if isinstance(value, torch.Tensor):
        if path in tensors:
            raise ValueError(f"two tensors are called {path!r}")
        tensors[path] = value.detach()
        return TensorRef(path, tuple(value.shape), str(value.dtype).removeprefix("torch."))
    if isinstance(value, Mapping):
        return {key: split(item, f"{path}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [split(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def join(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of :func:`split`."""
    if isinstance(value, TensorRef):
        return tensors[value.path]
    if isinstance(value, dict):
        return {key: join(item, tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [join(item, tensors) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def refs(value: Any) -> list[TensorRef]:
    """Every tensor that a split value speaks of."""
    if isinstance(value, TensorRef):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [ref for child in children for ref in refs(child)]


def empty(ref: TensorRef) -> torch.Tensor:
    """A tensor on the CPU to load into, for state that does not exist yet."""
    return torch.empty(ref.shape, dtype=getattr(torch, ref.dtype))


def is_writable(tensor: torch.Tensor) -> bool:
    """Whether a tensor can be filled in place; not where several of its elements are one (an expanded one)."""
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    return not any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def _cuda_in_use() -> bool:
    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call,unused-ignore]


def _to_bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.cpu().numpy().tobytes())


def _from_bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
