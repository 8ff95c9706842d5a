"""The product is the wheel: it must hold everything, and work where there is no checkout."""

from __future__ import annotations

import json
import zipfile
from email.parser import Parser
from typing import TYPE_CHECKING

import pytest

from hpctrain import __version__, process
from tests.source_tree import ROOT

if TYPE_CHECKING:
    from tests.conftest import InstalledWheel

pytestmark = pytest.mark.slow
SHIPPED = ("recipes", "slurm_scripts", "healthchecks")


def test_everything_that_ships_is_in_the_wheel(installed_wheel: InstalledWheel) -> None:
    """Every recipe, Slurm script and check of the checkout is in the wheel, byte for byte."""
    with zipfile.ZipFile(installed_wheel.wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if name.startswith("hpctrain/_shipped/")}
    files = [path for folder in SHIPPED for path in (ROOT / folder).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")]

    assert {f"hpctrain/_shipped/{path.relative_to(ROOT)}": path.read_bytes() for path in files} == packed
    assert {"recipes", "healthchecks"} <= {path.relative_to(ROOT).parts[0] for path in files}


def test_every_module_is_in_the_wheel(installed_wheel: InstalledWheel) -> None:
    """No file of the package is forgotten, templates and py.typed included."""
    with zipfile.ZipFile(installed_wheel.wheel) as archive:
        packed = set(archive.namelist())
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "hpctrain").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}

    assert set() == ours - packed


def test_the_wheel_claims_no_generic_name(installed_wheel: InstalledWheel) -> None:
    """Only ``hpctrain`` appears in site-packages: no top-level ``recipes`` or ``tests``."""
    with zipfile.ZipFile(installed_wheel.wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}

    assert {"hpctrain", f"hpctrain-{__version__}.dist-info"} == top


def test_the_metadata_says_what_it_is(installed_wheel: InstalledWheel) -> None:
    """Version, licence and supported Pythons are in the metadata, and the licence's text is packed."""
    folder = f"hpctrain-{__version__}.dist-info"
    with zipfile.ZipFile(installed_wheel.wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        licences = [name for name in archive.namelist() if name.startswith(folder) and name.endswith("LICENSE")]

    assert (__version__, ">=3.10") == (metadata["Version"], metadata["Requires-Python"])
    assert "Apache-2.0" == (metadata["License-Expression"] or metadata["License"])
    assert 1 == len(licences)


def test_it_runs_from_the_wheel(installed_wheel: InstalledWheel) -> None:
    """The installed program imports itself from its own environment, not from the checkout."""
    result = process.run([str(installed_wheel.python), "-c", "import hpctrain; print(hpctrain.__file__)"],
                         timeout_s=60, cwd=str(installed_wheel.cwd))

    assert str(installed_wheel.python.parent.parent) in result.stdout
    assert f"hpctrain, version {__version__}" in installed_wheel.run("--version").stdout


def test_recipes_come_from_the_wheel(installed_wheel: InstalledWheel) -> None:
    """``recipes list`` knows every shipped recipe."""
    result = installed_wheel.run("recipes", "list", "-o", "json")
    assert result.ok, result.stderr
    listed = json.dumps(json.loads(result.stdout))

    assert [] == [path.stem for path in (ROOT / "recipes").rglob("*.yaml") if path.stem not in listed]


def test_checks_come_from_the_wheel(installed_wheel: InstalledWheel) -> None:
    """``health list`` knows every shipped check, and a check runs."""
    listed = installed_wheel.run("health", "list")
    assert listed.ok, listed.stderr

    names = [path.stem for path in (ROOT / "healthchecks").glob("*.py") if path.stem != "__init__"]
    assert [] == [name for name in names if name not in listed.stdout]
    assert installed_wheel.run("health", "check").returncode in (0, 1, 2)


def test_a_dry_run_works_from_the_wheel(installed_wheel: InstalledWheel) -> None:
    """The quickstart recipe becomes a batch script without checkout and without Slurm."""
    result = installed_wheel.run("submit", "quickstart", "--dry-run", HPCTRAIN_STATE_DIR=str(installed_wheel.cwd / "state"))
    assert result.ok, result.stderr

    assert "#SBATCH" in result.stdout
    assert str(ROOT) not in result.stdout
