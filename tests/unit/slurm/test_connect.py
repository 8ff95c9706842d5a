"""The cluster to use is found by a fixed order, and said why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpctrain.devcluster.state import ClusterInfo
from hpctrain.errors import NotFoundError, SlurmMissingError, UsageError
from hpctrain.settings import Settings
from hpctrain.slurm.connect import choose, connect

SETTINGS = Settings(runs_dir="/runs")


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with programs named like Slurm's, the only one on PATH; scontrol finds no cluster."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        (directory / name).write_text("#!/bin/sh\nexit 1\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}/bin")
    return directory


def cluster(name: str, conf: str = "") -> ClusterInfo:
    return ClusterInfo(name, conf or f"/state/{name}/slurm.conf", Path("/state") / name, ("n1",), 8, "/m", 1, 11, 12)


def pick(env: dict[str, str], *running: ClusterInfo, sites: tuple[str, ...] = (), settings: Settings = SETTINGS):
    return choose(settings, env, clusters=lambda: running, site_configs=sites)


def test_job_uses_its_own_cluster(tmp_path: Path) -> None:
    """Inside a job nothing else counts, not even a cluster that was named."""
    conf = tmp_path / "slurm.conf"
    conf.touch()
    choice = pick({"SLURM_CONF": str(conf), "SLURM_JOB_ID": "1"}, settings=Settings(runs_dir="/r", cluster="other"))
    assert (choice.kind, choice.slurm_conf) == ("site", str(conf))
    choice = pick({"SLURM_CONF": str(conf), "SLURM_JOB_ID": "1"}, cluster("dev", str(conf)))
    assert (choice.kind, choice.cluster) == ("private", "dev")


def test_slurm_conf_names_a_site(tmp_path: Path) -> None:
    """SLURM_CONF wins over private clusters that happen to run."""
    conf = tmp_path / "slurm.conf"
    conf.touch()
    choice = pick({"SLURM_CONF": str(conf)}, cluster("dev"))
    assert (choice.kind, choice.env) == ("site", {"SLURM_CONF": str(conf)})


def test_slurm_conf_that_does_not_exist_is_refused() -> None:
    """Slurm's own commands would hang for a minute."""
    with pytest.raises(SlurmMissingError, match=r"/nonexistent/slurm\.conf"):
        pick({"SLURM_CONF": "/nonexistent/slurm.conf"})


def test_site_configuration_wins_over_a_private_cluster_that_was_not_named(tmp_path: Path) -> None:
    """On a login node a forgotten private cluster must not swallow jobs."""
    conf = tmp_path / "slurm.conf"
    conf.touch()
    choice = pick({}, cluster("dev"), sites=("/nonexistent/slurm.conf", str(conf)))
    assert (choice.kind, choice.slurm_conf, choice.env) == ("site", "", {})
    assert str(conf) in choice.why


def test_only_private_cluster_is_found_by_itself() -> None:
    """Whatever its name."""
    choice = pick({}, cluster("dev"))
    assert choice.env == {"SLURM_CONF": "/state/dev/slurm.conf", "HPCTRAIN_CLUSTER": "dev"}


def test_default_wins_among_several_private_clusters() -> None:
    """The one that 'cluster up' makes without a name."""
    assert pick({}, cluster("dev"), cluster("default")).cluster == "default"


def test_a_job_is_not_given_to_the_cluster_of_another_run() -> None:
    """What 'hpctrain run' made for itself goes away with that run: others look there, but submit nothing to it."""
    theirs, mine = cluster("run-4711"), cluster("run-my-own")
    env = {"PATH": os.environ["PATH"]}
    assert pick(env, theirs).cluster == "run-4711"
    assert pick(env, theirs, mine).cluster == "run-my-own"
    with pytest.raises(SlurmMissingError):
        choose(SETTINGS, env, clusters=lambda: [theirs], site_configs=(), lasting=True)
    assert choose(SETTINGS, env, clusters=lambda: [theirs, mine], site_configs=(), lasting=True).cluster == "run-my-own"


def test_several_private_clusters_must_be_told_apart() -> None:
    """Without a default the user chooses; the error lists them."""
    with pytest.raises(UsageError, match="alpha, beta") as caught:
        pick({}, cluster("alpha"), cluster("beta"))
    assert "--cluster" in caught.value.advice


def test_named_cluster_that_does_not_exist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name never falls back to another cluster."""
    monkeypatch.setenv("HPCTRAIN_STATE_DIR", str(tmp_path))
    with pytest.raises(NotFoundError, match="'dev'"):
        pick({}, cluster("other"), settings=Settings(runs_dir="/r", cluster="dev"))


def test_no_cluster_at_all_tells_both_ways_out() -> None:
    """Start a private one, or point at the site's."""
    with pytest.raises(SlurmMissingError) as caught:
        pick({"PATH": os.environ["PATH"]})
    assert "hpctrain cluster up" in caught.value.advice
    assert "SLURM_CONF" in caught.value.advice


def test_commands_that_find_a_cluster_by_themselves_are_believed(commands: Path) -> None:
    """A site may publish its configuration by DNS or compile the path in."""
    (commands / "scontrol").write_text("#!/bin/sh\necho slurm 24.11.5\n")
    assert pick({"PATH": os.environ["PATH"]}).kind == "site"
    assert pick({"SLURM_CONF_SERVER": "ctl"}, cluster("dev")).kind == "site"


def test_missing_commands_are_named_with_their_packages(commands: Path) -> None:
    """What to install is said, for the client and for a private cluster."""
    for name in ("sbatch", "scancel"):
        (commands / name).unlink()
    os.environ["PATH"] = str(commands)
    if any((Path(place) / "sbatch").exists() for place in ("/usr/local/sbin", "/usr/sbin", "/sbin")):
        pytest.skip("Slurm's commands are in a directory that is always searched")
    with pytest.raises(SlurmMissingError, match="sbatch, scancel not found") as caught:
        pick({})
    assert "slurm-client" in caught.value.advice


def test_connecting_runs_no_command(tmp_path: Path) -> None:
    """Nothing is asked before something is wanted."""
    conf = tmp_path / "slurm.conf"
    conf.touch()
    connect(SETTINGS, env={"SLURM_CONF": str(conf)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "slurm.conf"]
