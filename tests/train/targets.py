"""What ranks run in tests instead of the trainer; each function is one rank's program and returns its exit code."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any


def save_with_one_full_disk(args: list[str]) -> int:
    """Rank 2's disk is full in the second save; all ranks must agree that it failed, go on, and save again."""
    del args
    import torch.distributed as dist

    dist.init_process_group("gloo")
    from hpctrain.checkpoint import CheckpointConfig, Checkpointer
    from hpctrain.checkpoint.schedule import Schedule

    root = Path(os.environ["HPCTRAIN_RUN_DIR"]) / "checkpoints"
    checkpointer = Checkpointer(CheckpointConfig(root, Schedule(every_steps=2)))
    model = _sharded_model()
    checkpointer.register(model=model)
    fsync, results = os.fsync, []
    for step in range(1, 6):
        if step == 4 and dist.get_rank() == 2:
            os.fsync = _full  # type: ignore[assignment]
        results.append(checkpointer.step(step))
        os.fsync = fsync
    told = ["-" if result is None else ("saved" if result.ok else result.error) for result in results]
    print(told, flush=True)
    expected = ["-", "saved", "-", "rank 2: No space left on device", "saved"]
    return 0 if told == expected else 3


def _sharded_model() -> Any:
    import torch
    from torch.distributed.fsdp import fully_shard

    model = torch.nn.Linear(16, 16)
    fully_shard(model)
    return model


def _full(handle: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
