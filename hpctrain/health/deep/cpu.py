"""Every core on its own under load, with results compared between cores (adapter over the scheduler and torch).

A core that computes wrongly does so alone: each is given the same work, pinned to it, and all have to give the same digest.
The work goes through vector units (a matrix product), integer units and caches (SHA-256).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import Counter
from functools import partial

import torch

from hpctrain.health.deep import forked
from hpctrain.health.deep.bench import Bench, Reading, corrupt, flip_bit, measured

_ROWS = 96
_BLOCK = bytes(range(256)) * 256


def run(bench: Bench) -> list[Reading]:
    """All cores at the same time."""
    cores = sorted(os.sched_getaffinity(0))[: bench.threads]
    answers = forked.run_all([partial(_load, bench, core, core == cores[0]) for core in cores], bench.sizes.check_s / 2)
    problems = [f"core {core}: {one.problem}" for core, one in zip(cores, answers, strict=True) if one.problem]
    if problems:
        raise RuntimeError("; ".join(problems[:3]))
    usual, _ = Counter(one.value["digest"] for one in answers).most_common(1)[0]
    wrong = [core for core, one in zip(cores, answers, strict=True) if one.value["digest"] != usual or one.value["changed"]]
    if wrong:
        told = f"core {', '.join(map(str, wrong[:8]))} of {len(cores)} computes something else than the others"
        return [corrupt("cpu.slowest_core", told), corrupt("cpu.all_cores", told)]
    rates = {core: one.value["rate"] for core, one in zip(cores, answers, strict=True)}
    slowest = min(rates, key=lambda core: rates[core])
    return [
        measured("cpu.slowest_core", rates[slowest], f"core {slowest} of {len(cores)}; results of all cores agree"),
        measured("cpu.all_cores", sum(rates.values()), f"{len(cores)} cores"),
    ]


def _load(bench: Bench, core: int, spoiled: bool) -> dict[str, object]:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    matrix = (torch.arange(_ROWS * _ROWS, dtype=torch.float32).view(_ROWS, _ROWS) % 17) - 8
    spoil = spoiled and "cpu" in bench.pretended.corrupt
    first, rounds, changed, spent = "", 0, False, 0.0
    until = time.perf_counter() + bench.sizes.cpu_s
    while not rounds or time.perf_counter() < until:
        seconds, digest = bench.timed(partial(_round, matrix, spoil=spoil))
        spent += seconds
        first = first or digest
        changed = changed or digest != first
        rounds += 1
    return {"digest": first, "changed": changed, "rate": rounds / spent}


def _round(matrix: torch.Tensor, *, spoil: bool) -> str:
    result = matrix
    for _ in range(4):
        result = torch.remainder(result @ matrix, 251)
    if spoil:
        flip_bit(result)
    digest = hashlib.sha256(_BLOCK)
    digest.update(bytes(result.view(-1).view(torch.uint8).tolist()))
    return digest.hexdigest()
