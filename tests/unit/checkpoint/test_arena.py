"""Blocks of memory: layout, header, hashes, and whether there is room for one."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

xxhash = pytest.importorskip("xxhash")

from hpctrain.checkpoint import arena, arena_memory, memory_budget  # noqa: E402 - after the check that xxhash is there
from hpctrain.checkpoint.arena import Header, Meta  # noqa: E402
from hpctrain.checkpoint.arena_memory import BlockError  # noqa: E402
from hpctrain.checkpoint.memory_budget import Limit  # noqa: E402
from hpctrain.checkpoint.memory_budget_probe import read_limits  # noqa: E402
from hpctrain.checkpoint.shards import Shard  # noqa: E402

GIB = 1024 ** 3
HEADER = Header(step=7, incarnation=3, world_size=4, meta_bytes=99, shard_count=2, seal_offset=4224, data_offset=8192,
                size_bytes=9000, meta_xxh3=bytes(range(16)))


@contextmanager
def block(size_bytes: int = 1 << 16) -> Iterator[int]:
    handle = arena_memory.make_block(size_bytes)
    try:
        yield handle
    finally:
        os.close(handle)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 100_000), max_size=20), st.integers(0, 20_000))
def test_regions_never_overlap(sizes: list[int], meta_bytes: int) -> None:
    """Header, meta, seal and shards follow each other without overlap, aligned, whatever their sizes."""
    layout = arena.plan(sizes, meta_bytes)
    ends = [(0, arena.HEADER_BYTES), (layout.meta_offset, meta_bytes), (layout.seal_offset, 16 * len(sizes)),
            *zip(layout.shard_offsets, sizes, strict=True), (layout.size_bytes, 0)]

    assert all(first + size <= second for (first, size), (second, _) in itertools.pairwise(ends))
    assert all(offset % 64 == 0 for offset in layout.shard_offsets)
    assert arena.block_bytes(layout.size_bytes) >= layout.size_bytes


@given(st.integers(0, 10**6))
def test_room_for_meta_is_enough(size: int) -> None:
    """The room planned for a meta region holds it, and a little more."""
    assert arena.meta_room(size) > size


def test_header_comes_back() -> None:
    """A header is read back as it was written."""
    assert HEADER == Header.from_bytes(HEADER.to_bytes())
    assert not HEADER.is_sealed
    assert replace(HEADER, seal_xxh3=b"\1" * 16).is_sealed


def test_every_bit_of_a_header_counts() -> None:
    """Whichever bit of the header flips, it is not accepted."""
    good = HEADER.to_bytes()
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"holds no complete|damaged|version"):
            Header.from_bytes(bytes(bad))


def test_cleared_block_holds_nothing() -> None:
    """A new block, and one whose header was cleared, hold no checkpoint."""
    with block() as handle:
        with pytest.raises(ValueError, match="holds no complete checkpoint"):
            arena_memory.read_header(handle)
        arena_memory.write_header(handle, HEADER)
        assert HEADER == arena_memory.read_header(handle)
        arena_memory.clear_header(handle)
        with pytest.raises(ValueError, match="holds no complete checkpoint"):
            arena_memory.read_header(handle)


def test_block_cannot_change_its_size() -> None:
    """The size of a block is sealed, so that nobody's access can meet a missing page."""
    with block() as handle:
        for size in (1, 1 << 20):
            with pytest.raises(OSError):
                os.ftruncate(handle, size)


def test_block_leaves_no_name() -> None:
    """A block is in no directory: it ends with its last descriptor."""
    before = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    with block() as handle:
        assert "(deleted)" in str(Path(f"/proc/self/fd/{handle}").readlink())
        assert before == (set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set())


def test_reader_cannot_write() -> None:
    """What is written through a reader's descriptor or mapping never reaches the block."""
    with block() as handle:
        reader = arena_memory.read_only(handle)
        with pytest.raises(OSError):
            os.pwrite(reader, b"x", 0)
        with arena_memory.map_block(reader, writable=False) as mapping:
            mapping[0:1] = b"x"
        assert b"\0" == os.pread(handle, 1, 0)
        os.close(reader)


def test_impossible_block_is_an_error() -> None:
    """A block that the system refuses is refused when it is made, not when it is touched, and leaves no descriptor."""
    before = os.listdir("/proc/self/fd")
    # A file-size limit stands for exhausted memory: a test must not exhaust it. (Python ignores the signal.)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(BlockError, match="131072 bytes cannot be allocated: File too large"):
            arena_memory.make_block(1 << 17)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(before) == len(os.listdir("/proc/self/fd"))


