"""A run knows what it was made from, whatever has become of that since."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.files import append_jsonl
from hpctrain.hashing import HashCache
from hpctrain.jobs import lineage_write
from hpctrain.jobs.event import Event
from hpctrain.jobs.lineage import MAX_DEPTH, MODEL_FILE, Wanted, ancestors, brief, is_weights, parent, wanted, without_user
from hpctrain.jobs.lineage_code import checkout, code_version
from hpctrain.jobs.lineage_data import look_at_data
from hpctrain.jobs.lineage_environment import environment, packages
from hpctrain.jobs.lineage_model import look_at
from hpctrain.jobs.lineage_read import read_model_record, read_record, starts, state
from hpctrain.jobs.lineage_write import gather, submission_record
from tests.unit.jobs.lineage_runs import START, chain, make_model, make_run, values


def names(record: dict) -> list[str]:
    return [below["run"]["name"] for _, below in ancestors(record)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_chain_goes_back_to_the_first_run(tmp_path: Path) -> None:
    """Each run has that run as its parent whose model directory it starts from, and through it all those before."""
    *_, last = chain(tmp_path)
    record = read_record(last.path)

    assert record and names(record) == ["sft-1", "base-1"]
    base = parent(record)
    assert base and (base["kind"], base["name"], base["state"]) == ("run", "sft-1", "as saved")
    assert base["files"] == [{"name": "model.safetensors", "size_bytes": 3, "sha256": sha256(b"two")}]
    assert record["outputs"]["model"]["files"][0]["sha256"] == sha256(b"three")
    assert record["metrics"]["step"] == 5 and record["state"] == "finished"


def test_deleted_parents_stay_known(tmp_path: Path) -> None:
    """The directories of all earlier runs may go away: the record of the last holds what they were."""
    first, second, last = chain(tmp_path)
    for run in (first, second):
        shutil.rmtree(run.path)
    record = read_record(last.path)

    assert record and names(record) == ["sft-1", "base-1"]
    oldest = list(ancestors(record))[-1][1]
    assert (oldest["recipe"]["method"], oldest["metrics"]["step"]) == ("pretrain", 5)
    assert [entry["role"] for entry in oldest["inputs"]] == ["data"]


def test_copied_model_brings_its_lineage(tmp_path: Path) -> None:
    """A model directory that was copied elsewhere names its run and all before it, and so is the parent of new runs."""
    *_, last = chain(tmp_path / "runs")
    moved = tmp_path / "elsewhere" / "my model"
    shutil.copytree(last.model, moved)
    shutil.rmtree(tmp_path / "runs")
    record = read_model_record(moved)
    assert record and record["run"]["name"] == "dpo-1" and names(record) == ["sft-1", "base-1"]
    child = make_run(tmp_path / "new", "again-1", values("dpo", model={"path": str(moved)}), weights=b"four")
    found = read_record(child.path)
    assert found and names(found) == ["dpo-1", "sft-1", "base-1"]
    assert (parent(found) or {})["state"] == "as saved"


def test_weights_that_were_changed_are_told_from_those_that_were_saved(tmp_path: Path) -> None:
    """A model directory whose weights were replaced still names its run, and says that these are not its weights."""
    first = make_run(tmp_path, "base-1", values("pretrain"), weights=b"one")
    (first.model / "model.safetensors").write_bytes(b"other")
    child = make_run(tmp_path, "sft-1", values(model={"path": str(first.model)}), weights=b"two")
    found = parent(read_record(child.path) or {})

    assert found and found["state"] == "changed" and found["files"][0]["sha256"] == sha256(b"other")


def test_plain_directories_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory of unknown origin has a hash; a hub id has its commit; what is not there is said to be missing."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder, cache = make_model(tmp_path / "downloaded", b"w"), HashCache(None)
    found = look_at(Wanted("base model", str(folder)), cache, read_record)
    assert (found["kind"], found["file_count"], found["state"]) == ("directory", 1, "") and "record" not in found
    repo = tmp_path / "hub" / "models--org--name"
    make_model(repo / "snapshots" / "c0ffee", b"hub weights")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("c0ffee\n")
    found = look_at(Wanted("base model", "org/name"), cache, read_record)
    assert (found["kind"], found["name"], found["revision"]) == ("hub", "org/name", "c0ffee")
    assert found["files"][0]["sha256"] == sha256(b"hub weights")
    assert look_at(Wanted("base model", "org/other"), cache, read_record)["kind"] == "hub"
    for gone in (str(tmp_path / "gone"), "a/b/c", "../x"):
        assert look_at(Wanted("base model", gone), cache, read_record)["kind"] == "missing"


def test_older_run_without_a_record_is_read_from_its_directory(tmp_path: Path) -> None:
    """A run of an older version shows recipe, parent, metrics and model, and says that it has recorded nothing."""
    first = make_run(tmp_path, "old-base", values("pretrain"))
    make_model(first.model, b"one")
    second = make_run(tmp_path, "old-sft", values(model={"path": str(first.model)}))
    record = read_record(second.path)

    assert record and not record["recorded"] and names(record) == ["old-base"]
    assert record["recipe"]["method"] == "sft" and record["run"]["job_id"] == 1
    assert record["recipe"]["resolved_sha256"] == sha256(second.resolved_json.read_bytes())
    assert read_record(tmp_path) is None


def test_run_that_starts_from_itself_ends(tmp_path: Path) -> None:
    """A recipe that names the run's own model directory, recorded or not, does not go round in a circle."""
    recipe = values(model={"path": str(tmp_path / "self" / "model")})
    run = make_run(tmp_path, "self", recipe)
    make_model(run.model, b"x")
    assert names(read_record(run.path) or {}) == []
    gather(run, recipe, time_s=START)
    assert len(names(read_record(run.path) or {})) <= 1


