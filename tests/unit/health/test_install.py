"""``hpctrain health install``: what it would change, that it changes just that, and that it keeps what was there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpctrain.cli.main import invoke
from hpctrain.errors import NotFoundError, StorageError, UsageError
from hpctrain.health.install import InstallPlan, apply_plan, compile_site, make_plan
from hpctrain.health.slurm_settings import find_changes, parse_settings, rewrite

CONF = "ClusterName=c\nSchedulerParameters=bf_continue # ours\nPrologFlags=Contain\nNodeName=n1 CPUs=4\n"
NEEDED = {
    "Prolog=/d/prolog.sh", "Epilog=/d/epilog.sh", "HealthCheckProgram=/d/health_program.sh", "HealthCheckInterval=300",
    "HealthCheckNodeState=ANY,CYCLE", "PrologEpilogTimeout=60",
}


def plan_for(tmp_path: Path, conf: str = CONF, site: str | None = None) -> InstallPlan:
    slurm_conf, toml = tmp_path / "slurm.conf", tmp_path / "health.toml"
    if not slurm_conf.exists():
        slurm_conf.write_text(conf)
    if site is not None:
        toml.write_text(site)
    return make_plan(tmp_path / "d", slurm_conf, toml if site is not None else None, ["clock", "xid"])


def test_settings_are_added_and_merged() -> None:
    """A list keeps its words and its comment, a flag that implies Alloc is enough, and the rest comes at the end."""
    changes, notes = find_changes(parse_settings(CONF), "/d")
    lines = rewrite(CONF, changes).splitlines()

    assert [] == notes
    assert "SchedulerParameters=bf_continue,nohold_on_prolog_fail # ours" in lines
    assert "PrologFlags=Contain" in lines
    assert NEEDED == set(lines[6:])


def test_a_setting_over_several_lines_is_left_to_a_person() -> None:
    """It is named, and its lines stay as they are."""
    conf = "SchedulerParameters=bf_continue,\\\nbf_window=1440\n"
    changes, notes = find_changes(parse_settings(conf), "/d")

    assert "SchedulerParameters" not in [change.name for change in changes]
    assert ["SchedulerParameters"] == [note.split()[0] for note in notes]
    assert rewrite(conf, changes).startswith(conf)


def test_nothing_is_left_to_change_afterwards() -> None:
    """Changes made once are not asked for again."""
    once = rewrite(CONF, find_changes(parse_settings(CONF), "/d")[0])

    assert ([], []) == find_changes(parse_settings(once), "/d")


def test_a_prolog_of_the_sites_own_stays() -> None:
    """It is named and left alone, and replaced only when that is asked for."""
    settings = parse_settings("prolog = /site/p.sh")
    changes, notes = find_changes(settings, "/d")
    replaced, _ = find_changes(settings, "/d", replace=True)

    assert ["Prolog is /site/p.sh and stays: let it call /d/prolog.sh, or use --replace"] == notes
    assert "Prolog" not in [change.name for change in changes]
    assert ("Prolog", "/site/p.sh") == (replaced[0].name, replaced[0].before)


@pytest.mark.parametrize("name", ["MessageTimeout", "BatchStartTimeout", "PrologTimeout"])
def test_timeouts_that_are_too_short_are_told(name: str) -> None:
    """A timeout within a prolog's own budget would drain nodes for nothing."""
    _, notes = find_changes(parse_settings(f"{name}=5"), "/d")

    assert [f"{name} is 5 s, but a prolog or epilog may take 5 s: make it longer"] == notes


def test_apply_writes_all_and_keeps_what_was_there(tmp_path: Path) -> None:
    """Programs that can be run, the compiled settings, the old slurm.conf beside the new one; then nothing is left to do."""
    plan = plan_for(tmp_path, site='drain_via = "scontrol"\n[modes]\nclock = "warn"\n')
    kept = apply_plan(plan, "old")

    assert [tmp_path / "slurm.conf.old"] == kept
    assert CONF == kept[0].read_text()
    assert os.access(tmp_path / "d/prolog.sh", os.X_OK)
    assert f"{tmp_path}/d/health.env" in (tmp_path / "d/prolog.sh").read_text()
    compiled = json.loads((tmp_path / "d/health.json").read_text())
    assert {"version": 1, "drain_via": "scontrol", "modes": {"clock": "warn"}} == compiled
    assert () == plan_for(tmp_path, site='drain_via = "scontrol"\n[modes]\nclock = "warn"\n').files


