"""The RAM tier of one rank: bit for bit, degraded when it must be, and never the reason why a step fails."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.testing.fake_clock import FakeClock

torch = pytest.importorskip("torch")
xxhash = pytest.importorskip("xxhash")

from hpctrain.checkpoint import arena, arena_memory  # noqa: E402 - after the checks that both are there
from hpctrain.checkpoint.arena_memory import make_block  # noqa: E402
from hpctrain.checkpoint.keeper_client import KeeperClient, make_secret, shared_secret, start_keeper, start_writer  # noqa: E402
from hpctrain.checkpoint.keeper_slots import RefusedError  # noqa: E402
from hpctrain.checkpoint.keeper_wire import WireError  # noqa: E402
from hpctrain.checkpoint.names import CheckpointName  # noqa: E402
from hpctrain.checkpoint.shards import Shard  # noqa: E402
from hpctrain.checkpoint.tier_ram import RamTier  # noqa: E402
from hpctrain.checkpoint.tier_ram_connect import KeeperConnector  # noqa: E402
from hpctrain.checkpoint.tier_ram_copy import ArenaBlock, tensor_of  # noqa: E402
from hpctrain.checkpoint.tier_shared import SharedTier  # noqa: E402
from hpctrain.errors import StorageError  # noqa: E402

DTYPES = ["float32", "float64", "bfloat16", "float16", "int64", "int32", "int16", "uint8", "bool", "complex64",
          "complex128", "float8_e4m3fn", "float8_e5m2"]


class Node:
    """One keeper, and tiers of ranks that use it."""

    def __init__(self) -> None:
        self.secret = make_secret()
        self.keeper = start_keeper(self.secret, until_pid=os.getpid())
        self.tiers: list[RamTier] = []

    def tier(self, rank: int = 0, **options: Any) -> RamTier:
        values = {"world_size": 2, "incarnation": 0, "clock": FakeClock(), **options}
        tier = RamTier(lambda: KeeperClient(self.secret), rank=rank, **values)
        self.tiers.append(tier)
        return tier

    def stop(self) -> None:
        for tier in self.tiers:
            tier.close()
        process.kill_group(self.keeper)
        self.keeper.wait()


@pytest.fixture
def node() -> Iterator[Node]:
    running = Node()
    yield running
    running.stop()


def item(name: str, tensor: Any) -> tuple[Shard, Any]:
    return Shard.whole(name, str(tensor.dtype).removeprefix("torch."), tensor.shape), tensor


def zoo(seed: int = 0) -> list[tuple[Shard, Any]]:
    """Tensors of every type and odd shapes, with bits that are no numbers."""
    generator = torch.Generator().manual_seed(seed)

    def noise(dtype: str, *shape: int) -> Any:
        size = torch.empty(shape, dtype=getattr(torch, dtype)).nbytes
        raw = torch.randint(0, 2 if dtype == "bool" else 256, (size,), dtype=torch.uint8, generator=generator)
        return raw.view(getattr(torch, dtype)).reshape(shape)

    found = [item(f"{dtype}.{index}", noise(dtype, *shape)) for dtype in DTYPES
             for index, shape in enumerate([(7, 3), (1,), (64,)])]
    found += [item("scalar", torch.tensor(float(seed))), item("empty", torch.empty(0, 3)),
              item("transposed", noise("float32", 5, 9).t()), item("every second", noise("bfloat16", 20)[::2]),
              item("unaligned", noise("uint8", 33)[1:]), item("conjugated", noise("complex64", 3, 3).t().conj())]
    whole = noise("float32", 8, 4)
    return [*found, (Shard("rows", "float32", (8, 4), (2, 0), (4, 4)), whole[2:6])]


def raw(tensor: Any) -> bytes:
    plain = tensor.detach().resolve_conj().contiguous()
    return bytes(plain.reshape(-1).view(torch.uint8).numpy().tobytes()) if plain.numel() else b""


def assert_holds(tier: RamTier, name: CheckpointName, items: list[tuple[Shard, Any]], rank: int | None = None) -> None:
    with tier.read(name, rank) as checkpoint:
        assert [shard for shard, _ in items] == [stored.shard for stored in checkpoint.shards]
        for stored, (_, tensor) in zip(checkpoint.shards, items, strict=True):
            with checkpoint.data(stored) as data:
                assert raw(tensor) == bytes(data), stored.shard.name


def test_every_bit_comes_back(node: Node) -> None:
    """Tensors of every type and shape, views and conjugates included, come back bit for bit, with state and world."""
    tier, items = node.tier(), zoo()
    result = tier.stage(3, items, '{"lr": 0.1}', reason="a test", world={"parallelism": "fsdp2"})

    assert result.ok and result.size_bytes == sum(shard.nbytes for shard, _ in items) and result.allocated
    assert_holds(tier, CheckpointName(0, 3), items)
    with tier.read(CheckpointName(0, 3)) as checkpoint:
        assert json.loads(checkpoint.own_state) == {"lr": 0.1}
        assert (checkpoint.world, checkpoint.reason) == ({"world_size": 2, "parallelism": "fsdp2"}, "a test")
        rows = next(stored for stored in checkpoint.shards if stored.shard.name == "float32.0")
        expected = {shard.name: tensor for shard, tensor in items}["float32.0"]
        assert raw(expected) == raw(tensor_of(checkpoint.data(rows), rows.shard).clone())


def test_buffers_are_reused(node: Node) -> None:
    """After the first two saves no memory is allocated any more, though values and own state change."""
    tier = node.tier()
    results = [tier.stage(step, zoo(step), json.dumps({"step": "x" * step})) for step in range(6)]

    assert [True, True, False, False, False, False] == [result.allocated for result in results]
    assert [CheckpointName(0, 4), CheckpointName(0, 5)] == tier.complete_steps()
    for step in (4, 5):
        assert_holds(tier, CheckpointName(0, step), zoo(step))


def test_state_that_grows_gets_larger_blocks(node: Node) -> None:
    """A state that outgrows its blocks, as with an optimizer's first step, gets new ones; the older save stays readable."""
    tier = node.tier()
    small, large = [item("a", torch.ones(10))], [item("a", torch.ones(3 << 20)), item("b", torch.zeros(5))]
    tier.stage(1, small, "{}")
    tier.stage(2, small, "{}")

    assert tier.stage(3, large, "{}").ok
    assert_holds(tier, CheckpointName(0, 2), small)
    assert_holds(tier, CheckpointName(0, 3), large)


