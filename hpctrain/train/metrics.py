"""One line per step in ``metrics.jsonl``, and TensorBoard when asked for (adapter).

Each line is one ``write`` on an open file: it survives the process, not a power cut, and costs microseconds. Lines of
steps that a restart does again stand in the file twice; the later one counts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.errors import MissingDependencyError

_NOT_DRAWN = ("step", "time", "tokens", "step_time_s", "epoch", "incarnation")
"""What TensorBoard draws no curve of: every other number, those of a method too, gets one."""


class MetricsLog:
    """Appends per-step metrics; only rank 0 has one.

    Args:
        path: of ``metrics.jsonl``.
        tensorboard: directory for TensorBoard's files, None for none.

    Raises:
        MissingDependencyError: TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path, tensorboard: Path | None = None) -> None:
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._broken = ""
        self._torn = _ends_torn(self._handle)
        self._board = _board(tensorboard) if tensorboard is not None else None

    @property
    def problem(self) -> str:
        """Why the newest line could not be written, "" when it was; a full disk must not stop the training."""
        return self._broken

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one step."""
        finite = {key: None if _is_wild(value) else value for key, value in record.items()}
        line = (json.dumps(finite, separators=(",", ":")) + "\n").encode()
        try:
            written = os.write(self._handle, b"\n" + line if self._torn else line)
            self._torn = written < len(line)
            self._broken = ""
        except OSError as error:
            self._broken = error.strerror or str(error)
        if self._board is not None:
            with contextlib.suppress(OSError):
                for name, value in record.items():
                    if name not in _NOT_DRAWN and value is not None:
                        self._board.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Close all files."""
        os.close(self._handle)
        if self._board is not None:
            self._board.close()


def _is_wild(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)  # JSON has no NaN and no infinity


def _ends_torn(handle: int) -> bool:
    size = os.fstat(handle).st_size
    return size > 0 and os.pread(handle, 1, size - 1) != b"\n"


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError(
            "tracking.tensorboard is on, but the package 'tensorboard' is not installed", hint="pip install tensorboard"
        ) from None
    return SummaryWriter(str(folder))  # type: ignore[no-untyped-call,unused-ignore]  # tensorboard's writer has no annotations
