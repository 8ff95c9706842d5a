"""The state file of simulated GPUs, which ``nvml/simulated_nvml.c`` answers from (pure).

A profile is what a healthy GPU of a model answers; a key that a model lacks is simply absent, and NVML then says
NOT_SUPPORTED, as it does on the real card.
"""

from __future__ import annotations

from collections.abc import Mapping

GIB = 2**30
Value = int | str

_COMMON: dict[str, Value] = {
    "persistence": 1,
    "compute_mode": 0,
    "memory_used_bytes": 0,
    "temperature_c": 34,
    "temperature_slowdown_c": 92,
    "pcie_width": 16,
    "pcie_width_max": 16,
    "pcie_replays": 0,
    "clock_reasons": 1,
    "utilization_percent": 0,
    "field.179": 0,
    "field.180": 0,
    "field.230": 0,
    "field.270": 0,
    "field.271": 0,
    "inforom_valid": 1,
    "vbios": "96.00.99.00.01",
    "inforom": "G520.0200.00.05",
}
_ECC: dict[str, Value] = {
    "ecc_mode": 1,
    "ecc_mode_pending": 1,
    "ecc_volatile_corrected": 0,
    "ecc_volatile_uncorrected": 0,
    "ecc_aggregate_corrected": 0,
    "ecc_aggregate_uncorrected": 0,
    "sram_threshold_exceeded": 0,
    "sram_aggregate_uncorrected": 0,
}
_ROW_REMAP: dict[str, Value] = {
    "remapped_corrected": 0,
    "remapped_uncorrected": 0,
    "remap_pending": 0,
    "remap_failed": 0,
    "remap_banks_without_spares": 0,
}
_HOPPER: dict[str, Value] = {
    **_COMMON,
    **_ECC,
    **_ROW_REMAP,
    "mig_mode": 0,
    "memory_reserved_bytes": 500 * 2**20,
    "gsp_firmware": "580.65.06",
    "pcie_generation": 5,
    "pcie_generation_max": 5,
    "power_mw": 71_000,
    "power_limit_mw": 700_000,
    "power_limit_default_mw": 700_000,
    "clock_sm_mhz": 345,
    "clock_sm_max_mhz": 1980,
    "clock_memory_mhz": 2619,
    "clock_memory_max_mhz": 2619,
    "field.82": 38,
    "field.185": 70_500,
    "field.194": -2,
    "margin_c": 52,
}


def _nvlink(count: int, speed_mbps: int) -> dict[str, Value]:
    return {
        **{f"nvlink.{link}": 1 for link in range(count)},
        "field.91": count,
        "field.90": speed_mbps,
        "field.38": 0,
        "field.45": 0,
        "field.52": 0,
        "field.59": 0,
    }


