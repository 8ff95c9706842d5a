"""``hpctrain --remote`` from a laptop without Slurm, over a real SSH server, to a real private cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.devcluster.state import ClusterInfo
from hpctrain.fleet.remote_feed import object_name, tree_of
from hpctrain.fleet.remote_frames import PROTOCOL, Reader
from hpctrain.fleet.remote_parcel import gather
from hpctrain.jobs.find import read_run
from hpctrain.jobs.logs import EchoFilter, Selection, in_order
from hpctrain.jobs.tail import FileTail, find_sources
from hpctrain.process import Result
from tests.ssh_server import SSHD, SshServer, make_key, start_ssh_server

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("private_cluster")]

TALK = """
# Prints numbered lines, each different, until it is told to stop or has printed all of them.
import os, sys, time
from words import word
rank, start = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
for number in range(int(sys.argv[1])):
    print(word(), "start", start, "rank", rank, "line", number, flush=True)
    if number == 1:
        print("data:", open(sys.argv[2]).read().strip(), flush=True)
    time.sleep(0.02)
"""
RECIPE = """
version: 1
name: talk
command: [talk.py, "{lines}", "{data}"]
resources: {{nodes: 2, ranks_per_node: 1, cpus_per_node: 1, time_limit: 10m}}
env: {{PYTHONUNBUFFERED: "1"}}
"""


@dataclass
class Laptop:
    """A home directory with an SSH key and a profile, and a path on which there is no Slurm."""

    home: Path
    project: Path
    runs: Path
    env: dict[str, str]
    slurm_env: dict[str, str]
    program: list[str]
    cluster: str
    server: SshServer

    def run(self, *arguments: str, timeout_s: float = 240) -> Result:
        """``hpctrain ARGUMENT...`` here."""
        return process.run(self.argv(*arguments), timeout_s=timeout_s, env=self.env, cwd=str(self.project))

    def argv(self, *arguments: str) -> list[str]:
        """The words that start it."""
        return [sys.executable, "-m", "hpctrain", *arguments]

    def start(self, name: str, *arguments: str) -> tuple[process.Popen[bytes], Path, Path]:
        """Start it, with its output in files."""
        out, err = self.home / f"{name}.out", self.home / f"{name}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            started = process.start(
                self.argv(*arguments), env=self.env, cwd=str(self.project), stdout=stdout, stderr=stderr,
            )
        return started, out, err

    def recipe(self, lines: int) -> str:
        """A recipe of so many lines per rank; its name."""
        (self.project / "recipe.yaml").write_text(RECIPE.format(lines=lines, data="data.txt"))
        return "recipe.yaml"


@pytest.fixture(scope="module")
def server() -> Iterator[SshServer]:
    """An SSH server that the laptop's key opens."""
    if not Path(SSHD).exists():
        pytest.skip("not installed: openssh-server")
    home = Path(tempfile.mkdtemp(prefix="hpcr-", dir="/tmp"))
    public = make_key(home / "id")
    server = start_ssh_server(home / "server", public)
    yield server
    server.stop()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def laptop(
    server: SshServer, private_cluster: ClusterInfo, cluster_state_dir: Path, cluster_env: dict[str, str], ugly_dir: Path
) -> Iterator[Laptop]:
    """See :class:`Laptop`. What it has submitted is cancelled at the end."""
    home, runs, project = ugly_dir / "home", ugly_dir / "there/runs", ugly_dir / "home/my project"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    project.mkdir()
    shutil.copy(server.home.parent / "id", home / ".ssh/id_ed25519")
    (home / ".ssh/known_hosts").write_text(server.known())
    program = ["env", f"HPCTRAIN_STATE_DIR={cluster_state_dir}", f"HPCTRAIN_RUNS_DIR={str(runs).replace('$', '$$')}",
               "XDG_CONFIG_HOME=/nonexistent", sys.executable, "-m", "hpctrain"]
    (home / "config/hpctrain").mkdir(parents=True)
    (home / "config/hpctrain/config.toml").write_text(
        f'[remote.lab]\nhost = "{server.user}@127.0.0.1:{server.port}"\ncluster = "{private_cluster.name}"\n'
        f"command = {json.dumps(program)}\ngive_up_s = 60\n"
    )
    env = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "PATH": "/nonexistent",
           "HPCTRAIN_STATE_DIR": str(home / "state"), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    (project / "talk.py").write_text(TALK)
    (project / "words.py").write_text("def word():\n    return 'hello'\n")
    (project / "data.txt").write_text("sent along\n")
    laptop = Laptop(home, project, runs, env, cluster_env, program, private_cluster.name, server)
    yield laptop
    listed = laptop.run("--remote", "lab", "list", "--all", "-o", "json")
    names = [run["name"] for run in json.loads(listed.stdout)["runs"] if not run["final"]] if listed.ok else []
    if names:
        laptop.run("--remote", "lab", "cancel", *names)


