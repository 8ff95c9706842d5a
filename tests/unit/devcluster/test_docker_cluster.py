"""The dockerised cluster as seen through what the docker command prints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster, docker_clusters
from hpctrain.errors import MissingDependencyError, NotFoundError, UsageError


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker command that prints a recorded list of containers and writes down how it was called."""
    script = tmp_path / "docker"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >>"$(dirname "$0")/calls"\ncat "$(dirname "$0")/answer" 2>/dev/null\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def container(service: str, number: int, status: str = "Up 3 minutes (healthy)") -> str:
    """A line of docker ps, as version 20.10 prints it."""
    labels = f"com.docker.compose.project=hpctrain-x,com.docker.compose.service={service},"
    labels += f"com.docker.compose.container-number={number},com.docker.compose.version=1.29.2"
    return json.dumps({"Names": f"hpctrain-x_{service}_{number}", "Labels": labels, "State": "running", "Status": status})


def test_machines_have_slurms_names_in_the_order_of_their_numbers(docker: Path) -> None:
    """Services come first, then c1, c2, c10; one that is starting is not healthy yet."""
    starting = container("login", 1, "Up 2 seconds (health: starting)")
    lines = [container("c", 10), container("c", 2), starting, container("c", 1)]
    (docker / "answer").write_text("\n".join(lines))
    machines = DockerCluster("x").machines()
    assert [one.name for one in machines] == ["login", "c1", "c2", "c10"]
    assert [one.healthy for one in machines] == [False, True, True, True]
    assert machines[1].container == "hpctrain-x_c_1"


def test_a_machine_that_is_not_there_is_named_with_what_to_do(docker: Path) -> None:
    """An unknown node is one clear error."""
    (docker / "answer").write_text(container("c", 1))
    with pytest.raises(NotFoundError, match="no machine 'c9'"):
        DockerCluster("x").exec("c9", ["true"])


def test_a_users_command_is_passed_word_by_word(docker: Path) -> None:
    """No shell sees the words of a command; it starts in the user's home directory."""
    (docker / "answer").write_text(container("login", 1))
    DockerCluster("x").exec("login", ["echo", "a b; $(id)"], user="bob")
    call = (docker / "calls").read_text().splitlines()[-1]
    assert call.startswith("exec --interactive --user bob --workdir /shared/home/bob")
    assert call.endswith("hpctrain-x_login_1 echo a b; $(id)")


def test_clusters_are_found_by_their_projects_and_images(docker: Path) -> None:
    """Containers of others are passed over, and the suite is that of the image."""
    (docker / "answer").write_text("hpctrain-a hpctrain-slurm:forky\nother nginx\nhpctrain-a hpctrain-slurm:forky\n")
    assert [(one.name, one.suite) for one in docker_clusters()] == [("a", "forky")]


@pytest.mark.parametrize("nodes", [0, 33])
def test_a_size_that_cannot_be_is_refused_before_anything_is_done(docker: Path, nodes: int) -> None:
    """No engine is asked, nothing is built."""
    with pytest.raises(UsageError, match="1 to 32"):
        DockerCluster("x").up(nodes)
    assert not (docker / "calls").exists()


def test_an_engine_that_does_not_answer_is_not_taken_for_an_empty_cluster(docker: Path) -> None:
    """Every command about a machine says that there is no engine, not that there is no such machine."""
    (docker / "docker").write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    with pytest.raises(MissingDependencyError, match="no Docker engine answers"):
        DockerCluster("x").container("c1")