def test_two_ranks_and_their_history(node: Node) -> None:
    """Each rank has its own slots; with history, the last k saves of both are there."""
    tiers = [node.tier(rank, slots=4) for rank in (0, 1)]
    for step in range(1, 7):
        for rank, tier in enumerate(tiers):
            assert tier.stage(step, zoo(10 * rank + step), "{}").ok

    expected = [CheckpointName(0, step) for step in (3, 4, 5, 6)]
    assert {0: expected, 1: expected} == tiers[0].holdings()
    assert_holds(tiers[0], CheckpointName(0, 3), zoo(13), rank=1)
    assert tiers[1].drop(CheckpointName(0, 6)) and not tiers[1].drop(CheckpointName(0, 6))
    assert expected[:3] == tiers[1].complete_steps()


def test_new_start_finds_what_the_old_one_left(node: Node) -> None:
    """A later incarnation reads the earlier one's checkpoints; the earlier one can save nothing more and is told to end."""
    old = node.tier()
    old.stage(1, zoo(1), "{}")
    new = node.tier(incarnation=1)

    assert_holds(new, CheckpointName(0, 1), zoo(1))
    result = old.stage(2, zoo(2), "{}")
    assert result.overtaken and "incarnation 1 has taken over" in result.error
    assert new.stage(2, zoo(3), "{}").ok
    assert [CheckpointName(0, 1), CheckpointName(1, 2)] == new.complete_steps()


class OpenBlocks:
    """A block of the keeper's, seen from below: finds and changes bytes as failing memory would."""

    def __init__(self, keeper: process.Popen[bytes]) -> None:
        folder = Path(f"/proc/{keeper.pid}/fd")
        self.paths = [path for path in folder.iterdir() if "hpctrain-arena" in str(path.readlink())]

    def flip(self, offset: int, bit: int) -> None:
        (path,) = self.paths
        handle = os.open(path, os.O_RDWR)
        byte = os.pread(handle, 1, offset)[0]
        os.pwrite(handle, bytes([byte ^ 1 << bit]), offset)
        os.close(handle)


