"""Process group, device and mesh (adapter over ``torch.distributed``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore  # torch.distributed offers it, its type stubs do not
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from hpctrain.errors import HpctrainError, RecipeError
from hpctrain.process_group import backend_of, join
from hpctrain.recipe.schema import Parallelism
from hpctrain.train.environment import DEVICE, RankEnvironment

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Longest wait for a rank that is alive but late. One that died is noticed at once; hangs are the agents' to judge."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this rank computes.

    Attributes:
        device: its device.
        rank, world_size: in the whole job.
    """

    device: torch.device
    rank: int
    world_size: int


def choose_device(environment: RankEnvironment) -> torch.device:
    """The device that the plan asks for, or what torch finds when nobody asks.

    Raises:
        HpctrainError: CUDA is asked for and torch sees too few devices.
    """
    wanted = environment.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # An agent may show each rank only its own GPU; then it is number 0 everywhere.
    index = environment.local_rank if count > 1 else 0
    if index >= count:
        why = "" if torch.version.cuda else "; this torch is a build without CUDA"
        raise HpctrainError(
            f"local rank {environment.local_rank} is to train on a GPU, but torch sees {count} of them{why}",
            where=environment.node or os.uname().nodename,
            hint=f"install a CUDA build of torch, check 'nvidia-smi' on that node, or train on CPUs ({DEVICE}=cpu)",
        )
    return torch.device("cuda", index)


def connect(environment: RankEnvironment, device: torch.device) -> Place:
    """Join the other ranks; alone, make a group of one so that the same code runs.

    Raises:
        HpctrainError: the other ranks do not come together.
    """
    backend = backend_of(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if environment.world_size == 1 and "MASTER_ADDR" not in os.environ:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # alone: a host name that does not resolve must not matter
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=COLLECTIVE_TIMEOUT)
    else:
        if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise HpctrainError(
                f"{' and '.join(missing)} must be set for {environment.world_size} ranks",
                hint="start the trainer with torchrun, or through 'hpctrain submit'",
            )
        join(backend, COLLECTIVE_TIMEOUT)
    return Place(device, environment.rank, environment.world_size)


def disconnect() -> None:
    """Leave the process group; only on a clean end, since it may wait for the others.

    Groups of gloo are left to the end of the process: their destructor waits, holding Python's lock, for threads that may
    need the lock to end (seen with torch 2.6: one run in four never ended).
    """
    if dist.is_initialized() and "nccl" in dist.get_backend_config():
        dist.destroy_process_group()


def build_mesh(
    parallelism: Parallelism, place: Place, local_world_size: int, *, shard_name: str = "shard"
) -> DeviceMesh | None:
    """The mesh that parameters are sharded over: one dimension for FSDP2, replicas x shards for HSDP, None for DDP.

    Args:
        shard_name: of the dimension that shards; peft knows by ``fsdp`` that a sharded layer still computes as a whole.

    Raises:
        RecipeError: the ranks do not divide into shard groups.
    """
    kind = place.device.type
    if parallelism.kind == "ddp":
        return None
    if parallelism.kind == "fsdp2":
        return init_device_mesh(kind, (place.world_size,), mesh_dim_names=(shard_name,))
    shard_size = parallelism.shard_size or local_world_size
    replicas, rest = divmod(place.world_size, shard_size)
    if rest or not replicas:
        raise RecipeError(
            f"{place.world_size} ranks do not divide into shard groups of {shard_size}",
            where="training.parallelism.shard_size", hint="choose a divisor of the number of ranks",
        )
    return init_device_mesh(kind, (replicas, shard_size), mesh_dim_names=("replica", shard_name))


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Add up small numbers over all ranks, in double precision. Also the moment at which all ranks meet in each step."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    result: list[float] = tensor.tolist()
    return result
