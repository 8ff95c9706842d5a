"""A cluster of nodes in one process, with checkpoints in every tier, for the tests of restoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hpctrain.checkpoint import codec, torch_state
from hpctrain.checkpoint.capture import capture
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.checkpoint.restore_report import Restored
from hpctrain.checkpoint.restore_search import Search
from hpctrain.checkpoint.restore_threads import Limits
from hpctrain.checkpoint.torch_state import RandomState
from hpctrain.clock import SystemClock
from hpctrain.testing.fake_ranks import run_ranks
from hpctrain.testing.fake_tiers import FakePart, FakePartTier, FakeStore

TIERS = ("ram", "peer", "local")


class Box:
    """State that a rank registers: some tensors and a number."""

    def __init__(self, seed: int) -> None:
        made = torch.Generator().manual_seed(seed)
        base = torch.randn(7, 5, generator=made)
        self.tensors = {"a": base, "tied": base, "b": torch.randn(300, generator=made), "empty": torch.empty(0, 3),
                        "scalar": torch.tensor(float(seed)), "c": torch.randn(4, 9, generator=made).bfloat16()}
        self.number = seed

    def state_dict(self) -> dict[str, Any]:
        return {**self.tensors, "number": self.number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.number = state["number"]

    def equals(self, seed: int) -> bool:
        other = Box(seed)
        return self.number == seed and all(torch.equal(value, other.tensors[name]) for name, value in self.tensors.items())


def parts_of(seed: int, world_size: int, limit_bytes: int = 200) -> list[FakePart]:
    """What each rank saves of ``Box(seed)``."""
    tensors: dict[str, Any] = {}
    tree = {"box": torch_state.split(Box(seed).state_dict(), "box", tensors)}
    found = []
    for rank in range(world_size):
        captured = capture(tensors, rank, world_size, limit_bytes)
        own = json.dumps(codec.encode({**tree, "rank": rank}))
        share = {"aliases": captured.aliases, "replicated": captured.fingerprint}
        found.append(FakePart.of(captured.buffers(), own_state=own, world_size=world_size, share=share,
                                 world={"world_size": world_size}))
    return found


def store_it(store: FakeStore, name: CheckpointName, parts: list[FakePart]) -> None:
    """Commit a checkpoint made of parts."""
    store.prepare(name)
    shares = []
    for rank, part in enumerate(parts):
        tensors = [(s.shard, memoryview(part.data)[s.offset_bytes:s.offset_bytes + s.size_bytes]) for s in part.shards]
        shares.append(store.write_share(name, rank, tensors, part.own_state, aliases=part.share["aliases"],
                                        replicated=part.share["replicated"]))
    manifest = Manifest(name.step, name.incarnation, len(parts), tuple(file for share in shares for file in share.files),
                        tuple(shard for share in shares for shard in share.shards))
    store.commit(name, manifest, time=1.0, reason="a test wanted it", world={"world_size": len(parts)})


class World:
    """Nodes with all three tiers each, and stores; ranks are spread evenly, in order."""

    def __init__(self, nodes: int, ranks: int, stores: int = 1) -> None:
        self.ranks = ranks
        self.nodes = [{tier: FakePartTier(tier) for tier in TIERS} for _ in range(nodes)]
        self.stores = [FakeStore(tier) for tier in ("shared", "object")[:stores]]
        self.events: list[tuple[str, str, Mapping[str, Any]]] = []
        self.progress: list[tuple[int, int]] = []
        self.limits = Limits(list_s=5, open_s=5, read_s=5, round_s=10, ranks_s=20)

    def node_of(self, rank: int) -> int:
        return rank * len(self.nodes) // self.ranks

    def restore(self, rng: RandomState | None = None, **options: Any) -> tuple[list[Any], list[Box]]:
        """Restore on all ranks: what each got (or raised), and its state."""
        boxes = [Box(-1) for _ in range(self.ranks)]
        tell: Callable[..., None] = lambda kind, reason, step, evidence: self.events.append((kind, reason, evidence))  # noqa: E731

        def program(ranks: Ranks) -> Restored | None:
            node = self.node_of(ranks.rank)
            search = Search(ranks, self.stores, list(self.nodes[node].values()), clock=SystemClock(), tell=tell,
                            progress=lambda *done: self.progress.append(done), node=f"n{node}", limits=self.limits)
            return search.restore({"box": boxes[ranks.rank]}, rng, **options)

        return run_ranks(self.ranks, program), boxes
