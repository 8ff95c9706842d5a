"""``hpctrain checkpoints`` as a person types it, on checkpoints without tensors (so without torch)."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.checkpoint import pins
from hpctrain.checkpoint.names import COMMIT, CheckpointName, rank_file
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.cli.main import invoke
from hpctrain.testing.run_builder import RunBuilder
from tests.unit.checkpoint.test_crash_points import content, save

STEPS = (1, 2, 3, 4, 5)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of all runs."""
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir(mode=0o700)
    return tmp_path / "runs"


@pytest.fixture
def tier(runs: Path) -> SharedTier:
    """Five checkpoints of the run ``tiny``, whose recipe keeps two and every third."""
    builder = RunBuilder(runs, "tiny", job_id=7)
    builder.dir.resolved_json.write_text(json.dumps({"checkpoint": {"keep_last": 2, "keep_every_steps": 3}}))
    tier = SharedTier(builder.dir.checkpoints)
    tier.claim(0)
    for step in STEPS:
        save(tier, CheckpointName(0, step))
    return tier


def folder(tier: SharedTier, step: int) -> Path:
    """Of a step."""
    return tier.folder(CheckpointName(0, step))


def spoil(tier: SharedTier, step: int) -> None:
    """Flip a bit that only reading everything finds."""
    path = folder(tier, step) / rank_file(1)
    data = bytearray(path.read_bytes())
    data[7] ^= 4
    path.write_bytes(data)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    code = invoke(["checkpoints", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """The content of its JSON document."""
    document = json.loads(run(capsys, *words, "-o", "json")[1])
    return document[document["kind"]]


def steps(tier: SharedTier) -> list[int]:
    """Of all checkpoints with a commit record."""
    return [name.step for name in tier.checkpoints(committed=True)]


# ---------------------------------------------------------------- list and show


def test_directory_here_is_offered_by_its_path(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """A word names a run; where there is none, but a directory of that name, the hint says how to name that."""
    assert runs.is_dir()
    (tmp_path / "saved").mkdir()
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "list", "saved")
    assert 4 == code
    assert "write ./saved" in err


def test_list_says_what_can_be_used(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """Complete, incomplete, damaged and pinned ones are told apart, newest first, with the reason."""
    (folder(tier, 2) / COMMIT).unlink()
    (folder(tier, 3) / rank_file(1)).unlink()
    pins.pin(tier, CheckpointName(0, 4), "good one", 5.0)
    code, out, _ = run(capsys, "list", "tiny")
    listed = run_json(capsys, "list", 7)

    assert 0 == code
    assert ["STEP", "5", "4", "3", "2", "1"] == [line.split()[0] for line in out.splitlines()]
    assert ["complete", "complete", "damaged", "incomplete", "complete"] == [item["state"] for item in listed]
    assert "rank-00001.json is missing" == listed[2]["problem"]
    assert {"reason": "good one", "time": 5.0} == listed[1]["pin"]
    assert "[pinned: good one]" in out


def test_list_names_who_else_could_write(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """What a restore would refuse to open is shown as such."""
    (folder(tier, 5) / rank_file(0)).chmod(0o666)

    assert "can be written by others" in run_json(capsys, "list", "tiny")[0]["problem"]


def test_empty_list_says_what_to_do(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that has saved nothing yet is no error; standard output stays empty."""
    RunBuilder(runs, "fresh")
    code, out, err = run(capsys, "list", "fresh")

    assert (0, "") == (code, out)
    assert "no checkpoints" in err
    assert [] == run_json(capsys, "list", "fresh")


@pytest.mark.parametrize("words", ["list nothing", "list ./nothing", "show tiny 9", "verify tiny 9"])
def test_what_is_not_there_is_named(tier: SharedTier, capsys: pytest.CaptureFixture[str], words: str) -> None:
    """An unknown run, directory or step is exit code 4 and one line."""
    code, out, err = run(capsys, *words.split())

    assert (4, "") == (code, out)
    assert words.rsplit(maxsplit=1)[-1] in err
    assert "Traceback" not in err


def test_directories_are_taken_too(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """RUN may be a run directory, its checkpoints directory, or one that no run knows."""
    moved = tier.root.parent.parent.parent / "moved"
    shutil.copytree(tier.root, moved)
    found = [run_json(capsys, "list", place) for place in (tier.root.parent, tier.root, moved)]

    assert [len(STEPS)] * 3 == [len(listed) for listed in found]


def test_show_counts(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """One checkpoint is shown with its files; without STEP it is the newest complete one."""
    shown = run_json(capsys, "show", "tiny")

    assert (5, 5, 1) == (shown["step"], len(shown["files"]), shown["tensors"])
    assert {"consumed": 50} == shown["data"]
    assert 2 * len(content(CheckpointName(0, 5), 0)) == shown["parameters"]
    assert "step-00000005.i000" in run(capsys, "show", "tiny", "latest")[1]
    assert 3 == run_json(capsys, "show", "tiny", "step-00000003.i000")["step"]


def test_list_does_not_import_torch(tier: SharedTier) -> None:
    """Listing, verifying, pruning and copying are quick, and work where there is no torch."""
    program = (
        "import sys; from hpctrain.cli.main import invoke; "
        "codes = [invoke(['checkpoints', *words]) for words in (['list', 'tiny'], ['verify', 'tiny'], ['show', 'tiny'], "
        "['prune', 'tiny', '--dry-run'], ['copy', 'tiny', '5', sys.argv[1]])]; "
        "assert codes == [0] * 5, codes; assert 'torch' not in sys.modules"
    )
    argv = [sys.executable, "-c", program, str(tier.root.parent / "copied")]
    result = process.run(argv, timeout_s=60, env=dict(os.environ))

    assert result.ok, result.stderr


# ---------------------------------------------------------------- verify


def test_verify_names_the_file(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """A flipped bit is exit code 13 with the file's name; the others are said to be good."""
    spoil(tier, 4)
    code, out, err = run(capsys, "verify", "tiny", "--all")
    verdicts = run_json(capsys, "verify", "tiny", "--all")

    assert 13 == code
    assert "rank-00001.json is damaged" in out
    assert "1 of 5 checkpoints" in err
    assert [True, False, True, True, True] == [verdict["ok"] for verdict in verdicts]
    assert 0 == run(capsys, "verify", "tiny")[0]
    assert 13 == run(capsys, "verify", "tiny", "4")[0]


# ---------------------------------------------------------------- prune and pin


def test_prune_follows_the_recipe(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """Without options the run's own retention decides, and --dry-run removes nothing."""
    planned = run_json(capsys, "prune", "tiny", "--dry-run")
    before = steps(tier)
    done = run_json(capsys, "prune", "tiny")

    assert list(STEPS) == before
    assert ["step-00000001.i000", "step-00000002.i000"] == planned["removed"] == done["removed"]
    assert [3, 4, 5] == steps(tier)
    assert 0 == run(capsys, "prune", "tiny")[0]


def test_prune_keeps_what_is_pinned(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """A pinned checkpoint stays until it is unpinned."""
    assert 0 == run(capsys, "pin", "tiny", "1", "--reason", "baseline")[0]
    run(capsys, "prune", "tiny", "--keep-last", 1, "--keep-every", 0)
    first = steps(tier)
    assert 0 == run(capsys, "unpin", "tiny", "1")[0]
    run(capsys, "prune", "tiny", "--keep-last", 1, "--keep-every", 0)

    assert [1, 5] == first
    assert [5] == steps(tier)


def test_prune_reads_before_it_removes(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """If the newest are damaged in a way that only reading shows, the newest whole one stays whatever is asked for."""
    spoil(tier, 5)
    spoil(tier, 4)
    done = run_json(capsys, "prune", "tiny", "--keep-last", 1, "--keep-every", 0)

    assert "step-00000003.i000" == done["verified"]
    assert [3, 5] == steps(tier)


def test_prune_removes_nothing_where_nothing_is_whole(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """When no checkpoint is whole, people must look first: exit code 13, and all stay."""
    for step in STEPS:
        spoil(tier, step)

    assert 13 == run(capsys, "prune", "tiny", "--keep-last", 1)[0]
    assert list(STEPS) == steps(tier)


def test_prune_leaves_a_save_in_flight_alone(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without a commit record is never touched."""
    tier.prepare(CheckpointName(0, 6))
    (folder(tier, 6) / rank_file(0)).write_bytes(b"half")
    run(capsys, "prune", "tiny", "--keep-last", 1, "--keep-every", 0)

    assert b"half" == (folder(tier, 6) / rank_file(0)).read_bytes()


def test_prune_of_a_directory_must_be_told(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no recipe says how many to keep, the command line must."""
    moved = tier.root.parent.parent.parent / "moved"
    shutil.copytree(tier.root, moved)

    assert 2 == run(capsys, "prune", moved)[0]
    assert 0 == run(capsys, "prune", moved, "--keep-last", 4)[0]
    assert [2, 3, 4, 5] == steps(SharedTier(moved))


# ---------------------------------------------------------------- copy


def test_copy_is_a_checkpoint(tier: SharedTier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy lists and verifies like the original; --dry-run makes nothing; a second time changes nothing."""
    target = tmp_path / "archive" / "tiny"
    assert not run_json(capsys, "copy", "tiny", "latest", target, "--dry-run")["written_bytes"]
    before = target.exists()
    code, out, _ = run(capsys, "copy", "tiny", "latest", target)
    again = run_json(capsys, "copy", "tiny", "5", target)

    assert not before
    assert (0, 0) == (code, run(capsys, "verify", target)[0])
    assert str(target / "step-00000005.i000") in out
    assert again["present"]
    files = {path.name: path.read_bytes() for path in folder(tier, 5).iterdir()}
    assert files == {path.name: path.read_bytes() for path in (target / "step-00000005.i000").iterdir()}
    assert not [path for path in [target, *target.rglob("*")] if path.stat().st_mode & 0o077]


def test_copy_goes_on_where_it_was_cut_off(tier: SharedTier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are right already are not copied again; half ones are."""
    target = SharedTier(tmp_path / "archive")
    run(capsys, "copy", "tiny", "5", target.root)
    (folder(target, 5) / COMMIT).unlink()
    (folder(target, 5) / rank_file(1)).write_bytes(b"half")
    size = (folder(tier, 5) / rank_file(1)).stat().st_size

    assert size == run_json(capsys, "copy", "tiny", "5", target.root)["written_bytes"]
    assert 0 == run(capsys, "verify", target.root)[0]


def test_copy_refuses_what_is_damaged(tier: SharedTier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged checkpoint is not copied: exit code 13, the file's name, and no commit record at the target."""
    spoil(tier, 5)
    code, _, err = run(capsys, "copy", "tiny", "5", tmp_path / "archive")

    assert 13 == code
    assert "rank-00001.json is damaged" in err
    assert [] == steps(SharedTier(tmp_path / "archive"))


def test_copy_refuses_a_target_of_others(tier: SharedTier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that others can write is refused as it is, because nothing would be restored from there."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common").chmod(0o777)
    code, _, err = run(capsys, "copy", "tiny", "5", tmp_path / "common")

    assert 9 == code
    assert "can be written by others" in err
    assert 0o777 == (tmp_path / "common").stat().st_mode & 0o777


def test_copy_refuses_another_of_the_same_name(tier: SharedTier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A different checkpoint of that name at the target is never replaced."""
    target = SharedTier(tmp_path / "archive")
    target.claim(0)
    save(target, CheckpointName(0, 5), ranks=1)
    code, _, err = run(capsys, "copy", "tiny", "5", target.root)

    assert 13 == code
    assert "it is another one" in err


# ---------------------------------------------------------------- progress


def test_no_progress_bar_in_a_pipe(tier: SharedTier, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard error holds no control characters where it is no terminal."""
    assert "\x1b" not in run(capsys, "verify", "tiny", "--all")[2]
