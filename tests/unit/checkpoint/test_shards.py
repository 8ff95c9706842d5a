"""Boxes of tensors: cut, stored, and put together again in another way."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.checkpoint.shards import (
    Copy,
    Shard,
    StoredShard,
    byte_runs,
    check_cover,
    dtype_bytes,
    fill_plan,
    overlap,
    pieces,
    start_in,
    strides,
)

SHAPES = st.lists(st.integers(0, 6), max_size=3).map(tuple)
DTYPES = st.sampled_from(["bool", "bfloat16", "float32", "complex64"])


@st.composite
def partitions(draw: st.DrawFn, whole: Shard) -> list[Shard]:
    """Cut a box at random, again and again: any layout that ranks may have, and stranger ones."""
    boxes = [whole]
    for _ in range(draw(st.integers(0, 5))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        if not box.shape:
            boxes.append(box)
            continue
        axis = draw(st.integers(0, len(box.shape) - 1))
        cut = draw(st.integers(0, box.shape[axis]))
        for first, count in ((0, cut), (cut, box.shape[axis] - cut)):
            offsets, shape = list(box.offsets), list(box.shape)
            offsets[axis] += first
            shape[axis] = count
            boxes.append(replace(box, offsets=tuple(offsets), shape=tuple(shape)))
    return draw(st.permutations(boxes))


def content(box: Shard) -> bytes:
    """The bytes of a box of the tensor whose elements count upwards."""
    size, steps = dtype_bytes(box.dtype), strides(box.global_shape)
    indices = itertools.product(*(range(first, first + count) for first, count in zip(box.offsets, box.shape, strict=True)))
    numbers = (sum(a * b for a, b in zip(index, steps, strict=True)) for index in indices)
    return b"".join(number.to_bytes(2, "little").ljust(size, b"x")[:size] for number in numbers)


def store(box: Shard) -> StoredShard:
    return StoredShard(box, "f", 0, box.nbytes, "")


def assemble(wanted: Shard, stored: list[StoredShard]) -> bytes:
    target = bytearray(b"?" * wanted.nbytes)
    for copy in fill_plan(wanted, stored):
        source = content(copy.source.shard)
        for start, first, count in byte_runs(copy, wanted.shape):
            assert target[first:first + count] == b"?" * count
            target[first:first + count] = source[start:start + count]
    return bytes(target)


@settings(max_examples=150, deadline=None)
@given(st.data(), SHAPES, DTYPES)
def test_any_partition_restores_any_other(data: st.DataObject, shape: tuple[int, ...], dtype: str) -> None:
    """Whatever boxes a tensor is saved in, every box of any other partition comes back exactly, each byte written once."""
    whole = Shard.whole("t", dtype, shape)
    stored = [store(box) for box in data.draw(partitions(whole))]
    check_cover([item.shard for item in stored])

    for wanted in data.draw(partitions(whole)):
        assert content(wanted) == assemble(wanted, stored)


@settings(max_examples=100, deadline=None)
@given(st.data(), SHAPES, DTYPES)
def test_missing_or_doubled_box_is_noticed(data: st.DataObject, shape: tuple[int, ...], dtype: str) -> None:
    """A set of boxes that lacks one, or has one twice, does not pass as a whole tensor."""
    boxes = data.draw(partitions(Shard.whole("t", dtype, shape)))
    full = [box for box in boxes if box.numel]
    if not full:
        return
    lost = data.draw(st.sampled_from(full))
    boxes.remove(lost)

    with pytest.raises(ValueError, match="not stored"):
        check_cover(boxes)
    with pytest.raises(ValueError, match="overlap"):
        check_cover([*boxes, lost, lost])
    with pytest.raises(ValueError, match="are not stored"):
        fill_plan(lost, [store(box) for box in boxes])


@settings(max_examples=100, deadline=None)
@given(st.data(), SHAPES, DTYPES, st.integers(1, 64))
def test_pieces_follow_each_other(data: st.DataObject, shape: tuple[int, ...], dtype: str, limit: int) -> None:
    """A box is cut into pieces no larger than asked for (an element at least), whose bytes joined are the box's bytes."""
    box = data.draw(st.sampled_from(data.draw(partitions(Shard.whole("t", dtype, shape)))))
    cut = pieces(box, limit)

    assert content(box) == b"".join(content(piece) for piece in cut)
    assert all(piece.nbytes <= max(limit, dtype_bytes(dtype)) for piece in cut)
    assert [start_in(box, piece) for piece in cut] == [sum(p.nbytes for p in cut[:i]) for i in range(len(cut))]


def test_overlap_of_boxes() -> None:
    """Two boxes share their common elements; boxes that only touch share none."""
    first = Shard("t", "float32", (4, 4), (0, 0), (3, 3))

    assert ((2, 1), (1, 2)) == overlap(first, Shard("t", "float32", (4, 4), (2, 1), (2, 3)))
    assert overlap(first, Shard("t", "float32", (4, 4), (3, 0), (1, 4))) is None


def test_rows_are_copied_in_one_run() -> None:
    """Whole rows are one run of bytes, parts of rows one run each."""
    source = store(Shard.whole("t", "bfloat16", (4, 3)))

    assert [(6, 0, 12)] == list(byte_runs(Copy(source, (1, 0), (0, 0), (2, 3)), (2, 3)))
    assert [(8, 0, 4), (14, 4, 4)] == list(byte_runs(Copy(source, (1, 1), (0, 0), (2, 2)), (2, 2)))


def test_impossible_boxes_are_refused() -> None:
    """A box outside of its tensor, and a data type without plain bytes, are errors that name the tensor or type."""
    with pytest.raises(ValueError, match=r"t: box \(3,\) at \(2,\) is not inside \(4,\)"):
        Shard("t", "float32", (4,), (2,), (3,))
    with pytest.raises(ValueError, match="data type quint8 cannot be stored"):
        Shard.whole("t", "quint8", (4,)).nbytes  # noqa: B018 - reading it raises


def test_other_tensor_of_that_name_is_refused() -> None:
    """A tensor stored with another type or shape does not fill the wanted box."""
    with pytest.raises(ValueError, match=r"t is stored as float32 \(2,\), not as bfloat16 \(2,\)"):
        fill_plan(Shard.whole("t", "bfloat16", (2,)), [store(Shard.whole("t", "float32", (2,)))])


def test_cover_of_many_shards_is_fast() -> None:
    """Ten thousand shards of one tensor are checked without comparing all pairs."""
    shards = [Shard("t", "float32", (10_000, 4), (row, 0), (1, 4)) for row in range(10_000)]
    check_cover(shards)

    assert math.prod(shards[0].global_shape) == sum(shard.numel for shard in shards)
