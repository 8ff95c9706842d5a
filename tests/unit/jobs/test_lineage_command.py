"""``hpctrain lineage`` as a person types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hpctrain import api
from hpctrain.cli.main import invoke
from hpctrain.settings import Settings
from hpctrain.testing.fake_clock import FakeClock
from tests.unit.jobs.lineage_runs import chain, make_model, make_run, values


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of runs with a chain of three, and no Slurm."""
    root = tmp_path / "runs"
    chain(root)
    context = api.Context(Settings(str(root)), None, FakeClock())
    monkeypatch.setattr(api, "make_context", lambda **_: context)
    return root


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = invoke(["lineage", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_tree_of_a_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every run of the chain stands below the one that started from it, with its method, and its data beside it."""
    code, out, err = run(capsys, "dpo-1")
    lines = out.splitlines()
    assert (code, err) == (0, "") and lines[0].startswith("dpo-1  dpo · finished · step 5 · loss ")
    assert [line.split(":")[0] for line in lines if ": " in line and "─" in line] == [
        "├─ base model", "│  ├─ base model", "│  │  └─ data", "│  └─ data", "└─ data"]
    assert "sft-1  sft · finished" in out and "base-1  pretrain · finished" in out
    assert "weights sha256" in out and ", as it was saved" in out and "\x1b" not in out
    assert any(line.startswith("Environment  Python 3.") for line in lines)


def test_tree_of_a_copied_model(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model directory far from its run, which is gone, shows the same tree."""
    moved = tmp_path / "models" / "mine"
    shutil.copytree(runs / "dpo-1" / "model", moved)
    shutil.rmtree(runs / "dpo-1")
    code, out, _ = run(capsys, str(moved))
    assert code == 0 and out.startswith("model: dpo-1  dpo") and "base model: base-1  pretrain" in out
    assert f"its directory is not there: {runs / 'dpo-1'}" in out and str(runs / "sft-1") not in out.split("\n\n")[0]


def test_later_runs_are_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run shows who started from it, also from a copy of its model."""
    shutil.copytree(runs / "base-1" / "model", tmp_path / "copy")
    make_run(runs, "copycat", values(model={"path": str(tmp_path / "copy")}), weights=b"z", job_id=9)
    _, out, _ = run(capsys, "base-1")
    used = out[out.index("Used by"):].splitlines()[1:3]
    assert sorted(line.split()[0] for line in used) == ["copycat", "sft-1"]


def test_json_is_one_document(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-o json holds the whole record, the model that was named, and who used it."""
    code, out, _ = run(capsys, "sft-1", "-o", "json")
    document = json.loads(out)
    assert code == 0 and document["kind"] == "lineage" and set(document["lineage"]) == {"model", "record", "used_by"}
    record = document["lineage"]["record"]
    assert record["inputs"][0]["record"]["run"]["name"] == "base-1" and record["environment"]["packages"]
    assert document["lineage"]["used_by"] == [{"run": "dpo-1", "method": "dpo", "role": "base model"}]
    _, out, _ = run(capsys, str(runs / "sft-1" / "model"), "-o", "json")
    assert json.loads(out)["lineage"]["model"]["kind"] == "run"


def test_verify_judges_the_weights(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--verify is 0 for weights as they were saved, 13 for others, for a run and for a copy of its model."""
    shutil.copytree(runs / "dpo-1" / "model", tmp_path / "copy")
    for target in ("dpo-1", str(tmp_path / "copy")):
        assert run(capsys, target, "--verify")[0] == 0
    for folder, target in ((runs / "dpo-1" / "model", "dpo-1"), (tmp_path / "copy", str(tmp_path / "copy"))):
        (folder / "model.safetensors").write_bytes(b"tampered")
        code, _, err = run(capsys, target, "--verify")
        assert code == 13 and "not those that the run saved" in err and "Traceback" not in err
    code, _, err = run(capsys, str(make_model(tmp_path / "plain", b"x")), "--verify")
    assert code == 0 and "nothing recorded to compare" in err


def test_mistakes_are_said(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is neither run nor model is named with what would be, with exit code 4 or 2."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no hub"))
    for what in ("nothing-like-this", str(tmp_path / "gone"), str(tmp_path), "org/not-in-the-cache"):
        code, out, err = run(capsys, what)
        assert (code, out) == (4, "") and "hint" in err
    assert run(capsys, "dpo-1", "--dry-run")[0] == 2
    assert run(capsys, str(runs / "dpo-1" / "model"), "--mlflow")[0] == 2


def test_run_without_a_record_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An older run is shown as far as its directory tells, with a line that says why there is no more."""
    make_run(runs, "old-1", values("pretrain"), job_id=7)
    code, out, err = run(capsys, "old-1")
    assert code == 0 and out.startswith("old-1  pretrain") and "recorded no lineage" in err
