"""What a restore took, from where, and why, for people and for the event log (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.restore_sources import Origin

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Restored:
    """How a restore ended.

    Attributes:
        name: of the checkpoint that was taken.
        tiers: parts that came from each tier (most of each part's bytes).
        stores: tiers of whole checkpoints that hold it, as they say.
        seconds: from asking the tiers to the end.
        size_bytes: of tensors, read over all ranks.
        steps_lost: steps that were completed after it, as far as anybody knows.
        passed_over: newer checkpoints that could not be used, and why.
        abandoned: newer ones that exist no more, because the caller rewinds.
        notes: what did not go as usual.
        nodes: whose peer copies were taken.
        cause: why it was saved.
        world: layout of the ranks that saved it.
    """

    name: CheckpointName
    tiers: Mapping[str, int]
    stores: tuple[str, ...]
    seconds: float
    size_bytes: int
    steps_lost: int
    passed_over: tuple[tuple[CheckpointName, str], ...] = ()
    abandoned: tuple[CheckpointName, ...] = ()
    pinned: tuple[CheckpointName, ...] = ()
    notes: tuple[str, ...] = ()
    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cause: str = ""
    world: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Completed optimizer steps."""
        return self.name.step

    @property
    def line(self) -> str:
        """What was taken and why, in one line."""
        places = " and ".join(self._place(tier) for tier in self.tiers)
        said = [f"step {self.step} from {places}"]
        if self.steps_lost or not self.abandoned:
            said.append(f"{self.steps_lost} step{'' if self.steps_lost == 1 else 's'} lost")
        said.extend(f"step {name.step} is passed over: {why}" for name, why in self.passed_over[:_SHOWN])
        if len(self.passed_over) > _SHOWN:
            said.append(f"so are {len(self.passed_over) - _SHOWN} more")
        if self.abandoned:
            said.append(f"abandoned: {_steps(self.abandoned)}"
                        + (f" (pinned: {_steps(self.pinned)})" if self.pinned else ""))
        said.extend(self.notes[:_SHOWN])
        return "; ".join(said)

    def evidence(self) -> dict[str, Any]:
        """For the event."""
        rate = round(self.size_bytes / self.seconds) if self.seconds else None
        return {
            "checkpoint": str(self.name), "tiers": dict(self.tiers), "seconds": round(self.seconds, 4),
            "size_bytes": self.size_bytes, "bytes_per_s": rate, "steps_lost": self.steps_lost,
            "passed_over": [{"checkpoint": str(name), "reason": why} for name, why in self.passed_over],
            "abandoned": [str(name) for name in self.abandoned], "notes": list(self.notes), "cause": self.cause,
            "saved_by": dict(self.world),
        }

    def _place(self, tier: str) -> str:
        count = self.tiers[tier]
        nodes = self.nodes.get(tier, ()) if tier == "peer" else ()
        of = f" of node{'' if len(nodes) == 1 else 's'} {', '.join(nodes)}" if nodes else ""
        return f"{tier} ({count} part{'' if count == 1 else 's'}{of})"


def parts_per_tier(
    by_part: Mapping[int, Mapping[Origin, int]], told_by: Mapping[int, Origin]
) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Parts by the tier that gave most of each, most parts first, and the nodes by tier.

    Args:
        by_part: bytes of each part, by origin.
        told_by: where what is said of each part comes from: it counts for parts without tensors.
    """
    main = {part: _most(by_part.get(part, {}), origin) for part, origin in told_by.items()}
    counts = Counter(origin.tier for origin in main.values())
    nodes = {tier: tuple(sorted({origin.node for origin in main.values() if origin.tier == tier and origin.node}))
             for tier in counts}
    return dict(counts.most_common()), nodes


def _most(found: Mapping[Origin, int], otherwise: Origin) -> Origin:
    return max(found, key=lambda origin: found[origin], default=otherwise)


def steps_lost(taken: CheckpointName, heard: Sequence[CheckpointName], reached: int | None) -> int:
    """Steps that were completed after the one that is taken.

    Args:
        heard: every checkpoint that anybody knows of, complete or not.
        reached: the last step that the caller knows to have been completed.
    """
    newest = max([name.step for name in heard if name >= taken], default=taken.step)
    return max(0, (newest if reached is None else reached) - taken.step)


def _steps(names: Sequence[CheckpointName]) -> str:
    shown = ", ".join(f"step {name.step}" for name in sorted(names)[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