def test_generations_are_bounded() -> None:
    """A model that was trained on hundreds of times keeps the nearest generations and says that there are more."""
    record: dict = {"run": {"name": "0"}, "inputs": []}
    for number in range(1, MAX_DEPTH + 40):
        record = {"run": {"name": str(number)}, "inputs": [{"role": "base model", "record": record}]}
        record = brief(record)

    assert len(names(record)) == MAX_DEPTH
    assert list(ancestors(record))[-1][1]["cut"]


def test_all_models_of_a_recipe_are_inputs() -> None:
    """Base model, tokenizer, reward models, teacher and judge are found; credentials in a URL are not kept."""
    recipe = values(
        "rlhf", model={"path": "/m"}, tokenizer={"path": "/t"},
        rewards=[{"kind": "length"}, {"kind": "model", "path": "/r"}],
        judge={"url": "https://user:secret@host/v1", "model": "big"}, teacher={"path": "/teacher", "endpoint": None},
    )
    found = wanted(recipe)
    assert [one.role for one in found] == ["base model", "tokenizer", "reward model", "teacher", "judge"]
    assert found[-1].endpoint == "https://host/v1" and "secret" not in repr(found)
    assert wanted({"method": "pretrain", "model": {"path": "/m"}, "tokenizer": {"path": "/m"}})[0].role == "architecture"
    assert wanted({}) == wanted({"model": None, "rewards": None, "tokenizer": {}}) == []
    assert without_user("postgresql://a:b@h/db") == "postgresql://h/db"


def test_weight_files_are_told_from_others() -> None:
    """Weights count, in all usual forms; optimizers, arguments and texts do not."""
    yes = ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin", "adapter_model.safetensors",
           "adapter_model.bin", "consolidated.00.pth", "llama.Q4.gguf"]
    no = ["training_args.bin", "optimizer.pt", "README.md", "tokenizer.json", "model.safetensors.index.json", "scheduler.pt"]
    assert [is_weights(name) for name in yes] == [True] * len(yes)
    assert [is_weights(name) for name in no] == [False] * len(no)


