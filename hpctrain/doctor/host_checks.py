"""Look at this machine for ``hpctrain doctor``: Python, the runs directory, optional libraries (adapter over the host)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import hpctrain
from hpctrain.doctor.finding import Check

_LITTLE_SPACE_BYTES = 10 << 30
SKEW_S = 5.0
"""Clocks that differ by more confuse the order of events; munge refuses at 300 s."""


def python_check() -> Check:
    """The interpreter that runs hpctrain."""
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def hpctrain_check() -> Check:
    """The package."""
    return Check("hpctrain", "ok", f"{hpctrain.__version__} ({Path(hpctrain.__file__).parent})")


def torch_check() -> Check:
    """What trains: needed on compute nodes, not here. It is not imported: that takes a second."""
    if importlib.util.find_spec("torch") is not None:
        return Check("torch", "ok", "installed")
    return Check("torch", "note", "not installed: this machine can submit, but not train",
                 "where jobs run: pip install 'hpctrain[train]'")


def paramiko_check() -> Check:
    """SSH, for fleet and remote commands."""
    if importlib.util.find_spec("paramiko") is not None:
        return Check("ssh", "ok", "paramiko is installed")
    return Check("ssh", "note", "paramiko is not installed: no 'hpctrain fleet', no --remote", "pip install 'hpctrain[ssh]'")


def gpu_check() -> Check:
    """NVIDIA's management library, through which the health checks read GPUs. It is loaded, and not called."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return Check("gpu", "note", "no NVIDIA driver here (as on most login nodes): the health checks see no GPU")
    if importlib.util.find_spec("pynvml") is None:
        return Check("gpu", "problem", "there is an NVIDIA driver, but not Python's interface to it: GPUs are not checked",
                     "pip install 'hpctrain[gpu]'")
    return Check("gpu", "ok", "NVIDIA's management library is here; 'hpctrain health check' reads the GPUs")


def runs_check(runs_dir: str, now: float) -> list[Check]:
    """The runs directory: a file can be written, there is room, and the file system's clock is ours.

    Args:
        now: seconds since the epoch, on this machine's clock.
    """
    place = Path(runs_dir)
    existing = next(path for path in (place, *place.parents) if path.exists())
    missing = "" if existing == place else f" (will be made in {existing})"
    advice = "set runs_dir in config.toml, or HPCTRAIN_RUNS_DIR, to a directory of yours that all nodes see"
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".hpctrain-doctor-") as file:
            os.write(file.fileno(), b"x")
            written = os.fstat(file.fileno()).st_mtime
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return [Check("runs", "problem", f"{runs_dir} cannot be written: {error.strerror}", advice)]
    found = f"{runs_dir}{missing}, {free / 2**30:.0f} GiB free"
    checks = [Check("runs", "ok", found)]
    if free < _LITTLE_SPACE_BYTES:
        checks = [Check("runs", "note", found, "checkpoints need room: 'hpctrain checkpoints prune', or another runs_dir")]
    return [*checks, skew_check("runs clock", "the file system of the runs directory", written - now)]


def skew_check(name: str, whose: str, skew_s: float) -> Check:
    """Compare another clock with ours.

    Args:
        skew_s: how much the other is ahead.
    """
    if abs(skew_s) <= SKEW_S:
        return Check(name, "ok", f"{whose} agrees with this machine within {SKEW_S:g} s")
    side = "ahead of" if skew_s > 0 else "behind"
    return Check(name, "problem", f"{whose} is {abs(skew_s):.0f} s {side} this machine",
                 "keep all machines' clocks together with NTP: events are ordered by time, and munge refuses after 300 s")
