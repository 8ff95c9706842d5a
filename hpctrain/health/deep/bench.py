"""What every measurement is given: the device, the sizes, a stopwatch; and what it gives back (adapter over torch)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hpctrain.health.deep.measurement import Status
from hpctrain.health.deep.simulated import Pretended
from hpctrain.health.deep.sizes import Sizes

T = TypeVar("T")
Reading = dict[str, Any]
"""``metric``, ``status``, ``value``, ``detail``: a measurement that does not yet know its node."""


@dataclass(frozen=True)
class Bench:
    """Where and how much to measure.

    Attributes:
        device: ``cuda:N`` or ``cpu``.
        gpus: GPUs of the node, 0 for none.
        threads: threads of the processor that the job may use.
        local_dir, shared_dir: directories on the node's own disk and on the shared file system.
    """

    device: torch.device
    gpus: int
    threads: int
    sizes: Sizes
    pretended: Pretended = Pretended()  # noqa: RUF009 - frozen
    local_dir: str = "/tmp"  # noqa: S108 - measured in a private directory made there
    shared_dir: str = "."

    @property
    def on_gpu(self) -> bool:
        """The device is a GPU."""
        return self.device.type == "cuda"

    def timed(self, work: Callable[[], T]) -> tuple[float, T]:
        """How many seconds a piece of work takes, with all that it has left to do on the GPU; and its result."""
        self.finish()
        begun = time.perf_counter()
        result = work()
        self.finish()
        if self.pretended.slow_factor > 1:
            time.sleep((time.perf_counter() - begun) * (self.pretended.slow_factor - 1))
        return max(time.perf_counter() - begun, 1e-9), result

    def seconds(self, work: Callable[[], object]) -> float:
        """:meth:`timed` where the result does not matter."""
        return self.timed(work)[0]

    def finish(self) -> None:
        """Wait for the GPU."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def repeated_seconds(self, work: Callable[[], object]) -> float:
        """The time that counts of several; the first, which warms caches up, does not."""
        self.seconds(work)
        return self.counts([self.seconds(work) for _ in range(self.sizes.repeats)])

    def counts(self, times: Sequence[float]) -> float:
        """The median, or the best in a profile where that counts."""
        return min(times) if self.sizes.best_counts else statistics.median(times)

    def spoil(self, check: str, tensor: torch.Tensor) -> None:
        """Flip one bit, on a node that pretends to compute wrongly."""
        if check in self.pretended.corrupt:
            flip_bit(tensor)


def flip_bit(tensor: torch.Tensor, byte: int | None = None, bit: int = 3) -> None:
    """Flip one bit of a contiguous tensor in place; of its middle byte unless told otherwise."""
    raw = tensor.view(-1).view(torch.uint8)
    raw[raw.numel() // 2 if byte is None else byte] ^= 1 << bit


def measured(metric: str, value: float, detail: str = "") -> Reading:
    """A value."""
    return {"metric": metric, "status": Status.MEASURED.value, "value": value, "detail": detail}


def corrupt(metric: str, detail: str, value: float | None = None) -> Reading:
    """A result that was wrong, and how."""
    return {"metric": metric, "status": Status.CORRUPT.value, "value": value, "detail": detail}


def skipped(metrics: Sequence[str], why: str) -> list[Reading]:
    """What does not apply here."""
    return [{"metric": metric, "status": Status.SKIPPED.value, "value": None, "detail": why} for metric in metrics]


def first_difference(found: torch.Tensor, expected: torch.Tensor) -> str:
    """How many values differ and which is the first, in words; "" for none. Compared by value, and NaN differs."""
    different = torch.nonzero((found != expected).view(-1))
    if not different.numel():
        return ""
    index = int(different[0])
    pair = f"{found.reshape(-1)[index].item()} where {expected.reshape(-1)[index].item()} is right"
    return f"{different.numel()} of {found.numel()} values differ, the first at {index}: {pair}"
