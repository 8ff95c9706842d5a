"""Train a character-level transformer with plain PyTorch, started by torchrun or anything that sets its environment.

It knows nothing of hpctrain: 'torchrun --nproc-per-node 2 torchrun_style.py' works just as well. It shows the three
things a script needs so that a job can be killed and started again:

1. read RANK, LOCAL_RANK and WORLD_SIZE from the environment;
2. save now and then, in one step (write aside, then rename), and start from the newest save;
3. on SIGTERM, save at the next step boundary and end.
"""

# ruff: noqa: T201  # a script's progress is what it prints

import argparse
import math
import os
import pydoc_data.topics
import signal
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

VOCABULARY = 256  # bytes
ALONE = {"rank": 0, "world_size": 1, "store": dist.HashStore()}


class Transformer(nn.Module):
    """A decoder made of PyTorch's own encoder layers and a causal mask."""

    def __init__(self, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.output = nn.Linear(width, VOCABULARY)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        length = text.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=text.device)
        hidden = self.tokens(text) + self.positions(torch.arange(length, device=text.device))
        return self.output(self.layers(hidden, mask=mask, is_causal=True))


def batch(data: torch.Tensor, step: int, rank: int, options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples of one rank in one step: a function of step and rank, so that a restart sees the same ones."""
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step * 1_009 + rank)
    starts = torch.randint(len(data) - options.context - 1, (options.batch,), generator=generator)
    rows = torch.stack([data[start : start + options.context + 1] for start in starts.tolist()])
    return rows[:, :-1], rows[:, 1:]


def save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, aside)
    aside.replace(path)


def restore(path: Path, device: torch.device, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint if there is one; the number of steps it has behind it."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def connect() -> tuple[int, int, torch.device]:
    """Rank, number of ranks and device; one process by itself is rank 0 of 1."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", **({} if "RANK" in os.environ else ALONE))
    return dist.get_rank(), dist.get_world_size(), device


def train(options: argparse.Namespace) -> None:
    rank, world_size, device = connect()
    torch.manual_seed(options.seed)
    model = Transformer(options.width, 2, 4, options.context).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    checkpoint = options.out / "torchrun_style.pt"
    step = restore(checkpoint, device, model, optimizer)
    if rank == 0:
        print(f"{world_size} ranks on {device.type}, {'continuing after' if step else 'starting at'} step {step}")
    ranks = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)

    asked_to_stop = []
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.append(True))
    text = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    data = torch.tensor(list(text.encode()), dtype=torch.long)
    while step < options.steps:
        inputs, targets = (tensor.to(device) for tensor in batch(data, step, rank, options))
        loss = nn.functional.cross_entropy(ranks(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        # The ranks must agree on the last step, though the signal reaches them at different moments.
        facts = torch.tensor([loss.item() / world_size, float(bool(asked_to_stop))], device=device)
        dist.all_reduce(facts)
        mean_loss, stopping = facts[0].item(), facts[1].item() > 0
        if rank == 0 and (step % 10 == 0 or step == 1):
            print(f"step {step}/{options.steps} loss {mean_loss:.3f} (guessing is {math.log(VOCABULARY):.3f})")
        if rank == 0 and (step % options.save_every == 0 or stopping or step == options.steps):
            save(checkpoint, step, model, optimizer)
        if stopping:
            break
    dist.barrier()  # no rank leaves before rank 0 has saved
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8, help="samples per rank and step")
    parser.add_argument("--context", type=int, default=64, help="bytes per sample")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("HPCTRAIN_RUN_DIR") or ".") / "torchrun_style")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
