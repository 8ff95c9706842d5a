"""The worlds the Slurm contract runs in: the fake, and a private cluster behind each of the real adapters."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from hpctrain import process
from hpctrain.devcluster.cluster import Clusters
from hpctrain.devcluster.state import ClusterInfo
from hpctrain.ids import JobId, NodeName
from hpctrain.process import Result
from hpctrain.slurm.adapter import pyslurm_is_installed
from hpctrain.slurm.commands import clean_environment
from hpctrain.slurm.model import Job, JobState, Submission
from hpctrain.slurm.port import Slurm
from hpctrain.slurm.pyslurm_helper import COMMAND, Helper
from hpctrain.slurm.via_cli import SlurmCli
from hpctrain.slurm.via_pyslurm_client import SlurmPyslurm
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm

NOBODY = 65534
NODES = ("n1", "n2", "n3", "n4")


class World(Protocol):
    """A cluster of four nodes with eight GPUs each, and what a test may do to it behind Slurm's back."""

    slurm: Slurm
    work_dir: Path
    user: str

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Let time pass until something holds; fail the test if it never does."""

    def settle(self) -> None:
        """Let so much time pass that Slurm has forgotten the job's last start (see hpctrain/agent/lift_delay.py)."""

    def finish(self, job_id: JobId, exit_code: int) -> None:
        """Let a running job's script end."""

    def node_down(self, name: str) -> None:
        """Take a node out of Slurm's hands."""

    def boot(self, name: str) -> None:
        """Let a node boot that Slurm is to reboot."""

    def without_controller(self) -> Slurm:
        """The same adapter, with a controller that does not answer."""

    def as_stranger(self) -> Slurm:
        """The same cluster for another user without any rights."""

    def queries(self) -> int:
        """How often the controller was asked so far."""


class Driver:
    """What tests do in either world."""

    def __init__(self, world: World) -> None:
        self.world, self.slurm = world, world.slurm

    def submit(self, *options: str, nodes: int = 1) -> JobId:
        """Submit a job that runs until :meth:`World.finish`; it takes whole nodes in both worlds."""
        every = ("--exclusive", "--output=/dev/null", f"--nodes={nodes}")
        header = "".join(f"#SBATCH {option}\n" for option in (*every, *options))
        body = 'while [ ! -e "finish-$SLURM_JOB_ID" ]; do sleep 0.05; done; exit "$(cat "finish-$SLURM_JOB_ID")"\n'
        return self.slurm.submit(Submission(f"#!/bin/sh\n{header}{body}", str(self.world.work_dir)))

    def job(self, job_id: JobId) -> Job:
        """The job as it is now."""
        (job,) = self.slurm.jobs([job_id])
        return job

    def wait_for(self, job_id: JobId, state: JobState) -> Job:
        """Wait until a job is in a state, with no transition going on."""
        passing = {"COMPLETING", "CONFIGURING"}
        self.world.wait_until(lambda: (job := self.job(job_id)).state is state and not job.flags & passing)
        return self.job(job_id)

    def running(self, *options: str, nodes: int = 1) -> Job:
        """Submit a job and wait until it runs."""
        return self.wait_for(self.submit(*options, nodes=nodes), JobState.RUNNING)

    def ended(self, exit_code: int = 0) -> Job:
        """A job that ran and is over."""
        job = self.running()
        self.world.finish(job.job_id, exit_code)
        return self.wait_for(job.job_id, JobState.FAILED if exit_code else JobState.COMPLETED)


class FakeWorld:
    """Everything in memory."""

    def __init__(self, work_dir: Path) -> None:
        self.clock = FakeClock()
        self.fake = FakeSlurm(NODES, clock=self.clock, user="alice")
        self.slurm: Slurm = self.fake
        self.work_dir, self.user = work_dir, "alice"

    def wait_until(self, true: Callable[[], bool]) -> None:
        for _ in range(10):
            if true():
                return
            self.clock.advance(1)
        raise AssertionError("it never came true")

    def settle(self) -> None:
        self.clock.advance(4)

    def finish(self, job_id: JobId, exit_code: int) -> None:
        self.fake.finish(job_id, exit_code)

    def node_down(self, name: str) -> None:
        self.fake.node_down(name)

    def boot(self, name: str) -> None:
        self.clock.advance(60)
        self.fake.boot(name)

    def without_controller(self) -> Slurm:
        self.fake.controller_up = False
        return self.fake

    def as_stranger(self) -> Slurm:
        self.fake.user, self.fake.operator = "mallory", False
        return self.fake

    def queries(self) -> int:
        return len(self.fake.calls)


