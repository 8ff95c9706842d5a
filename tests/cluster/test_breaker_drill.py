"""A bad driver roll-out: every node has the fault at once, and no more are drained than the breaker permits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hpctrain.clock import SystemClock
from hpctrain.devcluster.faults import FAULTS
from hpctrain.health.breaker import held_slots
from hpctrain.health.config import parse_config
from hpctrain.health.policy import Fleet, Limits, permitted
from hpctrain.nodes.service import Nodes
from hpctrain.slurm.via_cli import SlurmCli
from tests.cluster.checked_cluster import HealthCluster, Seen, checked_cluster, wait_for
from tests.cluster.conftest import require_slurm

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

AT_ONCE = 8
"""Prologs that really run at the same time, as many as two cores bear; the others wait for their turn in Slurm's hands."""
REASON = "hpctrain: gpu_driver: driver and library do not fit (module 580.65.06, library unknown)"
FAULT = FAULTS["driver-mismatch"]


@contextmanager
def rolled_out(root: Path, nodes: int, *, interval_s: int) -> Iterator[tuple[HealthCluster, int, Path]]:
    """A cluster with a breaker in which every node has got the bad driver; the limit, and the breaker's directory."""
    require_slurm()
    limit = permitted(Fleet(nodes), Limits())
    with checked_cluster(root, f"breaker-{nodes}-{os.getpid()}", nodes, interval_s=interval_s, held=True) as made:
        slots = made.directory / "breaker"
        slots.mkdir()
        made.configure(breaker={"directory": str(slots), "slots": limit, "timeout_s": 30})
        (made.directory / "turns").mkdir()
        for script in ("prolog.sh", "epilog.sh"):
            path = made.directory / script
            *head, last = path.read_text().splitlines()
            turn = f'/usr/bin/flock {made.directory}/turns/$((${{SLURMD_NODENAME#n}} % {AT_ONCE}))'
            path.write_text("\n".join([*head, last.replace("exec ", f"exec {turn} "), ""]))
        for node in made.look().nodes:
            made.files(node).inject(FAULT.make(0))
        yield made, limit, slots


def drained(seen: Seen) -> set[str]:
    """The nodes that are out of service."""
    return {node for node, (state, _) in seen.nodes.items() if "drain" in state or "down" in state}


def alerted(cluster: HealthCluster, node: str) -> bool:
    """The node's log has the alarm that the breaker refused its drain."""
    return any(
        note.startswith("ALERT not drained: all ") and note.endswith(REASON)
        for event in cluster.events(node)
        for note in event.get("notes", ())
    )


def roll_out_meets_jobs(root: Path, nodes: int) -> None:
    """One job for each node starts while all drivers are broken; then the roll-out is taken back."""
    with rolled_out(root, nodes, interval_s=3600) as (cluster, limit, slots):
        names = set(cluster.look().nodes)
        go_on = cluster.directory / "go-on"
        text = f"while [ ! -e {go_on} ]; do sleep 1; done"
        cluster.submit(text, "-N1", "--exclusive", "--gres=gpu:1", f"--array=1-{nodes}", "--output=/dev/null")
        wait_for(lambda: all(cluster.events(node) for node in names), seconds=900)
        wait_for(lambda: sum(state == "RUNNING" for state, _ in cluster.look().jobs.values()) == nodes - limit, seconds=300)

        seen = cluster.look()
        out = drained(seen)
        assert limit == len(out) == len(held_slots(slots))
        assert out == set(held_slots(slots).values())
        assert {REASON} == {seen.nodes[node][1] for node in out}
        assert names - out == {place for state, place in seen.jobs.values() if state == "RUNNING"}
        for node in names - out:
            wait_for(lambda node=node: alerted(cluster, node))  # type: ignore[misc]

        for node in names:
            cluster.files(node).heal(reboot=True)
        config, _ = parse_config(json.loads((cluster.directory / "health.json").read_text()))
        service = Nodes(SlurmCli(cluster.environment), config, SystemClock())
        for node in out:
            service.undrain(node)
        assert {} == held_slots(slots)
        go_on.touch()
        for job, (state, _) in cluster.look().jobs.items():
            if state == "PENDING":  # requeued after its prolog has failed; it may just have started by itself
                with suppress(AssertionError):
                    cluster.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_for(lambda: {"COMPLETED"} == {state for state, _ in cluster.look().jobs.values()}, seconds=900)
        wait_for(lambda: {("idle", "none")} == set(cluster.look().nodes.values()), seconds=300)


def test_a_bad_roll_out_on_32_nodes_meets_prologs(cluster_state_dir: Path) -> None:
    """A tenth of the nodes is drained, the rest runs its jobs and raises alarms; taken back, all of them are in service."""
    roll_out_meets_jobs(cluster_state_dir, 32)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_bad_roll_out_on_256_nodes_meets_prologs(cluster_state_dir: Path) -> None:
    """The same with 256 real slurmd: 25 are drained."""
    roll_out_meets_jobs(cluster_state_dir, 256)


def test_a_bad_roll_out_meets_the_health_program(cluster_state_dir: Path) -> None:
    """On idle nodes the periodic check finds it everywhere within the same moment: again a tenth is drained, not more."""
    with rolled_out(cluster_state_dir, 20, interval_s=8) as (cluster, limit, slots):
        names = set(cluster.look().nodes)
        for node in names:
            (cluster.directory / "look" / node).touch()
        wait_for(lambda: limit == len(drained(cluster.look())))
        out = drained(cluster.look())
        for node in names - out:
            wait_for(lambda node=node: alerted(cluster, node))  # type: ignore[misc]

        assert limit == len(drained(cluster.look())) == len(held_slots(slots))
