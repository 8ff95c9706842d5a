"""A character model on Python's own documentation, in the manner of nanoGPT: plain PyTorch, no checkpoints.

python train.py                                 one process
torchrun --standalone --nproc-per-node 4 train.py   four, with DistributedDataParallel
"""

import argparse
import os
import pydoc_data.topics

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

CONTEXT, WIDTH, HEADS, LAYERS, BATCH = 32, 32, 2, 2, 8


class Block(nn.Module):
    """Attention to what came before, and a small network."""

    def __init__(self):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.1))

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        y = self.norm_1(x)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.norm_2(x))


class Model(nn.Module):
    """Predicts the next character."""

    def __init__(self, characters):
        super().__init__()
        self.token, self.position = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)

    def forward(self, x, y):
        x = self.token(x) + self.position(torch.arange(x.shape[1]))
        return functional.cross_entropy(self.head(self.norm(self.blocks(x))).flatten(0, 1), y.flatten())


class Data:
    """Random excerpts; the same ones in the same order every time."""

    def __init__(self, tokens):
        self.tokens, self.taken = tokens, 0

    def batch(self, rank, ranks):
        draw = torch.Generator().manual_seed(self.taken)
        starts = torch.randint(len(self.tokens) - CONTEXT - 1, (ranks, BATCH), generator=draw)[rank]
        self.taken += 1
        rows = torch.stack([self.tokens[start : start + CONTEXT + 1] for start in starts])
        return rows[:, :-1], rows[:, 1:]

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state):
        self.taken = state["taken"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", default="model.pt")
    options = parser.parse_args()
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    text = "\n".join(pydoc_data.topics.topics.values())
    characters = sorted(set(text))
    index = {character: place for place, character in enumerate(characters)}
    data = Data(torch.tensor([index[character] for character in text]))

    torch.manual_seed(0)
    model = Model(len(characters))
    if ranks > 1:
        # The buckets of gradients stay the same after a restart, and so do the last bits of every sum.
        model = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    torch.manual_seed(1 + rank)  # each rank its own dropout

    step = 0
    while step < options.steps:
        loss = model(*data.batch(rank, ranks))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        step += 1
        if rank == 0 and step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)

    if rank == 0:
        torch.save(getattr(model, "module", model).state_dict(), options.out)


if __name__ == "__main__":
    main()
