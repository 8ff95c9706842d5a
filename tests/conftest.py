"""What all tests share: a clean environment, ugly paths, and reasons to skip what this machine cannot run."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.process import Result

FOREIGN = ("HPCTRAIN_", "SLURM_", "SBATCH_", "SQUEUE_", "SCONTROL_")
KEEP = {"HPCTRAIN_TORCH_INDEX_URL", "HPCTRAIN_VENV", "HPCTRAIN_PYTHON", "HPCTRAIN_TEST_DOCKER_CLUSTER"}


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


@dataclass(frozen=True)
class InstalledWheel:
    """The built wheel in an environment of its own; our environment lends it the dependencies, not hpctrain."""

    wheel: Path
    python: Path
    cwd: Path

    def run(self, *arguments: str, timeout_s: float = 120, **env: str) -> Result:
        """``hpctrain ARGUMENT...`` from a directory outside the checkout."""
        return process.run([str(self.python.with_name("hpctrain")), *arguments], timeout_s=timeout_s, cwd=str(self.cwd),
                           env={**os.environ, "HOME": str(self.cwd), **env})


@pytest.fixture(scope="session")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> InstalledWheel:
    """Build the wheel from a copy of the checkout (a build leaves files behind) and install it, without a network."""
    place = tmp_path_factory.mktemp("wheel")
    root, source = Path(__file__).resolve().parent.parent, place / "source"
    skip = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "tests")
    shutil.copytree(root, source, ignore=skip)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _must([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(source)])
    shutil.rmtree(source)
    (wheel,) = place.glob("*.whl")
    _must([sys.executable, "-m", "venv", "--without-pip", str(place / "venv")])
    python = place / "venv/bin/python"
    _must([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)])
    # As a plain path: our site-packages' own .pth files, with the editable hpctrain, are not read from there.
    theirs = sysconfig.get_path("purelib", vars={"base": str(place / "venv"), "platbase": str(place / "venv")})
    (Path(theirs) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    cwd = place / "elsewhere"
    cwd.mkdir()
    return InstalledWheel(wheel, python, cwd)


def _must(argv: list[str]) -> None:
    result = process.run(argv, timeout_s=300)
    assert result.ok, f"{' '.join(argv)}\n{result.stdout}\n{result.stderr}"


def _no_slurm() -> str:
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name, path=path)]
    return f"needs Slurm; not installed: {', '.join(missing)} (./run_tests.sh installs them)" if missing else ""


def _no_docker() -> str:
    """Asks the engine itself: a socket outlives it."""
    if not Path("/var/run/docker.sock").exists() or not shutil.which("docker"):
        return "needs a running Docker engine (docker-slurm/engine.sh start)"
    answer = process.run(["docker", "image", "inspect", "hpctrain-slurm:trixie"], timeout_s=30)
    if not answer.ok and "no such" not in answer.stderr.lower():
        return f"the Docker engine does not answer: {answer.stderr.strip()[-200:]}"
    return ""


def _no_gpu() -> str:
    return "" if Path("/proc/driver/nvidia/version").exists() else "needs a real GPU"
