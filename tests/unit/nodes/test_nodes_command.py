"""The commands about nodes as a person types them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpctrain import api
from hpctrain.cli.main import invoke
from hpctrain.ids import NodeName
from hpctrain.settings import Settings
from tests.unit.nodes.conftest import DEAD, XID, World


@pytest.fixture
def site(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """The world, found by the commands through the site's configuration."""
    remedies = {"journal": str(tmp_path / "journal"), "replace": ["/bin/echo", "{node}"], "limits": {"settle_s": 1}}
    document = {"version": 1, "state_dir": str(tmp_path / "state"), "remedies": remedies}
    (tmp_path / "health.json").write_text(json.dumps(document))
    monkeypatch.setenv("HPCTRAIN_HEALTH_CONFIG", str(tmp_path / "health.json"))
    context = api.Context(Settings(str(tmp_path)), world.slurm, world.clock)
    monkeypatch.setattr(api, "default_context", lambda: context)
    return world


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = invoke(["nodes", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    code, out, _ = run(capsys, *argv, "-o", "json")
    assert code == 0
    return json.loads(out)


def test_tending_is_told_first_and_done_then(site: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to do is said; a dry run changes nothing; each act is one line."""
    assert run(capsys, "tend", "--once")[:2] == (0, "nothing to do\n")
    site.faults["n1"] = XID
    site.clock.advance(10)
    site.check()
    code, out, _ = run(capsys, "tend", "--dry-run")
    assert (code, out.splitlines()) == (
        0, ["n1: drain: would drain it with the reason 'hpctrain: xid: GPU 3: Xid 79' (xid/gpu3:GPU-x (rule 'fault'))"],
    )  # fmt: skip
    assert not site.node("n1").drained
    (act,) = document(capsys, "tend", "--once")["acts"]
    assert (act["node"], act["step"], act["done"], act["alert"]) == ("n1", "drain", True, False)
    assert site.node("n1").drained


def test_list_and_show_tell_since_when_by_whom_and_what_comes_next(
    site: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was done, each act once."""
    site.faults["n1"] = XID
    site.clock.advance(10)
    site.check()
    run(capsys, "tend", "--once")
    run(capsys, "tend", "--once")
    out = run(capsys, "list")[1]
    assert "by hpctrain: hpctrain: xid: GPU 3: Xid 79 (reboot n1-" in out
    assert "next: wait" in out
    out = run(capsys, "show", "n1")[1]
    assert [line.split()[0] for line in out.splitlines()] == ["state", "reason", "since", "evidence", "done", "done", "next"]
    node = document(capsys, "show", "n1")["node"]
    assert [one["step"] for one in node["history"] if one["kind"] == "done"] == ["drain", "reboot"]
    assert node["next"]["rule"] == "under way"


def test_reboot_and_replace_are_told_first_and_done_then(site: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A person's node is refused with the exit code of Slurm's refusals."""
    assert "would be rebooted" in run(capsys, "reboot", "n1", "--dry-run")[1]
    assert document(capsys, "reboot", "n1", "--reason", "new kernel")["change"]["done"]
    assert "REBOOT_REQUESTED" in site.node("n1").flags
    assert "would run ['/bin/echo', 'n2']" in run(capsys, "replace", "n2", "--dry-run")[1]
    site.slurm.drain([NodeName("n3")], "alice: fan")
    code, _, err = run(capsys, "replace", "n3")
    assert code == 5
    assert "alice: fan" in err


def test_spares_are_kept_by_command(site: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Added, listed, removed."""
    assert "there are no spares" in run(capsys, "spares", "list")[1]
    run(capsys, "spares", "add", "n3", "n4")
    assert [one["node"] for one in document(capsys, "spares", "list")["spares"]["nodes"]] == ["n3", "n4"]
    run(capsys, "spares", "remove", "n3")
    assert "n4           idle         ready" in run(capsys, "spares", "list")[1]
    assert run(capsys, "spares", "remove", "n1")[0] == 5


def test_mistakes_in_the_configuration_are_told(
    site: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A site learns that its command is not read, before it is needed."""
    path = tmp_path / "health.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "remedies": {"replace": "order {node}"}}))
    site.faults["n1"] = DEAD
    assert "'remedies.replace' cannot be" in run(capsys, "tend", "--dry-run")[2]


def test_without_a_record_of_the_node_nothing_is_decided(site: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Its records may lie on the node itself, where they are not seen from here."""
    site.config = replace(site.config, state_dir="/nonexistent")
    site.slurm.drain([NodeName("n1")], "hpctrain: xid: x")
    for path in (site.directory / "state").iterdir():
        path.unlink()
    assert "no health check of this node is on record here" in run(capsys, "show", "n1")[1]


@pytest.mark.parametrize("words", [
    ("drain", "n1", "--reason", "mine"), ("undrain", "n2"), ("validate", "n2"), ("reboot", "n1"), ("replace", "n1"),
    ("spares", "add", "n3"),
])
def test_an_ordinary_user_is_refused_with_one_code(
    site: World, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """8, and what it takes, whichever command it was; nothing is changed."""
    site.slurm.drain([NodeName("n2")], "hpctrain: xid: GPU 3: Xid 79")
    site.clock.advance(60)
    site.check()
    site.clock.advance(3600)
    site.check()
    before = [site.node(name) for name in ("n1", "n2", "n3")]
    site.slurm.operator = False

    code, out, err = run(capsys, *words)

    assert (code, out) == (8, ""), err
    assert err.startswith("error: ")
    assert "hint: " in err
    assert [site.node(name) for name in ("n1", "n2", "n3")] == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_who_may_not_write_the_journal_is_told_who_may(
    site: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Not to choose another place: the journal is the site's."""
    (tmp_path / "journal").mkdir(mode=0o500)
    code, _, err = run(capsys, "reboot", "n1")
    assert code == 9
    assert "as the user that" in err