class RealWorld:
    """A private cluster. The commands are counted on their way."""

    def __init__(self, cluster: ClusterInfo, work_dir: Path) -> None:
        self.cluster, self.work_dir = cluster, work_dir
        self.user = process.run(["id", "-un"], timeout_s=10).stdout.strip()
        self.env = {**os.environ, **cluster.env}
        self._queries = 0
        self.slurm: Slurm = SlurmCli(self.env, runner=self._run)

    def wait_until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90  # on a busy machine more than 40 s were seen
        while not true():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.1)

    def settle(self) -> None:
        time.sleep(4)

    def finish(self, job_id: JobId, exit_code: int) -> None:
        (self.work_dir / f"finish-{job_id}.tmp").write_text(str(exit_code))
        (self.work_dir / f"finish-{job_id}.tmp").rename(self.work_dir / f"finish-{job_id}")

    def node_down(self, name: str) -> None:
        self._must("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=test")

    def boot(self, name: str) -> None:
        """Nothing: the cluster's RebootProgram does it."""

    def without_controller(self) -> Slurm:
        return SlurmCli(self._silent_env(), retries=1, clock=FakeClock())

    def _silent_env(self) -> dict[str, str]:
        """The same configuration with a port where nothing listens."""
        text = re.sub(r"(?m)^SlurmctldPort=.*", "SlurmctldPort=1", Path(self.cluster.slurm_conf).read_text())
        path = self.work_dir / "slurm.conf"
        path.write_text(text + "\nMessageTimeout=2\n")
        return {**self.env, "SLURM_CONF": str(path)}

    def as_stranger(self) -> Slurm:
        become = self._become_nobody()
        return SlurmCli(self.env, runner=lambda argv, **options: process.run([*become, *argv], **options), uid=NOBODY)

    def _become_nobody(self) -> list[str]:
        """What makes a command run as somebody without rights, who can reach the cluster."""
        if os.getuid() != 0:
            pytest.skip("only root can become somebody else; a private cluster has one user, its administrator")
        conf = Path(self.cluster.slurm_conf)
        for path in (conf, conf.with_name("gres.conf"), conf.with_name("health.conf")):
            path.chmod(0o644)
        for directory in [*conf.parents, *Path(self.cluster.munge_socket).parents]:
            if directory.stat().st_uid == 0 and directory != Path("/"):
                directory.chmod(directory.stat().st_mode | 0o011)
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

    def queries(self) -> int:
        return self._queries

    def clean(self) -> None:
        """Leave no job behind and every node in service."""
        self._must("scancel", f"--user={os.getuid()}")
        self.wait_until(lambda: all(job.state.finished for job in self.slurm.jobs()))
        self.wait_until(self._all_in_service)

    def _all_in_service(self) -> bool:
        """Give back what is out of service, again and again: 22.05 takes a node out that boots after it was resumed."""
        nodes = self.slurm.nodes()
        for node in nodes:
            if node.state == "DOWN" or node.drained:
                self._must("scontrol", "update", f"NodeName={node.name}", "State=RESUME")
        return all(node.state == "IDLE" and node.available for node in nodes)

    def _run(self, argv: list[str], **options: object) -> Result:
        self._queries += 1
        return process.run(argv, **options)  # type: ignore[arg-type]

    def _must(self, *argv: str) -> None:
        result = process.run(argv, timeout_s=20, env=self.env)
        assert result.ok, result


class PyslurmWorld(RealWorld):
    """The same private cluster behind pyslurm. Requests to its helper process are counted, and commands."""

    def __init__(self, cluster: ClusterInfo, work_dir: Path, helper: Helper) -> None:
        super().__init__(cluster, work_dir)
        self._helper, self._before, self._others = helper, helper.requests, list[Helper]()
        self.commands = self.slurm
        self.slurm = SlurmPyslurm(self.commands, helper, required=True)

    def without_controller(self) -> Slurm:
        env = self._silent_env()
        commands = SlurmCli(env, retries=1, clock=FakeClock())
        return SlurmPyslurm(commands, self._own_helper(env, COMMAND), retries=1, clock=FakeClock(), required=True)

    def as_stranger(self) -> Slurm:
        commands = super().as_stranger()
        helper = self._own_helper(self.env, (*self._become_nobody(), *COMMAND))
        return SlurmPyslurm(commands, helper, uid=NOBODY, required=True)

    def queries(self) -> int:
        return super().queries() + self._helper.requests - self._before

    def clean(self) -> None:
        for helper in self._others:
            helper.close()
        super().clean()
        assert isinstance(self.slurm, SlurmPyslurm)
        assert self.slurm.given_up == ""

    def _own_helper(self, env: dict[str, str], command: tuple[str, ...]) -> Helper:
        helper = Helper(clean_environment(env), self.commands.version, command=command)
        self._others.append(helper)
        return helper


@pytest.fixture(scope="session")
def pyslurm_helper(contract_cluster: ClusterInfo) -> Iterator[Helper]:
    """One helper process for all tests."""
    env = {**os.environ, **contract_cluster.env}
    helper = Helper(clean_environment(env), SlurmCli(env).version)
    yield helper
    helper.close()


@pytest.fixture(scope="session")
def contract_cluster() -> Iterator[ClusterInfo]:
    """A private cluster for this suite alone, in a state directory with a short path."""
    directory = Path(tempfile.mkdtemp(prefix="hpct-", dir="/tmp"))
    clusters, name = Clusters(directory / "clusters", say=print), f"contract-{os.getpid()}"
    try:
        yield clusters.up(name)
    finally:
        clusters.down(name)
        shutil.rmtree(directory, ignore_errors=True)


WORLDS = ["fake", pytest.param("cli", marks=pytest.mark.cluster), pytest.param("pyslurm", marks=pytest.mark.cluster)]


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, ugly_dir: Path) -> Iterator[World]:
    """One world after the other."""
    if request.param == "fake":
        yield FakeWorld(ugly_dir)
        return
    if request.param == "pyslurm" and not pyslurm_is_installed():
        pytest.skip(f"pyslurm is not installed for {sys.executable}; tests/docker runs this where it is")
    cluster = request.getfixturevalue("contract_cluster")
    if request.param == "pyslurm":
        real: RealWorld = PyslurmWorld(cluster, ugly_dir, request.getfixturevalue("pyslurm_helper"))
    else:
        real = RealWorld(cluster, ugly_dir)
    yield real
    real.clean()


@pytest.fixture
def slurm(world: World) -> Slurm:
    """The implementation under test."""
    return world.slurm


@pytest.fixture
def driver(world: World) -> Driver:
    """Helpers over it."""
    return Driver(world)


@pytest.fixture
def node() -> NodeName:
    """A node that exists."""
    return NodeName("n2")
