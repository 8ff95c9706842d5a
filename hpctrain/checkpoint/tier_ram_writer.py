"""The writer's process: ``python -m hpctrain.checkpoint.tier_ram_writer`` (entry point).

Takes complete checkpoints from the keeper's memory and writes them as DCP files, verified, one at a time and out of
training's way. It needs neither the ranks that saved them, which may be dead, nor torch, nor a process group.

An order is ``{"folder": directory}``; the result is a rank's share of a checkpoint, for :func:`share_of`, or
``{"error": text}``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.checkpoint import names
from hpctrain.checkpoint.arena_reader import ArenaCheckpoint
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError, say_once
from hpctrain.checkpoint.manifest import FileEntry
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shards import Shard, StoredShard, pieces, start_in
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.write import write_share
from hpctrain.errors import HpctrainError

_NICE = 10
_WAIT_S = 5.0


def main(argv: list[str] | None = None) -> int:
    """Work until the keeper is gone; returns the exit code."""
    parser = argparse.ArgumentParser(prog="hpctrain-writer", description="Makes checkpoints in memory durable.")
    parser.add_argument("--node", default="", help="name of the node, where several share a host")
    options = parser.parse_args(argv)
    secret = bytes.fromhex(sys.stdin.readline().strip())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    client = KeeperClient(secret, options.node)
    say_once("ready")
    with contextlib.suppress(WireError):
        while True:
            work_once(client, wait_s=_WAIT_S)
    return 0


def work_once(client: KeeperClient, *, wait_s: float) -> bool:
    """Carry out the next order; returns whether there was one within ``wait_s``.

    Raises:
        WireError: the keeper is gone.
    """
    task = client.request("take", tier="shared", wait_s=wait_s, extra_s=wait_s)
    if "task" not in task:
        return False
    rank, name = int(task["rank"]), CheckpointName(*task["name"])
    try:
        result = _write(client, rank, name, task["task"])
    except WireError:
        raise
    except OSError as error:
        result = {"error": f"{error.filename or task['task'].get('folder', '')}: {error.strerror}"}
    except (HpctrainError, RefusedError, ValueError, KeyError) as error:
        result = {"error": str(error)}
    client.request("finish", tier="shared", rank=rank, result=result)
    return True


def _write(client: KeeperClient, rank: int, name: CheckpointName, order: Mapping[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    folder = Path(order["folder"])
    (folder / names.tensor_file(rank)).unlink(missing_ok=True)  # what a writer that died over this order has left
    with ArenaCheckpoint(client, rank, name) as checkpoint, contextlib.closing(_pieces(checkpoint)) as items:
        share = write_share(
            folder, rank, items, checkpoint.own_state, aliases=checkpoint.share.get("aliases"),
            replicated=str(checkpoint.share.get("replicated", "")),
        )
    return {
        "files": [[file.name, file.size_bytes, file.xxh3_128] for file in share.files], "replicated": share.replicated,
        "shards": stored_rows(share.shards), "seconds": round(time.monotonic() - started, 4),
    }


def share_of(rank: int, result: Mapping[str, Any]) -> Share:
    """The share that a result without an error speaks of, for :mod:`hpctrain.checkpoint.write` to make one of all."""
    files = tuple(FileEntry(*file) for file in result["files"])
    return Share(rank, files, tuple(stored_from_rows(result["shards"])), str(result["replicated"]))


def _pieces(checkpoint: ArenaCheckpoint) -> Generator[tuple[Shard, memoryview], None, None]:
    for shard, data in checkpoint.items():
        with data:
            for piece in pieces(shard):
                first = start_in(shard, piece)
                with data[first:first + piece.nbytes] as part:
                    yield piece, part


def stored_rows(shards: Sequence[StoredShard]) -> list[Any]:
    """Stored shards as JSON."""
    return [[s.shard.name, s.shard.dtype, s.shard.global_shape, s.shard.offsets, s.shard.shape, s.file, s.offset_bytes,
             s.size_bytes, s.xxh3] for s in shards]


def stored_from_rows(rows: Sequence[Any]) -> list[StoredShard]:
    """The inverse of :func:`stored_rows`."""
    return [
        StoredShard(Shard(name, dtype, tuple(total), tuple(first), tuple(shape)), file, offset, size, xxh3)
        for name, dtype, total, first, shape, file, offset, size, xxh3 in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
