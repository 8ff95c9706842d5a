"""Which bytes this rank writes, who reads which, and what arrives in the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.checkpoint import restore_plan
from hpctrain.checkpoint.distcp import by_name
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.shard_reader import DamagedError, ShardReader
from hpctrain.checkpoint.shards import Shard, StoredShard, with_aliases

torch = pytest.importorskip("torch")

from hpctrain.checkpoint.capture import Captures, capture  # noqa: E402 - after the check that torch is there
from hpctrain.checkpoint.fill import FillPlan, load_tensors  # noqa: E402
from hpctrain.checkpoint.names import CheckpointName  # noqa: E402
from hpctrain.checkpoint.ranks import Ranks  # noqa: E402
from hpctrain.checkpoint.restore_load import Load  # noqa: E402
from hpctrain.checkpoint.restore_options import Options  # noqa: E402
from hpctrain.checkpoint.restore_places import Places  # noqa: E402
from hpctrain.checkpoint.restore_sources import ALL_PARTS, Origin, as_part, manifest_parts  # noqa: E402
from hpctrain.checkpoint.restore_threads import Limits, Pulse, ReadCrew  # noqa: E402
from hpctrain.checkpoint.share import Share  # noqa: E402
from hpctrain.checkpoint.write import check_shares, merge, write_share  # noqa: E402


def save(folder: Path, tensors: Mapping[str, Any], world_size: int = 1, limit_bytes: int = 200) -> Manifest:
    """Save replicated tensors, as so many ranks would."""
    shares: list[Share] = []
    for rank in range(world_size):
        found = capture(tensors, rank, world_size, limit_bytes)
        shares.append(write_share(folder, rank, found.buffers(), "{}", aliases=found.aliases, replicated=found.fingerprint))
    check_shares(shares)
    return merge(CheckpointName(0, 1), shares)[1]


class OneStore:
    """A store that has but one checkpoint."""

    tier = "shared"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reader(self, _name: CheckpointName) -> ShardReader:
        return ShardReader(self._folder)


def load(folder: Path, manifest: Manifest, targets: Mapping[str, Any], progress: Any = None) -> None:
    """Fill tensors as a restore on one rank does."""
    places = Places(CheckpointName(0, 1), {}, [OneStore(folder)], Limits())
    places.use({0: manifest})
    table = by_name(stored for rank, shards in manifest_parts(manifest).items() for stored in as_part(shards, rank))
    options = Options({}, [Origin("shared", "", ALL_PARTS, 0)], 1)
    crew, pulse = ReadCrew(2, Limits()), Pulse(progress, 60)
    loading = Load(FillPlan(targets, table, 1), places, options, Ranks(), crew=crew, pulse=pulse)
    assert "" == loading.run()[1]
    places.close()


def state() -> dict[str, Any]:
    base = torch.randn(6, 8)
    return {
        "plain": torch.randn(40, 3), "turned": torch.randn(5, 7).t(), "strided": base[::2, 1::3], "base": base,
        "conjugated": torch.randn(3, dtype=torch.complex64).conj(), "scalar": torch.tensor(7), "empty": torch.empty(0, 2),
        "bf16": torch.randn(9).bfloat16(), "bool": torch.tensor([True, False]), "row": torch.randn(1, 200),
    }


@pytest.mark.parametrize("world_size", [1, 3])
def test_everything_is_written_once_and_comes_back(tmp_path: Path, world_size: int) -> None:
    """Odd tensors, cut into pieces and spread over ranks, come back bit for bit; no byte is written twice."""
    tensors = state()
    manifest = save(tmp_path, tensors, world_size)
    back = load_tensors(tmp_path, manifest)

    assert set(tensors) == set(back)
    for name, value in tensors.items():
        assert (value.dtype, value.shape) == (back[name].dtype, back[name].shape)
        assert torch.equal(value, back[name]), name
    assert sum(item.size_bytes for item in manifest.shards) == sum(value.nbytes for value in tensors.values())


def test_load_is_spread_over_ranks() -> None:
    """Each of three ranks writes about a third of tensors that all of them hold, large and small."""
    tensors = {f"t{number}": torch.zeros(number * 50) for number in range(1, 30)}
    sizes = [capture(tensors, rank, 3, 1000).size_bytes for rank in range(3)]

    assert sum(sizes) == sum(value.nbytes for value in tensors.values())
    assert max(sizes) < 1.1 * min(sizes)


def test_tied_tensors_are_stored_once(tmp_path: Path) -> None:
    """Two names of one memory share their bytes in the file, and both are restored."""
    weight = torch.randn(10, 10)
    manifest = save(tmp_path, {"a": weight, "b": weight, "c": weight.clone()}, 2)
    table = manifest.table()
    places = {name: [(item.file, item.offset_bytes) for item in stored] for name, stored in table.items()}

    assert places["a"] == places["b"] != places["c"]
    assert all(torch.equal(weight, value) for value in load_tensors(tmp_path, manifest).values())


def test_tensors_without_plain_bytes_are_named() -> None:
    """A sparse tensor cannot be saved, and the error says which one it is."""
    with pytest.raises(ValueError, match=r"my\.grad .*sparse.* has no plain bytes"):
        capture({"my.grad": torch.eye(3).to_sparse()}, 0, 1)


def test_targets_of_any_kind_are_filled(tmp_path: Path) -> None:
    """Contiguous, transposed and other-typed tensors are filled in place, also from pieces of rows."""
    source = torch.arange(600, dtype=torch.float32).reshape(20, 30)
    manifest = save(tmp_path, {"t": source}, 2, limit_bytes=90)
    told: list[tuple[int, int]] = []
    for target in (torch.zeros(20, 30), torch.zeros(30, 20).t(), torch.zeros(20, 60)[:, ::2], torch.zeros(20, 30).double()):
        load(tmp_path, manifest, {"t": target}, lambda done, total: told.append((done, total)))
        assert torch.equal(source.to(target.dtype), target)

    assert (2400, 2400) == told[-1]


def test_what_does_not_fit_is_refused_untouched(tmp_path: Path) -> None:
    """A tensor that is missing, or of another shape, is an error before anything is filled."""
    manifest = save(tmp_path, {"a": torch.ones(4), "b": torch.ones(4)})
    target = torch.zeros(4)

    with pytest.raises(ValueError, match="c is not in the checkpoint"):
        load(tmp_path, manifest, {"a": target, "c": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"b is stored as float32 \(4,\), not as float32 \(5,\)"):
        load(tmp_path, manifest, {"a": target, "b": torch.zeros(5)})
    with pytest.raises(ValueError, match="c is not in the checkpoint"):
        load_tensors(tmp_path, manifest, ["c"])
    assert torch.equal(torch.zeros(4), target)


def test_every_flipped_bit_is_caught(tmp_path: Path) -> None:
    """Whatever byte of a tensor changes in its file, loading says so instead of using it."""
    manifest = save(tmp_path, {"t": torch.randn(12)}, limit_bytes=20)
    for stored in manifest.shards:
        for byte in range(stored.offset_bytes, stored.offset_bytes + stored.size_bytes, 3):
            path = tmp_path / stored.file
            whole = path.read_bytes()
            path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 4]) + whole[byte + 1:])
            with pytest.raises(DamagedError, match=r"__0_0\.distcp is damaged: t has not the xxh3 hash"):
                load_tensors(tmp_path, manifest)
            path.write_bytes(whole)

    (tmp_path / "__0_0.distcp").unlink()
    with pytest.raises(DamagedError, match="cannot be read: No such file"):
        load_tensors(tmp_path, manifest)


def test_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """Bytes are read from the checkpoint's own files only."""
    manifest = save(tmp_path, {"t": torch.ones(3)})
    (tmp_path / "__0_0.distcp").rename(tmp_path / "elsewhere")
    (tmp_path / "__0_0.distcp").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DamagedError, match="cannot be read"):
        load_tensors(tmp_path, manifest)


