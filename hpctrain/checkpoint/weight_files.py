"""Which tensor of a model goes into which safetensors file (pure)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpctrain.checkpoint.shards import StoredShard, dtype_bytes

ADAPTER_FILE = "adapter_model.safetensors"
"""Where peft looks for an adapter's weights."""
ADAPTED = ".lora_"
"""Part of the names of an adapter's tensors, and of no other's."""
MODEL = "model."
"""Tensors of what was registered as the model begin with this in a checkpoint."""
FLOATS = {"float64", "float32", "float16", "bfloat16"}
"""Types that ``--dtype`` converts; numbers of other kinds are kept."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file to write.

    Attributes:
        tensors: names as the model has them, without the checkpoint's prefix.
    """

    name: str
    tensors: tuple[str, ...]
    size_bytes: int


def model_shapes(table: Mapping[str, Sequence[StoredShard]]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and data type of every tensor of the model, by the model's own name."""
    return {
        name.removeprefix(MODEL): (tuple(stored[0].shard.global_shape), stored[0].shard.dtype)
        for name, stored in table.items() if name.startswith(MODEL)
    }


def plan_files(
    shapes: Mapping[str, tuple[tuple[int, ...], str]], *, dtype: str | None, max_file_bytes: int,
) -> list[WeightFile]:
    """Fill files in the order of the model; one that is larger than a file gets its own. An adapter is one file.

    Args:
        dtype: what floating-point tensors become; None keeps what is stored.
    """
    groups: list[tuple[list[str], int]] = []
    adapter = any(ADAPTED in name for name in shapes)
    for name, (shape, stored_dtype) in shapes.items():
        size = math.prod(shape) * dtype_bytes(dtype if dtype and stored_dtype in FLOATS else stored_dtype)
        if not groups or (groups[-1][1] + size > max_file_bytes and not adapter):
            groups.append(([], 0))
        names, sum_bytes = groups[-1]
        names.append(name)
        groups[-1] = (names, sum_bytes + size)
    one = len(groups) == 1
    if adapter:
        return [WeightFile(ADAPTER_FILE, tuple(names), size) for names, size in groups]
    return [
        WeightFile("model.safetensors" if one else f"model-{index:05d}-of-{len(groups):05d}.safetensors", tuple(names), size)
        for index, (names, size) in enumerate(groups, start=1)
    ]


def adapter_name(name: str) -> str:
    """What peft calls a trained tensor in its own files: without the name of the adapter, of which there is one."""
    name = name.replace(".modules_to_save.default.", ".")
    name = re.sub(r"(\.lora_magnitude_vector)\.default\.weight$", r"\1", name)
    return re.sub(r"(\.lora_\w+)\.default(?=\.|$)", r"\1", name)


def index_of(files: Sequence[WeightFile]) -> dict[str, object]:
    """The content of ``model.safetensors.index.json``, by which readers find a tensor's file."""
    weight_map = {name: file.name for file in files for name in file.tensors}
    return {"metadata": {"total_size": sum(file.size_bytes for file in files)}, "weight_map": weight_map}