def test_data_is_hashed_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same content elsewhere has the same hash, other content has another; very large sets count by their stamps."""
    for place, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / place / "deep").mkdir(parents=True)
        (tmp_path / place / "deep" / "rows.jsonl").write_text(text)
        (tmp_path / place / "more.jsonl").write_text("same")
    found = [look_at_data({"source": "files", "paths": [str(tmp_path / place)]}, HashCache(None)) for place in "abc"]
    assert found[0]["sha256"] == found[1]["sha256"] != found[2]["sha256"]
    assert [file["name"] for file in found[0]["files"]] == ["deep/rows.jsonl", "more.jsonl"]
    monkeypatch.setattr("hpctrain.jobs.lineage_data.READ_AT_MOST_BYTES", 4)
    large = look_at_data({"source": "files", "paths": [str(tmp_path / "a")]}, HashCache(None))
    assert large["of"] == "names, sizes and times" and large["sha256"] not in ("", found[0]["sha256"])
    assert look_at_data({"source": "files", "paths": [str(tmp_path / "gone")]}, HashCache(None))["file_count"] == 0
    assert look_at_data({"source": "arithmetic"}, HashCache(None), made_sha256="m")["sha256"] == "m"


def test_requeued_run_names_every_checkpoint_that_it_went_on_from() -> None:
    """Each start of a run says where it began: at the start, from a checkpoint, or back before a bad loss."""
    def event(kind: str, step: int | None = None, **evidence: object) -> Event:
        return Event(START, "trainer", kind, 1, "n1", step, "loss is NaN" if kind == "loss.bad" else "", evidence)

    events = [
        event("trainer.started", 0), event("job.requeued"),
        event("checkpoint.restored", 40, checkpoint="step-00000040.i000", tiers={"shared": 4}), event("trainer.started", 40),
        event("loss.bad", 55, restore_before=50),
        event("checkpoint.restored", 30, checkpoint="step-00000030.i000", tiers={"ram": 4}),
        event("trainer.started", 30), event("model.saved", 60), event("job.finished"),
    ]
    found = starts(events)
    assert [start["step"] for start in found] == [0, 40, 30]
    checkpoints = [(start["restored"] or {}).get("checkpoint") for start in found]
    assert checkpoints == [None, "step-00000040.i000", "step-00000030.i000"]
    assert [start["rewind"] for start in found] == ["", "", "loss is NaN"]
    assert [state(events[:count]) for count in (0, 1, 2, 8)] == ["", "training", "requeued", "finished"]


def test_code_that_changed_between_starts_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later start with other code or packages becomes the newest, and the earlier ones stay on record."""
    run = make_run(tmp_path, "run-1", values("pretrain"))
    for commit in ("a", "a", "b"):
        monkeypatch.setattr(lineage_write, "code_version", lambda commit=commit: {"version": "1", "commit": commit})
        gather(run, values("pretrain"), time_s=START)
    record = read_record(run.path) or {}

    assert record["code"]["commit"] == "b"
    assert [code["commit"] for code in record["earlier"]["code"]] == ["a"] and "environment" not in record["earlier"]


def test_submission_record_is_completed_by_the_trainer(tmp_path: Path) -> None:
    """What submission wrote stays (its id, recipe, --set), and hashes and environment are added."""
    model = make_model(tmp_path / "plain", b"w")
    recipe = values(model={"path": str(model)}, workdir=str(tmp_path))
    run = make_run(tmp_path / "runs", "run-1", recipe)
    made = submission_record(run, values=recipe, plan={"nodes": 2, "device": "cuda", "slurm": {"gpu_type": "h100"}},
                             cluster="big", source="/r/recipe.yaml", sets=["a=1"], time_s=START)
    run.lineage.write_text(json.dumps(made))
    assert made["inputs"][0]["sha256"] == "" and not (tmp_path / "runs" / ".hashes").exists()
    record = gather(run, recipe, time_s=START + 9, facts={"gpu": "H100"})

    assert (record["id"], record["recipe"]["sets"]) == (made["id"], ["a=1"])
    assert record["inputs"][0]["files"][0]["sha256"] == sha256(b"w")
    assert record["environment"]["gpu"] == "H100" and "pytest" in record["environment"]["packages"]
    assert (read_record(run.path) or {})["cluster"]["gpu_type"] == "h100"


