"""State that is not a tensor, as JSON and back without loss (pure).

Pickle would save anything, and run anything when it is loaded. JSON with a few tagged objects covers what optimizers,
schedulers, samplers and random generators keep: nested dicts, lists, tuples, numbers, text and bytes.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any

TAG = "$"


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Stands where a tensor was; the tensor itself is stored under ``path``.

    Attributes:
        path: key in the tensor files.
        shape: of the whole tensor, not of one rank's shard.
        dtype: name without the ``torch.`` prefix.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str


def encode(value: Any, path: str = "") -> Any:
    """Plain JSON for a value.

    Raises:
        TypeError: something that JSON cannot hold without pickle; the message says where.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, TensorRef):
        return {"$tensor": [value.path, list(value.shape), value.dtype]}
    if isinstance(value, complex):
        return {"$complex": [repr(value.real), repr(value.imag)]}
    if isinstance(value, dict):
        return _encode_dict(value, path)
    if isinstance(value, (tuple, list)):
        items = [encode(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    raise TypeError(
        f"{path or 'the state'} is a {type(value).__name__}, which a checkpoint cannot hold: "
        "only tensors, numbers, text, bytes, and lists, tuples and dicts of them"
    )


def decode(value: Any) -> Any:
    """The value that :func:`encode` was given.

    Raises:
        ValueError: a tag that is not ours.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith(TAG)), None)
    if tag is None:
        return {key: decode(item) for key, item in value.items()}
    return _decode_tagged(tag, value)


def _encode_dict(value: dict[Any, Any], path: str) -> Any:
    if all(isinstance(key, str) and not key.startswith(TAG) for key in value):
        return {key: encode(item, f"{path}.{key}" if path else key) for key, item in value.items()}
    return {"$dict": [[encode(key, path), encode(item, f"{path}.{key}")] for key, item in value.items()]}


def _decode_tagged(tag: str, value: dict[str, Any]) -> Any:
    content = value[tag]
    if tag == "$tensor":
        return TensorRef(content[0], tuple(content[1]), content[2])
    if tag == "$tuple":
        return tuple(decode(item) for item in content)
    if tag == "$dict":
        return {decode(key): decode(item) for key, item in content}
    if tag == "$bytes":
        return base64.b64decode(content)
    if tag == "$float":
        return float(content)
    if tag == "$complex":
        return complex(float(content[0]), float(content[1]))
    raise ValueError(f"unknown tag {tag!r} in the state of a rank")
