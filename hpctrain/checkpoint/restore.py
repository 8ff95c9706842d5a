"""What a restore fills and hands back, for what is registered on one rank (service).

:mod:`hpctrain.checkpoint.restore_attempt` brings the bytes. Nothing here is a pickle's: a rank's state is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpctrain.checkpoint import codec, torch_state
from hpctrain.checkpoint.torch_state import RandomState, Stateful
from hpctrain.errors import CheckpointError

Items = Mapping[str, Stateful]
Tree = dict[str, Any]


def unfit(label: str, where: str, error: str) -> CheckpointError:
    """What to raise when a checkpoint is good and does not fit what is registered."""
    return CheckpointError(
        f"{label} does not fit this run: {error}", where=where,
        hint="model, optimizer or data changed since it was saved: start a new run, or undo the change",
    )


def targets_of(items: Items, own: Tree) -> dict[str, Any]:
    """The tensors to fill: those that are registered, and new ones for state that does not exist yet."""
    if missing := [key for key in items if key not in own]:
        raise ValueError(f"it holds nothing for {missing[0]!r}")
    tensors: dict[str, Any] = {}
    for key, item in items.items():
        torch_state.split(item.state_dict(), key, tensors)
    wanted = {ref.path: ref for key in items for ref in torch_state.refs(own[key])}
    _check_fit(wanted, tensors)
    return {path: tensors[path] if path in tensors and torch_state.is_writable(tensors[path]) else torch_state.empty(ref)
            for path, ref in wanted.items()}


def give_back(items: Items, rng: RandomState | None, own: Tree, tensors: dict[str, Any]) -> None:
    """Hand the restored state to what is registered."""
    for key, item in items.items():
        item.load_state_dict(torch_state.join(own[key], tensors))
    if rng is not None and "rng" in own:  # last, because loading itself may draw numbers
        rng.load_state_dict(own["rng"])


def _check_fit(wanted: Mapping[str, codec.TensorRef], present: Mapping[str, Any]) -> None:
    """Refuse before any tensor is touched, with a name."""
    for path, ref in wanted.items():
        if path in present and tuple(present[path].shape) != ref.shape:
            raise ValueError(f"{path} has shape {tuple(present[path].shape)}, the checkpoint's has {ref.shape}")
    if missing := sorted(set(present) - set(wanted)):
        raise ValueError(f"it lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