def test_model_of_a_checkpoint_names_it(tmp_path: Path) -> None:
    """A model exported from a checkpoint has that checkpoint's step and numbers, and leaves the run's own record alone."""
    run = make_run(tmp_path, "run-1", values("pretrain"), weights=b"final")
    folder = make_model(tmp_path / "export", b"early")
    before = run.lineage.read_bytes()
    lineage_write.model_saved(folder, run, time_s=START, checkpoint={"step": 3, "name": "step-00000003.i000"})
    record = json.loads((folder / MODEL_FILE).read_bytes())

    assert record["metrics"]["step"] == 3 and record["outputs"]["model"]["checkpoint"]["step"] == 3
    assert run.lineage.read_bytes() == before
    child = make_run(tmp_path, "sft-1", values(model={"path": str(folder)}), weights=b"x")
    assert (parent(read_record(child.path) or {}) or {})["checkpoint"]["name"] == "step-00000003.i000"


@pytest.mark.skipif(process.find("git") is None, reason="needs git")
def test_code_is_a_commit_and_what_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout has its commit; changed tracked files make it dirty, each change with a hash of its own."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert checkout(tmp_path) is None or checkout(tmp_path)["root"] != str(tmp_path)
    repo = tmp_path / "it's mine"
    repo.mkdir()

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        answer = process.run(["git", "-C", str(repo), *who, *words], timeout_s=30)
        assert answer.ok, answer.stderr
        return answer.stdout.strip()

    git("init", "-q")
    assert (checkout(repo) or {})["commit"] == ""
    (repo / "file").write_text("one\n")
    (repo / "setup.cfg").write_text("")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = checkout(repo)
    assert clean == {"root": str(repo), "commit": git("rev-parse", "HEAD"), "dirty": False, "changes_sha256": ""}
    hashes = set()
    for text in ("two\n", "three\n"):
        (repo / "file").write_text(text)
        found = checkout(repo) or {}
        assert found["dirty"]
        hashes.add(found["changes_sha256"])
    assert len(hashes) == 2
    assert code_version(repo / "hpctrain", "1.0")["how"] == "checkout"
    (repo / "deep").mkdir()
    assert code_version(repo / "deep" / "hpctrain", "1.0")["how"] == "installed"


def test_installed_wheel_is_known_by_its_list_of_files(tmp_path: Path) -> None:
    """Without a checkout, the version and pip's list of hashes stand for the code."""
    info = tmp_path / "hpctrain-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("hpctrain/__init__.py,sha256=x,1\n")
    found = code_version(tmp_path / "hpctrain", "1.0")

    assert found == {"version": "1.0", "how": "installed", "files_sha256": sha256(b"hpctrain/__init__.py,sha256=x,1\n")}
    assert code_version(tmp_path / "hpctrain", "2.0")["files_sha256"] == ""


def test_packages_come_from_directory_names(tmp_path: Path) -> None:
    """Names are normalised, the first directory on the path wins, and whatever is no package is passed over."""
    for name in ("a/Foo_Bar-1.2.dist-info", "b/foo.bar-9.dist-info", "b/old-1.0-py3.11.egg-info", "b/x"):
        (tmp_path / name).mkdir(parents=True)

    assert packages([str(tmp_path / "a"), str(tmp_path / "b"), "/gone"]) == {"foo-bar": "1.2", "old": "1.0"}
    assert environment([])["packages"] == {} and environment([])["python"].startswith("3.")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"inputs": null, "outputs": 3, "recipe": [], "run": "x"}'])
def test_broken_records_are_lived_with(tmp_path: Path, text: str) -> None:
    """A record that is torn or of a shape that nobody wrote does not keep the rest from being shown."""
    run = make_run(tmp_path, "run-1", values("pretrain"), weights=b"w")
    run.lineage.write_text(text)
    append_jsonl(run.metrics, {"step": 6, "time": START, "loss": None})
    record = read_record(run.path)

    assert record and record["run"]["name"] == "run-1" and record["metrics"]["step"] == 6
