"""Ranks that are killed while they copy into memory: what was complete stays complete, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpctrain import process

torch = pytest.importorskip("torch")
xxhash = pytest.importorskip("xxhash")

from hpctrain.checkpoint.arena_reader import ArenaCheckpoint  # noqa: E402 - after the checks that both are there
from hpctrain.checkpoint.keeper_client import KeeperClient, shared_secret, start_keeper, start_writer  # noqa: E402
from hpctrain.checkpoint.keeper_wire import WireError  # noqa: E402
from hpctrain.checkpoint.names import CheckpointName  # noqa: E402
from tests.train.ranks import Start, WarmRanks, logs  # noqa: E402

ROUNDS = 50
SIZES = (3, 70_000, 1, 130_001)


def rank_main(_arguments: list[str]) -> int:
    """What a rank of these tests does: saves one step after another, and says which are done, until it is killed."""
    from hpctrain.checkpoint.shards import Shard
    from hpctrain.checkpoint.tier_ram import RamTier

    torch.set_num_threads(1)
    secret, rank = bytes.fromhex(os.environ["TEST_SECRET"]), int(os.environ["RANK"])
    incarnation = int(os.environ["HPCTRAIN_INCARNATION"])
    tier = RamTier(lambda: KeeperClient(secret), rank=rank, world_size=2, incarnation=incarnation)
    shards = [Shard.whole(f"t{index}", "int64", (size,)) for index, size in enumerate(SIZES)]
    done = os.open(os.environ["TEST_DONE"] + str(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    step = 0
    while True:
        step += 1
        while "TEST_TOGETHER" in os.environ and step > 1 and done_by(os.environ["TEST_DONE"] + str(1 - rank)) < step - 1:
            time.sleep(0.0002)  # as the collectives of a training step would make it wait
        items = [(shard, torch.full(shard.shape, value(incarnation, rank, step))) for shard in shards]
        result = tier.stage(step, items, f'"{incarnation}/{rank}/{step}"')
        os.pwrite(done, f"{step if result.ok else -1:<12}{result.error:<200}".encode(), 0)
        if not result.ok and os.environ.get("TEST_GO_ON") is None:
            return 3


def trainer_main(_arguments: list[str]) -> int:
    """Four ranks that train a sharded model with checkpoints in memory only, and write what came of it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from hpctrain.checkpoint.config import CheckpointConfig, RamConfig
    from hpctrain.checkpoint.manager import Checkpointer
    from hpctrain.checkpoint.schedule import TierSchedule

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    run_dir, rank = Path(os.environ["HPCTRAIN_RUN_DIR"]), dist.get_rank()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.Dropout(0.3), torch.nn.Linear(13, 5))
    fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    torch.manual_seed(rank)
    told: list[str] = []
    checkpointer = Checkpointer(
        CheckpointConfig(run_dir / "checkpoints", TierSchedule(every_steps=1000),
                         ram=RamConfig(TierSchedule(every_steps=1))),
        notify=lambda kind, reason, step, evidence: told.append(f"{kind}: {reason}"),
    )
    checkpointer.register(model=model, optimizer=optimizer, rng=True)
    step = checkpointer.restore()
    if rank == 0:
        (run_dir / "restored").write_text("\n".join([str(step), *told]))
    while step < int(os.environ["TEST_STEPS"]):
        model(torch.randn(3, 7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        checkpointer.step(step)
        (run_dir / f"done-{rank}").write_text(f"{step:<12}")
    weights = b"".join(bytes(p.to_local().detach().numpy().tobytes()) for p in model.parameters())  # type: ignore[attr-defined]
    (run_dir / f"weights-{rank}").write_bytes(weights)
    checkpointer.close()
    dist.destroy_process_group()
    return 0


def done_by(path: str) -> int:
    """The last step that a rank knows to be complete; 0 before the first, -1 after an error."""
    try:
        return int(Path(path).read_text()[:12] or 0)
    except (FileNotFoundError, ValueError):
        return 0


def value(incarnation: int, rank: int, step: int) -> int:
    """What every element holds: no two saves look alike."""
    return (incarnation << 40) + (rank << 32) + step


class Node:
    """A keeper and the ranks that use it."""

    def __init__(self, trainers: WarmRanks, run_dir: Path) -> None:
        self._trainers, self.run_dir = trainers, run_dir
        run_dir.mkdir(exist_ok=True)
        self.secret_file = run_dir / "keeper.secret"
        self.secret = shared_secret(self.secret_file)
        self.keeper = start_keeper(self.secret, until_pid=os.getpid())

    def start(self, incarnation: int, **env: str) -> Start:
        for path in self.run_dir.glob("done-*"):
            path.unlink()
        return self._trainers.start(
            self.run_dir, {}, ranks=2, target="tests.train.test_ram_tier:rank_main", TEST_SECRET=self.secret.hex(),
            TEST_DONE=str(self.run_dir / "done-"), HPCTRAIN_INCARNATION=str(incarnation), **env,
        )

    def done(self, rank: int) -> int:
        return done_by(str(self.run_dir / f"done-{rank}"))

    def wait_for(self, step: int, ranks: int = 2) -> None:
        deadline = time.monotonic() + 30
        while min(self.done(rank) for rank in range(ranks)) < step:
            assert time.monotonic() < deadline, logs(self.run_dir)
            time.sleep(0.001)

    def held(self) -> dict[int, list[CheckpointName]]:
        client = KeeperClient(self.secret)
        answer = client.request("holdings")
        client.close()
        return {int(rank): [CheckpointName(*pair) for pair in names] for rank, names in answer["ranks"].items()}

    def check(self, rank: int, name: CheckpointName) -> None:
        """Every element of a checkpoint is what its step made it."""
        client = KeeperClient(self.secret)
        with ArenaCheckpoint(client, rank, name) as checkpoint:
            assert checkpoint.own_state == f'"{name.incarnation}/{rank}/{name.step}"'
            assert list(SIZES) == [stored.shard.numel for stored in checkpoint.shards]
            element = value(name.incarnation, rank, name.step).to_bytes(8, "little")
            for stored in checkpoint.shards:
                with checkpoint.data(stored) as data:
                    assert element * stored.shard.numel == bytes(data)
        client.close()

    def stop(self) -> None:
        process.kill_group(self.keeper)
        self.keeper.wait()


    def train(self, steps: int) -> Start:
        for pattern in ("done-*", "weights-*", "restored"):
            for path in self.run_dir.glob(pattern):
                path.unlink()
        return self._trainers.start(self.run_dir, {}, target="tests.train.test_ram_tier:trainer_main",
                                    TEST_STEPS=str(steps), HPCTRAIN_KEEPER_SECRET_FILE=str(self.secret_file),
                                    HPCTRAIN_NODE="")

    def weights(self) -> list[bytes]:
        return [(self.run_dir / f"weights-{rank}").read_bytes() for rank in range(4)]


@pytest.fixture
def node(trainers: WarmRanks, tmp_path: Path) -> Iterator[Node]:
    running = Node(trainers, tmp_path)
    yield running
    running.stop()


@pytest.mark.timeout(240)
def test_ranks_killed_at_random_lose_nothing(node: Node) -> None:
    """Two ranks are killed at a random moment, again and again: the last step that both completed is there, on both, and
    every checkpoint that is listed is whole.
    """
    chance = random.Random(7)
    steps = []
    for incarnation in range(ROUNDS):
        start = node.start(incarnation, TEST_TOGETHER="1")
        node.wait_for(1)
        time.sleep(chance.random() * 0.03)
        start.kill()
        assert [-signal.SIGKILL] * 2 == start.wait(), logs(node.run_dir)
        held = node.held()
        known = CheckpointName(incarnation, min(node.done(0), node.done(1)))
        assert known.step > 0 and known <= max(set(held[0]) & set(held[1])), f"round {incarnation}: {known} of {held}"
        steps.append(known.step)
        for rank in (0, 1):
            for name in held[rank]:
                node.check(rank, name)
    assert len(set(steps)) > 5, f"all were killed at the same moment: {steps}"


def test_killed_keeper_stops_no_rank(node: Node) -> None:
    """When the keeper is killed, ranks go on without the tier; when there is a new one, they use it."""
    start = node.start(0, TEST_GO_ON="1")
    node.wait_for(1)
    node.stop()
    deadline = time.monotonic() + 10
    while max(node.done(0), node.done(1)) != -1:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    node.keeper = start_keeper(node.secret, until_pid=os.getpid())
    node.wait_for(1)
    start.kill()
    start.wait()
    for rank, names in node.held().items():
        for name in names:
            node.check(rank, name)
        assert names


def test_late_old_ranks_change_nothing(node: Node) -> None:
    """Old ranks that are still alive when new ones have started end with an error, and what the new ones save is whole."""
    old = node.start(0)
    node.wait_for(1)
    client = KeeperClient(node.secret)
    for rank in (0, 1):
        other = KeeperClient(node.secret)
        other.request("join", rank=rank, incarnation=1, slots=2)
    assert [3, 3] == old.wait()
    assert all("has taken over" in (node.run_dir / f"done-{rank}").read_text() for rank in (0, 1))
    for rank, names in node.held().items():
        for name in names:
            node.check(rank, name)
        assert names
    client.close()


def test_killed_writer_is_replaced(node: Node, tmp_path: Path) -> None:
    """The writer is killed over its work: the next writer does it, for ranks that are dead."""
    start = node.start(0)
    node.wait_for(2)
    start.kill()
    start.wait()
    client = KeeperClient(node.secret)
    (name, *_) = reversed(node.held()[0])
    order = {"root": str(tmp_path / "checkpoints"), "attempt": 1, "commit": None}
    client.request("persist", tier="shared", rank=0, incarnation=0, name=[name.incarnation, name.step], task=order)
    first = KeeperClient(node.secret)
    assert first.request("take", tier="shared")["rank"] == 0
    first.close()
    second = start_writer(node.secret)
    deadline = time.monotonic() + 20
    while not (result := client.request("persisted", rank=0, tier="shared")["result"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert result["name"] == [name.incarnation, name.step] and "error" not in result
    assert (tmp_path / "checkpoints" / str(name) / "__0_0.distcp").stat().st_size > 8 * sum(SIZES)
    node.stop()
    with pytest.raises(WireError):
        client.request("holdings")
    assert 0 == second.wait(timeout=10)
    client.close()


def test_killed_training_ends_as_if_it_had_not_been(trainers: WarmRanks, node: Node, tmp_path: Path) -> None:
    """Four ranks of a sharded model, killed twice at random moments, with checkpoints in memory only: the final weights
    are those of the training that was left alone, byte for byte.
    """
    straight = Node(trainers, tmp_path / "straight")
    assert [0, 0, 0, 0] == straight.train(40).wait(), logs(straight.run_dir)
    straight.stop()
    chance, restored = random.Random(5), []
    for victims in ((0, 1, 2, 3), (2,)):
        start = node.train(10_000)
        goal = (restored[-1] if restored else 0) + 8
        node.wait_for(goal, ranks=4)
        time.sleep(chance.random() * 0.02)
        start.kill(*victims)
        time.sleep(0.1)
        start.kill()  # what an agent does with the others
        start.wait()
        restored.append(goal)
        least = min(node.done(rank) for rank in range(4))
        assert least < 40, "too fast a machine for this test"
        held = node.held()
        assert CheckpointName(len(restored) - 1, least) in set.intersection(*(set(held[rank]) for rank in range(4)))
    assert [0, 0, 0, 0] == node.train(40).wait(), logs(node.run_dir)

    step, *told = (node.run_dir / "restored").read_text().splitlines()
    assert int(step) >= 16 and any("from ram" in line for line in told), told
    assert straight.weights() == node.weights()
