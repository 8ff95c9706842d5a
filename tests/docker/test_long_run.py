"""One run of Alice's that outlives what happens around it: curious users, restarts of Slurm, a cut network, a lost host."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster
from tests.docker import intruder
from tests.docker.people import SMALL, Person, Run, the_queue_is_written, until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(docker_cluster: DockerCluster) -> Iterator[Run]:
    """A run that trains on two nodes, with a spare; each test leaves it training."""
    alice = Person(docker_cluster, "alice")
    sets = {**SMALL, "training.steps": 1_000_000, "resources.spares": 1, "resilience.max_restarts": 1000}
    with alice:
        made = alice.submit("quickstart", sets)
        made.until_step(20)
        yield made


@pytest.fixture
def bob(docker_cluster: DockerCluster) -> Person:
    """Another ordinary user."""
    return Person(docker_cluster, "bob")


def test_nobody_else_reads_a_run(run: Run, bob: Person) -> None:
    """Bob finds nothing of it in the run directory, on the login node as on the nodes, but what Slurm itself shows."""
    for host in ("login", *run.nodes()):
        found = bob.python(intruder.FILES, run.dir, on=host)
        assert found.ok, found.stderr
        assert found.stdout.split() == [], f"on {host}"
    assert bob.run("scontrol", "write", "batch_script", str(run.id), "-").stdout.count("plan.json") == 0


def test_nobody_else_reads_memory_and_secrets(run: Run, bob: Person) -> None:
    """Neither by /proc nor by the keeper's socket nor over TCP: RAM tier, environment, secret; Alice herself can."""
    node = run.nodes()[0]
    tried = bob.python(intruder.PROCESSES, "alice", on=node)
    assert tried.ok, tried.stderr
    seen = dict(line.split("=", 1) for line in tried.stdout.splitlines())
    assert int(seen["processes"]) > 5
    assert seen["opened"] == "", tried.stdout
    assert int(seen["keepers"]) == 1
    assert seen["spoke"] == "", tried.stdout
    secret = run.read("control/keeper.secret").strip()
    assert len(secret) > 20
    assert secret not in seen["arguments"]

    own = run.owner.python(intruder.PROCESSES, "alice", on=node).stdout
    assert "memfd" in own, own

    state = run.json("control/coordinator.json")
    answer = bob.python(intruder.COORDINATOR, str(state["addr"]), str(state["port"]), on="login")
    assert answer.stdout.strip() == "refused", answer.stdout + answer.stderr


def test_nobody_else_steers_a_run(run: Run, bob: Person) -> None:
    """Cancelling, queueing again, holding, drilling and signalling by others are refused, and the run does not notice."""
    incarnation = run.incarnation()
    for argv in (["scancel", str(run.id)], ["scontrol", "requeue", str(run.id)], ["scontrol", "hold", str(run.id)],
                 ["scontrol", "update", f"JobId={run.id}", "TimeLimit=1"],
                 ["srun", f"--jobid={run.id}", "--overlap", "true"],
                 ["hpctrain", "cancel", run.dir], ["hpctrain", "cancel", str(run.id)],
                 ["hpctrain", "drill", "kill-rank", run.dir, "--yes"], ["hpctrain", "logs", run.dir]):
        refused = bob.run(*argv)
        assert not refused.ok, f"{argv}: {refused.stdout}"
        if argv[0] == "hpctrain":
            assert refused.returncode in (4, 8), refused.stderr
            assert refused.stderr.startswith("error: ")
            assert "Traceback" not in refused.stderr
    assert (run.state(), run.incarnation()) == ("RUNNING", incarnation)


