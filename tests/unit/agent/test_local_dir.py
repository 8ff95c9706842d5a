"""Node-local directories: one per living agent, none of dead ones."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from hpctrain.agent.local_dir import claim, remove_abandoned


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_directory_is_private_and_names_job_and_node() -> None:
    """An agent's directory is 0700 and carries job and node in its name."""
    path, lock = claim("17", "n1")
    os.close(lock)

    assert 0o700 == stat.S_IMODE(path.stat().st_mode)
    assert "-17-n1-" in path.name


def test_dead_agents_directory_is_removed_and_a_living_ones_kept() -> None:
    """A directory whose lock nobody holds is removed with its files; one whose agent lives is left alone."""
    dead, lock = claim("1", "n1")
    (dead / "heartbeat-0.json").write_text("{}")
    os.close(lock)
    alive, held = claim("2", "n1")

    removed = remove_abandoned(time.time())

    assert [dead] == removed
    assert (False, True) == (dead.exists(), alive.exists())
    os.close(held)


def test_directory_in_the_making_is_left_alone_for_an_hour(tmp_path: Path) -> None:
    """A directory without its lock yet is not taken for a dead one until an hour has passed."""
    young = tmp_path / f"hpctrain-{os.getuid()}-3-n1-abc"
    young.mkdir()

    assert [] == remove_abandoned(time.time())
    assert [young] == remove_abandoned(time.time() + 3601)


def test_what_is_not_an_agents_directory_stays(tmp_path: Path) -> None:
    """Files, links and other users' names in the shared temporary directory are never touched."""
    target = tmp_path / "precious"
    target.mkdir()
    (tmp_path / f"hpctrain-{os.getuid()}-4-n1-link").symlink_to(target)
    (tmp_path / f"hpctrain-{os.getuid()}-4-n1-file").write_text("x")
    (tmp_path / f"hpctrain-{os.getuid() + 1}-4-n1-other").mkdir()

    assert [] == remove_abandoned(time.time() + 1e6)
    assert 4 == len(list(tmp_path.iterdir()))
