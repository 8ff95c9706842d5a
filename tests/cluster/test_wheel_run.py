"""The installed wheel trains on a real Slurm, without the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import InstalledWheel

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
WARMUP = ("--set", "training.schedule.warmup_steps=1")


def test_the_wheel_trains(installed_wheel: InstalledWheel, cluster_env: dict[str, str], tmp_path: Path) -> None:
    """``submit quickstart --wait`` from the wheel ends well, with every step done and the weights written."""
    env = {**cluster_env, "HPCTRAIN_RUNS_DIR": str(tmp_path / "runs")}
    done = installed_wheel.run("submit", "quickstart", "--set", "training.steps=5", *WARMUP, "--wait", timeout_s=280, **env)
    assert done.ok, done.stdout + done.stderr

    # Not the directory in which hashes of data and models are kept.
    (run_dir,) = (path for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert 5 == max(steps)
    assert str(installed_wheel.python) in (run_dir / "plan.json").read_text()
    assert (run_dir / "model/config.json").is_file()