def test_flipped_bits_are_caught(node: Node) -> None:
    """A bit that flips anywhere in header, description, hashes or shards makes the checkpoint unreadable, with a reason."""
    tier, items = node.tier(), [item("a", torch.arange(100)), item("b", torch.ones(33, dtype=torch.uint8))]
    name = CheckpointName(0, 1)
    tier.stage(1, items, "{}")
    with tier.read(name) as checkpoint:  # which waits until it has been hashed
        header, offsets = checkpoint.header, [stored.offset_bytes for stored in checkpoint.shards]
    blocks = OpenBlocks(node.keeper)
    places = [3, 20, 80, arena.HEADER_BYTES, arena.HEADER_BYTES + header.meta_bytes - 1, header.seal_offset,
              header.seal_offset + 31, offsets[0], offsets[0] + 799, offsets[1], offsets[1] + 32]
    for number, place in enumerate(places):
        blocks.flip(place, number % 8)
        with pytest.raises(ValueError, match=r"damaged|holds"):
            tier.read(name)
        blocks.flip(place, number % 8)
    assert_holds(tier, name, items)


def test_bit_that_flips_before_the_hash_is_noticed_in_the_description(node: Node) -> None:
    """A description that is damaged before the keeper hashes is reported by the keeper, not restored."""
    node.keeper.send_signal(signal.SIGSTOP)
    node.keeper.send_signal(signal.SIGCONT)
    client = KeeperClient(node.secret)
    client.request("join", rank=0, incarnation=0, slots=2)
    begun, handle = client.request_handle("begin", size_bytes=8192)
    assert handle is not None
    os.pwrite(handle, b"not what was announced", arena.HEADER_BYTES)
    client.request("commit", slot=begun["slot"], name=[0, 1], world_size=1, meta_bytes=22, shard_count=0, seal_offset=4160,
                   data_offset=8192, size_bytes=8192, meta_xxh3="00" * 16)
    with pytest.raises(RefusedError, match="description of the shards is damaged"):
        client.request("open", rank=0, name=[0, 1], wait_s=5)
    os.close(handle)
    client.close()


def test_killed_keeper_degrades_and_recovers(node: Node) -> None:
    """Without its keeper the tier says so and saves nothing; it tries again after a while, then longer; then it is back."""
    clock = FakeClock()
    tier = node.tier(clock=clock)
    assert tier.stage(1, zoo(), "{}").ok
    node.keeper.send_signal(signal.SIGKILL)
    node.keeper.wait()

    assert not tier.stage(2, zoo(), "{}").ok and tier.is_degraded and tier.complete_steps() == []
    waiting = tier.stage(3, zoo(), "{}")
    assert waiting.stall_s == 0 and "before another try" in waiting.error
    clock.sleep(100)
    assert "there is no keeper" in tier.stage(4, zoo(), "{}").error

    node.keeper = start_keeper(node.secret, until_pid=os.getpid())
    clock.sleep(100)
    assert tier.stage(5, zoo(5), "{}").ok and "" == tier.error
    assert_holds(tier, CheckpointName(0, 5), zoo(5))


def mapped_blocks() -> int:
    return Path("/proc/self/maps").read_text().count("hpctrain-arena")


def test_memory_of_a_dead_keeper_is_let_go(node: Node) -> None:
    """When the keeper is found dead its blocks are unmapped, so that they do not count beside those of the next one."""
    clock, before = FakeClock(), mapped_blocks()
    tier = node.tier(clock=clock)
    for step in (1, 2):
        tier.stage(step, zoo(), "{}")
    assert before + 2 == mapped_blocks()
    node.keeper.send_signal(signal.SIGKILL)
    node.keeper.wait()
    assert {} == tier.parts().holdings()
    assert before == mapped_blocks()
    node.keeper = start_keeper(node.secret, until_pid=os.getpid())
    assert {} == tier.parts().holdings()
    assert tier.stage(3, zoo(3), "{}").ok
    part = tier.parts().open(CheckpointName(0, 3), 0)
    assert (2, "ram") == (part.world_size, tier.parts().tier)
    for stored, (_, tensor) in zip(part.shards, zoo(3), strict=True):
        target = bytearray(stored.size_bytes)
        part.read_into(stored, memoryview(target))
        assert raw(tensor) == bytes(target)
    part.close()


