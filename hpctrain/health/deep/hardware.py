"""What this node is made of, as torch sees it (adapter over torch and /proc); called in a child, since it may touch CUDA."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from hpctrain.health.deep.measurement import Hardware


def look() -> dict[str, object]:
    """The node's :class:`~hpctrain.health.deep.measurement.Hardware` as JSON, with ``cuda_build`` besides."""
    cuda_build = torch.version.cuda is not None or torch.version.hip is not None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    threads = len(os.sched_getaffinity(0))
    name = torch.cuda.get_device_name(0) if count else processor()
    found = Hardware("cuda" if count else "cpu", name, count or threads, str(torch.__version__))
    return {
        "device": found.device, "name": found.name, "count": found.count, "torch": found.torch, "cuda_build": cuda_build,
        "threads": threads,
    }


def processor() -> str:
    """The processor's model as the kernel names it."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return os.uname().machine
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return " ".join(match[1].split()) if match else os.uname().machine
