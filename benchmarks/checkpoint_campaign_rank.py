"""One rank of the SIGKILL campaign: restore, compare, save after every step (adapter over torch and hpctrain)."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpctrain.checkpoint import CheckpointConfig

RANKS = 4
WIDTH = 256
PHASES = ("start", "restore", "save", "prune", "between")
SAVED = "checkpoint.saved"


class Position:
    """State that is no tensor, the same on all ranks."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return {"step": self.step, "text": f"step {self.step}", "history": list(range(self.step % 50))}

    def load_state_dict(self, state_dict: Any) -> None:
        """Take it back, if it is what was saved."""
        self.step = int(state_dict["step"])
        if dict(state_dict) != self.state_dict():
            raise ValueError(f"the position is {state_dict}")


def rank_main(rank: int, place: Path, board: mmap.mmap, start: int) -> None:
    """Restore, compare, then save after every step until killed.

    Args:
        start: number of this start of the ranks, counted from 1.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from hpctrain.checkpoint import Checkpointer

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place / 'rendezvous'}", rank=rank, world_size=RANKS)
    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 3))
    fully_shard(model)
    position = Position()
    report = Report(rank, place / "reports", board)
    checkpointer = Checkpointer(config(place, start), notify=report.event)
    checkpointer.register(model=model, position=position, rng=True)
    fill(model, -1)
    report.phase("restore")
    step = checkpointer.restore()
    fault = "" if not step or (position.step == step and holds(model, step)) else f"rank {rank} holds another state"
    if fault:
        report.write({"kind": "corrupt", "step": step, "text": fault})
    report.event("restored", "", step, {})
    while True:
        step += 1
        report.phase("between")
        position.step = step
        fill(model, step)
        report.phase("save")
        saved = checkpointer.step(step)
        if saved is not None and saved.ok and saved.tier == "ram":
            report.event(SAVED, "", step, {"tier": "ram"})


def config(place: Path, start: int) -> CheckpointConfig:
    """Every tier is due at every step; what is still busy is passed over."""
    from hpctrain.checkpoint.config import CheckpointConfig, LocalConfig, PeerConfig, RamConfig
    from hpctrain.checkpoint.retention import Retention
    from hpctrain.checkpoint.schedule import TierSchedule

    always, two = TierSchedule(every_steps=1), Retention(keep_last=2)
    local = LocalConfig(place / "local" / os.environ["HPCTRAIN_NODE"], always, two)
    return CheckpointConfig(
        place / "checkpoints", schedule=always, retention=two, incarnation=start, ram=RamConfig(always),
        peer=PeerConfig(always), local=local, patience_s=20.0,
    )


def fill(model: Any, step: int) -> None:
    """Values that are another for every step and every element of every shard."""
    import torch

    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            local = parameter.to_local()
            local.copy_(expected(local, index, step))


def holds(model: Any, step: int) -> bool:
    """Every element of this rank's shards is that of a step."""
    import torch

    return all(
        torch.equal(parameter.to_local(), expected(parameter.to_local(), index, step))
        for index, parameter in enumerate(model.parameters())
    )


def expected(local: Any, index: int, step: int) -> Any:
    """What a shard holds after a step; all whole numbers below 2**24, which float32 keeps exactly."""
    import torch
    import torch.distributed as dist

    base = (step * 7919 + index * 104729 + dist.get_rank() * 15485863) % 8_000_000
    return (torch.arange(local.numel(), dtype=torch.float32) + base).reshape(local.shape)


class Report:
    """What the ranks tell the campaign: lines that outlive them, and one byte for what rank 0 is doing."""

    def __init__(self, rank: int, path: Path, board: mmap.mmap) -> None:
        self._rank, self._board = rank, board
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def phase(self, name: str) -> None:
        """Rank 0 begins something."""
        if self._rank == 0:
            self._board[0] = PHASES.index(name)

    def event(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        """An event of the checkpointer; the caller has done what it says."""
        tier = str(evidence.get("tier", ""))
        if kind == SAVED and tier == "shared":
            self.phase("prune")
        if self._rank == 0:
            self.write({"kind": kind, "step": step, "text": reason, "tier": tier,
                        "checkpoint": str(evidence.get("checkpoint", "")),
                        "tiers": " and ".join(sorted(evidence.get("tiers", ())))})

    def write(self, record: Mapping[str, Any]) -> None:
        """One line, in one write."""
        os.write(self._handle, (json.dumps(record) + "\n").encode())
