"""What happens to a real training when its checkpoints are elsewhere, or nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hpctrain.cli.main import invoke
from tests.train.ranks import WarmRanks, event_kinds, final_weights, logs, make_recipe, metric_lines

pytestmark = pytest.mark.slow


def test_trainer_resumes_from_a_copy(trainers: WarmRanks, tmp_path: Path) -> None:
    """Four FSDP2 ranks continue in a new run directory from a copied checkpoint; the final weights are byte-equal."""
    recipe = make_recipe(
        training__steps=8, checkpoint__every_steps=4, checkpoint__keep_last=5, training__parallelism={"kind": "fsdp2"},
    )
    first, second = tmp_path / "first", tmp_path / "second"
    assert [0] * 4 == trainers.finish(first, recipe), logs(first)
    second.mkdir(mode=0o700)
    assert 0 == invoke(["checkpoints", "copy", f"{first}/", "4", str(second / "checkpoints")])
    shutil.copytree(first / "cache", second / "cache")  # the tokens, to save their making
    assert [0] * 4 == trainers.finish(second, recipe), logs(second)

    assert [5, 6, 7, 8] == [line["step"] for line in metric_lines(second)]
    assert final_weights(first) == final_weights(second) != b""


def test_training_goes_on_without_its_storage(trainers: WarmRanks, tmp_path: Path) -> None:
    """While the directory of checkpoints is gone, four ranks train on and say so; when it is back they save again."""
    run_dir, aside = tmp_path / "run", tmp_path / "aside"
    recipe = make_recipe(training__steps=240, checkpoint__every_steps=4)
    started = trainers.start(run_dir, recipe)
    started.wait_until(lambda beat: beat.get("step", 0) >= 12)
    (run_dir / "checkpoints").rename(aside)
    (run_dir / "checkpoints").write_text("not a directory")
    gone = started.beat()["step"]
    started.wait_until(lambda beat: beat.get("step", 0) >= gone + 60)
    (run_dir / "checkpoints").unlink()
    aside.rename(run_dir / "checkpoints")
    assert [0] * 4 == started.wait(), logs(run_dir)

    kinds = [kind for kind in event_kinds(run_dir) if kind in ("checkpoint.saved", "checkpoint.degraded")]
    assert "checkpoint.degraded" in kinds
    assert ["checkpoint.saved"] * 2 == [kinds[0], kinds[-1]]
    assert 0 == invoke(["checkpoints", "verify", f"{run_dir}/", "240"])