PROFILES: Mapping[str, Mapping[str, Value]] = {
    "h100": {
        **_HOPPER,
        **_nvlink(18, 26_562),
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total_bytes": 80 * GIB,
        "fabric_state": 3,
        "fabric_status": 0,
        "fabric_health_mask": 0x2A,
    },
    "h200": {
        **_HOPPER,
        **_nvlink(18, 26_562),
        "name": "NVIDIA H200",
        "memory_total_bytes": 141 * GIB,
        "clock_memory_mhz": 3201,
        "clock_memory_max_mhz": 3201,
        "fabric_state": 3,
        "fabric_status": 0,
        "fabric_health_mask": 0x2A,
    },
    "a100": {
        **_COMMON,
        **_ECC,
        **_ROW_REMAP,
        **_nvlink(12, 25_000),
        "name": "NVIDIA A100-SXM4-80GB",
        "memory_total_bytes": 80 * GIB,
        "mig_mode": 0,
        "pcie_generation": 4,
        "pcie_generation_max": 4,
        "power_mw": 60_000,
        "power_limit_mw": 400_000,
        "power_limit_default_mw": 400_000,
        "clock_sm_mhz": 210,
        "clock_sm_max_mhz": 1410,
        "clock_memory_mhz": 1593,
        "clock_memory_max_mhz": 1593,
        "field.82": 36,
    },
    # A card in a PCIe slot: no NVLink, no fabric.
    "l40s": {
        **_COMMON,
        **_ECC,
        **_ROW_REMAP,
        "name": "NVIDIA L40S",
        "memory_total_bytes": 48 * GIB,
        "pcie_generation": 4,
        "pcie_generation_max": 4,
        "power_mw": 35_000,
        "power_limit_mw": 350_000,
        "power_limit_default_mw": 350_000,
        "clock_sm_mhz": 210,
        "clock_sm_max_mhz": 2520,
    },
    # Before Ampere: pages are retired, rows are not remapped; and a driver that knows nothing newer.
    "v100": {
        **{key: value for key, value in _COMMON.items() if not key.startswith("field.")},
        "ecc_mode": 1,
        "ecc_mode_pending": 1,
        "ecc_volatile_corrected": 0,
        "ecc_volatile_uncorrected": 0,
        "ecc_aggregate_corrected": 0,
        "ecc_aggregate_uncorrected": 0,
        "retired_single_bit": 0,
        "retired_double_bit": 0,
        "retired_pending": 0,
        **{f"nvlink.{link}": 1 for link in range(6)},
        "name": "Tesla V100-SXM2-32GB",
        "memory_total_bytes": 32 * GIB,
        "pcie_generation": 3,
        "pcie_generation_max": 3,
        "power_mw": 45_000,
        "power_limit_mw": 300_000,
        "power_limit_default_mw": 300_000,
        "clock_sm_mhz": 135,
        "clock_sm_max_mhz": 1530,
    },
    # A desktop card: no ECC, nothing of a data centre.
    "geforce": {
        **{key: value for key, value in _COMMON.items() if not key.startswith(("field.", "inforom"))},
        "name": "NVIDIA GeForce RTX 4090",
        "memory_total_bytes": 24 * GIB,
        "pcie_generation": 1,
        "pcie_generation_max": 4,
        "power_mw": 20_000,
    },
}
DRIVER: Mapping[str, Value] = {"driver_version": "580.65.06", "nvml_version": "13.580.65.06", "cuda_version": 13000}


def node_state(node: str, gpus: int = 8, profile: str = "h100") -> dict[str, Value]:
    """What a healthy node answers, key by key."""
    state: dict[str, Value] = {**DRIVER, "gpus": gpus}
    for index in range(gpus):
        identity: dict[str, Value] = {
            "uuid": uuid_of(node, index),
            "serial": f"16500{index:02d}{sum(node.encode()) % 10_000:04d}",
            "minor": index,
            "pci_bus": f"0000{pci_bus(index).upper()}",
        }
        state |= {f"gpu.{index}.{key}": value for key, value in {**PROFILES[profile], **identity}.items()}
    return state


def uuid_of(node: str, index: int) -> str:
    """A UUID that tells node and GPU apart, and stays the same."""
    digits = "".join(f"{byte:02x}" for byte in node.encode())[-16:].rjust(16, "0")
    return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-0000-{index:012d}"


def pci_bus(index: int) -> str:
    """Where the GPU sits, as the kernel writes it."""
    return f"0000:{0x19 + 0x11 * index & 0xFF:02x}:00.0"


def render(state: Mapping[str, Value]) -> str:
    """The text of the state file."""
    return "".join(f"{key} {value}\n" for key, value in state.items())


def parse(text: str) -> dict[str, Value]:
    """The state in a file's text."""
    lines = (line.partition(" ") for line in text.splitlines() if " " in line and not line.startswith("#"))
    return {
        key: int(value) if (value.lstrip("-").isdigit() and not value.startswith("0")) or value == "0" else value
        for key, _, value in lines
    }
