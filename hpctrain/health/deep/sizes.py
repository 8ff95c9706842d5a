"""How much work a deep check does: three profiles (pure).

The numbers are choices, not measurements: a smoke run ends in seconds on a laptop, a standard run takes minutes per node, a
long one heats the machine up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Sizes:
    """One profile.

    Attributes:
        matrix_cpu, matrix_gpu: rows of the square matrices.
        burn_s: seconds for which the matrix products go on, on every device at the same time.
        repeats: how often each transfer is timed; the median counts, or the best where ``best_counts``: tiny transfers on a
            machine that does other things, too, are told from slow ones by their best alone.
        copy_bytes: size of a memory copy, on a CPU; ``gpu_copy_bytes`` on a GPU.
        pattern_bytes: host memory that patterns are written to; ``gpu_share`` of a GPU's free memory.
        message_bytes: size of an all-reduce.
        cpu_s: seconds for which every core is loaded.
        file_bytes: size of the file on each file system.
        check_s: a check that takes longer than this is ended and counts as failed.
        pair_s: the same for one round of pairs.
    """

    name: str
    matrix_cpu: int
    matrix_gpu: int
    burn_s: float
    repeats: int
    copy_bytes: int
    gpu_copy_bytes: int
    pattern_bytes: int
    gpu_share: float
    message_bytes: int
    cpu_s: float
    file_bytes: int
    check_s: float
    pair_s: float
    best_counts: bool = False


_ALL = (
    Sizes("smoke", 256, 2048, 0.2, 7, 16 * MIB, 256 * MIB, 8 * MIB, 0.05, MIB, 0.2, 4 * MIB, 90.0, 60.0, best_counts=True),
    Sizes("standard", 2048, 8192, 60.0, 20, GIB, 4 * GIB, 8 * GIB, 0.8, 256 * MIB, 20.0, 2 * GIB, 900.0, 180.0),
    Sizes("long", 4096, 16384, 900.0, 50, 2 * GIB, 8 * GIB, 32 * GIB, 0.9, 1024 * MIB, 300.0, 16 * GIB, 3600.0, 600.0),
)
PROFILES: Mapping[str, Sizes] = {sizes.name: sizes for sizes in _ALL}
"""Profiles by name."""


def time_limit_s(sizes: Sizes, checks: int, rounds: int) -> int:
    """A job's time limit under which no check that keeps its own deadline is cut off, in seconds."""
    return int(300 + checks * sizes.check_s + rounds * (sizes.pair_s + 60))
