"""Runs the marked blocks of the documentation on a private cluster, in the order in which a reader would."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpctrain import process
from tests.docs_reader import blocks, pages
from tests.source_tree import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
PAGES = [page for page in pages() if any(block.executed for block in blocks(page))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_marked_blocks_run(page: Path, cluster_env: dict[str, str], tmp_path: Path) -> None:
    """Every command of every marked block exits 0 and prints no error."""
    env = {**cluster_env, "HPCTRAIN_RUNS_DIR": str(tmp_path / "runs")}
    hpctrain = str(Path(sys.executable).with_name("hpctrain"))
    for block in blocks(page):
        for words in block.commands() if block.executed else ():
            assert "hpctrain" == words[0], f"{block.where}: only hpctrain commands are run"
            result = process.run([hpctrain, *words[1:]], timeout_s=300, env=env, cwd=str(tmp_path))
            assert 0 == result.returncode, f"{block.where}: {' '.join(words)}\n{result.stdout}\n{result.stderr}"
            assert "error:" not in result.stderr
