"""``hpctrain checkpoints`` on object stores, and on what nodes have on their own disks, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xxhash")
pytest.importorskip("fsspec")

from hpctrain.checkpoint.names import CheckpointName, rank_file
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.tier_local import LocalTier
from hpctrain.checkpoint.tier_object import ObjectTier
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.cli.main import invoke
from hpctrain.testing.run_builder import RunBuilder
from tests.unit.checkpoint.test_crash_points import save

RUN = "tiny"


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    code = invoke(["checkpoints", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """The content of its JSON document."""
    document = json.loads(run(capsys, *words, "-o", "json")[1])
    return document[document["kind"]]


@pytest.fixture
def bucket_url(s3_environment: str) -> str:
    """What a recipe names."""
    return f"s3://{s3_environment}/models"


@pytest.fixture
def tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_url: str) -> SharedTier:
    """Three checkpoints of a run whose recipe names an object store, which is empty."""
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    (tmp_path / "runs").mkdir(mode=0o700)
    builder = RunBuilder(tmp_path / "runs", RUN, job_id=7)
    builder.dir.resolved_json.write_text(json.dumps({"checkpoint": {"keep_last": 2, "object": {"url": bucket_url + "/"}}}))
    tier = SharedTier(builder.dir.checkpoints)
    tier.claim(0)
    for step in (1, 2, 3):
        save(tier, CheckpointName(0, step))
    return tier


@pytest.fixture
def url(tier: SharedTier, bucket_url: str) -> str:
    """Of the run in the object store."""
    return f"{bucket_url}/{tier.root.parent.name}"


def test_copies_go_both_ways(tier: SharedTier, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint is copied into a store and back, byte for byte; the same command again finds it there."""
    out, again = run(capsys, "copy", RUN, "latest", url), run_json(capsys, "copy", RUN, "3", url)
    back = run(capsys, "copy", url, "latest", tmp_path / "back")
    folders = [tier.folder(CheckpointName(0, 3)), tmp_path / "back" / "step-00000003.i000"]

    assert (0, 0) == (out[0], back[0])
    assert f"copied step-00000003.i000 to {url}/step-00000003.i000" in out[1]
    assert (True, 0) == (again["present"], again["written_bytes"])
    assert 1 == len({json.dumps({path.name: path.read_bytes().hex() for path in sorted(folder.iterdir())})
                     for folder in folders})
    assert (0, 0) == (run(capsys, "verify", url)[0], run(capsys, "verify", tmp_path / "back")[0])


def test_list_shows_both_tiers(tier: SharedTier, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in the store that the recipe names is listed with the rest, and where that is."""
    one_tier = run(capsys, "list", RUN)[1]
    run(capsys, "copy", RUN, "2", url)
    code, out, err = run(capsys, "list", RUN)
    listed = run_json(capsys, "list", RUN)

    assert "TIER" not in one_tier
    assert (0, 1) == (code, out.count("object"))
    assert f"object: {url}" in err
    assert [(3, "shared"), (2, "object"), (2, "shared"), (1, "shared")] == sorted(
        ((item["step"], item["tier"]) for item in listed), key=lambda pair: (-pair[0], pair[1]))
    assert f"{url}/step-00000002.i000" in [item["path"] for item in listed]


def test_show_verify_prune_and_pin(tier: SharedTier, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL stands wherever a run or a directory does; what is damaged there is named."""
    for step in (1, 2, 3):
        run(capsys, "copy", RUN, step, url)
    store = ObjectTier(url)
    store.write_file(CheckpointName(0, 3), rank_file(1), b"x" * store.sizes(CheckpointName(0, 3))[rank_file(1)])
    shown, verified = run_json(capsys, "show", url, "2"), run(capsys, "verify", url, "--all")
    run(capsys, "pin", url, "1", "--reason", "mine")
    pruned = run_json(capsys, "prune", url, "--keep-last", "1")

    assert (2, f"{url}/step-00000002.i000") == (shown["step"], shown["path"])
    assert 13 == verified[0]
    assert "rank-00001.json is damaged" in verified[1]
    assert ("step-00000002.i000", []) == (pruned["verified"], pruned["removed"])
    assert 0 == run(capsys, "unpin", url, "1")[0]
    assert ["step-00000001.i000"] == run_json(capsys, "prune", url, "--keep-last", "1")["removed"]


def test_a_store_that_is_gone_hides_nothing(
    tier: SharedTier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the object store cannot be asked, the list says so and shows the rest; naming it is one error."""
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    code, out, err = run(capsys, "list", RUN)
    named = run(capsys, "list", "s3://bucket/x")

    assert (0, 4) == (code, len(out.splitlines()))
    assert "warning: the object store is left out" in err
    assert 9 == named[0]
    assert "no credentials" in named[2]
    assert "Traceback" not in err + named[2]


def test_urls_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    """A URL with credentials in it is a mistake of the command line, and is not repeated."""
    code, _, err = run(capsys, "list", "s3://me:hush@bucket/x")

    assert 2 == code
    assert "credentials" in err
    assert "hush" not in err


def test_parts_of_nodes_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What two nodes have on their disks becomes one checkpoint; with a node missing, its rank is named."""
    name = CheckpointName(0, 5)
    for rank in range(2):
        node = LocalTier(tmp_path / f"node{rank}")
        node.claim(0)
        share = node.write(name, rank, [(Shard("model.rows", "uint8", (2, 3), (rank, 0), (1, 3)), b"abc")], "{}")
        node.commit(name, share, aliases={}, world_size=2, world={}, reason="test", time=1.0)
    done = run(capsys, "copy", tmp_path / "node0", "latest", tmp_path / "joined", "--parts", tmp_path / "node1")
    half = run(capsys, "copy", tmp_path / "node0", "5", tmp_path / "half", "--parts", tmp_path / "node0")

    assert 0 == done[0], done[2]
    assert 0 == run(capsys, "verify", tmp_path / "joined", "5")[0]
    assert (4, True) == (half[0], "every part" in half[2])
