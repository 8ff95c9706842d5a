"""The change that docs/checkpoint-library.md shows, made, run, killed and continued."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = 60


def shown() -> list[str]:
    """The lines of the diff in the guide."""
    text = (ROOT / "docs" / "checkpoint-library.md").read_text()
    match = re.search(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert match, "the guide shows no diff"
    return match.group(1).splitlines()


def apply(lines: list[str], old: list[str]) -> list[str]:
    """What a patch program would do; every line of context must be there."""
    new, at, expected = [], 0, 0
    for line in lines[2:]:
        if match := re.match(r"@@ -(\d+),(\d+) ", line):
            start = int(match.group(1)) - 1
            new += old[at:start]
            at = start
        elif line.startswith("+"):
            new.append(line[1:])
        else:
            assert old[at] == line[1:], f"line {at + 1} is {old[at]!r}, the guide says {line[1:]!r}"
            if not line.startswith("-"):
                new.append(old[at])
            at, expected = at + 1, expected + 1
    assert expected > 10
    return new + old[at:]


def start(program: Path, place: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
           "HPCTRAIN_CHECKPOINT_DIR": str(place / "checkpoints"), "HPCTRAIN_CHECKPOINT_EVERY_STEPS": "10",
           "HPCTRAIN_NODE": place.name}
    env.pop("HPCTRAIN_KEEPER_SECRET_FILE", None)
    place.mkdir(exist_ok=True)
    argv = [sys.executable, str(program), "--steps", str(STEPS), "--out", str(place / "model.pt")]
    return subprocess.Popen(argv, env=env, cwd=place, stdout=subprocess.PIPE, text=True)


def run(program: Path, place: Path, kill_at: str = "") -> list[str]:
    """One start; killed as soon as it prints a line that begins so."""
    child = start(program, place)
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if kill_at and line.startswith(kill_at):
            time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
    assert (-signal.SIGKILL if kill_at else 0) == child.wait(120), lines
    return lines


def test_guide_adds_fewer_than_ten_lines() -> None:
    """The promise of the guide, counted in the diff that it shows."""
    assert 0 < sum(line.startswith("+") for line in shown()[2:]) < 10


@pytest.mark.slow
def test_change_of_the_guide_survives_a_kill(tmp_path: Path) -> None:
    """The example with the diff of the guide, killed and started again, ends with the bytes of the example without it."""
    original = ROOT / "docs" / "examples" / "train.py"
    changed = tmp_path / "changed.py"
    changed.write_text("\n".join(apply(shown(), original.read_text().splitlines())) + "\n")

    run(original, tmp_path / "straight")
    run(changed, tmp_path / "stormy", kill_at="step 40")
    rest = run(changed, tmp_path / "stormy")

    import torch

    straight, stormy = (torch.load(tmp_path / place / "model.pt") for place in ("straight", "stormy"))
    assert {name: value.tolist() for name, value in straight.items()} == {
        name: value.tolist() for name, value in stormy.items()}
    assert not any(line.startswith("step 20:") for line in rest), "it began again instead of continuing"
