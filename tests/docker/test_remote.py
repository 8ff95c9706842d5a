"""``hpctrain --remote``: alice at a machine outside, without Slurm, and the login node of a cluster."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.devcluster.docker_cluster import DockerCluster

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]

TALK = """
import os, sys, time
from words import word
for number in range(200):
    print(word(), "rank", os.environ["RANK"], "line", number, flush=True)
    time.sleep(0.05)
"""
RECIPE = """
version: 1
name: talk
command: [talk.py]
resources: {nodes: 2, ranks_per_node: 1, cpus_per_node: 1, time_limit: 10m}
env: {PYTHONUNBUFFERED: "1"}
"""


@dataclass
class Laptop:
    """A machine of alice that knows the login node's key."""

    home: Path
    remote: str
    env: dict[str, str]

    def run(self, *arguments: str, timeout_s: float = 120) -> process.Result:
        """``hpctrain --remote alice@login ARGUMENT...``."""
        argv = [sys.executable, "-m", "hpctrain", "--remote", self.remote, *arguments]
        return process.run(argv, timeout_s=timeout_s, env=self.env, cwd=str(self.home))

    def start(self, out: Path, err: Path, *arguments: str) -> process.Popen[bytes]:
        """The same, with its output in files."""
        argv = [sys.executable, "-m", "hpctrain", "--remote", self.remote, *arguments]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            return process.start(argv, env=self.env, cwd=str(self.home), stdout=stdout, stderr=stderr)


@pytest.fixture
def laptop(docker_cluster: DockerCluster, tmp_path: Path) -> Iterator[Laptop]:
    """See :class:`Laptop`; alice's runs are cancelled at the end."""
    ssh = tmp_path / ".ssh"
    ssh.mkdir(mode=0o700)
    key = docker_cluster.exec("login", ["cat", ".ssh/id_ed25519"])
    host = docker_cluster.exec("login", ["cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
    assert key.ok and host.ok, key.stderr + host.stderr
    (ssh / "id_ed25519").touch(mode=0o600)
    (ssh / "id_ed25519").write_text(key.stdout)
    address = docker_cluster.address("login")
    (ssh / "known_hosts").write_text(f"{address} {' '.join(host.stdout.split()[:2])}\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "talk.py").write_text(TALK)
    (tmp_path / "words.py").write_text("def word():\n    return 'hello'\n")
    env = {"HOME": str(tmp_path), "PATH": "/nonexistent", "HPCTRAIN_STATE_DIR": str(tmp_path / "state"),
           "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    laptop = Laptop(tmp_path, f"alice@{address}", env)
    yield laptop
    listed = laptop.run("list", "--all", "-o", "json")
    names = [run["name"] for run in json.loads(listed.stdout)["runs"] if not run["final"]] if listed.ok else []
    if names:
        laptop.run("cancel", *names)


def until(true: Callable[[], object], what: str, timeout_s: float = 180) -> None:
    """Poll until something holds."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.2)


def test_alice_submits_from_outside_and_loses_no_line(docker_cluster: DockerCluster, laptop: Laptop) -> None:
    """Files, job, logs and a broken connection between two machines; what was sent is alice's alone."""
    out, err = laptop.home / "out", laptop.home / "err"
    following = laptop.start(out, err, "submit", "recipe.yaml", "--follow")
    until(lambda: " line 20" in out.read_text() or following.poll() is not None, "lines arrive")
    assert following.poll() is None, err.read_text()
    cut = docker_cluster.exec("login", ["pkill", "-KILL", "-u", "alice", "-f", "^sshd"], user="root")
    assert cut.ok, cut.stderr
    assert following.wait(timeout=240) == 0, err.read_text()

    assert f"connected to {laptop.remote} again" in err.read_text()
    name, *lines = out.read_text().splitlines()
    shown = [int(found[1]) for line in lines if (found := re.fullmatch(r"\[rank 0 c\d\] hello rank 0 line (\d+)", line))]
    assert shown == list(range(200))
    described = json.loads(laptop.run("describe", name, "-o", "json").stdout)["run"]
    assert described["state"] == "finished" and described["num_nodes"] == 2
    assert "submitted" in laptop.run("events", name).stdout

    sent = "/shared/home/alice/hpctrain-runs/.sent"
    assert docker_cluster.exec("login", ["test", "-d", f"{sent}/trees"]).ok
    for user, command in (("bob", ["ls", sent]), ("bob", ["sh", "-c", f"cat {sent}/trees/*/*"])):
        assert not docker_cluster.exec("login", command, user=user).ok
    assert not docker_cluster.exec("login", ["pgrep", "-u", "alice", "-f", "remote-serve"]).ok
