"""A checkpoint's model as safetensors files (adapter over ``safetensors``).

One file's tensors are in memory at a time, and every byte is verified on the way.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hpctrain.checkpoint.fill import load_tensors
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.store import Reader
from hpctrain.checkpoint.weight_files import ADAPTER_FILE, MODEL, WeightFile, adapter_name, index_of
from hpctrain.errors import CheckpointError, StorageError
from hpctrain.files import PRIVATE_FILE, storage_errors, write_json_atomic


def write_weights(
    source: Reader, where: str, manifest: Manifest, files: Sequence[WeightFile], folder: Path, *, dtype: str | None,
    on_bytes: Callable[[int], None],
) -> None:
    """Write the planned files, and their index where there are several, flushed to disk.

    Args:
        source: of the checkpoint's shards.
        where: it lies, for messages.
        dtype: what floating-point tensors become; None keeps what is stored.
        on_bytes: told of the size of every file when it is written.

    Raises:
        CheckpointError: the checkpoint is damaged.
        StorageError: a file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    _check_room(folder, sum(file.size_bytes for file in files))
    for file in files:
        rename = adapter_name if file.name == ADAPTER_FILE else str
        try:
            loaded = load_tensors(source, manifest, [MODEL + name for name in file.tensors])
        except DamagedError as error:
            raise CheckpointError(f"it cannot be exported: {error}", where=where) from None
        path = folder / file.name
        with storage_errors(path):
            try:
                save_file({rename(name): _stored(loaded[MODEL + name], dtype) for name in file.tensors}, path,
                          {"format": "pt"})
            except SafetensorError as error:  # also where the disk is full
                raise StorageError(f"cannot write: {error}", where=str(path)) from None
            path.chmod(PRIVATE_FILE)
            sync_file(path)
        on_bytes(file.size_bytes)
    if len(files) > 1:
        write_json_atomic(folder / "model.safetensors.index.json", index_of(files))


def _check_room(folder: Path, size_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes:
        raise StorageError(
            f"the model needs {size_bytes:,} bytes, {free_bytes:,} are free", where=str(folder.parent),
            hint="choose another place",
        )


def sync_file(path: Path) -> None:
    """Force a file to disk that somebody else wrote."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stored(tensor: torch.Tensor, dtype: str | None) -> torch.Tensor:
    if dtype is not None and tensor.is_floating_point() and tensor.element_size() > 1:
        tensor = tensor.to(getattr(torch, dtype))
    return tensor.contiguous()
