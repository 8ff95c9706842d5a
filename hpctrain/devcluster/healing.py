"""What mends each fault of the catalogue, and which faults are left after a remedy (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hpctrain.devcluster.faults import DEEP_FAULTS

REMEDIES = ("reset", "reboot", "replace")
"""The mildest first; each mends what those before it mend."""

_RESET = (
    "gpu-needs-reset", "recovery-reset", "inforom-corrupt", "ecc-uncorrected", "row-remap-pending", "leftover-memory",
    "nvlink-down", "xid-48", "xid-64", "xid-74", "xid-95", "xid-119", "xid-149", "xid-13",
)  # fmt: skip
_REPLACE = (
    "gpu-no-power", "sram-threshold", "row-remap-failed", "rows-exhausted", "memory-unrepairable", "ib-down", "ib-slow",
    "memory-missing", "edac-uncorrected", "nvme-dead", "hot", "throttled",
)  # fmt: skip
MENDED_BY: Mapping[str, str] = dict.fromkeys(_RESET, "reset") | dict.fromkeys(_REPLACE, "replace")
"""Fault -> the mildest remedy that mends it; a reboot mends what is not named here."""


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that a simulated node has.

    Attributes:
        number: of the GPU or port.
        until: the mildest of :data:`REMEDIES` that mends it.
    """

    fault: str
    number: int
    until: str


def injected(fault: str, number: int, until: str = "") -> Injected:
    """A fault as it is remembered; what mends it is the catalogue's unless said otherwise."""
    usual = "replace" if fault in DEEP_FAULTS else MENDED_BY.get(fault, "reboot")
    return Injected(fault, number, until or usual)


def left_after(remedy: str, faults: Iterable[Injected], gpu: int | None = None) -> tuple[Injected, ...]:
    """The faults that a remedy leaves.

    Args:
        gpu: the only one that is reset.
    """
    power = REMEDIES.index(remedy)

    def mended(one: Injected) -> bool:
        return REMEDIES.index(one.until) <= power and (gpu is None or one.number == gpu)

    return tuple(one for one in faults if not mended(one))