def test_slurm_restarts_under_load(run: Run, docker_cluster: DockerCluster, bob: Person) -> None:
    """Slurmctld and slurmdbd die while jobs are submitted: the run trains on, and the accounting has all of the jobs."""
    before, incarnation = run.step(), run.incarnation()
    # Longer than slurmctld is away: an end that it has heard of and not written down when it is killed is lost, too.
    job = "#!/bin/sh\nsleep 15\n"
    wrap = ["sbatch", "--parsable", "--array=1-8", "--time=1", "--mem=10M", "--output=/dev/null"]
    ids = [int(bob.must(*wrap, stdin=job).strip())]
    until(lambda: len(bob.run("squeue", "-h", "-r", "-t", "R", "-j", str(ids[0])).stdout.split("\n")) > 8, "their start")
    # What slurmctld has not written down when it is killed is lost with Slurm anywhere, and its number is given out again.
    the_queue_is_written(docker_cluster)
    # One after the other: a slurmctld that starts while slurmdbd's host is gone answers nobody for minutes.
    assert docker_cluster.exec("slurmctld", ["pkill", "-KILL", "-x", "slurmctld"], user="root").ok
    assert docker_cluster.exec("slurmctld", ["slurmctld"], user="root").ok
    until(lambda: bob.run("scontrol", "ping").stdout.count("UP"), "slurmctld")
    docker_cluster.kill("slurmdbd")
    ids.append(int(bob.must(*wrap, stdin=job).strip()))
    docker_cluster.start("slurmdbd")

    run.until_step(before + 1)
    assert run.incarnation() == incarnation
    listed = ",".join(map(str, ids))
    until(lambda: not bob.run("squeue", "-h", "-j", listed).stdout.strip(), "the end of the jobs",
          lambda: bob.run("squeue", "-a").stdout)

    def accounted() -> int:
        return bob.run("sacct", "-X", "-n", "-P", "-j", listed, "-o", "State").stdout.split().count("COMPLETED")

    until(lambda: accounted() == 16, "the accounting of 16 jobs", lambda: str(accounted()))


def test_drills_reach_other_hosts(run: Run) -> None:
    """Alice breaks her own run from the login node: what is struck is on a node, and comes back on the promised rung."""
    for kind, rung in (("kill-rank", "R1"), ("kill-keeper", ""), ("time-limit", "R3")):
        (drill,) = json.loads(run.owner.must("hpctrain", "drill", kind, run.name, "--yes", "--any-time", "-o", "json",
                                             timeout_s=400))["drills"]
        assert drill["kept"], drill
        assert (drill["rung"] or "") == rung, drill


def test_a_cut_network(run: Run, docker_cluster: DockerCluster) -> None:
    """A node that nobody reaches any more loses its place to the spare; what still runs there ends and disturbs nothing."""
    incarnation, cut = run.incarnation(), run.nodes()[1]
    docker_cluster.disconnect(cut)
    try:
        run.until_it_trains_again(incarnation)
        assert cut not in run.nodes()
        # On the node itself, which still sees the run's files: its ranks must not go on.
        until(lambda: not docker_cluster.exec(cut, ["pgrep", "-u", "alice"]).stdout.strip(),
              "the end of what runs there", run.told)
    finally:
        docker_cluster.reconnect(cut)
    assert [event["evidence"]["rung"] for event in run.events("recovery.started")][-1] == "R2"
    step = run.step()
    run.until_step(step + 20)
    oper = Person(docker_cluster, "oper")
    until(lambda: "NOT_RESPONDING" not in (shown := oper.must("scontrol", "show", "node", cut)) and "DOWN" not in shown,
          f"{cut} in service", run.told)


def test_the_batch_host_is_lost(run: Run, docker_cluster: DockerCluster) -> None:
    """Slurm does not notice it; an agent of another node has the job queued again, and no durable step is done twice."""
    incarnation, before = run.incarnation(), run.slurm()
    run.until(lambda: run.events("checkpoint.saved"), "a durable checkpoint")
    durable = max(event["step"] for event in run.events("checkpoint.saved"))
    begun = float(docker_cluster.exec("login", ["date", "+%s"]).stdout)
    docker_cluster.kill(before["BatchHost"])
    try:
        # It must not return before: Slurm would then find out by itself that the batch script is gone.
        run.until(lambda: run.slurm().get("Restarts", "0") != before["Restarts"], "the requeue")
    finally:
        docker_cluster.start(before["BatchHost"])
    run.until_it_trains_again(incarnation)
    assert [event for event in run.events("agent.lost_coordinator") if event["time"] > begun], run.told()
    assert run.events("checkpoint.restored")[-1]["step"] >= durable, run.told()
