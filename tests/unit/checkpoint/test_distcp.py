"""Files written from raw buffers, as PyTorch's own tools see them."""

from __future__ import annotations

import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import xxhash

from hpctrain import process
from hpctrain.checkpoint import distcp, pickle_text
from hpctrain.checkpoint.distcp_file import write_distcp
from hpctrain.checkpoint.distcp_writeback import WriteBack, begin_writing
from hpctrain.checkpoint.shards import DTYPE_BYTES, Shard, StoredShard, pieces, start_in

torch = pytest.importorskip("torch")

from hpctrain.checkpoint.capture import raw_bytes  # noqa: E402 - after the check that torch is there

STOCK_LOAD = """
import sys, torch, torch.distributed.checkpoint as dcp
expected = torch.load(sys.argv[2])
found = {name: torch.empty_like(value) for name, value in expected.items()}
dcp.load(found, checkpoint_id=sys.argv[1], no_dist=True)
for name, value in expected.items():
    same = torch.equal(found[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))
    assert same or not value.numel(), name
assert not any(name.startswith("hpctrain") for name in sys.modules)
print(len(expected))
"""


def write(folder: Path, tensors: Mapping[str, Any], limit_bytes: int = 100) -> list[StoredShard]:
    """A checkpoint's tensor file and index, cut into small pieces."""
    def items() -> Any:
        for name, tensor in tensors.items():
            whole = Shard.whole(name, str(tensor.dtype).removeprefix("torch."), tensor.shape)
            data = raw_bytes(tensor)
            for piece in pieces(whole, limit_bytes):
                start = start_in(whole, piece)
                yield piece, data[start:start + piece.nbytes]

    written = write_distcp(folder / "__0_0.distcp", items())
    (folder / ".metadata").write_bytes(distcp.index(distcp.by_name(written.shards)))
    assert written.file.size_bytes == (folder / "__0_0.distcp").stat().st_size
    assert written.file.xxh3_128 == xxhash.xxh3_128_hexdigest((folder / "__0_0.distcp").read_bytes())
    return written.shards


def every_type() -> dict[str, Any]:
    """A tensor of each data type that this torch has, with every bit pattern that fits."""
    tensors = {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 3), "large": torch.randn(70, 33)}
    for dtype in DTYPE_BYTES:
        if hasattr(torch, dtype):
            data = torch.randint(0, 2 if dtype == "bool" else 256, (3, 4 * DTYPE_BYTES[dtype]), dtype=torch.uint8)
            tensors[f"of.{dtype}"] = data.view(getattr(torch, dtype))
    return tensors


def test_stock_torch_reads_every_type(tmp_path: Path) -> None:
    """PyTorch's dcp.load, in a process without any of our code, reads all types, 0-dim, empty and cut tensors bit by bit."""
    tensors = every_type()
    shards = write(tmp_path, tensors)
    torch.save(tensors, tmp_path / "expected.pt")
    arguments = [sys.executable, "-W", "ignore", "-c", STOCK_LOAD, str(tmp_path), str(tmp_path / "expected.pt")]
    result = process.run(arguments, timeout_s=120, cwd=tmp_path)

    assert result.ok, result.stderr
    assert str(len(tensors)) == result.stdout.strip()
    assert len(shards) > len(tensors)


def test_raw_bytes_lie_where_the_table_says(tmp_path: Path) -> None:
    """The offsets and hashes point to the raw bytes themselves, at multiples of 64."""
    tensor = torch.arange(60, dtype=torch.int16).reshape(5, 12)
    data = b""
    for item in write(tmp_path, {"t": tensor}):
        content = (tmp_path / item.file).read_bytes()[item.offset_bytes:item.offset_bytes + item.size_bytes]
        assert xxhash.xxh3_128_hexdigest(content) == item.xxh3
        assert item.offset_bytes % 64 == 0
        data += content

    assert tensor.numpy().tobytes() == data


def test_entry_is_what_torch_save_writes(tmp_path: Path) -> None:
    """An entry has the members of a torch.save archive, and its pickle means what torch's own means."""
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    shard = Shard.whole("t", "float32", (2, 3))
    around = distcp.entry(shard)
    (tmp_path / "ours").write_bytes(around.head + tensor.numpy().tobytes() + around.tail)
    torch.save(tensor, tmp_path / "theirs")
    ours, theirs = zipfile.ZipFile(tmp_path / "ours"), zipfile.ZipFile(tmp_path / "theirs")

    assert torch.equal(tensor, torch.load(tmp_path / "ours", weights_only=True))
    assert {Path(name).name for name in ours.namelist()} <= {Path(name).name for name in theirs.namelist()}
    assert ours.read("archive/version") == theirs.read("theirs/version")
    assert ours.read("archive/byteorder") == theirs.read("theirs/byteorder")


@pytest.mark.parametrize("shape", [(), (0,), (1,) * 64, (2**31 + 7, 0), (3, 2**20)])
def test_head_and_tail_have_one_length(shape: tuple[int, ...]) -> None:
    """Whatever the shape, the raw bytes begin at the same place of the entry: its length needs no look into it."""
    around = distcp.entry(Shard.whole("t", "float8_e4m3fn", shape))

    assert (distcp.HEAD_BYTES, distcp.TAIL_BYTES) == (len(around.head), len(around.tail))


def test_wrong_buffer_is_refused(tmp_path: Path) -> None:
    """Bytes that are not as many as the box has are an error, not a file."""
    with pytest.raises(ValueError, match="t: 3 bytes for a box of 4"):
        write_distcp(tmp_path / "f", [(Shard.whole("t", "float32", ()), b"123")])


def test_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Two writers of one name do not mix their bytes."""
    (tmp_path / "f").write_bytes(b"other")

    with pytest.raises(FileExistsError):
        write_distcp(tmp_path / "f", [])
    assert b"other" == (tmp_path / "f").read_bytes()


def test_writing_begins_early(tmp_path: Path) -> None:
    """The disk is asked to begin with every stretch once, in order, before the end; what it says to that changes nothing."""
    begun: list[tuple[int, int]] = []
    early = WriteBack(0, 100, lambda _, start, size: begun.append((start, size)))
    for size in (60, 60, 99, 1, 250):
        early.wrote(size)
    with (tmp_path / "f").open("wb", buffering=0) as file:
        handle = file.fileno()
        file.write(b"content")
        begin_writing(handle, 0, 7)
    begin_writing(handle, 0, 7)  # there is no such descriptor any more

    assert [(0, 120), (120, 100), (220, 250)] == begun
    assert b"content" == (tmp_path / "f").read_bytes()


VALUES: list[Any] = [
    None, True, 0, 255, 256, -1, 2**31, -(2**40), 2**70, "", "ü", "x" * 300, (), (1,), [1, [2]], {"a": (None, {})},
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_pickle_means_the_value(value: Any) -> None:
    """Plain values come back from Python's own unpickler as they were."""
    assert value == pickle.loads(pickle_text.dumps(value))


def test_pickle_of_objects() -> None:
    """Calls, instances and globals become what they name; what is not ours to write is refused."""
    ordered = pickle_text.Global("collections", "OrderedDict")

    assert OrderedDict([("a", 1)]) == pickle.loads(pickle_text.dumps(pickle_text.Call(ordered, ([("a", 1)],))))
    assert OrderedDict is pickle.loads(pickle_text.dumps(ordered))
    with pytest.raises(TypeError, match="a set is not written"):
        pickle_text.dumps({1, 2})
