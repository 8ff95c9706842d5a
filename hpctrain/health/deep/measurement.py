"""What a deep check can measure, and one thing that it measured (pure).

Every value is a rate: more is better, so that one judge serves them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Any

PAIR_METRIC = "allreduce.pair"
PAIRWISE = "pairwise"
"""Name of the check between nodes; it is asked for separately, because it needs all nodes at the same time."""


class Status(str, Enum):
    """How a measurement ended, before anything is compared.

    LOST is a node whose process is gone without a result, MISSING a result that there was no time or occasion for.
    """

    MEASURED = "measured"
    CORRUPT = "corrupt"
    FAILED = "failed"
    SKIPPED = "skipped"
    LOST = "lost"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class DeepCheck:
    """One check: its name, what it does, and whether it runs once per GPU.

    Attributes:
        metrics: metric -> unit.
    """

    name: str
    what: str
    metrics: Mapping[str, str]
    per_device: bool = False


_ALL = (
    DeepCheck(
        "gemm", "matrix products under full load, every result verified",
        {"gemm.float32": "TFLOP/s", "gemm.bfloat16": "TFLOP/s"}, per_device=True,
    ),
    DeepCheck("memory", "copy bandwidth of the GPU's memory (without a GPU: the host's)",
              {"memory.copy": "GB/s"}, per_device=True),
    DeepCheck("pattern", "patterns written to memory, read back and compared",
              {"pattern.memory": "GB/s"}, per_device=True),
    DeepCheck("host_memory", "the same two for the host's memory, where there are GPUs",
              {"host_memory.copy": "GB/s", "host_memory.pattern": "GB/s"}),
    DeepCheck("pcie", "copies between host and GPU in both directions, verified",
              {"pcie.to_gpu": "GB/s", "pcie.to_host": "GB/s"}, per_device=True),
    DeepCheck("allreduce", "all-reduce among the GPUs of the node (without: two processes), verified",
              {"allreduce.node": "GB/s"}),
    DeepCheck("cpu", "every core on its own under load, results compared between cores",
              {"cpu.slowest_core": "rounds/s", "cpu.all_cores": "rounds/s"}),
    DeepCheck("disk", "a file on the node's own disk: written, forced to disk, read back, compared",
              {"disk.write": "MB/s", "disk.read": "MB/s"}),
    DeepCheck("shared", "the same on the shared file system", {"shared.write": "MB/s", "shared.read": "MB/s"}),
)  # fmt: skip
CHECKS: Mapping[str, DeepCheck] = {check.name: check for check in _ALL}
"""The checks of a single node, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One value of one thing on one node.

    Attributes:
        entity: ``GPU 3``, ``n1-n2`` for a pair, "" for the node itself.
        value: in ``unit``; None where nothing was measured.
        detail: why it failed or was skipped, or what was verified.
    """

    node: str
    check: str
    metric: str
    status: Status
    value: float | None = None
    unit: str = ""
    entity: str = ""
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "status": self.status.value}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Measurement:
        """The measurement in a JSON object.

        Raises:
            ValueError: it is not one.
        """
        try:
            known = {field.name: record[field.name] for field in fields(Measurement) if field.name in record}
            value = None if known.get("value") is None else float(known["value"])
            return Measurement(**{**known, "status": Status(known["status"]), "value": value})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a measurement: {error}") from None


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a node is made of, as far as its speed depends on it; nodes of one kind are compared.

    Attributes:
        device: ``cuda`` or ``cpu``.
        name: the GPU's or the processor's model.
        count: GPUs, or threads of the processor.
        torch: version of PyTorch.
    """

    device: str
    name: str
    count: int
    torch: str = ""

    @property
    def kind(self) -> str:
        """The hardware kind, such as ``NVIDIA H200 x 8``."""
        return f"{self.name} x {self.count}"
