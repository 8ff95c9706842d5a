"""What the kernel of a simulated GPU node shows: small trees of /proc and /sys and a kernel log (pure).

Only what health checks read is there. A value in the tree is a file's text; faults change it, healing restores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpctrain.devcluster.simulated_gpus import DRIVER, pci_bus

IB_PORTS = 8
IB_RATE_GBPS = 400
MEMORY_KIB = 2_000_000_000
CPUS = 64
KERNEL_LOG = "kmsg"
GPU_STATE = "gpus.state"
CLOCK = "clock"
BOOTED = "booted"
"""File with the time of the node's boot, in whole seconds since the epoch."""
FAULTS_FILE = "faults.json"
DEEP = "deep.json"
"""What deep checks pretend on this node; ``hpctrain.health.deep.simulated`` reads it."""
UPTIME_S = 864_000.0
LIBRARY = "libnvidia-ml.so.1"


@dataclass(frozen=True, slots=True)
class NodeKind:
    """How a simulated node is equipped."""

    gpus: int = 8
    profile: str = "h100"
    ib_ports: int = IB_PORTS


def node_tree(node: str, kind: NodeKind, boot_id: str) -> dict[str, str]:
    """Path below the node's directory -> text, for a healthy node.

    Args:
        boot_id: a new one for each boot.
    """
    tree = {
        "proc/uptime": f"{UPTIME_S:.2f} 0.00\n",
        "proc/sys/kernel/random/boot_id": f"{boot_id}\n",
        "proc/sys/kernel/osrelease": "6.1.0-simulated\n",
        "proc/meminfo": f"MemTotal: {MEMORY_KIB} kB\nMemFree: 1 kB\nMemAvailable: {MEMORY_KIB - 50_000_000} kB\n",
        "proc/modules": "nvidia_uvm 1 0 - Live 0x0\nnvidia_peermem 1 0 - Live 0x0\nnvidia 1 2 - Live 0x0\n",
        "proc/driver/nvidia/version": f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {DRIVER['driver_version']}  now\n",
        "proc/self/mounts": "/dev/root / ext4 rw 0 0\n",
        "sys/devices/system/cpu/online": f"0-{CPUS - 1}\n",
        "sys/devices/system/cpu/present": f"0-{CPUS - 1}\n",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpu0/topology/physical_package_id": "0\n",
        "sys/devices/system/cpu/cpu1/topology/physical_package_id": "1\n",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
        "sys/devices/system/edac/mc/mc0/ce_count": "0\n",
        "sys/devices/system/edac/mc/mc0/ue_count": "0\n",
        "sys/class/nvme/nvme0/state": "live\n",
        CLOCK: "synchronised 1\nerror_s 0.002\n",
        DEEP: '{"slow_factor": 1, "corrupt": []}\n',
        KERNEL_LOG: log_line(0, 0.0, f"Linux version 6.1.0-simulated ({node})"),
    }
    for index in range(kind.gpus):
        tree |= _pci(pci_bus(index), "0x030200", "0x10de", "32.0 GT/s PCIe", 16)
    for index in range(kind.ib_ports):
        tree |= _port(index)
    return tree


def _pci(address: str, number: str, vendor: str, speed: str, width: int) -> dict[str, str]:
    base = f"sys/bus/pci/devices/{address}"
    return {
        f"{base}/class": f"{number}\n",
        f"{base}/vendor": f"{vendor}\n",
        f"{base}/device": "0x2330\n",
        f"{base}/current_link_width": f"{width}\n",
        f"{base}/max_link_width": f"{width}\n",
        f"{base}/current_link_speed": f"{speed}\n",
        f"{base}/max_link_speed": f"{speed}\n",
    }


def _port(index: int) -> dict[str, str]:
    base = f"{port_path(index)}"
    return {
        f"{base}/link_layer": "InfiniBand\n",
        f"{base}/state": "4: ACTIVE\n",
        f"{base}/phys_state": "5: LinkUp\n",
        f"{base}/rate": f"{IB_RATE_GBPS} Gb/sec (4X NDR)\n",
        f"{base}/counters/link_downed": "0\n",
        f"{base}/counters/symbol_error": "0\n",
        f"{base}/counters/port_rcv_errors": "0\n",
    }


def port_path(index: int) -> str:
    """Directory of an InfiniBand port below the node's directory."""
    return f"sys/class/infiniband/mlx5_{index}/ports/1"


def log_line(sequence: int, since_boot_s: float, text: str) -> str:
    """A record of /dev/kmsg, as the kernel itself writes it."""
    return f"4,{sequence},{int(since_boot_s * 1e6)},-;{text}\n"


def health_config(directory: str, *, kind: NodeKind, state_dir: str) -> dict[str, object]:
    """The site's health configuration for such nodes; ``{node}`` in it is each node's name."""
    below = f"{directory}/{{node}}"
    return {
        "version": 1,
        "state_dir": state_dir,
        "roots": {
            "proc": f"{below}/proc",
            "sys": f"{below}/sys",
            "kernel_log": f"{below}/{KERNEL_LOG}",
            "journalctl": "",
            "clock": f"{below}/{CLOCK}",
            "nvml": f"{below}/{LIBRARY}",
        },
        "expected": {
            "gpus": kind.gpus,
            "ib_ports": kind.ib_ports,
            "ib_rate_gbps": IB_RATE_GBPS,
            "memory_bytes": MEMORY_KIB * 1024,
            "cpus": CPUS,
            "nvme": 1,
            "modules": ["nvidia_uvm"],
        },
    }


def merged(tree: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """The tree after changes; None removes a file."""
    found = {**tree, **{path: text for path, text in changes.items() if text is not None}}
    return {path: text for path, text in found.items() if changes.get(path, "") is not None}
