"""Accounting on a cluster with slurmdbd: a requeued run is one run, and a database that is down loses nothing."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

RECIPE = """
version: 1
name: accounted
command: [wait.py]
resources: {nodes: 1, gpus_per_node: 2, cpus_per_node: 4, memory_per_node: 2GiB, time_limit: 10m}
"""
WAIT = """
import os, pathlib, time
place = pathlib.Path(os.environ["HPCTRAIN_RUN_DIR"])
while not (place / "end").exists():
    time.sleep(0.2)
"""


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 180) -> None:
    """Poll until something holds."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.5)


class Alice:
    """An ordinary user on the login node."""

    def __init__(self, cluster: DockerCluster) -> None:
        self.cluster = cluster

    def must(self, command: str, *, timeout_s: float = 120) -> str:
        """Run a command line; its standard output."""
        answer = self.cluster.exec("login", ["bash", "-c", command], timeout_s=timeout_s)
        assert answer.ok, f"{command}\n{answer.stdout}\n{answer.stderr}"
        return answer.stdout

    def ask(self, *words: str) -> tuple[dict[str, Any], str]:
        """The JSON of an hpctrain command, and what it said besides."""
        answer = self.cluster.exec("login", ["hpctrain", *words, "-o", "json"], timeout_s=180)
        assert answer.ok, f"{words}\n{answer.stdout}\n{answer.stderr}"
        document = json.loads(answer.stdout)
        return document[document["kind"]], answer.stderr

    def state(self, job: int) -> str:
        """Slurm's word for a job."""
        return self.must(f"squeue -h -t all -j {job} -o %T").strip()

    def usage_of(self, key: str) -> dict[str, Any]:
        """One row of 'hpctrain usage'; {} if there is none."""
        rows = self.ask("usage", "--since", "1h")[0]["rows"]
        return next((row for row in rows if row["key"] == key), {})


@pytest.fixture
def alice(docker_cluster: DockerCluster) -> Iterator[Alice]:
    """Alice; no job of hers is left behind, and the database runs."""
    made = Alice(docker_cluster)
    yield made
    if not any(one.name == "slurmdbd" and one.healthy for one in docker_cluster.machines()):
        docker_cluster.start("slurmdbd")
    made.must("scancel --me")
    wait_until(lambda: not made.must("squeue -h --me").strip(), "an empty queue")


def test_a_requeued_run_is_one_run_with_its_attempts(alice: Alice) -> None:
    """Usage counts it once, report lists both starts, list knows it; and afterwards also without its directory."""
    files = f"mkdir -p work && cd work && printf %s {shlex.quote(RECIPE)} >a.yaml && printf %s {shlex.quote(WAIT)} >wait.py"
    alice.must(files)
    answer = alice.cluster.exec("login", ["hpctrain", "submit", "work/a.yaml", "-o", "json"], timeout_s=180)
    assert answer.ok, answer.stderr
    (run,) = [one for one in alice.ask("list")[0] if one["name"].startswith("accounted") and not one["final"]]
    job, name, place = run["id"], run["name"], run["run_dir"]
    wait_until(lambda: alice.ask("describe", name)[0]["state"] in ("starting", "running"), "it has started")
    alice.must(f"scontrol requeue {job}")
    wait_until(lambda: alice.state(job) in ("PENDING", "RUNNING"), "it is in the queue again")
    # Slurm would hold it back for two minutes.
    wait_until(
        lambda: (alice.must(f"scontrol update JobId={job} StartTime=now >/dev/null 2>&1 || true"), alice.state(job))[1]
        == "RUNNING", "it runs again",
    )  # fmt: skip
    alice.must(f"touch {shlex.quote(place)}/end")
    wait_until(lambda: alice.state(job) == "COMPLETED", "it ends well")

    wait_until(lambda: alice.usage_of(name).get("outcomes", {}).get("COMPLETED") == 1, "the database has heard of it")
    row = alice.usage_of(name)
    assert (row["jobs"], row["attempts"], row["requeues"]) == (1, 2, 1)
    assert row["outcomes"] == {"COMPLETED": 1, "REQUEUED": 1}
    assert row["gpu_hours"] == pytest.approx(2 * row["node_hours"], abs=2e-4)  # both are rounded to 4 digits
    assert row["cpu_hours"] >= 4 * row["node_hours"] - 4e-4  # likewise
    report, said = alice.ask("report", name)
    assert [one["outcome"] for one in report["accounting"]["attempts"]] == ["REQUEUED", "COMPLETED"]
    assert all(one["gpus"] == 2 for one in report["accounting"]["attempts"])
    assert said == ""
    listed, said = alice.ask("list", "--all", "--since", "1h")
    assert [(one["id"], one["state"]) for one in listed if one["name"] == name] == [(job, "finished")]
    assert said == ""

    alice.must(f"rm -rf {shlex.quote(place)}")
    wait_until(lambda: alice.usage_of(name) != {}, "its comment names the run")
    lost = [one for one in alice.ask("list", "--all", "--since", "1h")[0] if one["name"] == name]
    assert [(one["id"], one["run_dir"], one["slurm_state"]) for one in lost] == [(job, "", "COMPLETED")]


def test_usage_by_account_of_everybody(alice: Alice) -> None:
    """An ordinary user sees what the site shows to all: here everybody's jobs."""
    job = alice.must("sbatch --parsable --output=/dev/null --mem=100 --wrap true").strip()
    wait_until(lambda: alice.state(int(job)) == "COMPLETED", "it ends")
    wait_until(lambda: alice.ask("usage", "--all-users", "--by", "account")[0]["total"]["jobs"] > 0, "it is on record")
    found, _ = alice.ask("usage", "--all-users", "--by", "account")
    assert "research" in {row["key"] for row in found["rows"]}
    assert found["capacity"]["gpu_hours"] > 0


def test_a_database_that_is_down_loses_nothing(alice: Alice, docker_cluster: DockerCluster) -> None:
    """A sentence says so, the controller's view is added up, and afterwards everything is on record."""
    docker_cluster.kill("slurmdbd")
    name = f"meanwhile-{time.time():.0f}"
    script = f"sbatch --parsable --output=/dev/null --mem=100 --job-name={name} --wrap 'sleep 2'"
    job = int(alice.must(script).strip())
    wait_until(lambda: alice.state(job) == "COMPLETED", "it ends without a database")
    found, said = alice.ask("usage", "--since", "1h")
    assert found["source"] == "records"
    assert "accounting database" in said
    assert name in {row["key"] for row in found["rows"]}
    docker_cluster.start("slurmdbd")
    wait_until(lambda: alice.ask("usage", "--since", "1h")[0]["source"] == "accounting", "the database answers again")
    wait_until(lambda: alice.usage_of(name).get("outcomes") == {"COMPLETED": 1}, "the controller has sent the rest")
