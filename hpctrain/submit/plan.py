"""Recipe and cluster facts to a plan (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hpctrain.recipe import arithmetic
from hpctrain.recipe.check_cluster import device_is_gpu
from hpctrain.recipe.checkpoint_values import checkpoint_values
from hpctrain.recipe.facts import ClusterFacts
from hpctrain.recipe.schema import Recipe, Resources
from hpctrain.submit.plan_model import CheckpointPlan, Container, Plan, RankCommand, SlurmRequest

MIB = 2**20
LOOPBACK = "lo"
CONTAINER_PYTHON = "python3"
"""Inside an image our interpreter's path means nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this run lives.

    Attributes:
        run_name: unique name; the job's name too.
        run_dir: absolute path of its directory.
        python: absolute path of the interpreter on the nodes.
        one_host: all nodes are this machine (the private cluster).
        status_dir: the site's spool for a watchdog of the whole cluster, "" for none.
    """

    run_name: str
    run_dir: str
    python: str
    one_host: bool = False
    status_dir: str = ""


def make_plan(recipe: Recipe, facts: ClusterFacts | None, place: Place) -> Plan:
    """Decide everything that is decided before Slurm is asked.

    Args:
        recipe: resolved and checked; ``workdir`` is set.
        facts: None where the cluster is not known; then GPUs that are asked for are taken to be real.
    """
    resources = recipe.resources
    ranks = arithmetic.ranks_per_node(resources)
    device = "cuda" if device_is_gpu(recipe, facts) else "cpu"
    interface = resources.interface or (LOOPBACK if place.one_host else "")
    threads = _threads(resources, facts, ranks)
    return Plan(
        run_name=place.run_name, run_dir=place.run_dir, python=place.python, nodes=resources.nodes,
        spares=resources.spares, ranks_per_node=ranks, device=device,
        command=_command(recipe, place, _environment(recipe, interface, threads)),
        slurm=_request(recipe, place), interface=interface, container=_container(resources),
        one_host=place.one_host, status_dir=place.status_dir,
        total_steps=arithmetic.total_steps(recipe) if recipe.method else None,
        max_restarts=recipe.resilience.max_restarts,
        max_restarts_without_progress=recipe.resilience.max_restarts_without_progress,
        restarts_per_window=recipe.resilience.restarts_per_window, restart_window_s=recipe.resilience.restart_window,
        max_same_failure=recipe.resilience.max_same_failure, exclude_after=recipe.resilience.exclude_after,
        exclude_window_s=recipe.resilience.exclude_window, exclude_for_s=recipe.resilience.exclude_for,
        in_place=recipe.resilience.in_place, agent_silence_s=float(recipe.resilience.agent_silence),
        stop_signal=recipe.resilience.stop_signal, checkpoint=_checkpoint(recipe, place),
        detection=recipe.detection.model_dump(mode="json"),
        notes=tuple(_notes(recipe, facts, device, ranks)),
    )


def _command(recipe: Recipe, place: Place, env: Mapping[str, str]) -> RankCommand:
    python = CONTAINER_PYTHON if recipe.resources.container else place.python
    workdir = recipe.workdir or place.run_dir
    if recipe.command is None:
        # PYTHONSAFEPATH: a file beside the recipe, such as random.py, must not become the trainer's random module.
        argv = (python, "-u", "-m", "hpctrain.train", "--run-dir", place.run_dir)
        return RankCommand(argv, workdir, {"PYTHONSAFEPATH": "1", **env})
    if recipe.command[0].endswith(".py"):
        return RankCommand((python, "-u", *recipe.command), workdir, env, is_trainer=False)
    return RankCommand(tuple(recipe.command), workdir, env, is_trainer=False)


def _checkpoint(recipe: Recipe, place: Place) -> CheckpointPlan:
    values = checkpoint_values(recipe, root=f"{place.run_dir}/checkpoints", run_name=place.run_name)
    return CheckpointPlan(
        ram=values["ram"] is not None, peer=values["peer"] is not None, flush_limit_s=recipe.checkpoint.flush_limit,
        values=values,
    )


def _environment(recipe: Recipe, interface: str, threads: int) -> dict[str, str]:
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME") if interface else ()
    return {"OMP_NUM_THREADS": str(threads), **dict.fromkeys(names, interface), **recipe.env}


def _request(recipe: Recipe, place: Place) -> SlurmRequest:
    resources = recipe.resources
    memory = -(-resources.memory_per_node // MIB) if resources.memory_per_node else None
    if memory is None and resources.exclusive:
        memory = 0  # Slurm's word for all of a node's memory
    return SlurmRequest(
        job_name=place.run_name, nodes=resources.nodes + resources.spares, output=f"{place.run_dir}/logs/job.out",
        gpus_per_node=resources.gpus_per_node, gpu_type=resources.gpu_type, cpus_per_node=resources.cpus_per_node,
        memory_per_node_mib=memory, time_limit_s=resources.time_limit, partition=resources.partition,
        account=resources.account, qos=resources.qos, reservation=resources.reservation,
        constraint=resources.constraint, exclusive=resources.exclusive, requeue=recipe.resilience.requeue,
        signal_before_limit_s=recipe.resilience.stop_before_limit, comment=job_comment(place.run_name),
    )


def job_comment(run_name: str) -> str:
    """What is written into the job's comment, and finds it again when sbatch's answer was lost."""
    return f"hpctrain:{run_name}"


def _container(resources: Resources) -> Container | None:
    if resources.container is None:
        return None
    runtime = resources.container_runtime or ("apptainer" if resources.container.endswith(".sif") else "pyxis")
    return Container(resources.container, runtime, tuple(resources.container_mounts))


def _threads(resources: Resources, facts: ClusterFacts | None, ranks: int) -> int:
    """CPUs of one rank: what it may use without fighting its neighbours."""
    cpus = resources.cpus_per_node
    if cpus is None and resources.exclusive and facts is not None:
        part = facts.partition(resources.partition)
        cpus = min((group.cpus for group in part.groups if group.cpus), default=None) if part else None
    return max(1, cpus // ranks) if cpus else 1


def _notes(recipe: Recipe, facts: ClusterFacts | None, device: str, ranks: int) -> Iterator[str]:
    resources = recipe.resources
    part = facts.partition(resources.partition) if facts else None
    if resources.partition is None and part is not None and len(facts.partitions if facts else ()) > 1:
        yield f"partition {part.name}, the default one"
    if resources.cpus_per_node is None and not resources.exclusive and ranks > 1 and device == "cuda":
        yield (
            f"{ranks} ranks per node share the CPUs that Slurm gives by default, often a single one; "
            "say resources.cpus_per_node or resources.exclusive"
        )
    if resources.spares:
        yield f"{resources.spares} spare nodes are allocated beside the {resources.nodes} that train"
    if resources.container and recipe.command is None:
        yield "the image must contain python3 with torch and hpctrain's training packages; hpctrain itself is mounted"
