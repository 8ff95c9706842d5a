"""The configuration of a private cluster as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.devcluster.layout import Layout, Spec, check_name
from hpctrain.devcluster.slurm_conf import (
    Host,
    check_path,
    parse_version,
    render_cgroup_conf,
    render_gres_conf,
    render_slurm_conf,
)
from hpctrain.errors import UsageError

GOLDEN = Path(__file__).parents[2] / "golden" / "devcluster"
SPEC = Spec("default", nodes=4, gpus_per_node=8, controller_port=17000, runtime_dir="/state/clusters/default")
LAYOUT = Layout(Path("/state/clusters/default"), Path("/state/clusters/default"))
HOST = Host("ada", (22, 5))


def test_slurm_conf_is_the_golden_one() -> None:
    """The whole slurm.conf of the default cluster is the one that was reviewed."""
    assert (GOLDEN / "slurm.conf").read_text() == render_slurm_conf(SPEC, LAYOUT, HOST)


def test_gres_conf_is_the_golden_one() -> None:
    """The whole gres.conf of the default cluster is the one that was reviewed."""
    assert (GOLDEN / "gres.conf").read_text() == render_gres_conf(SPEC, LAYOUT)


def test_a_single_node_and_gpu_need_no_brackets() -> None:
    """Slurm refuses a range of one port beside one name: both are written plain."""
    spec = replace(SPEC, nodes=1, gpus_per_node=1)

    assert "NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=17001 " in render_slurm_conf(spec, LAYOUT, HOST)
    assert "NodeName=n1 Name=gpu Type=sim File=/state/clusters/default/gpus/gpu0\n" in render_gres_conf(spec, LAYOUT)


def test_a_cluster_without_gpus_has_no_gres() -> None:
    """With no GPUs neither file mentions any, so that asking for one is refused by Slurm."""
    spec = replace(SPEC, gpus_per_node=0)

    assert "gpu" not in render_slurm_conf(spec, LAYOUT, HOST).lower()
    assert "NodeName" not in render_gres_conf(spec, LAYOUT)


@pytest.mark.parametrize(
    ("version", "plugin"), [((21, 8), "cgroup/v1"), ((24, 4), "cgroup/v1"), ((24, 5), "disabled"), ((26, 5), "disabled")]
)
def test_cgroups_are_kept_out_in_every_version(version: tuple[int, int], plugin: str) -> None:
    """Each Slurm version gets the cgroup plugin that leaves an ordinary user's cgroups alone."""
    assert f"CgroupPlugin={plugin}\n" == render_cgroup_conf(replace(HOST, slurm_version=version))


@pytest.mark.parametrize(
    ("text", "version"), [("slurm-wlm 22.05.8\n", (22, 5)), ("slurm 24.11.5", (24, 11)), ("what?", (0, 0))]
)
def test_versions_are_read_from_what_slurmd_prints(text: str, version: tuple[int, int]) -> None:
    """Debian's and SchedMD's wording both parse; anything else is the oldest version."""
    assert version == parse_version(text)


@pytest.mark.parametrize("path", ["/home/a b", "/home/a#b", "/home/%n", "/x,y", "/x\ny", "/x'y"])
def test_paths_that_slurm_conf_cannot_hold_are_refused(path: str) -> None:
    """A character that would end or change a value in slurm.conf is refused before anything is written."""
    with pytest.raises(UsageError, match=r"slurm\.conf cannot hold"):
        check_path(path)


@pytest.mark.parametrize("name", ["", ".", "..", "A", "a/b", "a b", "$(id)", "-a", "a" * 41, "a\n"])
def test_names_that_are_not_safe_everywhere_are_refused(name: str) -> None:
    """A cluster's name ends up in paths, in slurm.conf and in shells: only harmless ones are taken."""
    with pytest.raises(UsageError):
        check_name(name)


def test_ports_follow_the_controllers() -> None:
    """Every node's slurmd has the port that slurm.conf gives it."""
    assert [17001, 17004] == [SPEC.slurmd_port("n1"), SPEC.slurmd_port("n4")]
    assert "Port=[17001-17004]" in render_slurm_conf(SPEC, LAYOUT, HOST)
