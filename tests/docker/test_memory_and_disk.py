"""A job that uses up what it has of a node's memory, and one whose file system fills up."""

from __future__ import annotations

import json

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster
from tests.docker.people import SMALL, Person

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

GREEDY = """
# The last rank of the first start takes ever more memory, as a leak would.
import os, time
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 32)
time.sleep(3)
print("done", flush=True)
"""


def test_a_rank_that_takes_too_much_memory(docker_cluster: DockerCluster) -> None:
    """The job's control group ends the rank, not the agent: the run says so, starts again on the same nodes, ends well."""
    alice = Person(docker_cluster, "alice")
    if "task/cgroup" not in alice.must("scontrol", "show", "config"):
        pytest.skip("Slurm holds no job to its memory here: this engine gives the containers no control groups of their own")
    recipe = alice.script("greedy", GREEDY, {
        "command": ["greedy.py"],
        "resources": {"nodes": 2, "ranks_per_node": 1, "memory_per_node": "900MiB", "time_limit": "10m"}})
    run = alice.submit(recipe, {})
    run.finish()

    (failed,) = run.events("rank.failed")
    assert "want of memory" in failed["reason"], run.told()
    assert failed["evidence"]["signal"] == 9
    assert [event["evidence"]["rung"] for event in run.events("recovery.started")] == ["R1"], run.told()
    (attempt,) = [json.loads(line) for line in run.read("control/attempts.jsonl").splitlines()]
    assert attempt["cause"] == "host_memory"


def test_the_shared_file_system_is_full(docker_cluster: DockerCluster) -> None:
    """Training goes on without it, and says so; when there is room again, checkpoints are whole again."""
    alice, bob = Person(docker_cluster, "alice"), Person(docker_cluster, "bob")
    place = "/small/runs"
    alice.must("mkdir", "-p", "-m", "700", place)
    sets = {**SMALL, "training.steps": 1_000_000, "checkpoint.every_steps": 25}
    run = alice.submit("quickstart", sets, runs_dir=place)
    try:
        run.until(lambda: run.events("checkpoint.saved"), "a checkpoint")
        bob.run("sh", "-c", "cat /dev/zero >/small/full-of-bob")
        run.until(lambda: run.events("checkpoint.degraded", "checkpoint.failed"), "the notice")
        alive = run.slurm()
        assert (alive["JobState"], alive["Restarts"]) == ("RUNNING", "0"), run.told()
        bob.must("rm", "/small/full-of-bob")
        run.until(lambda: run.events("checkpoint.recovered"), "a whole checkpoint")
        assert run.incarnation() == 0, run.told()
    finally:
        bob.run("rm", "-f", "/small/full-of-bob")
        run.cancel()
        alice.run("rm", "-rf", place)
