"""What a process runs in: Python, installed packages, machine (adapter over the interpreter and its directories)."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Sequence
from typing import Any

_INSTALLED = re.compile(r"^(?P<name>.+?)-(?P<version>[^-]+)(-py\d[\d.]*)?\.(dist-info|egg-info)$")


def environment(path: Sequence[str] | None = None) -> dict[str, Any]:
    """Python's version, the platform, and every installed package with its version.

    Args:
        path: directories to look in, first ones first; default: where this interpreter looks.
    """
    return {
        "python": platform.python_version(), "implementation": platform.python_implementation(),
        "system": platform.system(), "machine": platform.machine(),
        "packages": packages(sys.path if path is None else path),
    }


def packages(path: Sequence[str]) -> dict[str, str]:
    """Installed packages by normalised name, from the names of their directories alone: milliseconds for hundreds."""
    found: dict[str, str] = {}
    for folder in path:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = os.listdir(folder or ".")
        for entry in names:
            match = _INSTALLED.match(entry)
            if match:
                found.setdefault(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])
    return dict(sorted(found.items()))
