"""Read PCI devices, network ports and disks from /sys (adapter)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpctrain.health.probe_child import Report
from hpctrain.health.sysfs import link_name, names, real, text, to_whole, whole

NVIDIA = 0x10DE
_CLASSES = {0x0300: "gpu", 0x0302: "gpu", 0x0680: "nvswitch", 0x0604: "bridge", 0x0207: "network", 0x0200: "network"}
_ACS_CAPABILITY = 0x000D
_ACS_IN_THE_WAY = 0x1D
"""Source validation, translation blocking, request and completion redirect, upstream forwarding."""
_PORT_COUNTERS = (
    "link_downed",
    "link_error_recovery",
    "symbol_error",
    "port_rcv_errors",
    "port_xmit_discards",
    "local_link_integrity_errors",
    "excessive_buffer_overrun_errors",
    "VL15_dropped",
)
_HARDWARE_COUNTERS = ("local_ack_timeout_err", "rnr_nak_retry_err", "roce_slow_restart", "out_of_sequence", "packet_seq_err")
_LARGE = 10_000


def read_devices(report: Report, *, sys: str = "/sys", thorough: bool = True) -> None:
    """Tell the devices that matter to training.

    Args:
        thorough: also read bridges and their access control, which is hundreds of files on a large node.
    """
    report.step(f"reading {sys}/bus/pci")
    for device in _pci(sys, thorough):
        report.emit(pci=device)
    report.step(f"reading {sys}/class/infiniband")
    for port in _ports(sys):
        report.emit(port=port)
    report.step(f"reading {sys}/class/net")
    for interface in _interfaces(sys):
        report.emit(interface=interface)
    report.step(f"reading {sys}/class/nvme and {sys}/block")
    for disk in _disks(sys):
        report.emit(disk=disk)


def _pci(sys: str, thorough: bool) -> Iterator[dict[str, Any]]:
    base = f"{sys}/bus/pci/devices"
    for address in names(base)[:_LARGE]:
        path = f"{base}/{address}"
        number = whole(f"{path}/class")
        vendor = whole(f"{path}/vendor")
        kind = _CLASSES.get((number or 0) >> 8, "")
        if kind == "bridge":
            if thorough:
                yield {"address": address, "kind": kind, "vendor": vendor or 0, "acs": _acs(path)}
        elif (kind in ("gpu", "nvswitch") and vendor == NVIDIA) or kind == "network":
            yield {
                "address": address,
                "kind": kind,
                "vendor": vendor or 0,
                "device": whole(f"{path}/device") or 0,
                **_link(path),
            }


def _link(path: str) -> dict[str, Any]:
    found: dict[str, Any] = {"driver": link_name(f"{path}/driver")}
    for key, file in (("width", "current_link_width"), ("width_max", "max_link_width")):
        width = whole(f"{path}/{file}")
        found[key] = width if width in (1, 2, 4, 8, 12, 16, 32) else 0
    for key, file in (("speed_gts", "current_link_speed"), ("speed_max_gts", "max_link_speed")):
        speed = real((text(f"{path}/{file}").split() or [""])[0])
        found[key] = speed if speed in (2.5, 5.0, 8.0, 16.0, 32.0, 64.0) else 0.0
    for key, file in (
        ("errors_fatal", "aer_dev_fatal"),
        ("errors_non_fatal", "aer_dev_nonfatal"),
        ("errors_correctable", "aer_dev_correctable"),
    ):
        found[key] = _aer_total(text(f"{path}/{file}"))
    return found


def _aer_total(table: str) -> int | None:
    for line in table.splitlines():
        words = line.split()
        if len(words) == 2 and words[0].startswith("TOTAL_ERR"):
            return to_whole(words[1])
    return None


def _acs(path: str) -> bool | None:
    """Walk the extended capabilities of a bridge; None where they cannot be read (root only)."""
    try:
        config = Path(f"{path}/config").read_bytes()
    except OSError:
        return None
    place, seen = 0x100, set()
    while 0x100 <= place <= len(config) - 8 and place not in seen:
        seen.add(place)
        header = int.from_bytes(config[place : place + 4], "little")
        if header & 0xFFFF == _ACS_CAPABILITY:
            return bool(int.from_bytes(config[place + 6 : place + 8], "little") & _ACS_IN_THE_WAY)
        place = header >> 20
    return None


def _ports(sys: str) -> Iterator[dict[str, Any]]:
    base = f"{sys}/class/infiniband"
    for device in names(base)[:256]:
        for port in names(f"{base}/{device}/ports")[:64]:
            number = to_whole(port)
            if number is None:
                continue
            path = f"{base}/{device}/ports/{port}"
            yield {
                "device": device,
                "port": number,
                "link": text(f"{path}/link_layer").lower(),
                "state": _word(text(f"{path}/state")),
                "physical": _word(text(f"{path}/phys_state")),
                "rate_gbps": _rate(text(f"{path}/rate")),
                "pci_bus": link_name(f"{base}/{device}/device"),
                "counters": dict(_counters(path)),
            }


def _rate(told: str) -> float | None:
    """``400 Gb/sec (4X NDR)``; None for what has not that form."""
    words = told.split()
    value = real(words[0]) if words[1:2] == ["Gb/sec"] else None
    return value if value is not None and 1 <= value <= 10_000 else None


def _word(state: str) -> str:
    """``4: ACTIVE`` -> ``active``; "" for what has not that form."""
    number, colon, word = state.partition(":")
    return word.strip().lower()[:32] if colon and number.strip().isdigit() else ""


def _counters(path: str) -> Iterator[tuple[str, int]]:
    for folder, wanted in (("counters", _PORT_COUNTERS), ("hw_counters", _HARDWARE_COUNTERS)):
        for name in wanted:
            value = whole(f"{path}/{folder}/{name}")
            if value is not None:
                yield name, value


def _interfaces(sys: str) -> Iterator[dict[str, Any]]:
    base = f"{sys}/class/net"
    for name in names(base)[:_LARGE]:
        path = f"{base}/{name}"
        members = text(f"{path}/bonding/slaves").split()
        if not members and not Path(f"{path}/device").exists():
            continue  # lo, bridges, containers' ends: no hardware
        flags, speed = whole(f"{path}/flags"), whole(f"{path}/speed")
        losses = whole(f"{path}/carrier_down_count")
        rdma = names(f"{path}/device/infiniband")
        up = [member for member in members if text(f"{base}/{member}/operstate") == "up"]
        yield {
            "name": name,
            "state": text(f"{path}/operstate").lower()[:32],
            "enabled": bool((flags or 0) & 1),
            "speed_mbps": speed if speed and speed < 10_000_000 else None,
            "carrier_losses": losses,
            "rdma_device": rdma[0] if rdma else "",
            "bond_members": members[:32],
            "bond_members_up": up[:32],
        }


def _disks(sys: str) -> Iterator[dict[str, Any]]:
    for name in names(f"{sys}/class/nvme")[:256]:
        state = text(f"{sys}/class/nvme/{name}/state").lower()[:32]
        if state:
            yield {"name": name, "kind": "nvme", "state": state}
    for name in names(f"{sys}/block")[:_LARGE]:
        missing = whole(f"{sys}/block/{name}/md/degraded") if name[:2] == "md" else None
        if missing is not None:
            yield {"name": name, "kind": "md", "state": "degraded" if missing else "clean", "missing": missing}
