"""The numbers and texts that are read from one GPU, with the range in which each can be true (pure).

One table for the probe, for replayed recordings and for the tests: a value outside its range is garbage (a driver that
answers with all ones, a torn recording) and becomes the error ``implausible``, never a finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

COUNTER: Final = 2**48
"""No counter of a GPU gets here; all ones in 32 or 64 bits mean "not available" in NVML and are refused besides."""
ALL_ONES: Final = frozenset({2**32 - 1, 2**64 - 1})
BYTES: Final = 2**50

NUMBERS: Final[Mapping[str, tuple[float, float]]] = {
    # identity and settings
    "minor": (0, 1023),
    "persistence": (0, 1),
    "compute_mode": (0, 3),
    "mig_mode": (0, 1),
    "ecc_mode": (0, 1),
    "ecc_mode_pending": (0, 1),
    "inforom_valid": (0, 1),
    "recovery_action": (0, 31),
    # memory
    "memory_total_bytes": (1, BYTES),
    "memory_used_bytes": (0, BYTES),
    "memory_reserved_bytes": (0, BYTES),
    "ecc_volatile_uncorrected": (0, COUNTER),
    "ecc_volatile_corrected": (0, COUNTER),
    "ecc_aggregate_uncorrected": (0, COUNTER),
    "ecc_aggregate_corrected": (0, COUNTER),
    "sram_threshold_exceeded": (0, 1),
    "sram_aggregate_uncorrected": (0, COUNTER),
    "remapped_corrected": (0, 100_000),
    "remapped_uncorrected": (0, 100_000),
    "remap_pending": (0, 1),
    "remap_failed": (0, 1),
    "remap_banks_without_spares": (0, 100_000),
    "retired_single_bit": (0, 100_000),
    "retired_double_bit": (0, 100_000),
    "retired_pending": (0, 1),
    "channel_repair_pending": (0, 1),
    "tpc_repair_pending": (0, 1),
    "memory_unrepairable": (0, 1),
    # heat, power, clocks
    "temperature_c": (1, 150),
    "temperature_slowdown_c": (30, 150),
    "memory_temperature_c": (1, 150),
    "margin_c": (-60, 150),
    "margin_slowdown_c": (-60, 150),
    "power_w": (0, 5000),
    "power_average_w": (0, 5000),
    "power_limit_w": (1, 5000),
    "power_limit_default_w": (1, 5000),
    "clock_sm_mhz": (0, 10_000),
    "clock_sm_limit_mhz": (1, 10_000),
    "clock_sm_max_mhz": (1, 10_000),
    "clock_memory_mhz": (0, 20_000),
    "clock_memory_max_mhz": (1, 20_000),
    "clock_reasons": (0, 2**16 - 1),
    "hw_thermal_slowdown_ns": (0, 2**62),
    "hw_power_brake_ns": (0, 2**62),
    "utilization_percent": (0, 100),
    # links
    "pcie_width": (1, 32),
    "pcie_width_max": (1, 32),
    "pcie_generation": (1, 8),
    "pcie_generation_max": (1, 8),
    "pcie_replays": (0, COUNTER),
    "pcie_fatal_errors": (0, COUNTER),
    "pcie_non_fatal_errors": (0, COUNTER),
    "nvlinks": (0, 64),
    "nvlinks_active": (0, 64),
    "nvlink_speed_mbps": (1, 1_000_000),
    "nvlink_replays": (0, COUNTER),
    "nvlink_recoveries": (0, COUNTER),
    "nvlink_crc_errors": (0, COUNTER),
    "nvlink_recovery_failures": (0, COUNTER),
    "c2c_errors": (0, COUNTER),
    "fabric_state": (0, 3),
    "fabric_status": (0, 999),
    "fabric_health_mask": (0, 2**16 - 1),
}
TEXTS: Final = frozenset({"name", "serial", "vbios", "inforom", "gsp_firmware", "nvlinks_down"})

COUNTERS: Final = (
    "ecc_volatile_corrected",
    "ecc_volatile_uncorrected",
    "ecc_aggregate_uncorrected",
    "pcie_replays",
    "pcie_fatal_errors",
    "nvlink_replays",
    "nvlink_recoveries",
    "nvlink_crc_errors",
    "nvlink_recovery_failures",
    "c2c_errors",
    "hw_thermal_slowdown_ns",
    "hw_power_brake_ns",
)
"""Fields that only grow, and are worth comparing with what they were some time ago."""

IMPLAUSIBLE: Final = "implausible"
NOT_HERE: Final = frozenset({"not_supported", "no_permission"})
"""Errors that mean "this GPU, driver or user does not have that": the check skips, it does not guess."""


def plausible(field: str, value: object) -> float | int | str | None:
    """The value, if it can be one of this field; None if it is garbage or the field is not known."""
    if field in TEXTS:
        return value if isinstance(value, str) and len(value) <= 256 and value.isprintable() else None
    low_high = NUMBERS.get(field)
    if low_high is None or isinstance(value, bool) or not isinstance(value, int | float) or value in ALL_ONES:
        return None
    return value if low_high[0] <= value <= low_high[1] else None