def test_ranks_that_differ_make_no_checkpoint(tmp_path: Path) -> None:
    """Ranks that hold different tensors are found out at the commit, also when the boxes happen to be whole."""
    shares = []
    for rank, names in enumerate((["a", "b"], ["a"])):
        found = capture({name: torch.ones(3) for name in names}, rank, 2)
        shares.append(write_share(tmp_path, rank, found.buffers(), "{}", replicated=found.fingerprint))

    with pytest.raises(ValueError, match="ranks 0 and 1 hold different tensors"):
        check_shares(shares)


def test_box_that_nobody_wrote_makes_no_checkpoint(tmp_path: Path) -> None:
    """If one rank's share does not arrive, the tensor that lacks a part is named."""
    tensors = {"t": torch.ones(100)}
    found = [capture(tensors, rank, 2, 100) for rank in range(2)]
    shares = [write_share(tmp_path, rank, found[rank].buffers(), "{}") for rank in range(2)]

    with pytest.raises(ValueError, match=r"t: .* elements are not stored"):
        check_shares(shares[:1])


def test_manifest_survives_and_refuses(tmp_path: Path) -> None:
    """The table comes back from JSON as it was; bytes outside of their file, and version 1, are refused."""
    manifest = save(tmp_path, {"t": torch.ones(3), "s": torch.tensor(1)})
    text = manifest.to_bytes()

    assert manifest.table() == Manifest.from_bytes(text).table()
    with pytest.raises(ValueError, match="manifest puts t at bytes 99999"):
        offset = manifest.table()["t"][0].offset_bytes
        Manifest.from_bytes(text.replace(f'"offset_bytes":{offset},'.encode(), b'"offset_bytes":99999,'))
    with pytest.raises(ValueError, match="version 1, this hpctrain reads 2"):
        Manifest.from_bytes(text.replace(b'"version":2', b'"version":1'))


