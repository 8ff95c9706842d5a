"""A script that knows nothing of hpctrain, from a public package, under ``command:`` on two nodes."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.jobs.layout import RunDir

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("private_cluster")]

RECIPE = """
version: 1
name: public
command: [{python}, {script}]
env: {{ACCELERATE_USE_CPU: "true"}}
resources: {{nodes: 2, gpus_per_node: 1, time_limit: 10m}}
resilience: {{requeue: false}}
"""


def test_unmodified_public_training_script_runs_on_two_nodes(tmp_path: Path, cluster_env: dict[str, str]) -> None:
    """An acceptance script of accelerate, made for torchrun, trains on two nodes with the results of one process."""
    script = Path(sysconfig.get_path("purelib"), "accelerate", "test_utils", "scripts", "test_script.py")
    recipe = tmp_path / "public.yaml"
    recipe.write_text(RECIPE.format(python=sys.executable, script=script))
    env = {**cluster_env, "HPCTRAIN_RUNS_DIR": str(tmp_path / "runs")}

    submitted = process.run([sys.executable, "-m", "hpctrain", "submit", str(recipe), "--wait"], timeout_s=240, env=env)

    (run,) = (tmp_path / "runs").iterdir()
    logs = "".join(path.read_text() for path in sorted(RunDir(run).logs.rglob("*.log")))
    assert submitted.ok, submitted.stderr + logs[-4000:]
    assert "Num processes: 2" in logs
    assert "Training yielded the same results on one CPU or distributed setup with batch split." in logs