def until(holds: Callable[[], object], timeout_s: float = 120) -> None:
    """Wait for something to hold."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_submit_and_look_from_a_laptop(laptop: Laptop) -> None:
    """Files go along once, a dry run leaves nothing, and every look at the run shows what it would show there."""
    recipe = laptop.recipe(5)
    tried = laptop.run("--remote", "lab", "submit", recipe, "--dry-run")
    assert tried.ok, tried.stderr
    assert tried.stdout.startswith("#!/bin/bash")
    assert not laptop.runs.exists()

    submitted = laptop.run("--remote", "lab", "submit", recipe, "--follow")
    assert submitted.ok, submitted.stderr
    assert "sending 4 files" in submitted.stderr
    name, *lines = submitted.stdout.splitlines()
    assert "data: sent along" in submitted.stdout
    assert "[rank 0 n1] hello start 0 rank 0 line 4" in lines

    again = laptop.run("--remote", "lab", "submit", recipe, "-o", "json")
    assert again.ok, again.stderr
    assert "sending" not in again.stderr
    second = json.loads(again.stdout)["submission"]["run_name"]
    listed = json.loads(laptop.run("--remote", "lab", "list", "-o", "json").stdout)["runs"]
    assert [run["name"] for run in listed] == [second, name]
    assert listed[1]["state"] == "finished"
    cancelled = laptop.run("--remote", "lab", "cancel", second)
    assert cancelled.ok, cancelled.stderr
    assert second in cancelled.stdout
    assert "finished" in laptop.run("--remote", "lab", "describe", name).stdout
    assert "submitted" in laptop.run("--remote", "lab", "events", name).stdout
    assert laptop.run("--remote", "lab", "why", name, "-o", "json").ok
    page = laptop.run("--remote", "lab", "report", name, "--html", "it's.html", "-o", "json")
    assert json.loads(page.stdout)["page"]["path"] == str(laptop.project / "it's.html")
    assert "</html>" in (laptop.project / "it's.html").read_text()
    missing = laptop.run("--remote", "lab", "describe", "no such $(touch pwned)")
    assert missing.returncode == 4 and "no run or job" in missing.stderr


def written(run_dir: Path) -> list[str]:
    """Every line of the run's logs as ``logs --all`` shows it, in no order, without those that stand in two files."""
    run = read_run(run_dir)
    assert run is not None
    echo = EchoFilter()
    streams = [FileTail(source).read(to_end=True) for source in find_sources(run.dir, Selection(all=True))]
    return sorted(f"{line.prefix} {line.text}".rstrip() for line in in_order(streams) if echo.passes(line))


def test_following_loses_and_doubles_no_line_when_the_connection_is_cut(laptop: Laptop) -> None:
    """Two cuts, the second over a requeue of the job: what was streamed is what stands in the files, line by line."""
    submitted = laptop.run("--remote", "lab", "submit", laptop.recipe(250), "-o", "json")
    assert submitted.ok, submitted.stderr
    document = json.loads(submitted.stdout)["submission"]
    name, job = document["run_name"], str(document["job_id"])
    follower, out, err = laptop.start("follow", "--remote", "lab", "logs", "-f", "--all", "--tail", "all", name)

    until(lambda: out.read_text().count(" line ") > 50)
    laptop.server.drop_connections()
    until(lambda: "connected to lab again" in err.read_text())
    seen = out.read_text().count(" line ")
    until(lambda: out.read_text().count(" line ") > seen + 50)
    laptop.server.drop_connections()
    assert process.run(["scontrol", "requeue", job], timeout_s=30, env=laptop.slurm_env).ok
    until(lambda: "start 1 rank 1 line 249" in out.read_text(), 300)
    assert follower.wait(timeout=120) == 0

    assert err.read_text().count("connected to lab again") == 2
    assert sorted(out.read_text().splitlines()) == written(Path(document["run_dir"]))
    assert err.read_text().count("the ranks were started again") == 1


