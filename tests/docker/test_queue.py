"""What Slurm itself does to jobs: preemption by a better QOS, and the time limit."""

from __future__ import annotations

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster
from tests.counting import COUNT
from tests.docker.people import Person, Run

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]


def counting(who: Person, to: int, **resources: object) -> Run:
    """Submit a run that counts, one rank on each node."""
    recipe = who.script("count", COUNT, {"command": ["count.py", str(to)], "resources": {"ranks_per_node": 1, **resources}})
    return who.submit(recipe, {})


def places(run: Run) -> list[int]:
    """Where each start of rank 0 began."""
    lines = run.owner.must("sh", "-c", f"cat {run.dir}/logs/i*/rank-00000@*.log").splitlines()
    return [int(line.split()[-1]) for line in lines if line.split()[1:2] == ["from"]]


def test_preemption_and_return(docker_cluster: DockerCluster) -> None:
    """Alice's urgent job takes the nodes from Bob's, which is queued again, returns, and goes on where it was."""
    with Person(docker_cluster, "alice") as alice, Person(docker_cluster, "bob") as bob:
        his = counting(bob, 200, nodes=4, gpus_per_node=8, time_limit="30m", qos="normal")
        his.until(lambda: int(his.read("place-0") or 0) > 5, "Bob's start")

        hers = counting(alice, 20, nodes=1, gpus_per_node=8, time_limit="30m", qos="high")
        hers.finish()
        assert hers.slurm()["Restarts"] == "0"
        assert int(his.slurm()["Restarts"]) >= 1, his.told()
        his.finish()
        goes_on(his)


@pytest.mark.long  # minutes, since Slurm's limit is one of minutes; the drill of test_long_run.py reaches it in seconds
@pytest.mark.timeout(1200)
def test_the_time_limit(docker_cluster: DockerCluster) -> None:
    """Slurm's own limit, which it has in minutes: the run saves before it, is queued again, and goes on, to its end."""
    with Person(docker_cluster, "alice") as alice:
        recipe = alice.script("count", COUNT, {
            "command": ["count.py", "1200"], "resources": {"nodes": 1, "ranks_per_node": 1, "time_limit": "2m"},
            "resilience": {"stop_before_limit": "20s"}})
        run = alice.submit(recipe, {})
        run.finish(timeout_s=1000)
        assert [event for event in run.events("job.requeued") if "limit" in event["reason"]], run.told()
        goes_on(run)


def goes_on(run: Run) -> None:
    """Every start began where the one before had come to, and none counts as a failure."""
    begun = places(run)
    assert len(begun) >= 2, run.told()
    assert begun == sorted(begun), f"{run.name} began at {begun}"
    assert begun[1] > 0, run.told()
    assert not run.events("fault.detected"), run.told()
