"""Start-up: what a command does not need is not imported, and nothing heavy is imported by accident."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from hpctrain import process

HEAVY = ("pydantic", "jinja2", "yaml", "rich", "plotext", "ClusterShell", "torch", "transformers", "datasets", "numpy")
LISTING = "import sys, json, atexit; atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules))))\n"


def imported_by(code: str, tmp_path: Path, **env: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after running this code."""
    environment = {**os.environ, "HPCTRAIN_STATE_DIR": str(tmp_path / "state"), "HPCTRAIN_RUNS_DIR": str(tmp_path), **env}
    result = process.run([sys.executable, "-c", LISTING + code], timeout_s=60, env=environment)
    assert result.ok, result.stderr
    return {name.partition(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-h"], []])
def test_help_imports_only_click(arguments: list[str], tmp_path: Path) -> None:
    """Help and version come from a table: none of the libraries that commands use is imported."""
    found = imported_by(f"from hpctrain.cli.main import invoke; invoke({arguments!r})", tmp_path)

    assert set() == found & set(HEAVY)
    assert "click" in found


def test_importing_the_package_costs_nothing(tmp_path: Path) -> None:
    """``import hpctrain`` brings in the standard library at most."""
    found = imported_by("import hpctrain; hpctrain.__version__", tmp_path)

    assert set() == found & {*HEAVY, "click", "subprocess", "asyncio"}


def test_a_dry_run_needs_no_torch(tmp_path: Path) -> None:
    """A submission, up to the finished batch script, imports neither torch nor transformers."""
    code = "from hpctrain.cli.main import invoke; assert invoke(['submit', 'quickstart', '--dry-run']) == 0"
    found = imported_by(code, tmp_path, HOME=str(tmp_path))

    assert set() == found & {"torch", "transformers", "datasets", "numpy"}


@pytest.mark.parametrize("arguments", [["list"], ["recipes", "list"], ["validate", "quickstart"]])
def test_everyday_commands_need_no_torch(arguments: list[str], tmp_path: Path) -> None:
    """The commands that are typed all day import neither torch nor transformers."""
    found = imported_by(f"from hpctrain.cli.main import invoke; invoke({arguments!r})", tmp_path, HOME=str(tmp_path))

    assert set() == found & {"torch", "transformers", "datasets", "numpy", "paramiko", "cryptography"}
