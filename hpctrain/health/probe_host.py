"""Read this node's memory, CPUs, modules, memory error counters and clock from /proc and /sys (adapter).

What cannot be read is left out, and is then None in the reading.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any

from hpctrain.health.probe_child import Report
from hpctrain.health.sysfs import keyed_numbers, names, real, text, to_whole, whole

_NTP_EPOCH = 2_208_988_800
_STA_UNSYNC, _STA_NANO = 0x40, 0x2000


def read_host(report: Report, *, proc: str = "/proc", sys: str = "/sys", clock: str = "", time_server: str = "") -> None:
    """Tell what the kernel says about the machine as a whole.

    Args:
        clock: a file of ``key value`` lines instead of the kernel's clock state.
        time_server: ask this NTP server for the time; "" asks none.
    """
    report.step(f"reading {proc}")
    found: dict[str, Any] = {"boot_id": text(f"{proc}/sys/kernel/random/boot_id")}
    found["uptime_s"] = real((text(f"{proc}/uptime").split() or [""])[0])
    memory = keyed_numbers(text(f"{proc}/meminfo").splitlines(), ("MemTotal", "MemAvailable"))
    found["memory_bytes"] = memory["MemTotal"] * 1024 if "MemTotal" in memory else None
    found["memory_available_bytes"] = memory["MemAvailable"] * 1024 if "MemAvailable" in memory else None
    found["versions"] = dict(_versions(proc))
    modules = text(f"{proc}/modules").splitlines()
    found["modules"] = [line.split()[0] for line in modules if line.split()] or None
    report.emit(host=found)
    report.step(f"reading {sys}")
    report.emit(host={**_cpus(sys), **_memory_errors(sys)})
    report.step("reading the clock")
    report.emit(clock=_clock(sys, clock))
    if time_server:
        report.step(f"asking {time_server} for the time")
        report.emit(clock={"offset_s": ask_time(time_server)})


def _versions(proc: str) -> Iterator[tuple[str, str]]:
    kernel = text(f"{proc}/sys/kernel/osrelease")
    if kernel:
        yield "kernel", kernel
    # NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ...
    for word in text(f"{proc}/driver/nvidia/version").split("\n")[0].split():
        if word[:1].isdigit() and "." in word and word.replace(".", "").isdigit():
            yield "module", word
            return


def _cpus(sys: str) -> dict[str, Any]:
    base = f"{sys}/devices/system/cpu"
    online = _count(text(f"{base}/online"))
    cpus = [name for name in names(base) if name[:3] == "cpu" and name[3:].isdigit()]
    sockets = {text(f"{base}/{name}/topology/physical_package_id") for name in cpus} - {""}
    governors = {text(f"{base}/cpufreq/{name}/scaling_governor") for name in names(f"{base}/cpufreq")} - {""}
    return {
        "cpus": online,
        "cpus_present": _count(text(f"{base}/present")),
        "sockets": len(sockets) or None,
        "governors": sorted(governors)[:8],
    }


def _count(ranges: str) -> int | None:
    """How many numbers ``0-3,8,10-11`` names; None if it is not such a list."""
    total = 0
    for part in ranges.split(","):
        first, dash, last = part.partition("-")
        low, high = to_whole(first), to_whole(last if dash else first)
        if low is None or high is None or high < low or high > 2**20:
            return None
        total += high - low + 1
    return total


def _memory_errors(sys: str) -> dict[str, int]:
    base = f"{sys}/devices/system/edac/mc"
    found: dict[str, int] = {}
    for controller in names(base):
        for key, file in (("edac_corrected", "ce_count"), ("edac_uncorrected", "ue_count")):
            value = whole(f"{base}/{controller}/{file}") if controller[:2] == "mc" else None
            if value is not None:
                found[key] = found.get(key, 0) + value
    return found


def _clock(sys: str, file: str) -> dict[str, Any]:
    source = text(f"{sys}/devices/system/clocksource/clocksource0/current_clocksource")
    if not file:
        return {"source": source, **_kernel_clock()}
    told = dict(line.split(None, 1) for line in text(file).splitlines() if len(line.split(None, 1)) == 2)
    found: dict[str, Any] = {"source": source}
    if told.get("synchronised") in ("0", "1"):
        found["synchronised"] = told["synchronised"] == "1"
    for key in ("error_s", "offset_s"):
        value = real(told.get(key, "").lstrip("-"))
        if value is not None:
            found[key] = value
    return found


def _kernel_clock() -> dict[str, Any]:
    """adjtimex(2) with nothing to adjust: whether something disciplines the clock, and the bound of its error."""
    import ctypes

    if ctypes.sizeof(ctypes.c_long) != 8:
        return {}
    buffer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).adjtimex(buffer) < 0:
        return {}
    _, _, most_error_us, _, status = struct.unpack_from("<qqqqi", buffer, 8)
    return {"synchronised": not status & _STA_UNSYNC, "error_s": most_error_us / 1e6}


def ask_time(server: str, timeout_s: float = 1.0) -> float | None:
    """By how much our clock is ahead of an NTP server's, in seconds; None without a sensible answer.

    Args:
        server: ``host`` or ``host:port``.
    """
    import socket  # here, as most sites and every prolog do without

    host, _, port = server.partition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.settimeout(timeout_s)
            link.connect((host, int(port or 123)))
            sent = time.time()
            link.send(b"\x23" + bytes(39) + struct.pack("!d", sent))  # version 4, client; our stamp comes back as a nonce
            answer = link.recv(512)
            received = time.time()
    except (OSError, ValueError):
        return None
    if len(answer) < 48 or answer[0] & 7 != 4 or answer[24:32] != struct.pack("!d", sent) or not 1 <= answer[1] <= 15:
        return None
    there_in, there_out = (_ntp(answer[start : start + 8]) for start in (32, 40))
    return ((sent - there_in) + (received - there_out)) / 2


def _ntp(stamp: bytes) -> float:
    seconds, fraction = struct.unpack("!II", stamp)
    return float(seconds - _NTP_EPOCH + fraction / 2**32)