NEEDS = st.lists(st.sets(st.integers(0, 9)), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(NEEDS, st.lists(st.integers(1, 50), min_size=10, max_size=10), st.integers(1, 120))
def test_each_byte_is_read_by_one_rank_that_needs_it(needs: list[set[int]], sizes: list[int], limit: int) -> None:
    """Every needed piece has one reader, who needs it; rounds keep the order and what a rank holds below the limit."""
    stored = [StoredShard(Shard.whole(f"t{i}", "uint8", (size,)), "f", 100 * i, size, "") for i, size in enumerate(sizes)]
    pieces = restore_plan.assign(stored, needs)

    assert [set(piece.needed_by) for piece in pieces] == [
        {rank for rank, wanted in enumerate(needs) if place in wanted} for place in sorted(set().union(*needs))
    ]
    assert all(piece.reader in piece.needed_by for piece in pieces)
    parts = restore_plan.rounds(pieces, limit)
    assert pieces == [piece for part in parts for piece in part]
    for part in parts:
        for rank in range(len(needs)):
            held = [piece.stored.size_bytes for piece in part if rank in piece.needed_by]
            assert len(held) <= 1 or sum(held) <= limit


def test_shared_pieces_are_read_in_turns() -> None:
    """What all ranks need is read by all of them, about as much by each."""
    stored = [StoredShard(Shard.whole(f"t{i}", "uint8", (8,)), "f", 100 * i, 8, "") for i in range(9)]
    pieces = restore_plan.assign(stored, [range(9)] * 3)

    assert [3, 3, 3] == [sum(piece.reader == rank for piece in pieces) for rank in range(3)]


def test_tied_bytes_are_read_once() -> None:
    """Two tensors on the same bytes are one piece to read."""
    stored = StoredShard(Shard.whole("a", "uint8", (8,)), "f", 0, 8, "")
    both = with_aliases([stored], {"b": "a"})

    assert ["a", "b"] == [item.shard.name for item in both]
    assert 1 == len(restore_plan.distinct({item.shard.name: [item] for item in both}))


def test_capture_again_is_the_same_as_anew() -> None:
    """A state is captured over and over: changed values, moved, replaced, tied and untied tensors are all noticed."""
    again = [Captures(50), Captures(50)]
    whole = torch.arange(60.0).reshape(6, 10)
    state = {"a": whole, "b": torch.zeros(3), "c": torch.arange(4), "empty": torch.zeros(0), "scalar": torch.tensor(2.0)}

    def check() -> None:
        for rank in (0, 1):
            found, anew = again[rank](state, rank, 2), capture(state, rank, 2, 50)
            assert [shard for shard, _ in anew.pieces] == [shard for shard, _ in found.pieces]
            assert all(torch.equal(one, other) for (_, one), (_, other) in zip(anew.pieces, found.pieces, strict=True))
            assert (anew.aliases, anew.replicated, anew.fingerprint) == (found.aliases, found.replicated, found.fingerprint)

    changes: list[Callable[[], Any]] = [
        lambda: None, lambda: whole.add_(1), lambda: state.update(b=torch.ones(3)),
        lambda: state.update(b=state["b"].double()), lambda: state.update(tied=whole), lambda: state.pop("tied"),
        lambda: state.update(a=whole.t()), lambda: whole.mul_(2),
        lambda: state.update(a=whole.reshape(10, 6)), lambda: state.update(b=torch.complex(whole, whole).conj()),
        lambda: state.update(b=state["b"].conj()), lambda: state.pop("c"),
    ]
    for change in changes:
        change()
        check()
        check()


def test_capture_again_copies_no_piece() -> None:
    """The pieces of a state that was captured before are the tensors' own memory, also those of a large one."""
    again, large = Captures(limit_bytes=200), torch.arange(1000.0)
    first = again({"large": large}, 0, 1)
    assert 20 == len(first.pieces)
    large.add_(1)
    second = again({"large": large}, 0, 1)

    assert [piece.data_ptr() for _, piece in first.pieces] == [piece.data_ptr() for _, piece in second.pieces]
    assert torch.equal(large, torch.cat([piece for _, piece in second.pieces]))
