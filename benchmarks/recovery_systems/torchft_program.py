"""The same training with torchft: each rank a replica of its own, which fetches the others' weights when it comes back.

``torchft_program.py DIR`` under one launcher per replica, with REPLICA set to its number.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from recovery_systems.plain_program import batch, build, mark


def main() -> None:
    """Train until killed. A step counts when all replicas of the moment have agreed to commit it."""
    folder, rank = Path(sys.argv[1]), int(os.environ["REPLICA"])
    mark(folder, rank, "start")
    import torch
    import transformers

    torchft: Any = importlib.import_module("torchft")
    quiet: Any = transformers.logging
    quiet.set_verbosity_error()
    mark(folder, rank, "import")
    torch.set_num_threads(1)
    model, inner = build()

    def load(state: dict[str, Any]) -> None:
        model.load_state_dict(state["model"])
        inner.load_state_dict(state["optimizer"])

    manager = torchft.Manager(
        pg=torchft.ProcessGroupGloo(), min_replica_size=1, load_state_dict=load,
        state_dict=lambda: {"model": model.state_dict(), "optimizer": inner.state_dict()}, replica_id=f"replica_{rank}",
    )
    parallel = torchft.DistributedDataParallel(manager, model)
    optimizer = torchft.Optimizer(manager, inner)
    mark(folder, rank, "load")
    while True:
        optimizer.zero_grad()
        tokens = batch(manager.current_step(), rank)
        parallel(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = manager.current_step()
        optimizer.step()
        if manager.current_step() > before:
            mark(folder, rank, "step", manager.current_step(), ranks=manager.num_participants())


if __name__ == "__main__":
    main()
