"""The environment and command line of one rank (pure, standard library only)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from hpctrain.agent.rank_plan import RankPlan
from hpctrain.ids import NodeName, Rank
from hpctrain.submit.plan_model import Container, Plan
from hpctrain.train import environment as names

CONTAINER_PACKAGE_DIR = "/opt/hpctrain"
"""Where hpctrain's own package appears inside a container; the directory is on its PYTHONPATH."""


KEEPER_SECRET = "keeper.secret"  # noqa: S105 - the name of a file
"""In the control directory: what keepers, writers and ranks of the job prove to each other that they know."""


COORDINATOR = "HPCTRAIN_COORDINATOR"
"""``ADDR:PORT`` of the coordinator that started the step; for agents."""


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where rank 0 opens its store.

    Attributes:
        interface: network interface that ``addr`` belongs to, "" if it is not known or does not matter.
    """

    addr: str
    port: int
    node: NodeName
    interface: str = ""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Node-local files of one rank, in a directory that only this user can enter."""

    heartbeat: str
    stop: str
    error: str


def common_environment(plan: Plan, base: Mapping[str, str]) -> dict[str, str]:
    """What the environments of all ranks of a node have in common: the job's, then the plan's, then our defaults.

    Args:
        base: the agent's own environment.
    """
    env = {**base, **plan.command.env}
    env.setdefault("OMP_NUM_THREADS", "1")
    env.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    env.setdefault("PYTHONUNBUFFERED", "1")
    # Ranks that are forked have their parent's hash seed. With a fixed one they all agree, whichever way they start.
    env.setdefault("PYTHONHASHSEED", "0")
    return env


def rank_environment(
    plan: Plan, ranks: RankPlan, *, node: NodeName, rank: Rank, rendezvous: Rendezvous, files: LocalFiles,
    base: Mapping[str, str],
) -> dict[str, str]:
    """The complete environment of one rank: the job's, then the plan's, then what torchrun would set, then ours.

    Args:
        base: the agent's own environment.
    """
    own = ranks.ranks_of(node)
    env = common_environment(plan, base)
    if rendezvous.interface:
        env.setdefault("GLOO_SOCKET_IFNAME", rendezvous.interface)
    env |= {
        "RANK": str(rank), "LOCAL_RANK": str(own.index(rank)), "WORLD_SIZE": str(ranks.world_size),
        "LOCAL_WORLD_SIZE": str(len(own)), "GROUP_RANK": str(ranks.nodes.index(node)),
        "GROUP_WORLD_SIZE": str(len(ranks.nodes)), "ROLE_NAME": "default", "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(ranks.world_size), "MASTER_ADDR": rendezvous.addr, "MASTER_PORT": str(rendezvous.port),
        "TORCHELASTIC_RESTART_COUNT": str(ranks.incarnation), "TORCHELASTIC_MAX_RESTARTS": str(plan.max_restarts),
        "TORCHELASTIC_RUN_ID": plan.run_name, "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_ERROR_FILE": files.error,
    }
    env |= {
        names.RUN_DIR: plan.run_dir, names.INCARNATION: str(ranks.incarnation), names.HEARTBEAT_FILE: files.heartbeat,
        names.STOP_FILE: files.stop, names.NODE_NAME: node, names.DEVICE: plan.device,
    }
    if plan.checkpoint.values:
        env[names.CHECKPOINT] = json.dumps(plan.checkpoint.on_node(node), separators=(",", ":"))
    if plan.checkpoint.ram:
        env[names.KEEPER_SECRET_FILE] = f"{plan.run_dir}/control/{KEEPER_SECRET}"
    return env


def rank_argv(plan: Plan, *, package_dir: str, local_dir: str) -> tuple[str, ...]:
    """The command of one rank, inside apptainer where the plan says so.

    (pyxis is srun's business: there the agent itself already runs in the container.)

    Args:
        package_dir: directory of hpctrain's Python package on this host.
        local_dir: the agent's node-local directory.
    """
    container = plan.container
    if container is None or container.runtime != "apptainer":
        return plan.command.argv
    mounts = [*container_mounts(container, plan.run_dir, package_dir), local_dir]
    binds = [word for mount in mounts for word in ("--bind", mount)]
    gpu = ["--nv"] if plan.device == "cuda" else []
    inside = ("--pwd", plan.command.workdir, "--env", f"PYTHONPATH={CONTAINER_PACKAGE_DIR}")
    return ("apptainer", "exec", *gpu, *binds, *inside, container.image, *plan.command.argv)


def container_mounts(container: Container, run_dir: str, package_dir: str) -> tuple[str, ...]:
    """What a container sees of the host: the run directory, hpctrain's package (read only), the recipe's mounts."""
    package = f"{package_dir}:{CONTAINER_PACKAGE_DIR}/hpctrain:ro"
    return (f"{run_dir}:{run_dir}", package, *container.mounts)
