"""Compile the simulated NVML library (adapter over the C compiler)."""

from __future__ import annotations

import os
from pathlib import Path

from hpctrain import process
from hpctrain.errors import ClusterError, MissingDependencyError

SONAME = "libnvidia-ml.so.1"
SOURCE = Path(__file__).resolve().parent / "nvml" / "simulated_nvml.c"
_FLAGS = ("-std=c11", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", f"-Wl,-soname,{SONAME}")


def build_nvml(directory: Path) -> Path:
    """Compile the library into a directory, unless it is there and newer than its source; return its path.

    Raises:
        MissingDependencyError: there is no C compiler.
        ClusterError: it does not compile, with what the compiler said.
    """
    target = directory / SONAME
    if target.is_file() and target.stat().st_mtime >= SOURCE.stat().st_mtime:
        return target
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := process.find(name))), None)
    if compiler is None:
        raise MissingDependencyError(
            "no C compiler to build the simulated GPU library with", hint="install gcc, on Debian: apt install gcc libc6-dev"
        )
    draft = directory / f".{SONAME}.{os.getpid()}"
    result = process.run([compiler, *_FLAGS, "-o", str(draft), str(SOURCE), "-ldl"], timeout_s=120)
    if not result.ok:
        raise ClusterError(f"the simulated GPU library does not compile:\n{result.stderr}", where=str(SOURCE))
    draft.replace(target)
    return target
