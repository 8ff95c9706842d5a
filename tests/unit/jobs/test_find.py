"""Which run a person means."""

from __future__ import annotations

import pytest

from hpctrain.errors import NotFoundError
from hpctrain.jobs.find import find_run, list_runs
from hpctrain.testing.run_builder import RunBuilder


@pytest.fixture
def runs(tmp_path):
    for index, (name, job_id) in enumerate([("llama-a1", 1), ("llama-b2", 2), ("quick-c3", 3), ("again-d4", 1)]):
        RunBuilder(tmp_path, name, job_id=job_id, submitted=1000.0 + index)
    return tmp_path


@pytest.mark.parametrize(("key", "name"), [
    ("latest", "again-d4"), ("3", "quick-c3"), ("llama-a1", "llama-a1"), ("qui", "quick-c3"), ("2", "llama-b2"),
])
def test_by_id_name_start_or_latest(runs, key, name):
    """A run is found by job id, whole name, unique start of its name, or 'latest'."""
    assert find_run(key, runs).name == name


def test_reused_job_id_means_the_newest_run(runs):
    """Job ids start again on a new cluster; the newest run with the id is meant."""
    assert find_run("1", runs).name == "again-d4"


def test_by_directory(runs):
    """A path with a slash is a run directory."""
    assert find_run(str(runs / "quick-c3"), "/nowhere").name == "quick-c3"


def test_ambiguous_start_names_the_candidates(runs):
    """A start that fits several runs is refused with their names."""
    with pytest.raises(NotFoundError, match="start of 2 runs") as caught:
        find_run("llama", runs)
    assert "llama-a1" in caught.value.advice and "llama-b2" in caught.value.advice


def test_misspelt_name_gets_the_nearest(runs):
    """An unknown name is answered with the nearest one."""
    with pytest.raises(NotFoundError) as caught:
        find_run("quikc3", runs)
    assert "did you mean quick-c3 (job 3)" in caught.value.advice


def test_no_runs_says_how_to_start_one(tmp_path):
    """Without any run the hint is how to make one."""
    for key in ("latest", "x"):
        with pytest.raises(NotFoundError) as caught:
            find_run(key, tmp_path / "none")
        assert "hpctrain submit" in caught.value.advice


def test_only_directories_with_a_readable_record_are_runs(runs):
    """What has no run.json, or a broken one, is no run and breaks no listing."""
    (runs / "half-made").mkdir()
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text('{"job_id": ')
    (runs / "list").mkdir()
    (runs / "list" / "run.json").write_text("[1]")
    (runs / "file").write_text("x")
    assert [run.name for run in list_runs(runs)] == ["again-d4", "quick-c3", "llama-b2", "llama-a1"]


@pytest.mark.parametrize("key", ["..", ".", ""])
def test_dots_are_no_runs(runs, key):
    """The runs directory itself and its parent cannot be named as runs."""
    with pytest.raises(NotFoundError):
        find_run(key, runs)