def test_allocation_stops_when_memory_runs_short() -> None:
    """While a block is being made, each part is preceded by a look at what is left; nothing is kept of a block given up."""
    before, asked = os.listdir("/proc/self/fd"), []

    def objection(rest_bytes: int) -> str:
        asked.append(rest_bytes)
        return "somebody else took it" if len(asked) == 3 else ""

    with pytest.raises(BlockError, match="somebody else took it"):
        arena_memory.make_block(10 << 20, objection, step_bytes=1 << 20)
    assert [10 << 20, 9 << 20, 8 << 20] == asked
    assert len(before) == len(os.listdir("/proc/self/fd"))


def test_meta_comes_back() -> None:
    """Shards, own state, world and reason are read back from a block, and a flipped bit in them is noticed."""
    shards = [Shard.whole("a", "float32", (3, 2)), Shard("b", "bfloat16", (4,), (2,), (2,))]
    text = arena.meta_text(arena.shards_text(shards), '{"ü": 1}', {"world_size": 2}, "because")
    layout = arena.plan([shard.nbytes for shard in shards], arena.meta_room(len(text)))
    header = replace(HEADER, meta_bytes=len(text), meta_xxh3=xxhash.xxh3_128_digest(text), seal_offset=layout.seal_offset,
                     data_offset=layout.data_offset, size_bytes=layout.size_bytes)
    with block() as handle:
        os.pwrite(handle, text, layout.meta_offset)
        meta = Meta(tuple(shards), '{"ü": 1}', {"world_size": 2}, "because", {})
        assert (meta, layout) == arena_memory.read_meta(handle, header)
        os.pwrite(handle, b"#", layout.meta_offset + 5)
        with pytest.raises(ValueError, match="description of the shards is damaged"):
            arena_memory.read_meta(handle, header)


def test_shards_must_fit_their_block() -> None:
    """A description of more shards than the header counts, or of larger ones than the block, is refused."""
    meta = Meta((Shard.whole("a", "float32", (1 << 20,)),), "{}", {}, "", {})
    with pytest.raises(ValueError, match="do not fit a block"):
        arena.check(replace(HEADER, shard_count=1), meta, 1 << 16)
    with pytest.raises(ValueError, match="do not fit a block"):
        arena.check(HEADER, meta, 1 << 30)


def test_refusal_carries_the_arithmetic() -> None:
    """The message says what is needed, what is left, and what is kept free."""
    limits = [Limit("the node", 64 * GIB, 40 * GIB), Limit("control group /job_7", 16 * GIB, 5 * GIB)]

    reason = memory_budget.refusal(4 * GIB, limits, what="a block for rank 0", pending_bytes=GIB)
    assert reason == (
        "a block for rank 0 needs 4.0 GiB, but control group /job_7 has room for 3.2 GiB: 5.0 GiB left of 16.0 GiB "
        "- 819.2 MiB kept free - 1.0 GiB being allocated for other ranks"
    )
    assert not memory_budget.refusal(3 * GIB, limits, what="a block", pending_bytes=GIB)


def test_control_group_limits_are_read(tmp_path: Path) -> None:
    """Limits of our control group and of those above it are found, version 1 and 2; caches count as left."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  1000 kB\nMemAvailable:  600 kB\nHugePages_Total:  0\n")
    (proc / "self/cgroup").write_text("5:cpu,memory:/old/job\n0::/slurm/job_7/step_0\n")
    files = {"slurm/job_7": ("memory.max", "1000", "memory.current", "900", "inactive_file 50\nanon 3\n"),
             "slurm": ("memory.max", "max", "memory.current", "900", ""),
             "memory/old": ("memory.limit_in_bytes", "2000", "memory.usage_in_bytes", "500", "total_inactive_file 100\n"),
             "memory": ("memory.limit_in_bytes", str((1 << 63) - 4096), "memory.usage_in_bytes", "500", "")}
    for folder, (limit, total, usage, used, stat) in files.items():
        (groups / folder).mkdir(parents=True, exist_ok=True)
        for name, text in ((limit, total), (usage, used), ("memory.stat", stat)):
            (groups / folder / name).write_text(text)

    assert {("the node", 1000 * 1024, 600 * 1024), ("control group /slurm/job_7", 1000, 150),
            ("control group /memory/old", 2000, 1600)} == {
        (limit.what, limit.total_bytes, limit.left_bytes) for limit in read_limits(proc, groups)}


def test_this_machine_has_a_limit() -> None:
    """The real machine's memory is read."""
    assert read_limits()[0].left_bytes > 0
