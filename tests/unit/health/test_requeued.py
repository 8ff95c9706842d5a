"""The note by which a job asks its node's epilog to lift Slurm's delay after a requeue."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpctrain.health import requeued

SLURM = {"SLURM_JOB_ID": "17", "SLURMD_NODENAME": "n1", "SLURM_CLUSTER_NAME": "site"}


def test_a_note_is_taken_once(tmp_path: Path) -> None:
    """The epilog finds the note of the job that left it, and nobody finds it again."""
    requeued.leave(SLURM, tmp_path)
    requeued.leave(SLURM, tmp_path)  # a second try finds it there
    assert requeued.take(os.getuid(), SLURM, tmp_path)
    assert not requeued.take(os.getuid(), SLURM, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [
    {"SLURM_JOB_ID": "18"}, {"SLURMD_NODENAME": "n2"}, {"SLURM_CLUSTER_NAME": "other"}, {"SLURM_CLUSTER_NAME": ""},
    {"SLURM_JOB_ID": "../17"},
])
def test_only_the_same_start_on_the_same_node_has_a_note(tmp_path: Path, other: dict[str, str]) -> None:
    """Another job, node or cluster on the same host takes no note, and a name with a slash names no file."""
    requeued.leave(SLURM, tmp_path)
    assert not requeued.take(os.getuid(), {**SLURM, **other}, tmp_path)
    assert requeued.take(os.getuid(), SLURM, tmp_path)


def test_what_others_put_there_counts_for_nothing(tmp_path: Path) -> None:
    """A link, a directory or a file of another user is no note, and stays where it is."""
    path = requeued.path_of(os.getuid(), SLURM, tmp_path)
    assert path is not None
    target = tmp_path / "target"
    target.touch()
    path.symlink_to(target)
    requeued.leave(SLURM, tmp_path)
    assert not requeued.take(os.getuid(), SLURM, tmp_path)
    path.unlink()
    path.mkdir()
    assert not requeued.take(os.getuid(), SLURM, tmp_path)
    path.rmdir()
    requeued.leave(SLURM, tmp_path)
    assert not requeued.take(os.getuid() + 1, SLURM, tmp_path)
    assert path.exists() and target.exists()
