"""A training program as its author would write it for torchrun: DDP, a DCP checkpoint every few steps, load the newest.

``plain_program.py DIR EVERY`` knows nothing of hpctrain, or of who starts it. It writes down when it was where, one line
per moment, into ``DIR/timeline-RANK.jsonl``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

MODEL: dict[str, Any] = {
    "vocab_size": 258, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}
SEQUENCE, BATCH = 128, 8


def mark(folder: Path, rank: int, what: str, step: int = 0, **more: int) -> None:
    """One line, with the time, in one write."""
    line = json.dumps({"time": time.time(), "rank": rank, "pid": os.getpid(), "what": what, "step": step, **more})
    with (folder / f"timeline-{rank}.jsonl").open("a") as file:
        file.write(line + "\n")


def newest(folder: Path) -> int:
    """Step of the newest complete checkpoint, 0 if there is none."""
    return max((int(path.parent.name) for path in folder.glob("checkpoints/*/.metadata")), default=0)


def build() -> tuple[Any, Any]:
    """The model, with the same weights everywhere, and its optimizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**MODEL))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def batch(step: int, rank: int) -> Any:
    """The same tokens for the same step, whenever it is done."""
    import torch

    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randint(0, MODEL["vocab_size"], (BATCH, SEQUENCE), generator=generator)


def save(folder: Path, step: int, rank: int, model: Any, optimizer: Any) -> None:
    """Write a checkpoint, and remove those before the last two."""
    import shutil

    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, moments = get_state_dict(model, optimizer)
    state_dict_saver.save({"model": weights, "optimizer": moments}, checkpoint_id=folder / "checkpoints" / str(step))
    if rank == 0:
        steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
        for old in steps[:-3]:
            shutil.rmtree(folder / "checkpoints" / str(old), ignore_errors=True)


def load(folder: Path, step: int, model: Any, optimizer: Any) -> None:
    """Read it back."""
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    weights, moments = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": weights, "optimizer": moments}
    state_dict_loader.load(state, checkpoint_id=folder / "checkpoints" / str(step))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def main() -> None:
    """Train until killed."""
    folder, every, rank = Path(sys.argv[1]), int(sys.argv[2]), int(os.environ["RANK"])
    mark(folder, rank, "start")
    import torch
    import torch.distributed as dist
    import transformers

    quiet: Any = transformers.logging
    quiet.set_verbosity_error()
    mark(folder, rank, "import")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mark(folder, rank, "join")
    model, optimizer = build()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    if step := newest(folder):
        load(folder, step, parallel, optimizer)
    mark(folder, rank, "load", step)
    while True:
        step += 1
        tokens = batch(step, rank)
        loss = parallel(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach()
        dist.all_reduce(total)
        mark(folder, rank, "step", step, ranks=dist.get_world_size())
        if step % every == 0:
            save(folder, step, rank, parallel, optimizer)


if __name__ == "__main__":
    main()
