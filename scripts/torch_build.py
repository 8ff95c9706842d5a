"""Say which build of torch a pip report would install: ``cpu`` or ``accelerator`` (entry point, standard library only).

    pip install --dry-run --no-deps --ignore-installed --report report.json torch
    python scripts/torch_build.py report.json

Prints the build and the version. A build that requires accelerator libraries is a download of several GB.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path

ACCELERATOR = re.compile(r"^(nvidia|cuda|triton|rocm|pytorch-triton)\b")


def build_of(requirements: Iterable[str], version: str) -> str:
    """``cpu`` or ``accelerator``, from a wheel's ``Requires-Dist`` lines; extras and other platforms do not count."""
    if version.endswith("+cpu"):
        return "cpu"
    return "accelerator" if any(ACCELERATOR.match(line) and _applies(line) for line in requirements) else "cpu"


def _applies(requirement: str) -> bool:
    """Evaluate the marker with the library that pip carries; a marker that cannot be read counts as true."""
    try:
        from pip._vendor.packaging.requirements import Requirement
    except ImportError:
        return True
    marker = Requirement(requirement).marker
    return marker is None or bool(marker.evaluate({"extra": ""}))


def main(path: str) -> None:
    """Print ``BUILD VERSION`` for the one package in the report."""
    metadata = json.loads(Path(path).read_text())["install"][0]["metadata"]
    sys.stdout.write(f"{build_of(metadata.get('requires_dist', []), metadata['version'])} {metadata['version']}\n")


if __name__ == "__main__":
    main(sys.argv[1])
