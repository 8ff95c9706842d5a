"""What writers tell each other in files: the share that one of them has written, or why there is none (service over xxhash).

Every text carries its own hash: a file that was cut off or damaged on the way is not taken for a share.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from hpctrain.checkpoint.manifest import FileEntry
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shards import Shard, StoredShard
from hpctrain.checkpoint.share import Share


def seal(record: Mapping[str, Any]) -> bytes:
    """A record as text, in front of it the hash of that text."""
    text = json.dumps(record, separators=(",", ":"))
    return f'{{"xxh3_128":"{xxhash.xxh3_128_hexdigest(text.encode())}","record":{text}}}\n'.encode()


def unseal(text: bytes) -> dict[str, Any]:
    """The inverse of :func:`seal`.

    Raises:
        ValueError: it is damaged.
    """
    head, mark, body = text.partition(b',"record":')
    record = body.removesuffix(b"}\n")
    if not mark or body == record or head != f'{{"xxh3_128":"{xxhash.xxh3_128_hexdigest(record)}"'.encode():
        raise ValueError("damaged (its own xxh3 hash is another)")
    found = json.loads(record)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def share_text(name: CheckpointName, attempt: int, share: Share) -> bytes:
    """A share, for whoever commits."""
    return seal({**_about(name, share.rank, attempt), **share_record(share)})


def failed_text(name: CheckpointName, rank: int, attempt: int, error: str) -> bytes:
    """Why there is no share."""
    return seal({**_about(name, rank, attempt), "error": error})


def read_text(text: bytes, name: CheckpointName, rank: int, attempt: int) -> Share | str:
    """A share, or why there is none.

    Raises:
        ValueError: the text is damaged, or speaks of something else.
    """
    record = unseal(text)
    about = _about(name, rank, attempt)
    if {key: record.get(key) for key in about} != about:
        raise ValueError("of another checkpoint, rank or attempt")
    return str(record["error"]) if "error" in record else share_of(rank, record)


def share_record(share: Share) -> dict[str, Any]:
    """A share as JSON, without its rank."""
    return {
        "files": [[file.name, file.size_bytes, file.xxh3_128] for file in share.files],
        "shards": stored_rows(share.shards), "replicated": share.replicated,
    }


def share_of(rank: int, record: Mapping[str, Any]) -> Share:
    """The inverse of :func:`share_record`.

    Raises:
        ValueError: it is none.
    """
    try:
        files = tuple(FileEntry(*file) for file in record["files"])
        return Share(rank, files, tuple(stored_from_rows(record["shards"])), str(record["replicated"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a share: {error}") from None


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


def _about(name: CheckpointName, rank: int, attempt: int) -> dict[str, int]:
    return {"step": name.step, "incarnation": name.incarnation, "rank": rank, "attempt": attempt}
