"""Real ranks on several nodes restore from what is left in memory, on peers, and in the shared tier."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from tests.train.ranks import WarmRanks, logs

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")

from hpctrain.checkpoint.keeper_client import KeeperClient, make_secret, start_keeper  # noqa: E402 - after the checks
from hpctrain.checkpoint.names import CheckpointName  # noqa: E402
from hpctrain.checkpoint.tier_ram_parts import MemoryParts  # noqa: E402

RANKS = 4
STEPS = (1, 2)
INCARNATION = 0


class Copies(KeeperClient):
    """Fills another node's keeper as that node's peer does."""

    def request_handle(self, op: str, *, extra_s: float = 0.0, **fields: Any) -> tuple[dict[str, Any], int | None]:
        return super().request_handle(op, extra_s=extra_s, store="peer", **fields)


class State:
    """Sharded and whole tensors and a counter, all of which follow from the step."""

    def __init__(self, step: int) -> None:
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        world = dist.get_world_size()
        line, square = init_device_mesh("cpu", (world,)), init_device_mesh("cpu", (world // 2, 2))
        made = torch.Generator().manual_seed(step)
        whole = {"rows": torch.randn(9, 31, generator=made), "blocks": torch.randn(17, 8, generator=made),
                 "plain": torch.randn(1000, generator=made), "replicated": torch.randn(6, 5, generator=made)}
        self.whole = whole
        self.tensors = {
            "rows": distribute_tensor(whole["rows"], line, [Shard(0)]),
            "blocks": distribute_tensor(whole["blocks"], square, [Shard(0), Shard(1)]),
            "replicated": distribute_tensor(whole["replicated"], square, [Replicate(), Shard(0)]),
            "plain": whole["plain"].clone(),
        }
        self.step = step

    def state_dict(self) -> dict[str, Any]:
        return {**self.tensors, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    def equals(self, step: int) -> bool:
        expected = State(step).whole
        found = {name: value.full_tensor() if hasattr(value, "full_tensor") else value
                 for name, value in self.tensors.items()}
        return self.step == step and all(torch.equal(found[name], value) for name, value in expected.items())


def save_main(_arguments: list[str]) -> int:
    """Each rank is a node: puts its part of each step into its own and its partner's keeper; all write the shared tier."""
    import torch.distributed as dist

    from hpctrain.checkpoint import CheckpointConfig, Checkpointer
    from hpctrain.checkpoint.manager_state import Registered
    from hpctrain.checkpoint.tier_ram import RamTier

    dist.init_process_group("gloo")
    rank, secret = dist.get_rank(), bytes.fromhex(os.environ["TEST_SECRET"])
    checkpointer = Checkpointer(CheckpointConfig(Path(os.environ["HPCTRAIN_RUN_DIR"]) / "checkpoints"))
    assert INCARNATION == checkpointer.incarnation
    for step in STEPS:
        state, registered = State(step), Registered()
        torch.manual_seed(100 * step + rank)
        registered.add(None, None, rng=True, more={"state": state})
        captured, own = registered.collect(rank, RANKS)
        share = {"aliases": captured.aliases, "replicated": captured.fingerprint}
        for kind, node in ((KeeperClient, rank), (Copies, rank ^ 1)):
            tier = RamTier(lambda kind=kind, node=node: kind(secret, f"n{node}"), rank=rank, world_size=RANKS,
                           incarnation=INCARNATION, slots=3)
            result = tier.stage(step, captured.pieces, own, reason="a test", share=share)
            if not result.ok:
                print(result, flush=True)
                return 3
            tier.close()
        checkpointer.register(state=state, rng=True)
        if not checkpointer.save_now("a test", step=step).ok:
            return 4
    dist.barrier()
    return 0


def restore_main(_arguments: list[str]) -> int:
    """Restore on every rank, and write what came of it."""
    import torch.distributed as dist

    from hpctrain.checkpoint.ranks import Ranks
    from hpctrain.checkpoint.restore_search import Search
    from hpctrain.checkpoint.tier_shared import SharedTier
    from hpctrain.checkpoint.torch_state import RandomState
    from hpctrain.clock import SystemClock

    dist.init_process_group("gloo")
    rank, secret = dist.get_rank(), bytes.fromhex(os.environ["TEST_SECRET"])
    run_dir, node = Path(os.environ["HPCTRAIN_RUN_DIR"]), os.environ["TEST_NODES"].split(",")[rank]
    clients: list[KeeperClient] = []

    def connection() -> KeeperClient:
        if not clients:
            clients.append(KeeperClient(secret, node))
        return clients[0]

    state = State(0)
    tiers = [MemoryParts(connection, store, INCARNATION + 1) for store in ("own", "peer")]
    search = Search(Ranks(), [SharedTier(run_dir / "checkpoints")], tiers, clock=SystemClock(),
                    tell=lambda *event: None, node=node)
    restored = search.restore({"state": state}, RandomState(), before=int(os.environ.get("TEST_BEFORE", "0")) or None)
    assert restored is not None
    drawn = torch.rand(1).item()
    torch.manual_seed(100 * restored.step + rank)
    result = {"step": restored.step, "line": restored.line, "tiers": restored.tiers,
              "equal": state.equals(restored.step), "same_random": drawn == torch.rand(1).item()}
    (run_dir / f"restored-{rank}").write_text(json.dumps(result))
    dist.barrier()
    return 0


