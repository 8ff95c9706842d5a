"""Names inside a checkpoint directory (pure).

::

    checkpoints/
      writer.i003                  incarnation 3 has claimed the directory: older ones may no longer commit
      step-00000040.i003/
        __0_0.distcp ...           tensors, PyTorch's distributed checkpoint (DCP)
        .metadata                  DCP's own index (a pickle; for other tools and for dcp.load)
        rank-00000.json ...        what is not a tensor, one file per rank
        manifest.json              size and xxh3 of every file above
        commit.json                written last: without it the directory is not a checkpoint
        pin.json                   there when a person wants to keep this one; no part of the checkpoint
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MANIFEST = "manifest.json"
COMMIT = "commit.json"
METADATA = ".metadata"
PIN = "pin.json"

_NAME = re.compile(r"^step-(\d{8,})\.i(\d{3,})$")
_PART = re.compile(r"^part-(\d{5,})\.json$")
_CLAIM = re.compile(r"^writer\.i(\d{3,})$")


@dataclass(frozen=True, slots=True, order=True)
class CheckpointName:
    """Which checkpoint: ordered as they were written.

    The incarnation counts before the step, because a later incarnation continues (or deliberately rewinds) what the
    earlier one did: its checkpoints are the newer ones even at a lower step.
    """

    incarnation: int
    step: int

    def __str__(self) -> str:
        return f"step-{self.step:08d}.i{self.incarnation:03d}"


def parse_name(text: str) -> CheckpointName | None:
    """Read a directory name back; None for anything else."""
    match = _NAME.match(text)
    return CheckpointName(incarnation=int(match.group(2)), step=int(match.group(1))) if match else None


def rank_file(rank: int) -> str:
    """File of one rank's state that is not a tensor."""
    return f"rank-{rank:05d}.json"


def tensor_file(rank: int) -> str:
    """File of the tensors that one rank writes; the name that DCP gives it."""
    return f"__{rank}_0.distcp"


def share_file(rank: int, attempt: int) -> str:
    """File by which a writer tells whoever commits what it has written for one rank; gone once that is committed."""
    return f"share-{rank:05d}-{attempt}.json"


def failed_file(rank: int, attempt: int) -> str:
    """File by which a writer tells whoever commits that it could not write one rank's share."""
    return f"failed-{rank:05d}-{attempt}.json"


def part_file(rank: int) -> str:
    """File that makes one rank's part in a local tier exist."""
    return f"part-{rank:05d}.json"


def parse_part(text: str) -> int | None:
    """Rank of a part's file; None for anything else."""
    match = _PART.match(text)
    return int(match.group(1)) if match else None


def claim_file(incarnation: int) -> str:
    """File by which an incarnation claims the directory."""
    return f"writer.i{incarnation:03d}"


def parse_claim(text: str) -> int | None:
    """Incarnation of a claim file; None for anything else."""
    match = _CLAIM.match(text)
    return int(match.group(1)) if match else None


def newest_incarnation(entries: list[str]) -> int:
    """Highest incarnation that any name in the directory speaks of; -1 when none does."""
    claims = [claim for entry in entries if (claim := parse_claim(entry)) is not None]
    names = [name.incarnation for entry in entries if (name := parse_name(entry)) is not None]
    return max([*claims, *names], default=-1)
