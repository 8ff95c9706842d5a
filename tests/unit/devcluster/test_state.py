"""Where clusters are found, and what counts as running."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpctrain.devcluster import state
from hpctrain.devcluster.layout import Spec
from hpctrain.errors import ClusterError, NotFoundError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of clusters."""
    monkeypatch.setenv("HPCTRAIN_STATE_DIR", str(tmp_path))
    return tmp_path / "clusters"


def record(root: Path, name: str = "mine") -> Spec:
    """Write the record of a cluster that does not run."""
    spec = Spec(name, nodes=2, gpus_per_node=1, controller_port=17000, runtime_dir=str(root / name))
    (root / name / "pid").mkdir(parents=True)
    state.save_spec(root / name, spec)
    return spec


@pytest.fixture
def impostor() -> Iterator[int]:
    """Pid of a live process that has nothing to do with any cluster."""
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"HPCTRAIN_STATE_DIR": "/a", "XDG_STATE_HOME": "/b"}, "/a/clusters"),
        ({"XDG_STATE_HOME": "/b"}, "/b/hpctrain/clusters"),
        ({"HPCTRAIN_STATE_DIR": ""}, str(Path("~/.local/state/hpctrain/clusters").expanduser())),
    ],
)
def test_the_state_directory_follows_the_environment(env: dict[str, str], expected: str) -> None:
    """Our own variable wins over XDG's, and an empty one counts as unset."""
    assert Path(expected) == state.state_root(env)


def test_no_directory_means_no_cluster(root: Path) -> None:
    """Where nothing was ever made, nothing runs and nothing fails."""
    assert [] == state.running_clusters()


def test_a_record_without_processes_is_not_running(root: Path) -> None:
    """After a reboot the files are there and the cluster is known, but it does not count as running."""
    record(root)

    assert [] == state.running_clusters()
    with pytest.raises(ClusterError, match="not running"):
        state.find_cluster("mine")


def test_somebody_elses_pid_is_not_believed(root: Path, impostor: int) -> None:
    """A pid file that names a live process of another program does not make a cluster run."""
    record(root)
    (root / "mine" / "pid" / "slurmctld.pid").write_text(f"{impostor}\n")

    assert [] == state.running_clusters()


def test_a_controller_is_recognised_by_its_arguments(root: Path) -> None:
    """A live process that has this cluster's slurm.conf among its arguments is its controller."""
    spec = record(root)
    conf = str(state.layout_of(spec, root).slurm_conf)
    process = subprocess.Popen(["sh", "-c", "read line", "slurmctld", "-f", conf], stdin=subprocess.PIPE)
    assert process.stdin is not None
    try:
        (root / "mine" / "pid" / "slurmctld.pid").write_text(f"{process.pid}\n")
        found = state.running_clusters()
    finally:
        process.stdin.close()
        process.wait()

    assert [("mine", process.pid, ("n1", "n2"))] == [(c.name, c.slurmctld_pid, c.nodes) for c in found]
    assert {"SLURM_CONF": conf, "HPCTRAIN_CLUSTER": "mine"} == found[0].env


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 99, "name": "mine"}', '{"version": 1, "name": "mine"}'])
def test_a_damaged_record_is_no_cluster(root: Path, text: str) -> None:
    """A record that was cut short, or is another version's, is treated as none."""
    record(root)
    (root / "mine" / "cluster.json").write_text(text)

    assert [] == state.known_clusters()


def test_a_directory_that_was_renamed_is_no_cluster(root: Path) -> None:
    """A record must be in the directory of its own name: its paths would lead elsewhere."""
    record(root)
    (root / "mine").rename(root / "copy")

    assert [] == state.known_clusters()


def test_an_unknown_name_lists_what_runs(root: Path) -> None:
    """Asking for a cluster that does not exist says how to make it."""
    with pytest.raises(NotFoundError) as caught:
        state.find_cluster("absent")
    assert "hpctrain cluster up --name absent" in caught.value.advice


def test_the_record_is_private(root: Path) -> None:
    """Other users can neither read nor change the record of a cluster."""
    record(root)

    assert 0o600 == (root / "mine" / "cluster.json").stat().st_mode & 0o777
