"""Deep checks on a real GPU: everything that the processor's tests cannot reach."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.health.deep.baseline import Band
from hpctrain.health.deep.files import DeepFiles
from hpctrain.health.deep.measurement import CHECKS
from hpctrain.health.deep.plan import DeepJob, DeepPlan

pytestmark = pytest.mark.gpu


def test_a_gpu_passes_every_check(tmp_path: Path) -> None:
    """Every metric has a value; with one GPU only the all-reduce within the node has nobody to talk to."""
    local = tmp_path / "local"
    local.mkdir()
    files = DeepFiles(tmp_path / "run")
    files.directory.mkdir()
    files.create(DeepPlan(tuple(CHECKS), False, "smoke", Band(), (DeepJob(("n1",), 1),), str(local), {}))
    argv = [sys.executable, "-m", "hpctrain.health.deep", "node", "--run-dir", str(files.directory), "--job", "0"]

    result = process.run(argv, timeout_s=280, env={**os.environ, "SLURMD_NODENAME": "n1"})

    assert result.ok, result.stderr
    records = files.told("n1")
    assert "cuda" == records[0]["device"]
    wrong = [one for one in records if one["kind"] == "measurement" and one["status"] not in ("measured", "skipped")]
    assert [] == wrong
    skipped = {one["metric"] for one in records if one.get("status") == "skipped"}
    assert skipped == ({"allreduce.node"} if records[0]["count"] == 1 else set())