class Cluster:
    """Four nodes with a keeper each; memory, peers and the shared tier hold steps 1 and 2."""

    def __init__(self, trainers: WarmRanks, run_dir: Path) -> None:
        self._trainers, self.run_dir, self.secret = trainers, run_dir, make_secret()
        self.keepers = {f"n{rank}": start_keeper(self.secret, f"n{rank}", until_pid=os.getpid()) for rank in range(RANKS)}
        self.shared = run_dir / "checkpoints" / str(CheckpointName(INCARNATION, 2))
        codes = self._start("save_main", RANKS)
        assert [0] * RANKS == codes, logs(run_dir)

    def _start(self, function: str, ranks: int, **env: str) -> list[int]:
        return self._trainers.start(self.run_dir, {}, ranks, target=f"tests.train.test_restore_mix:{function}",
                                    TEST_SECRET=self.secret.hex(), HPCTRAIN_INCARNATION=str(INCARNATION), **env).wait()

    def restore(self, nodes: str = "n0,n1,n2,n3", **env: str) -> list[dict[str, Any]]:
        ranks = len(nodes.split(","))
        codes = self._start("restore_main", ranks, TEST_NODES=nodes, **env)
        assert [0] * ranks == codes, logs(self.run_dir)
        results = [json.loads((self.run_dir / f"restored-{rank}").read_text()) for rank in range(ranks)]
        assert all(result["equal"] for result in results), results
        assert all((result["step"], result["line"]) == (results[0]["step"], results[0]["line"]) for result in results)
        return results

    def kill(self, node: str) -> None:
        process.kill_group(self.keepers[node])
        self.keepers.pop(node).wait()

    def damage(self, node: str, store: str, rank: int, step: int = 2) -> None:
        """Flip a bit in each box of a part in a node's memory."""
        client = KeeperClient(self.secret, node)
        part = MemoryParts(lambda: client, store, INCARNATION).open(CheckpointName(INCARNATION, step), rank)
        _, readable = client.request_handle("open", rank=rank, name=[INCARNATION, step], store=store)
        assert readable is not None
        handle = os.open(f"/proc/self/fd/{readable}", os.O_RDWR)
        os.close(readable)
        for stored in part.shards:
            byte = os.pread(handle, 1, stored.offset_bytes)
            os.pwrite(handle, bytes([byte[0] ^ 1]), stored.offset_bytes)
        os.close(handle)
        part.close()
        client.close()

    def damage_shared(self, rank: int) -> None:
        path = self.shared / f"__{rank}_0.distcp"
        path.write_bytes(bytes(path.stat().st_size))

    def stop(self) -> None:
        for node in list(self.keepers):
            self.kill(node)


@pytest.fixture
def cluster(trainers: WarmRanks, tmp_path: Path) -> Iterator[Cluster]:
    running = Cluster(trainers, tmp_path)
    yield running
    running.stop()


def test_damage_falls_from_memory_to_peer_to_shared_to_older(cluster: Cluster) -> None:
    """Rank 1's part is damaged in memory, then on its peer, then in the shared tier: the next best is taken whole."""
    results = cluster.restore()
    assert (2, {"ram": 4}) == picked(results), results
    assert all(result["same_random"] for result in results)

    cluster.damage("n1", "own", 1)
    assert (2, {"ram": 3, "peer": 1}) == picked(cluster.restore())
    cluster.damage("n0", "peer", 1)
    assert (2, {"ram": 3, "shared": 1}) == picked(cluster.restore())
    cluster.damage_shared(1)
    results = cluster.restore()
    assert (1, {"ram": 4}) == picked(results)
    assert "1 step lost; step 2 is passed over" in results[0]["line"]


def test_lost_node_is_fed_by_the_others(cluster: Cluster) -> None:
    """A node's keeper is killed with all it holds: its rank, also on an empty new node, gets its part from the peer."""
    cluster.kill("n3")
    results = cluster.restore()
    assert (2, {"ram": 3, "peer": 1}) == picked(results) and "of node n2" in results[0]["line"]
    cluster.keepers["n9"] = start_keeper(cluster.secret, "n9", until_pid=os.getpid())
    results = cluster.restore("n0,n1,n2,n9")
    assert (2, {"ram": 3, "peer": 1}) == picked(results) and all(result["same_random"] for result in results)
    cluster.kill("n2")  # now both who had it
    results = cluster.restore("n0,n1,n9,n9")
    assert (2, {"ram": 2, "shared": 2}) == picked(results)


def test_half_the_nodes_restore_from_memory_and_peers(cluster: Cluster) -> None:
    """What 4 ranks saved is restored on 2, from the memory of the 2 nodes that are left and their copies of the others."""
    cluster.kill("n1")
    cluster.kill("n3")
    (cluster.shared / "commit.json").unlink()  # so that it must come from memory

    assert (2, {"ram": 2, "peer": 2}) == picked(cluster.restore("n0,n2"))


def test_rewind_is_for_good_on_every_node(cluster: Cluster) -> None:
    """After restore(before=2) step 2 comes back from nowhere."""
    results = cluster.restore(TEST_BEFORE="2")
    assert (1, {"ram": 4}) == picked(results) and "abandoned: step 2" in results[0]["line"]

    assert (1, {"ram": 4}) == picked(cluster.restore())


def picked(results: list[dict[str, Any]]) -> tuple[int, dict[str, int]]:
    """Step and tiers."""
    return results[0]["step"], results[0]["tiers"]
