"""What the pyslurm adapter and its helper process say to each other: frames of JSON over pipes (pure).

A frame is four bytes of length, most significant first, and so many bytes of JSON: no pickle, so that neither side can
make the other run anything. Each request gets one answer::

    {"call": "jobs", "ids": [17], "uid": null}
    {"answer": [[17, 1000, "train", ...], ...]}
    {"refused": {"number": 2017, "text": "Invalid job id specified"}}        Slurm said no
    {"broken": "IndexError: list index out of range"}                        pyslurm could not cope

The first thing the helper sends, unasked, is ``{"hello": {...}}`` or ``{"unusable": "why"}``.
"""

from __future__ import annotations

import json
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
LONGEST_BYTES = 1 << 30
"""A longer frame is noise in the pipe, not an answer: 100,000 jobs are about 40 MB."""

JOB_VALUES = (
    "id", "user_id", "name", "state", "state_reason", "partition", "account", "qos", "num_nodes", "allocated_nodes",
    "batch_host", "submit_time", "eligible_time", "start_time", "end_time", "time_limit", "requeue_count", "priority",
    "exit_code", "exit_code_signal", "comment", "working_directory", "excluded_nodes",
)  # fmt: skip
"""Attributes of a ``pyslurm.Job`` that travel, in this order."""

NODE_VALUES = (
    "name", "state", "partitions", "total_cpus", "real_memory", "configured_gres", "allocated_tres", "active_features",
    "reason", "reason_user", "reason_time", "boot_time",
)  # fmt: skip
"""Attributes of a ``pyslurm.Node``."""

PARTITION_VALUES = ("name", "is_default", "state", "max_time_limit", "default_time", "nodes")
"""Attributes of a ``pyslurm.Partition``."""

RESERVATION_VALUES = ("name", "nodes", "users", "end_time")
"""Attributes of a ``pyslurm.Reservation``."""

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""Stands for a text that pyslurm cannot decode: it insists on UTF-8, Slurm does not."""


def encode(message: dict[str, Any]) -> bytes:
    """One frame."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Puts frames together from what arrives, in whatever pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are complete now.

        Raises:
            ValueError: what arrives is not made of frames.
        """
        self._buffer += data
        found: list[dict[str, Any]] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > LONGEST_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            message = json.loads(self._buffer[_LENGTH.size : end])
            if not isinstance(message, dict):
                raise ValueError("a frame that is no object")
            del self._buffer[:end]
            found.append(message)
        return found
