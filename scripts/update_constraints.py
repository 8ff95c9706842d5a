"""Merge pip's reports, one per Python version, into constraints.txt (entry point).

Make a report with each Python that is supported and at hand, in a fresh virtual environment with a new pip::

    python3.12 -m venv v && v/bin/pip install -U pip
    v/bin/pip install --dry-run --ignore-installed --report 3.12.json pip setuptools 'torch==2.13.0' '.[train,test,object]'

then write the file::

    python scripts/update_constraints.py 3.10.json 3.11.json 3.12.json > constraints.txt

Accelerator libraries that a torch build drags in are left out: which build of torch is installed is decided by
scripts/setup.sh, and a CUDA build brings its own exact requirements.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ACCELERATOR = re.compile(r"^(nvidia(?!-ml-py)|cuda|triton)(-|$)")
"""nvidia-ml-py is no accelerator library: a single file that asks a driver, if there is one."""
OURS = "hpctrain"

Pins = Mapping[str, str]
Version = tuple[int, int]

HEADER = """\
# Exact versions of everything that an installation with [train,test,object] holds. Written by scripts/update_constraints.py.
# A newer Python takes the line of the newest one listed. Lines with a marker: older Pythons get the last release that
# still supports them. torch has no local part here: scripts/setup.sh picks the build (CPU where it can).
"""


def read_report(report: Mapping[str, Any]) -> tuple[Version, Pins]:
    """Python version and (normalised name -> version) of one pip report; build tags such as ``+cpu`` are dropped."""
    major, minor = report["environment"]["python_version"].split(".")
    pins = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if name != OURS and not ACCELERATOR.match(name):
            pins[name] = item["metadata"]["version"].partition("+")[0]
    return (int(major), int(minor)), pins


def merge(reports: Mapping[Version, Pins]) -> list[str]:
    """One line per package and range of Python versions with the same pin, in order of name."""
    pythons = sorted(reports)
    lines: list[str] = []
    for name in sorted({name for pins in reports.values() for name in pins}):
        lines += [f"{name}=={pin}{marker}" for pin, marker in _ranges(name, pythons, reports)]
    return lines


def _ranges(name: str, pythons: list[Version], reports: Mapping[Version, Pins]) -> Iterable[tuple[str, str]]:
    start = 0
    for end in range(1, len(pythons) + 1):
        pin = reports[pythons[start]].get(name)
        if end < len(pythons) and reports[pythons[end]].get(name) == pin:
            continue
        if pin is not None:
            yield pin, _marker(pythons, start, end)
        start = end


def _marker(pythons: list[Version], start: int, end: int) -> str:
    bounds = []
    if start > 0:
        bounds.append(f'python_version >= "{pythons[start][0]}.{pythons[start][1]}"')
    if end < len(pythons):
        bounds.append(f'python_version < "{pythons[end][0]}.{pythons[end][1]}"')
    return "; " + " and ".join(bounds) if bounds else ""


def main(paths: list[str]) -> None:
    """Read the reports named on the command line and print the file."""
    if not paths:
        sys.exit(__doc__)
    reports = dict(read_report(json.loads(Path(path).read_text())) for path in paths)
    sys.stdout.write(HEADER + "\n".join(merge(reports)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
