"""What is in a checkpoint, from its records alone (service over a :class:`Store`; reads no tensor)."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoint import codec
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName, rank_file
from hpctrain.checkpoint.store import Store

MODEL = "model."
"""Tensors of what was registered as the model begin with this."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A summary for people.

    Attributes:
        tensors: how many there are.
        parameters: elements of the model's tensors (a tied one counts under each of its names).
        dtypes: elements of all tensors by data type.
        parts: bytes by what was registered, such as ``{"model": 4096, "optimizer": 8192}``.
        data: what the data cursor said, as far as it is plain; {} where none was registered.
        files: name and size of each.
    """

    tensors: int
    parameters: int
    dtypes: dict[str, int]
    parts: dict[str, int]
    data: dict[str, Any]
    files: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """For ``-o json``."""
        return {"tensors": self.tensors, "parameters": self.parameters, "dtypes": self.dtypes, "parts": self.parts,
                "data": self.data, "files": self.files}


def contents(tier: Store, name: CheckpointName, manifest: Manifest) -> Contents:
    """Count what the manifest names."""
    parameters, dtypes, parts = 0, Counter[str](), Counter[str]()
    table = manifest.table()
    for tensor, shards in table.items():
        numel = math.prod(shards[0].shard.global_shape)
        parameters += numel if tensor.startswith(MODEL) else 0
        dtypes[shards[0].shard.dtype] += numel
        parts[tensor.partition(".")[0]] += sum(shard.size_bytes for shard in shards)
    files = {entry.name: entry.size_bytes for entry in manifest.files}
    return Contents(len(table), parameters, dict(dtypes), dict(parts), _data(tier, name), files)


def _data(tier: Store, name: CheckpointName) -> dict[str, Any]:
    try:
        state = codec.decode(json.loads(tier.read_file(name, rank_file(0)) or b""))
        data = state.get("data")
    except (OSError, ValueError, AttributeError, IndexError, TypeError):
        return {}
    plain = (bool, int, float, str, type(None))
    return {str(key): value for key, value in data.items() if isinstance(value, plain)} if isinstance(data, dict) else {}