def test_own_keeper_is_started_and_started_again(tmp_path: Path) -> None:
    """Without an agent the first rank starts a keeper; when that is killed, the next save starts another one."""
    clock, connector = FakeClock(), KeeperConnector.from_env({}, tmp_path)
    tier = RamTier(connector, rank=0, world_size=1, incarnation=0, clock=clock)
    assert tier.stage(1, zoo(), "{}").ok
    (first,) = connector._children
    first.send_signal(signal.SIGKILL)
    first.wait()

    assert "gone" in tier.stage(2, zoo(), "{}").error
    clock.sleep(10)
    assert tier.stage(3, zoo(3), "{}").ok
    assert [CheckpointName(0, 3)] == tier.complete_steps()
    tier.close()
    for child in connector._children:
        process.kill_group(child)
        child.wait()


def test_agents_keeper_is_not_replaced(tmp_path: Path) -> None:
    """Where the agent holds the memory, a rank starts no keeper of its own, and makes no secret."""
    file = tmp_path / "keeper.secret"
    env = {"HPCTRAIN_KEEPER_SECRET_FILE": str(file), "HPCTRAIN_NODE": "n1"}
    with pytest.raises(StorageError, match=r"keeper\.secret: the secret of the RAM tier cannot be read: No such file"):
        KeeperConnector.from_env(env, tmp_path)
    shared_secret(file)
    with pytest.raises(WireError, match="there is no keeper"):
        KeeperConnector.from_env(env, tmp_path)()
    assert [file] == list(tmp_path.iterdir())


def test_tensor_that_does_not_fit_is_refused(node: Node) -> None:
    """A tensor of another size than its shard fails that save with its name, and leaves the one before."""
    tier = node.tier()
    tier.stage(1, zoo(1), "{}")
    result = tier.stage(2, [(Shard.whole("w", "float32", (3,)), torch.ones(4))], "{}")

    assert "w: a tensor of 4 elements for a box of (3,)" in result.error
    assert_holds(node.tier(incarnation=1), CheckpointName(0, 1), zoo(1))


def test_reader_blocks_only_its_slot(node: Node) -> None:
    """While a checkpoint is being read it is not overwritten: saves go on in the other slot, and it stays as it was."""
    tier = node.tier(spares=0)
    tier.stage(1, zoo(1), "{}")
    with tier.read(CheckpointName(0, 1)) as checkpoint:
        results = [tier.stage(step, zoo(step), "{}") for step in (2, 3)]
        assert results[0].ok
        assert "all 2 slots of rank 0 are needed" in results[1].error and not tier.is_degraded
        checkpoint._verify()
    assert tier.stage(4, zoo(4), "{}").ok
    assert [CheckpointName(0, 2), CheckpointName(0, 4)] == tier.complete_steps()


def test_spare_slot_is_used_while_one_is_read(node: Node) -> None:
    """While the writer reads a checkpoint, saves go on in turns between two slots, as if it did not."""
    tier = node.tier()
    tier.stage(1, zoo(1), "{}")
    with tier.read(CheckpointName(0, 1)) as checkpoint:
        results = [tier.stage(step, zoo(step), "{}") for step in (2, 3, 4, 5)]
        checkpoint._verify()
    assert [True] * 4 == [result.ok for result in results]
    assert [True, True, False, False] == [result.allocated for result in results]
    assert [CheckpointName(0, step) for step in (1, 4, 5)] == tier.complete_steps()


def whole_zoo(seed: int) -> list[tuple[Shard, Any]]:
    """What one rank can commit by itself."""
    return [(shard, tensor) for shard, tensor in zoo(seed) if shard.is_whole]


def order(root: Path) -> dict[str, Any]:
    commit = {"world_size": 1, "world": {"world_size": 1}, "time": 0.0, "reason": "test", "patience_s": 60}
    return {"root": str(root), "attempt": 1, "commit": commit}


