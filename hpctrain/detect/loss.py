"""A loss that is no number, or far above what it was (pure).

:class:`LossWatch` judges one step after the other; the trainer asks it on every rank, with the same numbers and so with the
same answer. :class:`LossDetector` asks it about the losses that a script writes into its heartbeats.

A spike is judged against the running median, and the median absolute deviation from it: a few wild values move neither.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.detect.beat import Action, Detection, RankBeat
from hpctrain.detect.settings import OFF, LossSettings, action_of

NORMAL = 1.4826
"""The standard deviation of a normal distribution is this many median absolute deviations."""
FEWEST = 10
"""Losses in the window before anything is a spike."""


@dataclass(frozen=True, slots=True)
class LossFinding:
    """A bad loss.

    Attributes:
        kind: ``not_a_number`` or ``spike``.
        action: what the recipe says about it.
        step: at which it is told.
        step_bad: at which it began.
    """

    kind: str
    action: Action
    step: int
    step_bad: int
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


class LossWatch:
    """Judges the losses of consecutive steps.

    Args:
        settings: the recipe's.
    """

    def __init__(self, settings: LossSettings) -> None:
        self._settings = settings
        self._recent: deque[float] = deque()
        self._ordered: list[float] = []
        self._high: list[tuple[int, float]] = []
        self._told_wild = False

    def reset(self) -> None:
        """Other ranks compute now, perhaps from an older step: the window begins anew."""
        self._recent.clear()
        self._ordered.clear()
        self._high, self._told_wild = [], False

    def add(self, step: int, loss: float, *, gradient_ok: bool = True) -> LossFinding | None:
        """Judge a step; None: nothing to tell.

        Args:
            loss: of this step, over all ranks.
            gradient_ok: its gradient's norm is a finite number. If it is not, the weights are spoilt from this step on, and
                the loss will tell one step later.
        """
        if not math.isfinite(loss) or not gradient_ok:
            return self._wild(step, loss)
        self._told_wild = False
        spike = self._settings.spike
        judged = spike.action != OFF and step > spike.warmup_steps and len(self._recent) >= self._fewest
        bar = self._bar() if judged else None
        if bar is None or loss <= bar[1]:
            self._high.clear()
            self._push(loss)
            return None
        self._high.append((step, loss))
        return self._spike(step, *bar) if len(self._high) >= spike.patience else None

    @property
    def _fewest(self) -> int:
        return min(self._settings.spike.window_steps, max(FEWEST, self._settings.spike.window_steps // 4))

    def _wild(self, step: int, loss: float) -> LossFinding | None:
        if self._told_wild or self._settings.action == OFF:
            return None
        self._told_wild = True  # the steps that follow are the same trouble
        if math.isfinite(loss):
            what = f"the gradient of step {step} is no finite number (its loss was {loss:.4f})"
        else:
            what = f"the loss of step {step} is {'no number' if math.isnan(loss) else 'infinite'}"
        shown = loss if math.isfinite(loss) else str(loss)
        return LossFinding("not_a_number", action_of(self._settings.action), step, step, what, {"loss": shown})

    def _bar(self) -> tuple[float, float]:
        """The running median, and what is too far above it."""
        spike, ordered = self._settings.spike, self._ordered
        middle = ordered[len(ordered) // 2]
        deviations = sorted(abs(value - middle) for value in ordered)
        wide = NORMAL * deviations[len(deviations) // 2]
        return middle, middle + max(spike.at_least, spike.deviations * wide)

    def _push(self, loss: float) -> None:
        self._recent.append(loss)
        insort(self._ordered, loss)
        if len(self._recent) > self._settings.spike.window_steps:
            old = self._recent.popleft()
            del self._ordered[bisect_left(self._ordered, old)]

    def _spike(self, step: int, middle: float, bar: float) -> LossFinding:
        first, _ = self._high[0]
        worst = max(value for _, value in self._high)
        evidence = {"loss": worst, "median": middle, "bar": bar, "steps": len(self._high)}
        count = f"{len(self._high)} steps in a row" if len(self._high) > 1 else "one step"
        reason = f"the loss rose to {worst:.4f} at step {first} for {count}; its running median was {middle:.4f}"
        # Should training go on as it is, this level is what comes next, and not one more spike at every step.
        self.reset()
        return LossFinding("spike", action_of(self._settings.spike.action), step, first, reason, evidence)


class LossDetector:
    """Judges the loss in the heartbeats of scripts; our own trainer judges its losses itself, step by step.

    Only the newest of several steps is seen when they take less than half a second. A script cannot be told to leave data
    out: its rewind is a restart.
    """

    def __init__(self, settings: LossSettings) -> None:
        self._watch = LossWatch(settings)
        self._step = -1

    def begin(self, incarnation: int, now: float) -> None:
        """Judge the new ranks by themselves."""
        del incarnation, now
        self._watch.reset()
        self._step = -1

    def line(self, rank: int, node: str, text: str, now: float) -> Sequence[Detection]:
        """Nothing: losses in lines are the log rules' business."""
        del rank, node, text, now
        return ()

    def look(self, beats: Sequence[RankBeat], now: float) -> Sequence[Detection]:
        """What the newest loss tells."""
        del now
        beat = min((beat for beat in beats if beat.loss is not None and beat.step is not None), key=lambda one: one.rank,
                   default=None)
        if beat is None or beat.loss is None or beat.step is None or beat.step <= self._step:
            return ()
        self._step = beat.step
        found = self._watch.add(beat.step, beat.loss)
        if found is None:
            return ()
        action: Action = "restart" if found.action == "rewind" else found.action
        return (Detection("loss", action, found.reason, "loss", beat.time or beat.seen, step=found.step_bad,
                          evidence={"kind": found.kind, **found.evidence}),)
