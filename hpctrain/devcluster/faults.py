"""The catalogue of faults that a simulated node can have (pure).

A fault is changes: to the state file of the simulated GPUs, to the trees of /proc and /sys, and lines that the kernel
writes. Each names the check that has to find it, and whether that should take the node out of service.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hpctrain.devcluster.simulated_gpus import Value, pci_bus
from hpctrain.devcluster.simulated_node import DEEP, MEMORY_KIB, port_path
from hpctrain.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class Changes:
    """What a fault changes.

    Attributes:
        gpus: keys of the state file -> new values.
        tree: path -> new text; None removes the file.
        log: lines that the kernel writes.
    """

    gpus: Mapping[str, Value] = field(default_factory=dict)
    tree: Mapping[str, str | None] = field(default_factory=dict)
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        group: ``gpu``, ``memory``, ``link``, ``log``, ``network`` or ``host``.
        check: the health check that finds it.
        drains: the node has to be taken out of service, with that check's reason.
        make: from the number of a GPU (or port) to the changes.
    """

    name: str
    group: str
    what: str
    check: str
    drains: bool
    make: Callable[[int], Changes]
    contexts: tuple[str, ...] = ("prolog", "epilog", "periodic")


def fault_named(name: str) -> Fault:
    """The fault of this name. Raises NotFoundError."""
    everything = {**FAULTS, **DEEP_FAULTS}
    if name not in everything:
        raise NotFoundError(f"no fault '{name}'", hint=f"the faults are: {', '.join(everything)}")
    return everything[name]


def _gpu(
    name: str,
    what: str,
    check: str,
    group: str = "gpu",
    *,
    drains: bool = True,
    contexts: tuple[str, ...] = ("prolog", "epilog", "periodic"),
    **values: Value,
) -> Fault:
    def make(gpu: int) -> Changes:
        return Changes(gpus={f"gpu.{gpu}.{key.replace('__', '.')}": value for key, value in values.items()})

    return Fault(name, group, what, check, drains, make, contexts)


def _xid(name: str, what: str, text: str, *, drains: bool = True, recovery: int = 0) -> Fault:
    """A line of the driver, and the recovery action that drivers of today show with it."""

    def make(gpu: int) -> Changes:
        gpus = {f"gpu.{gpu}.field.230": recovery} if recovery else {}
        return Changes(gpus=gpus, log=(f"NVRM: Xid (PCI:{pci_bus(gpu)[:-2]}): {text}",))

    return Fault(name, "log", what, "xid", drains, make)


def _log(name: str, group: str, what: str, check: str, text: str, *, drains: bool = True) -> Fault:
    return Fault(name, group, what, check, drains, lambda _: Changes(log=(text,)))


def _system(name: str, what: str, check: str, values: Mapping[str, Value]) -> Fault:
    return Fault(name, "gpu", what, check, True, lambda _: Changes(gpus=values))


def _tree(
    name: str, group: str, what: str, check: str, make: Callable[[int], Mapping[str, str | None]], *, drains: bool = True
) -> Fault:
    return Fault(name, group, what, check, drains, lambda number: Changes(tree=make(number)))


