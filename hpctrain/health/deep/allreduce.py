"""All-reduce among ranks of one or two nodes, with the sum verified (adapter over torch.distributed).

Sums of whole numbers are exact in float32, so a wrong link or adapter shows as a wrong number. The bandwidth is that of the
bus: 2 (n - 1) / n times the bytes over the time, as the usual tests of collectives count it, so that it does not depend on
the number of ranks.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._C._distributed_c10d as c10d  # torch.distributed offers its stores, its type stubs do not
import torch.distributed as dist

from hpctrain.health.deep import forked
from hpctrain.health.deep.bench import Bench, Reading, corrupt, first_difference, measured

_PERIOD = 97
_CPU_RANKS = 2


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the ranks meet.

    Attributes:
        file: on this node, for ranks of this node; "" for several nodes.
        address, port: of the first rank's store, for ranks of two nodes.
        interface: network interface that gloo uses, "" to let it choose.
    """

    file: str = ""
    address: str = ""
    port: int = 0
    interface: str = ""


@dataclass(frozen=True, slots=True)
class _Member:
    """A rank, and its number on its own node."""

    rank: int
    world: int
    local: int
    deadline_s: float


def run_node(bench: Bench) -> list[Reading]:
    """Among the GPUs of this node, or two processes without GPUs; called where no torch operation has run."""
    ranks = bench.gpus or _CPU_RANKS
    if bench.gpus == 1:
        return [{"metric": "allreduce.node", "status": "skipped", "value": None, "detail": "one GPU has nobody to talk to"}]
    with tempfile.TemporaryDirectory(prefix="hpctrain-deep-", dir=bench.local_dir) as directory:
        meeting = Meeting(file=str(Path(directory) / "store"), interface="" if bench.gpus else "lo")
        answers = run_ranks(bench, meeting, range(ranks), ranks, bench.sizes.check_s / 2, spoil="allreduce")
    return [combined("allreduce.node", answers)]


def run_ranks(
    bench: Bench, meeting: Meeting, ranks: Sequence[int], world: int, deadline_s: float, *, spoil: str
) -> list[forked.Answer]:
    """Run this node's ranks, one child each, on the GPUs in order; each answers with seconds, or what was wrong."""
    members = [_Member(rank, world, local, deadline_s) for local, rank in enumerate(ranks)]
    return forked.run_all([partial(_rank, bench, meeting, member, spoil) for member in members], deadline_s)


def combined(metric: str, answers: Sequence[forked.Answer]) -> Reading:
    """The slowest rank's bandwidth; corrupt if any rank got a wrong sum.

    Raises:
        RuntimeError: a rank failed.
    """
    if problems := [one.problem for one in answers if one.problem]:
        raise RuntimeError(f"{len(problems)} of {len(answers)} ranks failed, the first: {problems[0]}")
    if wrong := [str(one.value["wrong"]) for one in answers if one.value["wrong"]]:
        return corrupt(metric, wrong[0])
    slowest = min(answers, key=lambda one: float(one.value["gbps"]))
    return measured(metric, float(slowest.value["gbps"]), f"{slowest.value['world']} ranks, sums verified")


def _rank(bench: Bench, meeting: Meeting, member: _Member, spoil: str) -> dict[str, Any]:
    rank, world = member.rank, member.world
    store = _join(bench, meeting, member)
    device = torch.device("cuda", member.local) if bench.gpus else torch.device("cpu")
    count = max(1, bench.sizes.message_bytes // 4)
    mine = (torch.arange(count, dtype=torch.int64) % _PERIOD).to(torch.float32).to(device)
    expected = world * mine + sum(range(world))
    buffer = torch.empty_like(mine)
    times, wrong, own = [], "", math.inf
    place = replace(bench, device=device, pretended=replace(bench.pretended, slow_factor=1.0))
    for number in range(bench.sizes.repeats + 1):
        buffer.copy_(mine).add_(rank)
        seconds = place.seconds(lambda: dist.all_reduce(buffer))
        # What a slow node pretends is a multiple of its own work, and not of its waiting for another slow one.
        own = min(own, seconds)
        time.sleep(own * (bench.pretended.slow_factor - 1))
        if number:  # the first sets connections up
            times.append(seconds + own * (bench.pretended.slow_factor - 1))
        place.spoil(spoil, buffer)
        wrong = wrong or first_difference(buffer, expected)
    # Nobody leaves while another may still need his sockets, or the first rank's store.
    store.set(f"done/{rank}", "1")
    store.wait([f"done/{one}" for one in range(world)], timedelta(seconds=30))
    if rank == 0:
        store.wait([f"gone/{one}" for one in range(1, world)], timedelta(seconds=30))
    else:
        store.set(f"gone/{rank}", "1")
    share = 2 * (world - 1) / world
    return {"gbps": share * count * 4 / bench.counts(times) / 1e9, "wrong": wrong, "world": world}


def _join(bench: Bench, meeting: Meeting, member: _Member) -> Any:
    patience = timedelta(seconds=member.deadline_s)
    if meeting.interface:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(variable, meeting.interface)  # a site that has set it knows better
    if bench.gpus:
        torch.cuda.set_device(member.local)
    else:
        torch.set_num_threads(1)
    store = c10d.FileStore(meeting.file, member.world) if meeting.file else _tcp_store(meeting, member, patience)
    backend = "nccl" if bench.gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=member.rank, world_size=member.world, timeout=patience)
    return store


def _tcp_store(meeting: Meeting, member: _Member, patience: timedelta) -> Any:
    where = (meeting.address, meeting.port, member.world, member.rank == 0, patience)
    try:
        return c10d.TCPStore(*where, wait_for_workers=False)
    except RuntimeError as error:
        if "libuv" not in str(error):
            raise
        # A torch built without libuv, as Debian's is, refuses its own default.
        return c10d.TCPStore(*where, wait_for_workers=False, use_libuv=False)
