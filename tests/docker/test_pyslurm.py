"""The Slurm contract with real pyslurm, in a container of the image: a private cluster of its Slurm, and both adapters.

The checkout's code runs there, as a user without rights, with the image's Python, Slurm and pyslurm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from hpctrain import process
from hpctrain.devcluster.docker_image import DEFAULT_SUITE, SUITES
from hpctrain.process import Result
from tests.docker.suites import suite_image
from tests.source_tree import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]  # the first use builds the image
OTHERS = [suite for suite in SUITES if suite != DEFAULT_SUITE]
WITHOUT = ("bookworm",)
"""Where pyslurm does not build."""
USER = "alice"
"""Not nobody: from Slurm 26.05 on, that cannot be SlurmUser."""
PYTHON = "/opt/hpctrain/bin/python"
PYTEST = ("-m", "pytest", "--override-ini=addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-rA", "-q")
LINE = re.compile(r"^(\w+) \S+\[(fake|cli|pyslurm)[\]-]", re.M)


class Container:
    """A container of the image that does nothing by itself; commands run in it as an ordinary user."""

    def __init__(self, image: str, suite: str = DEFAULT_SUITE) -> None:
        self.suite, self.slurm = suite, SUITES[suite]
        env = {"PYTHONPATH": "/source", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"}
        options = [f"--env={key}={value}" for key, value in env.items()]
        started = process.run(
            ["docker", "run", "--detach", "--rm", "--init", f"--user={USER}", "--workdir=/source",
             f"--volume={ROOT}:/source:ro", "--entrypoint=sleep", *options, image, "infinity"],
            timeout_s=120,
        )  # fmt: skip
        assert started.ok, started.stderr
        self.id = started.stdout.strip()

    def run(self, *argv: str, user: str = USER, timeout_s: float = 900, **env: str) -> Result:
        """Run a command to its end."""
        options = [f"--env={key}={value}" for key, value in ({"USER": user} | env).items()]
        return process.run(["docker", "exec", f"--user={user}", *options, self.id, *argv], timeout_s=timeout_s)

    def remove(self) -> None:
        """End it, with all that runs in it."""
        process.run(["docker", "rm", "--force", self.id], timeout_s=60)


@pytest.fixture(scope="module", params=[DEFAULT_SUITE, *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)])
def container(request: pytest.FixtureRequest) -> Iterator[Container]:
    """One of each image for all tests of this file."""
    made = Container(suite_image(request.param), request.param)
    yield made
    made.remove()


@pytest.fixture
def with_pyslurm(container: Container) -> Container:
    """The container, where its image has pyslurm."""
    if container.suite in WITHOUT:
        pytest.skip(f"pyslurm does not build for Slurm {container.slurm}")
    return container


def passed(output: str, world: str) -> int:
    """How many tests of a world passed; the test fails if one did not."""
    found = [(status, name) for status, name in LINE.findall(output) if name == world]
    assert not [pair for pair in found if pair[0] in ("FAILED", "ERROR")], output[-4000:]
    return sum(status == "PASSED" for status, _ in found)


def test_both_adapters_pass_the_contract(container: Container) -> None:
    """The whole suite, once per adapter, against the slurmctld of the image's Slurm, with pyslurm really talking to it."""
    result = container.run(PYTHON, *PYTEST, "tests/contract/test_slurm_port.py", "-k", "not fake")

    assert result.ok, result.stdout[-6000:] + result.stderr[-2000:]
    assert passed(result.stdout, "cli") >= 55
    if container.suite in WITHOUT:
        assert passed(result.stdout, "pyslurm") == 0
        return
    assert passed(result.stdout, "pyslurm") == passed(result.stdout, "cli")
    skipped = set(re.findall(r"^SKIPPED .*", result.stdout, re.M))
    assert all("only root" in line for line in skipped), skipped


def test_the_helper_process_may_be_killed_stopped_and_led_astray(with_pyslurm: Container) -> None:
    """With the real library: the tests of the helper's own process run, none is skipped."""
    result = with_pyslurm.run(PYTHON, *PYTEST, "tests/contract/test_pyslurm_process.py")

    assert result.ok, result.stdout[-6000:]
    assert "4 passed" in result.stdout


def test_doctor_says_which_way_is_taken(with_pyslurm: Container) -> None:
    """It is there, was built for this Slurm, and is used by what stays; the commands by what does not."""
    env = {"HPCTRAIN_STATE_DIR": "/tmp/d", "HPCTRAIN_RUNS_DIR": "/tmp/runs"}
    up = with_pyslurm.run(PYTHON, "-m", "hpctrain", "cluster", "up", "--nodes", "1", **env)
    assert up.ok, up.stderr
    try:
        told = with_pyslurm.run(PYTHON, "-m", "hpctrain", "doctor", "-o", "json", **env)
    finally:
        with_pyslurm.run(PYTHON, "-m", "hpctrain", "cluster", "down", **env)

    assert told.ok, told.stdout + told.stderr
    found = json.loads(told.stdout)["doctor"]
    checks = {check["name"]: check for check in found["checks"]}
    assert found["adapters"] == {"commands": "cli", "staying": "pyslurm"}
    assert "submit" in found["delegated"]
    series = with_pyslurm.slurm.replace(".0", ".")  # pyslurm writes numbers
    assert re.search(rf"25\.11\.2.*, built for Slurm {re.escape(series)}\.", checks["pyslurm"]["text"])
    assert checks["controller"]["status"] == "ok"


def test_strangers_have_no_rights_through_pyslurm(with_pyslurm: Container) -> None:
    """The test that needs root, because only root can become somebody else."""
    chosen = "strangers and not fake"
    result = with_pyslurm.run(PYTHON, *PYTEST, "tests/contract/test_slurm_port.py", "-k", chosen, user="root")

    assert result.ok, result.stdout[-6000:]
    assert passed(result.stdout, "pyslurm") == passed(result.stdout, "cli") == 1