def assert_written(root: Path, name: CheckpointName, items: list[tuple[Shard, Any]]) -> None:
    tier = SharedTier(root)
    _, manifest = tier.open(name)
    data = (tier.folder(name) / "__0_0.distcp").read_bytes()
    stored = {row.shard: data[row.offset_bytes:row.offset_bytes + row.size_bytes] for row in manifest.shards}
    assert stored == {shard: raw(tensor) for shard, tensor in items}
    assert "" == tier.damage(name, manifest.files)


def result_of(tier: RamTier, name: CheckpointName) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not (result := tier.persisted("shared", 0)["result"]) or result["name"] != [name.incarnation, name.step]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return dict(result)


def test_dead_ranks_last_checkpoint_is_written(node: Node, tmp_path: Path) -> None:
    """After all ranks are gone, the writer still makes their last checkpoint durable, byte for byte."""
    node.tier().stage(1, whole_zoo(1), '{"a": 1}')
    node.tiers[0].close()
    writer = start_writer(node.secret)
    after, name = node.tier(rank=9, incarnation=1), CheckpointName(0, 1)
    assert after.persist(name, "shared", order(tmp_path), rank=0) == ""

    assert "" == result_of(after, name).get("error", "")
    assert_written(tmp_path, name, whole_zoo(1))
    assert b'{"a": 1}' == (tmp_path / str(name) / "rank-00000.json").read_bytes()
    process.kill_group(node.keeper)
    assert 0 == writer.wait(timeout=30)


def test_writer_reports_what_it_cannot_write(node: Node, tmp_path: Path) -> None:
    """A place that cannot be, or a checkpoint that is gone, is a reported result; the next order is served."""
    tier = node.tier()
    for step in (1, 2, 3):
        tier.stage(step, whole_zoo(step), "{}")
    assert "rank 0 has no complete" in tier.persist(CheckpointName(0, 1), "shared", order(tmp_path))
    writer = start_writer(node.secret)
    tier.persist(CheckpointName(0, 2), "shared", order(Path("/dev/null/nowhere")))
    assert "Not a directory" in result_of(tier, CheckpointName(0, 2))["error"]
    tier.persist(CheckpointName(0, 3), "shared", order(tmp_path))

    assert "" == result_of(tier, CheckpointName(0, 3)).get("error", "")
    assert_written(tmp_path, CheckpointName(0, 3), whole_zoo(3))
    process.kill_group(writer)
    writer.wait(timeout=30)


class LateOnce(KeeperClient):
    """A connection over which the first answer to a question comes too late."""

    late = ""

    def request_handle(self, op: str, *, extra_s: float = 0.0, **fields: Any) -> tuple[dict[str, Any], int | None]:
        if op == LateOnce.late:
            LateOnce.late = ""
            self.close()
            raise WireError("the other end does not answer in time")
        return super().request_handle(op, extra_s=extra_s, **fields)


def test_late_answer_is_no_lost_checkpoint(node: Node) -> None:
    """A keeper that answers too late once, on a busy node, is asked again: what it holds is heard of and opened."""
    tier = RamTier(lambda: LateOnce(node.secret), rank=0, world_size=1, incarnation=0)
    assert tier.stage(3, zoo(), "{}").ok
    LateOnce.late = "holdings"
    assert {CheckpointName(0, 3): {0: 1}} == tier.parts().holdings()
    LateOnce.late = "open"
    with tier.parts().open(CheckpointName(0, 3), 0) as part:
        assert len(zoo()) == len(part.shards)
    tier.close()


def test_copy_runs_in_whole_words() -> None:
    """Copies of any size, at any source address, write exactly their bytes and not one beside them."""
    handle = make_block(1 << 16)
    mapping = arena_memory.map_block(handle, writable=True)
    block = ArenaBlock(mapping)
    source = torch.randint(0, 256, (300,), dtype=torch.uint8)
    for size in (1, 3, 4, 7, 8, 12, 16, 255):
        for start in range(9):
            mapping[0:400] = b"\xee" * 400
            block.copy_in([Shard.whole("a", "uint8", (size,))], (64,), [source[start:start + size]])
            assert mapping[0:400] == b"\xee" * 64 + raw(source[start:start + size]) + b"\xee" * (336 - size)
    os.close(handle)
