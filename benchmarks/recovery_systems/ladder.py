"""Faults of other kinds in a job of hpctrain's trainer: a dead or silent node, a requeue, a hanging rank (adapter)."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.devcluster.nodes import node_members
from hpctrain.devcluster.state import layout_of, load_spec
from recovery_systems import timeline
from recovery_systems.hpctrain_job import OrdinaryUsersJob, TrainerJob, trainer_recipe

HANG_LEAST_S = 2
"""The shortest limit that a job's own step times may teach; 60 s in a recipe that does not say it."""
SPARES = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of fault.

    Attributes:
        recipe: makes the job's recipe from the number of ranks and the steps between checkpoints.
        hurt: causes the fault, and returns what it was called.
        most: faults that one start of the job can bear.
        job: how it is started.
        in_all: faults at most, for one that takes minutes; 0 for as many as of the others.
    """

    recipe: Callable[[int, int], dict[str, Any]]
    hurt: Callable[[TrainerJob, random.Random], None]
    most: int
    job: type[TrainerJob] = TrainerJob
    in_all: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault on its way back.

    Attributes:
        rung: which rung the job took.
        total_s: from the fault to the end of the first step after it.
        found_s: until the job knew.
        limit_s: the limit that was in force, for a hang.
        phases_s: from the job's own events.
    """

    rung: str
    total_s: float
    found_s: float
    limit_s: float
    phases_s: Mapping[str, float | None]


def _some_node(job: TrainerJob, chance: random.Random) -> str:
    """A node that trains and is not the batch host."""
    last = max(int(event["evidence"]["incarnation"]) for event in job.events("ranks.started"))
    nodes = [event["node"] for event in job.events("ranks.started") if event["evidence"]["incarnation"] == last]
    host = job.events("job.started")[-1]["evidence"]["nodes"][0]  # Slurm runs the script on the first one
    return str(chance.choice([node for node in nodes if node != host] or nodes))


def _kill_node(job: TrainerJob, chance: random.Random) -> None:
    """All its processes are killed, so that their connections close; Slurm is told that it is down."""
    job.call("cluster", "kill-node", _some_node(job, chance), "--name", job.name)


def _silence_node(job: TrainerJob, chance: random.Random) -> None:
    """All its processes stand still: nothing closes, and nobody answers, as when power or network fails."""
    clusters = job.folder / "state" / "clusters"
    spec = load_spec(clusters / job.name)
    assert spec is not None, "the job's cluster has no record"
    for member in node_members(layout_of(spec, clusters), _some_node(job, chance)):
        os.kill(member.pid, signal.SIGSTOP)


def _kill_node_silently(job: TrainerJob, chance: random.Random) -> None:
    """Nobody may tell Slurm that the node is down."""
    job.call("cluster", "kill-node", "--silent", _some_node(job, chance), "--name", job.name)


def _kill_rank(job: TrainerJob, chance: random.Random) -> None:
    os.kill(chance.choice(list(job.pids().values())), signal.SIGKILL)


def _stop_rank(job: TrainerJob, chance: random.Random) -> None:
    os.kill(chance.choice(list(job.pids().values())), signal.SIGSTOP)


def _swap(world: int, every: int) -> dict[str, Any]:
    recipe = trainer_recipe(world, every, nodes=2)
    return {**recipe, "resources": {**recipe["resources"], "spares": SPARES}}


def _requeue(world: int, every: int) -> dict[str, Any]:
    recipe = trainer_recipe(world, every)
    return {**recipe, "resilience": {**recipe["resilience"], "in_place": False}}


def _hang(world: int, every: int) -> dict[str, Any]:
    return trainer_recipe(world, every, detection={"hang": {"at_least": HANG_LEAST_S}})


CASES: dict[str, Case] = {
    "R2: a node dies, a spare takes its place": Case(_swap, _kill_node, SPARES),
    "R2: a node falls silent (all its processes SIGSTOP)": Case(_swap, _silence_node, 1),
    "R3: a rank is killed, the job is queued again": Case(_requeue, _kill_rank, 100),
    "R1: a rank stands still (SIGSTOP)": Case(_hang, _stop_rank, 100),
    "R3: a node dies, no spare, and nobody may tell Slurm": Case(
        lambda world, every: trainer_recipe(world, every, nodes=2), _kill_node_silently, 1, OrdinaryUsersJob, 5),
}


def start(name: str, folder: Path, world: int, every: int) -> TrainerJob:
    """A job of the case, on a cluster of its own."""
    case = CASES[name]
    return case.job(folder, case.recipe(world, every), f"rec-{os.getpid()}", name)


def result(job: TrainerJob, moments: list[timeline.Moment], fault: float) -> Fault | None:
    """What the job wrote about a fault; None while it is not over."""
    started = next((moment.time for moment in moments if moment.what == "start" and moment.time > fault), None)
    step = next((moment for moment in moments if moment.what == "step" and started and moment.time > started), None)
    finished = [event for event in job.events("recovery.finished") if event["time"] > fault]
    if step is None or not finished:
        return None
    evidence = finished[0]["evidence"]
    found = next(event for event in job.events("fault.detected") if event["time"] > fault)
    limit = re.search(r"limit ([\d.]+) s", found["reason"])
    phases = {key: value for key, value in evidence.items() if key.endswith("_s") and key != "total_s"}
    return Fault(str(evidence["rung"]), step.time - fault, found["time"] - fault, float(limit[1]) if limit else 0.0, phases)


def cause(job: TrainerJob, name: str, chance: random.Random) -> float:
    """Cause the fault now; when that was."""
    fault = time.time()
    CASES[name].hurt(job, chance)
    return fault


def row(name: str, faults: list[Fault]) -> str:
    """A line of the table."""
    median, low, high = timeline.spread([fault.total_s for fault in faults])
    found = timeline.spread([fault.found_s for fault in faults])[0]
    ratio = [fault.found_s / fault.limit_s for fault in faults if fault.limit_s]
    limit = f"{timeline.spread(ratio)[0]:.1f}" if ratio else ""
    rungs = ", ".join(sorted({fault.rung for fault in faults}))
    phases = []
    for key in ("detect_s", "kill_s", "regroup_s", "init_s", "data_s", "state_s", "first_step_s"):
        values = [value for fault in faults if (value := fault.phases_s.get(key)) is not None]
        phases += [f"{key[:-2].replace('_', ' ')} {timeline.spread(values)[0]:.2f} s"] if values else []
    numbers = f"{found:.2f} s | {limit} | {median:.2f} s | {low:.2f} to {high:.2f} s"
    return f"| {name} | {len(faults)} | {rungs} | {numbers} | {', '.join(phases)} |"


HEAD = ("| fault | faults | rung | found after | found / limit | first new step | 10 % to 90 % | median of each phase |\n"
        "|---|---:|---|---:|---:|---:|---:|---|")
