"""An environment of its own for the systems that hpctrain does not need (adapter over ``venv`` and pip).

It sees the packages of the environment that runs the benchmark, torch above all, so that all systems are measured with the
same build of it; what is installed goes into the new environment only.
"""

from __future__ import annotations

import sysconfig
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from hpctrain import process

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements-checkpoint.txt"
_INSTALL_S = 900.0


@dataclass(frozen=True, slots=True)
class Rivals:
    """Where the rivals' Python is, and why some could not be installed."""

    python: str
    versions: dict[str, str]
    problems: dict[str, str]


def make_environment(folder: Path, file: Path = REQUIREMENTS) -> Rivals:
    """Make it, or use the one that is there.

    Args:
        file: what to install, one system per line.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        own = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        (Path(own) / "benchmark-parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    bounds = folder / "constraints.txt"
    bounds.write_text(f"torch=={version('torch')}\n")
    versions, problems = {}, {}
    for name, requirement in requirements(file).items():
        argv = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(bounds), *requirement]
        result = process.run(argv, timeout_s=_INSTALL_S)
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        if not result.ok:
            problems[name] = "does not install: " + (lines[-1] if lines else result.stderr.strip()[-300:])
        versions[name] = requirement[0]
    return Rivals(str(python), versions, problems)


def requirements(file: Path = REQUIREMENTS) -> dict[str, list[str]]:
    """What to install for each system: the words of its line in the file of requirements."""
    lines = [line.split() for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {words[0].partition("==")[0]: words for words in lines}
