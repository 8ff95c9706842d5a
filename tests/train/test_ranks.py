"""What ranks tell each other, over real connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.ranks import WarmRanks, logs

torch = pytest.importorskip("torch")

RANKS = 3
SIZES = (0, 1, 8000, 8150, 8184, 8200, 100_000, 3_000_000)


def talk_main(_arguments: list[str]) -> int:
    """Gather, tell and share values of every size; 0 if all arrive as they were said."""
    import torch.distributed as dist

    from hpctrain.checkpoint.ranks import Ranks

    dist.init_process_group("gloo")
    ranks = Ranks()
    for size in SIZES:
        said = [{"rank": rank, "data": bytes([rank]) * (size if rank != 1 else 5)} for rank in range(RANKS)]
        if ranks.gather(said[ranks.rank]) != (said if ranks.is_first else []):
            return 1
        if ranks.broadcast(said[0] if ranks.is_first else {}) != said[0]:
            return 2
        first = f"rank 1: {'1' * size}" if size else ""
        if ranks.first_error("" if ranks.rank == 0 else f"{ranks.rank}" * size) != first:
            return 3
    return 0


def test_what_is_said_arrives_whatever_its_size(trainers: WarmRanks, tmp_path: Path) -> None:
    """What ranks tell rank 0, and it tells them, arrives whole: also when it is longer than the first exchange has room for,
    and not equally long everywhere.
    """
    codes = trainers.start(tmp_path, {}, RANKS, target="tests.train.test_ranks:talk_main").wait()
    assert [0] * RANKS == codes, logs(tmp_path)