_PERIODIC = ("periodic",)
_ALL = (
    # GPU as a whole
    _gpu("gpu-lost", "a GPU has fallen off the bus", "gpu_lost", all="!15"),
    _gpu("gpu-needs-reset", "a GPU cannot be opened before it is reset", "gpu_lost", handle="!16"),
    _gpu("gpu-no-power", "a GPU's power cable is loose", "gpu_lost", handle="!8"),
    _gpu("gpu-no-interrupts", "a GPU gets no interrupts", "gpu_lost", handle="!11"),
    _system("gpu-missing", "NVML counts one GPU less", "gpu_count", {"gpus": 7}),
    _system("driver-mismatch", "the driver was updated without a reboot", "gpu_driver", {"init": "!18"}),
    _system("driver-not-loaded", "the driver is not loaded", "gpu_driver", {"init": "!9"}),
    _gpu("recovery-reset", "the driver asks for a reset of a GPU", "gpu_recovery_action", field__230=1),
    _gpu("recovery-reboot", "the driver asks for a reboot", "gpu_recovery_action", field__230=2),
    _gpu("inforom-corrupt", "a GPU's InfoROM is corrupt", "gpu_inforom", inforom_valid="!14", contexts=_PERIODIC),
    _gpu("fabric-not-registered", "a GPU has not joined the NVLink fabric", "gpu_fabric", fabric_state=1),
    _gpu("fabric-unhealthy", "the fabric reports an unhealthy route", "gpu_fabric", fabric_health_mask=0x1A),
    # memory
    _gpu("ecc-uncorrected", "uncorrectable memory errors", "gpu_ecc", "memory", ecc_volatile_uncorrected=2),
    _gpu("sram-threshold", "too many SRAM errors", "gpu_sram", "memory", sram_threshold_exceeded=1),
    _gpu("row-remap-pending", "a memory row waits to be remapped", "gpu_row_remap", "memory", remap_pending=1),
    _gpu("row-remap-failed", "a memory row could not be remapped", "gpu_row_remap", "memory", remap_failed=1),
    _gpu("rows-exhausted", "512 memory rows are remapped", "gpu_row_remap", "memory", remapped_uncorrected=512),
    _gpu("memory-unrepairable", "a GPU's memory cannot be repaired", "gpu_memory_repair", "memory", memory_unrepairable=1),
    _gpu(
        "leftover-memory",
        "GPU memory in use by nobody",
        "gpu_leftover_memory",
        "memory",
        drains=False,
        contexts=("prolog", "periodic"),
        memory_used_bytes=40 * 2**30,
    ),
    # heat, links
    _gpu("hot", "a GPU is about to slow down for heat", "gpu_temperature", drains=False, temperature_c=91),
    _gpu("throttled", "the hardware slows a GPU down", "gpu_throttle", drains=False, clock_reasons=0x48),
    _gpu("pcie-narrow", "a GPU has half its PCIe lanes", "gpu_pcie", "link", pcie_width=8),
    _gpu("nvlink-down", "an NVLink is down", "gpu_nvlink", "link", nvlink__3=0),
    # kernel log
    _xid("xid-79", "Xid 79", "79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."),
    _xid("xid-48", "Xid 48", "48, pid='<unknown>', name=<unknown>, DBE (double bit error) ECC Error", recovery=1),
    _xid("xid-64", "Xid 64", "64, pid='<unknown>', name=<unknown>, Row Remapper Error", recovery=1),
    _xid(
        "xid-74",
        "Xid 74",
        "74, pid='<unknown>', name=<unknown>, NVLink: fatal error detected on link 3(0x200000, 0x0, 0x0, 0x0)",
        recovery=1,
    ),
    _xid("xid-95", "Xid 95", "95, pid=1234, name=python, Uncontained ECC error", recovery=1),
    _xid("xid-119", "Xid 119", "119, pid=1234, name=python, Timeout after 6s of waiting for RPC response from GPU0 GSP!"),
    _xid(
        "xid-149",
        "Xid 149",
        "149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x00000000 0x0 0x0 0x0 0x0)",
        recovery=4,
    ),
    _xid("xid-154", "Xid 154", "154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", recovery=2),
    _xid(
        "xid-13",
        "Xid 13, a program's mistake",
        "13, pid=1234, name=python, Graphics SM Warp Exception on (GPC 0, TPC 1, SM 0)",
        drains=False,
    ),
    _log(
        "sxid-fatal",
        "log",
        "a fatal error of an NVSwitch",
        "sxid",
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
    ),
    # network and host
    _tree(
        "ib-down",
        "network",
        "an InfiniBand port is down",
        "infiniband_ports",
        lambda port: {f"{port_path(port)}/state": "1: DOWN\n", f"{port_path(port)}/phys_state": "3: Disabled\n"},
    ),
    _tree(
        "ib-slow",
        "network",
        "an InfiniBand port runs at a quarter of its rate",
        "infiniband_ports",
        lambda port: {f"{port_path(port)}/rate": "100 Gb/sec (4X EDR)\n"},
    ),
    _tree(
        "memory-missing",
        "host",
        "an eighth of the memory is missing",
        "memory_size",
        lambda _: {"proc/meminfo": f"MemTotal: {MEMORY_KIB * 7 // 8} kB\nMemAvailable: {MEMORY_KIB * 3 // 4} kB\n"},
    ),
    _tree(
        "cpus-offline",
        "host",
        "half of the CPUs are offline",
        "cpu_count",
        lambda _: {"sys/devices/system/cpu/online": "0-31\n"},
        drains=False,
    ),
    _tree(
        "edac-uncorrected",
        "host",
        "an uncorrected memory error",
        "memory_errors",
        lambda _: {"sys/devices/system/edac/mc/mc0/ue_count": "1\n"},
        drains=False,
    ),
    _tree(
        "nvme-dead",
        "host",
        "an NVMe disk is dead",
        "disks",
        lambda _: {"sys/class/nvme/nvme0/state": "dead\n"},
        drains=False,
    ),
    _tree(
        "module-missing",
        "host",
        "nvidia_uvm is not loaded",
        "gpu_modules",
        lambda _: {"proc/modules": "nvidia 1 2 - Live 0x0\n"},
        drains=False,
    ),
    _log(
        "machine-check",
        "host",
        "a machine check",
        "machine_checks",
        "mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 7: be00000000800400",
        drains=False,
    ),
    _log(
        "soft-lockup",
        "host",
        "a CPU is locked up",
        "kernel_trouble",
        "watchdog: BUG: soft lockup - CPU#12 stuck for 26s! [python:4242]",
        drains=False,
    ),
)
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ALL}


def _deep(name: str, what: str, check: str, *, slow_factor: int = 1, corrupt: str = "") -> Fault:
    text = json.dumps({"slow_factor": slow_factor, "corrupt": [corrupt] if corrupt else []}) + "\n"
    return Fault(name, "deep", what, check, False, lambda _: Changes(tree={DEEP: text}), ())


_DEEP = (
    _deep("slow-node", "everything on a node takes 50 times as long", "deep pairwise", slow_factor=50),
    _deep("corrupt-gemm", "a node multiplies wrongly", "deep gemm", corrupt="gemm"),
    _deep("corrupt-memory", "a node's memory loses a bit", "deep pattern", corrupt="pattern"),
    _deep("corrupt-core", "one core of a node computes wrongly", "deep cpu", corrupt="cpu"),
    _deep("corrupt-link", "sums over a node's links are wrong", "deep pairwise", corrupt="pairwise"),
    _deep("corrupt-disk", "a node's disk returns other data", "deep disk", corrupt="disk"),
)
DEEP_FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _DEEP}
"""Faults that only a load shows: no reading of a node betrays them, and 'hpctrain health deep' finds them."""
