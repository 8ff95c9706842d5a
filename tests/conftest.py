"""What all tests share: a clean environment, ugly paths, and reasons to skip what this machine cannot run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

FOREIGN = ("HPCTRAIN_", "SLURM_", "SBATCH_", "SQUEUE_", "SCONTROL_")
KEEP = {"HPCTRAIN_TORCH_INDEX_URL", "HPCTRAIN_VENV", "HPCTRAIN_PYTHON"}


def pytest_configure() -> None:
    """Forget the settings, clusters and jobs of the person who runs the tests, before anything reads them."""
    for name in [name for name in os.environ if name.startswith(FOREIGN) and name not in KEEP]:
        del os.environ[name]
    os.environ["XDG_CONFIG_HOME"] = "/nonexistent/no-settings-of-the-developer"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine has not got."""
    reasons = {"cluster": _no_slurm(), "docker": _no_docker(), "gpu": _no_gpu()}
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def ugly_dir(tmp_path: Path) -> Path:
    """A directory whose name has blanks, quotes and a dollar: code that quotes well does not notice."""
    path = tmp_path / "it's a \"$HOME\" dir"
    path.mkdir()
    return path


def _no_slurm() -> str:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name, path=path)]
    return f"needs Slurm; not installed: {', '.join(missing)} (./run_tests.sh installs them)" if missing else ""


def _no_docker() -> str:
    return "" if Path("/var/run/docker.sock").exists() else "needs a running Docker engine"


def _no_gpu() -> str:
    return "" if Path("/proc/driver/nvidia/version").exists() else "needs a real GPU"
