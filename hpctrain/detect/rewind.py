"""The order to go back to an older checkpoint and to leave data out (pure).

Written once, when the loss goes wrong, and carried out by the next start of the ranks. It then says from which step
(``restored_step``), and stays: the samples are left out again whenever a start continues from a state that has not yet
passed them. Carrying it out twice does the same as once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hpctrain.detect.loss import LossFinding
from hpctrain.detect.settings import LossSettings

SAME_TROUBLE_STEPS = 10
"""Trouble that comes back within so many steps was already in the checkpoint that was restored: an older one is taken."""


@dataclass(frozen=True, slots=True)
class RewindOrder:
    """One rewind.

    Attributes:
        incarnation: of the ranks that found the trouble.
        time: when, seconds since the epoch.
        step_bad: the step at which it began.
        restore_before: only checkpoints of steps below this may be restored.
        checkpoints_back: 1 takes the newest of those.
        skip_to_samples: samples of the run's order that are done with, trained on or left out.
        rewinds: of this run so far, this one included.
        restored_step: from which step the rewind went on; None until it is carried out.
    """

    incarnation: int
    time: float
    step_bad: int
    restore_before: int
    checkpoints_back: int
    skip_to_samples: int
    reason: str
    rewinds: int = 1
    restored_step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``control/rewind.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> RewindOrder | None:
        """Read it back; None if it is none. Unknown keys are ignored."""
        try:
            restored = record.get("restored_step")
            return cls(
                int(record["incarnation"]), float(record["time"]), int(record["step_bad"]), int(record["restore_before"]),
                int(record["checkpoints_back"]), int(record["skip_to_samples"]), str(record["reason"]),
                int(record["rewinds"]), None if restored is None else int(restored),
            )
        except (KeyError, TypeError, ValueError):
            return None


def next_order(
    previous: RewindOrder | None, finding: LossFinding, settings: LossSettings, *, incarnation: int, time: float,
    consumed: int, global_batch: int,
) -> RewindOrder | None:
    """The order for a bad loss; None when the run has no rewind left.

    Args:
        previous: the newest order of this run.
        consumed: samples that all ranks together have seen, those of the bad step included.
        global_batch: samples per step.
    """
    rewinds = 1 + (previous.rewinds if previous is not None else 0)
    if rewinds > settings.max_rewinds:
        return None
    before = finding.step_bad
    if previous is not None and previous.restored_step is not None and _is_same(previous, finding):
        before = min(before, max(1, previous.restored_step))
    return RewindOrder(
        incarnation, time, finding.step_bad, before, settings.rewind_checkpoints,
        consumed + settings.skip_margin_steps * global_batch, finding.reason, rewinds,
    )


def _is_same(previous: RewindOrder, finding: LossFinding) -> bool:
    return finding.step_bad <= previous.step_bad + SAME_TROUBLE_STEPS
