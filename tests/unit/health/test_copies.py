"""Copies of training data that a finished job has left on a node."""

from __future__ import annotations

import os
from pathlib import Path

from hpctrain.health.copies import remove_copies
from hpctrain.train.staging import node_dir


def test_the_copies_of_this_job_on_this_node_are_removed(tmp_path: Path) -> None:
    """The directory that the trainer makes goes; those of other jobs, of other nodes and other people's stay."""
    mine, others, elsewhere = (node_dir(str(tmp_path), job, node) for job, node in (("7", "n1"), ("8", "n1"), ("7", "n2")))
    for path in (mine, others, elsewhere):
        path.mkdir()
        (path / "00000-a.bin").write_text("x")

    assert remove_copies([str(tmp_path), str(tmp_path / "missing")], "7", os.getuid(), "n1") == [mine]
    assert remove_copies([str(tmp_path)], "8", os.getuid() + 1, "n1") == []
    assert sorted(path for path in tmp_path.iterdir()) == sorted([others, elsewhere])


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A symbolic link in the directory's place, or inside it, leads an epilog that runs as root nowhere."""
    target = tmp_path / "precious"
    target.mkdir()
    (target / "file").write_text("x")
    node_dir(str(tmp_path), "7", "n1").symlink_to(target)
    inside = node_dir(str(tmp_path), "9", "n1")
    inside.mkdir()
    (inside / "link").symlink_to(target)

    assert remove_copies([str(tmp_path)], "7", os.getuid(), "n1") == []
    assert remove_copies([str(tmp_path)], "9", os.getuid(), "n1") == [inside]
    assert (target / "file").read_text() == "x"
