"""One GPU of a reading, and who is on it (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hpctrain.health.gpu_fields import NOT_HERE


class GpuProcess(NamedTuple):
    """A process that has memory or a context on a GPU.

    Attributes:
        job_id: Slurm job it belongs to, "" if it belongs to none.
        name: what it is called, "" if it vanished while we looked.
    """

    pid: int
    memory_bytes: int = 0
    name: str = ""
    uid: int | None = None
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML shows it.

    Attributes:
        uuid: its name for life; "" if it could not even be asked for that.
        pci_bus: such as ``0000:3b:00.0``, lower case, domain of four digits.
        values: by the names of :mod:`hpctrain.health.gpu_fields`.
        errors: why a value is missing: ``not_supported``, ``gpu_is_lost``, ``implausible``... ; the key ``handle`` means
            that the GPU itself could not be opened.
    """

    index: int
    uuid: str = ""
    pci_bus: str = ""
    values: Mapping[str, float | int | str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[GpuProcess, ...] = ()

    @property
    def entity(self) -> str:
        """How findings call it: index for people, uuid for life."""
        return f"gpu{self.index}:{self.uuid}" if self.uuid else f"gpu{self.index}"

    def number(self, name: str) -> float | int | None:
        """A number, None if it is not known."""
        value = self.values.get(name)
        return value if isinstance(value, int | float) else None

    def text(self, name: str) -> str:
        """A text, "" if it is not known."""
        value = self.values.get(name)
        return value if isinstance(value, str) else ""

    def lacks(self, name: str) -> bool:
        """The GPU, its driver or our user does not have this field, which is no fault."""
        return name not in self.values and self.errors.get(name, "not_supported") in NOT_HERE
