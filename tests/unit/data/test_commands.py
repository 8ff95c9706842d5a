"""``hpctrain data``, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpctrain.cli.main import invoke

CHAT = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
RECIPE = """\
version: 1
name: t
method: pretrain
model:
  config: {model_type: llama, vocab_size: 258, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4}
data: {source: files, paths: [a.jsonl], sequence_length: 8}
training: {steps: 5, global_batch_size: 1}
"""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs of its own, no settings of the developer, and a Slurm configuration that leads nowhere."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HPCTRAIN_SITE_CONFIG", str(tmp_path / "site.toml"))
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "no-slurm.conf"))
    monkeypatch.chdir(tmp_path)


def write(name: str, *lines: object) -> None:
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_good_data_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    """A set without a bad row is counted, and its longest row is named."""
    write("a.jsonl", CHAT, CHAT)

    assert invoke(["data", "validate", "a.jsonl"]) == 0
    text = capsys.readouterr().out
    assert "format   chat" in text
    assert "rows     2" in text
    assert invoke(["data", "validate", "a.jsonl", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)["data"]
    assert (document["valid"], document["rows"], document["bad_rows"]) == (True, 2, 0)


def test_bad_rows_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Every bad row is a line with its place, told once; the exit code is that of a wrong recipe, in JSON too."""
    write("a.jsonl", CHAT, {"messages": []}, CHAT, {"x": 1})

    assert invoke(["data", "validate", "a.jsonl"]) == 3
    said = capsys.readouterr().err
    assert "a.jsonl:2: 'messages' is an empty list" in said
    assert "a.jsonl:4: has no 'messages'" in said
    assert "a.jsonl: 2 of 4 rows are bad" in said
    assert 1 == said.count("a.jsonl:2")
    assert invoke(["data", "validate", "a.jsonl", "-o", "json"]) == 3
    assert len(json.loads(capsys.readouterr().out)["data"]["problems"]) == 2


def test_a_recipe_with_bad_data_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Validation and a dry run of a submission stop at the first bad row of the recipe's data."""
    write("a.jsonl", {"text": "x"}, {"body": "x"})
    Path("r.yaml").write_text(RECIPE)

    commands = (["validate", "r.yaml", "--no-cluster"], ["submit", "r.yaml", "--dry-run"], ["data", "validate", "r.yaml"])
    for command in commands:
        assert invoke(command) == 3
        said = capsys.readouterr().err
        assert "a.jsonl:2: has no 'text' (its keys: body)" in said
        assert "data.text_field names the key" in said


def test_rows_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A preview shows rows speaker by speaker, from a file or of a set that is made, and in JSON as they are."""
    write("a.jsonl", CHAT)

    assert invoke(["data", "preview", "a.jsonl"]) == 0
    assert "  messages\n    user: 2 + 2?\n    assistant: 4\n" in capsys.readouterr().out
    assert invoke(["data", "preview", "arithmetic", "--format", "preference", "-n", "2", "--skip", "1", "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)["data"]
    assert document["format"] == "preference"
    assert [row["where"] for row in document["rows"]] == ["arithmetic row 2", "arithmetic row 3"]


def test_text_is_prepared_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Preparing says what it makes; a second time it finds it; a dry run makes nothing."""
    pytest.importorskip("numpy")
    write("a.jsonl", {"text": "hello world"})
    Path("r.yaml").write_text(RECIPE)

    assert invoke(["data", "prepare", "r.yaml", "--dry-run"]) == 0
    assert "would tokenise 1 file" in capsys.readouterr().out
    assert not Path("runs").exists()
    assert invoke(["data", "prepare", "r.yaml"]) == 0
    assert "12 tokens of 1 documents are made: 1 samples" in capsys.readouterr().out
    assert invoke(["data", "prepare", "r.yaml", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["prepared"]["reused"] is True


def test_preparation_is_a_job_of_one_node(capsys: pytest.CaptureFixture[str]) -> None:
    """As a job it has one node and no GPU, the account of the recipe, and leaves nothing after a dry run."""
    write("a.jsonl", {"text": "hello world"})
    Path("r.yaml").write_text(RECIPE + "resources: {nodes: 1, gpus_per_node: 1, account: research}\n")

    assert invoke(["data", "prepare", "r.yaml", "--submit", "--dry-run", "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["command"]["argv"][1:5] == ["-m", "hpctrain", "data", "prepare"]
    assert (plan["slurm"]["nodes"], plan["slurm"]["gpus_per_node"], plan["slurm"]["account"]) == (1, 0, "research")
    assert plan["command"]["workdir"] == str(Path.cwd())
    assert not Path("runs").exists()


def test_a_job_reads_the_recipe_in_its_run_directory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    """What a preparing job was submitted with lies with its run, and nowhere else."""
    pytest.importorskip("numpy")
    write("a.jsonl", {"text": "hello world"})
    run = tmp_path / "runs" / "prepare-t"
    run.mkdir(parents=True)
    (run / "data-recipe.yaml").write_text(RECIPE.replace("a.jsonl", str(tmp_path / "a.jsonl")))
    monkeypatch.setenv("HPCTRAIN_RUN_DIR", str(run))

    assert invoke(["data", "prepare", "--in-run-dir", "data-recipe.yaml"]) == 0
    assert "12 tokens of 1 documents are made" in capsys.readouterr().out


def test_wrong_arguments_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """What makes no sense together is said: --set without a recipe, data of a command."""
    write("a.jsonl", CHAT)
    Path("r.yaml").write_text("version: 1\nname: t\ncommand: [sleep, '1']\n")

    assert invoke(["data", "validate", "a.jsonl", "--set", "data.rows=1"]) == 2
    assert "--set changes a recipe" in capsys.readouterr().err
    assert invoke(["data", "prepare", "r.yaml"]) == 3
    assert "nothing to tokenise beforehand: it runs a command of its own" in capsys.readouterr().err
    assert invoke(["data", "preview", "r.yaml"]) == 3
    assert "brings its own data" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "text"), [("rows.csv", "a,b\n"), ("rows.json", '[{"text": "a"}]')])
def test_data_in_another_form_is_not_taken_for_a_recipe(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A table or a list is told to be one, with the way to jsonl."""
    Path(name).write_text(text)

    assert invoke(["data", "validate", name]) == 3
    assert f"error: {name}: not one of .txt" in (said := capsys.readouterr().err)
    assert "to_json" in said