@pytest.mark.parametrize(("place", "told"), [("/srv/hpctrain", True), ("/srv/{node}", False), ("", False)])
def test_the_programs_know_where_failures_are_told(place: str, told: bool, tmp_path: Path) -> None:
    """A state directory of the site's own is known before the configuration is read."""
    plan = plan_for(tmp_path, site=f"state_dir = '{place}'\n" if place else "settle_s = 5\n")
    (text,) = [file.after for file in plan.files if file.path.name == "health.env"]

    assert told is (f"export HPCTRAIN_HEALTH_STATE={place}\n" in text)
    assert told is ("HPCTRAIN_HEALTH_STATE" in text)


@pytest.mark.parametrize(
    ("text", "words"),
    [("drain_via = 'telepathy'", "telepathy"), ("[modes]\nclokc = 'warn'", "no check 'clokc'"), ("x = ", "not valid TOML")],
)
def test_a_mistake_in_the_sites_settings_is_refused(text: str, words: str, tmp_path: Path) -> None:
    """What the prolog would log at every run is an error here."""
    site = tmp_path / "health.toml"
    site.write_text(text)

    with pytest.raises(UsageError, match=words):
        compile_site(site, ["clock"])


def test_without_rights_nothing_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All places are tried before the first file is written."""
    plan = plan_for(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)

    with pytest.raises(StorageError, match="may not write"):
        apply_plan(plan, "old")
    assert CONF == (tmp_path / "slurm.conf").read_text()
    assert not (tmp_path / "d").exists()


def test_no_slurm_conf(tmp_path: Path) -> None:
    """It is named, with how to name another."""
    with pytest.raises(NotFoundError, match=r"no slurm\.conf"):
        make_plan(tmp_path, tmp_path / "none", None, [])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--print changes nothing, --apply does and says what to do next, and the second time there is nothing to do."""
    (tmp_path / "slurm.conf").write_text(CONF)
    argv = ["health", "install", "--slurm-conf", str(tmp_path / "slurm.conf"), "--directory", str(tmp_path / "d")]

    assert 0 == invoke(argv)
    assert "+SchedulerParameters=bf_continue,nohold_on_prolog_fail # ours" in capsys.readouterr().out
    assert CONF == (tmp_path / "slurm.conf").read_text()
    assert 0 == invoke([*argv, "-o", "json"])
    shown = json.loads(capsys.readouterr().out)["install"]
    assert (False, []) == (shown["applied"], shown["kept"])
    assert {"prolog.sh", "slurm.conf"} <= {Path(file["path"]).name for file in shown["files"]}
    assert 0 == invoke([*argv, "--apply"])
    assert "scontrol reconfigure" in capsys.readouterr().out
    assert 0 == invoke([*argv, "--apply"])
    assert "nothing to change\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("HealthCheckNodeState=IDLE", "HealthCheckNodeState lacks ANY"),
        ("RebootProgram=/sbin/reboot", "ResumeTimeout is 60 s"),
        ("RebootProgram=/sbin/reboot\nResumeTimeout=900\nReturnToService=2", "ReturnToService is 2"),
    ],
)
def test_what_keeps_nodes_from_being_mended_is_told(line: str, told: str) -> None:
    """A node that is not checked after its boot does not return, or returns unchecked."""
    _, notes = find_changes(parse_settings(line), "/d")
    assert [told in note for note in notes] == [True]


def test_checks_of_installed_packages_reach_the_prolog(tmp_path: Path) -> None:
    """They are compiled in, as a prolog has no time to look for them; a site's own list and its own file are kept."""
    conf, offered = tmp_path / "slurm.conf", ["ours:CHECK"]
    conf.write_text(CONF)

    def compiled(site: str | None) -> dict[str, object]:
        toml = tmp_path / "health.toml"
        toml.write_text(site or "")
        plan = make_plan(tmp_path / "d", conf, toml if site is not None else None, ["clock"], site_checks=offered)
        return next((json.loads(file.after) for file in plan.files if file.path.name == "health.json"), {})

    assert ["ours:CHECK"] == compiled("settle_s = 5\n")["site_checks"] == compiled(None)["site_checks"]
    assert [] == compiled("site_checks = []\n")["site_checks"]
    (tmp_path / "d").mkdir()
    (tmp_path / "d/health.json").write_text('{"version": 1}')
    plan = make_plan(tmp_path / "d", conf, None, ["clock"], site_checks=offered)
    assert "health.json" not in [file.path.name for file in plan.files]
    assert any("does not name all checks of the site: ours:CHECK" in note for note in plan.notes)
