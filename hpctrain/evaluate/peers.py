"""The other ranks of an evaluation job (adapter over ``torch.distributed``)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist

from hpctrain.checkpoint.ranks import Ranks
from hpctrain.errors import UsageError
from hpctrain.process_group import backend_of, join
from hpctrain.train.environment import RankEnvironment


def environment_of(env: Mapping[str, str]) -> RankEnvironment:
    """This process's place among the ranks.

    Raises:
        UsageError: the environment is broken.
    """
    try:
        return RankEnvironment.read(env)
    except ValueError as error:
        raise UsageError(f"the environment of this rank is broken: {error}") from None


def meet(place: RankEnvironment, env: Mapping[str, str]) -> Ranks:
    """Meet the other ranks, if the environment names any (torchrun's names); each takes the GPU of its local rank.

    Raises:
        UsageError: the environment is broken.
    """
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    if place.world_size > 1 and not dist.is_initialized():
        if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]:
            raise UsageError(f"{' and '.join(missing)} must be set for {place.world_size} ranks",
                             hint="start it with torchrun, or through 'hpctrain evaluate --submit'")
        join(backend_of(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
    return Ranks()
