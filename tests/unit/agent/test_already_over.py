"""A job that has ended by decision is not begun again, though its exit code looks like that of a killed process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.agent.__main__ import EXIT_ALREADY_OVER, coordinate
from hpctrain.agent.coordinator_file import CoordinatorState, write_state
from hpctrain.jobs.layout import RunDir
from tests.source_tree import ROOT


def test_nothing_takes_over_from_a_coordinator_that_had_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file of this start says that all is over, the next coordinator starts nothing and says so by its code."""
    state = CoordinatorState(
        time=1.0, beat=1, host="n1", pid=1, srun_pid=0, job=7, restarts=0, incarnation=3, state="over", exit_code=137)
    write_state(RunDir(tmp_path), state)
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    assert EXIT_ALREADY_OVER == coordinate(RunDir(tmp_path), ["false"])
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize(("codes", "expected"), [
    ([0], 0), ([3], 3), ([137, EXIT_ALREADY_OVER], 137), ([137, 0], 0), ([70, 139, EXIT_ALREADY_OVER], 139),
    ([137, 137, 137, 137], 137),
])
def test_the_batch_script_ends_with_what_was_decided(tmp_path: Path, codes: list[int], expected: int) -> None:
    """A killed coordinator gets successors, four in all; the code of one that had ended by decision is the script's."""
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nread -r code rest < "{tmp_path}/codes"\necho $rest > "{tmp_path}/codes"\nexit $code\n')
    fake.chmod(0o700)
    (tmp_path / "codes").write_text(" ".join(map(str, codes)) + "\n")
    script = (ROOT / "tests/golden/sbatch/minimal.sh").read_text()

    result = process.run(["bash", "-c", re.sub(r"(?m)^python=.*$", f"python={fake}", script)], timeout_s=60)

    assert (expected, "") == (result.returncode, (tmp_path / "codes").read_text().strip())