def serving(runs: Path) -> list[int]:
    """Processes that answer 'hpctrain --remote' for runs of this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"remote-serve" in words and str(runs.parents[2]).encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_ctrl_c_ends_both_ends_and_not_the_job(laptop: Laptop) -> None:
    """A Ctrl-C here ends the process there too, says how to go on, and leaves the job; a killed client does the same."""
    follower, out, err = laptop.start("ctrl-c", "--remote", "lab", "submit", laptop.recipe(5000), "--follow")
    until(lambda: " line 5" in out.read_text(), 240)
    assert serving(laptop.runs)
    follower.send_signal(signal.SIGINT)
    assert follower.wait(timeout=30) == 130
    assert re.search(r"stopped following; job \d+ goes on", err.read_text())
    name = out.read_text().splitlines()[0]
    until(lambda: not serving(laptop.runs))

    killed, out, _ = laptop.start("killed", "--remote", "lab", "logs", "-f", name)
    until(lambda: " line " in out.read_text())
    killed.kill()
    killed.wait()
    until(lambda: not serving(laptop.runs))
    assert json.loads(laptop.run("--remote", "lab", "describe", name, "-o", "json").stdout)["run"]["state"] == "running"

    assert laptop.run("--remote", "lab", "cancel", name).ok


def test_submission_that_is_asked_for_twice_is_made_once(laptop: Laptop) -> None:
    """Two connections with the same submission at once, and a later one: one job, and all three are told of it."""
    laptop.recipe(1)
    parcel = gather("recipe.yaml", (), laptop.project)
    names = {item.path: object_name(item) for item in parcel.items}
    request = {
        "protocol": PROTOCOL, "op": "run", "argv": ["--cluster", laptop.cluster, "submit", "--", "recipe.yaml"],
        "request": "ab" * 16, "tree": tree_of(parcel, names),
        "sending": [[names[item.path], item.size_bytes] for item in parcel.items],
    }
    said = json.dumps(request).encode() + b"\n" + b"".join(item.path.read_bytes() for item in parcel.items)

    def ask() -> process.Popen[bytes]:
        argv = [*laptop.program, "remote-serve"]
        asked = process.start(argv, stdin=process.PIPE, stdout=process.PIPE, env=laptop.slurm_env)
        assert asked.stdin is not None
        asked.stdin.write(said)
        asked.stdin.flush()
        return asked

    def answer(asked: process.Popen[bytes]) -> str:
        assert asked.stdout is not None and asked.stdin is not None
        frames = Reader().feed(asked.stdout.read())
        asked.stdin.close()
        assert asked.wait() == 0 and frames[-1]["exit"] == 0
        return "".join(text for frame in frames for stream, text in frame.get("items", ()) if stream == 1)

    together = [ask(), ask()]
    told = {answer(asked) for asked in together} | {answer(ask())}
    listed = json.loads(laptop.run("--remote", "lab", "list", "--all", "-o", "json").stdout)["runs"]

    assert told == {f"{run['name']}\n" for run in listed}
    assert len(listed) == 1


def test_mistakes_are_told_at_once(laptop: Laptop) -> None:
    """No hpctrain there, no host there, a command that is not sent, a recipe that is not there."""
    config = laptop.home / "config/hpctrain/config.toml"
    config.write_text(config.read_text() + f'[remote.bare]\nhost = "{laptop.server.user}@127.0.0.1:{laptop.server.port}"\n'
                      'command = "no-hpctrain $(touch pwned)"\n[remote.nobody]\nhost = "127.0.0.1:1"\n')

    bare = laptop.run("--remote", "bare", "list")
    assert bare.returncode == 12 and "there is no 'no-hpctrain $(touch pwned)' on bare" in bare.stderr
    nobody = laptop.run("--remote", "nobody", "list")
    assert nobody.returncode == 14 and nobody.stdout == ""
    refused = laptop.run("--remote", "lab", "checkpoints", "list", "latest")
    assert refused.returncode == 2 and "does not work with --remote" in refused.stderr
    recipe = laptop.run("--remote", "lab", "submit", "nothing.yaml")
    assert recipe.returncode == 4 and "no such recipe" in recipe.stderr
    assert not list(laptop.home.parent.rglob("pwned"))
