"""Other people's trainers with our callbacks: killed in the middle, they end with the bytes of a run that was not."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.process import Result

ROOT = Path(__file__).parents[2]


def run(program: str, place: Path, kill_at: int) -> Result:
    """One start of a program of this folder; it kills itself after a step."""
    place.mkdir(exist_ok=True)
    argv = [sys.executable, "-m", f"tests.train.{program}", str(place), str(kill_at)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
           "HPCTRAIN_CHECKPOINT_DIR": str(place / "checkpoints"), "HPCTRAIN_CHECKPOINT_EVERY_STEPS": "3"}
    return process.run(argv, timeout_s=240, env=env, cwd=str(ROOT))


def storm(program: str, place: Path, kills: tuple[int, ...]) -> list[str]:
    """Start again and again until it ends; the events of all starts."""
    events = []
    for kill_at in (*kills, -1):
        result = run(program, place, kill_at)
        assert (-signal.SIGKILL if kill_at > 0 else 0) == result.returncode, result.stdout + result.stderr
        events += [line for line in result.stdout.splitlines() if line.startswith("checkpoint.")]
    return events


@pytest.mark.slow
def test_hugging_face_trainer_continues_exactly(tmp_path: Path) -> None:
    """A Trainer with dropout, shuffling, accumulation, a schedule and evaluations, killed twice, ends with the same weights
    and the same log as one that was not.
    """
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    straight, stormy = tmp_path / "straight", tmp_path / "stormy"
    storm("hugging_face_program", straight, ())
    events = storm("hugging_face_program", stormy, (5, 13))

    assert (straight / "weights").read_bytes() == (stormy / "weights").read_bytes()
    assert (straight / "log").read_text() == (stormy / "log").read_text()
    assert any(line.startswith("checkpoint.restored step 12") for line in events), events


@pytest.mark.slow
def test_lightning_continues_exactly(tmp_path: Path) -> None:
    """A Lightning Trainer with dropout, accumulation, a schedule and a loader that can continue, killed in the middle of an
    epoch, ends with the same weights.
    """
    pytest.importorskip("lightning", reason="lightning is not installed: pip install --no-deps lightning and its needs")
    straight, stormy = tmp_path / "straight", tmp_path / "stormy"
    storm("lightning_program", straight, ())
    events = storm("lightning_program", stormy, (4, 11))

    assert (straight / "weights").read_bytes() == (stormy / "weights").read_bytes()
    assert any(line.startswith("checkpoint.restored step 9") for line in events), events
