"""Restores what is registered from one committed checkpoint, all ranks together (service).

Reads the manifest, this rank's JSON and raw bytes of tensors; never a pickle. What is read is verified before anything is
made of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoint import codec, names, torch_state
from hpctrain.checkpoint.fill import Progress, Reader, UnfitError, fill
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.ranks import Ranks, error_of
from hpctrain.checkpoint.torch_state import RandomState, Stateful
from hpctrain.errors import CheckpointError

Items = Mapping[str, Stateful]
Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """One committed checkpoint in one tier.

    Attributes:
        label: its name, for messages.
        where: directory or other place, for messages.
        read_file: the verified content of a small file that the manifest names; it may raise any error.
        reader: of the tensors' bytes.
    """

    label: str
    where: str
    manifest: Manifest
    read_file: Callable[[str], bytes]
    reader: Reader


def restore(source: Source, items: Items, rng: RandomState | None, ranks: Ranks, progress: Progress | None = None) -> str:
    """Load a checkpoint into what is registered; every rank returns the same reason why it cannot be used, "" if it was.

    After a reason the registered tensors may hold a mixture: restore another checkpoint, or end.

    Args:
        source: the same checkpoint on every rank.
        items: what is registered, by name.
        progress: told the bytes of tensors that this rank has, and needs.
        rng: continued only on the number of ranks that saved: on another one there is nothing to continue.

    Raises:
        CheckpointError: it does not fit this run, however good it is; raised before any tensor is touched, unless an
            object itself refuses the state it is given.
    """
    same_world = source.manifest.world_size == ranks.world_size
    own, reason = _read_own(source, ranks, same_world=same_world)
    if own is None:
        return reason
    tensors: dict[str, Any] = {}
    error = ranks.first_error(error_of(lambda: tensors.update(targets_of(items, own))))
    if not error:
        try:
            reason = fill(tensors, source.manifest.table(), source.reader, ranks, progress)
        except UnfitError as caught:
            error = str(caught)
    if reason:
        return reason
    error = error or ranks.first_error(error_of(lambda: give_back(items, rng if same_world else None, own, tensors)))
    if error:
        raise unfit(source.label, source.where, error)
    return ""


def unfit(label: str, where: str, error: str) -> CheckpointError:
    """What to raise when a checkpoint is good and does not fit what is registered."""
    return CheckpointError(
        f"{label} does not fit this run: {error}", where=where,
        hint="model, optimizer or data changed since it was saved: start a new run, or undo the change",
    )


def _read_own(source: Source, ranks: Ranks, *, same_world: bool) -> tuple[Tree | None, str]:
    """The state of this rank that is not a tensor; None, and the same reason on every rank, if one is damaged."""
    own: list[Tree] = []

    def read(rank: int) -> None:
        own.append(codec.decode(json.loads(source.read_file(names.rank_file(rank)))))

    if same_world:
        error = ranks.first_error(error_of(lambda: read(ranks.rank)))
    else:  # there is no state of this rank; what all ranks share is in every file
        error = ranks.on_first(lambda: error_of(lambda: read(0)))
        own = ranks.broadcast(own)
    return (None, error) if error else (own[0], "")


def targets_of(items: Items, own: Tree) -> dict[str, Any]:
    """The tensors to fill: those that are registered, and new ones for state that does not exist yet."""
    if missing := [key for key in items if key not in own]:
        raise ValueError(f"it holds nothing for {missing[0]!r}")
    tensors: dict[str, Any] = {}
    for key, item in items.items():
        torch_state.split(item.state_dict(), key, tensors)
    wanted = {ref.path: ref for key in items for ref in torch_state.refs(own[key])}
    _check_fit(wanted, tensors)
    return {path: tensors[path] if path in tensors else torch_state.empty(ref) for path, ref in wanted.items()}


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
