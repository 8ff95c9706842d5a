"""Training that goes on, but much slower than it did (pure).

The measure is the speed that rank 0 reports with its steps; time in saves and validations is not in it. The median is of
this job's own steps, the slow ones left out, and is kept over restarts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from hpctrain.detect.beat import Detection, RankBeat
from hpctrain.detect.settings import OFF, ThroughputSettings, action_of

_KEPT = 1000
_FEWEST = 3
"""Slow steps that an alarm needs: after a pause of the whole job one step alone looks slow."""


class ThroughputDetector:
    """Finds a lasting loss of speed.

    Args:
        settings: the recipe's.
    """

    def __init__(self, settings: ThroughputSettings) -> None:
        self._settings = settings
        self._usual: deque[float] = deque(maxlen=_KEPT)
        self._step, self._first = -1, 0
        self._slow_s, self._slow_since, self._seen, self._slow_steps = 0.0, 0.0, 0.0, 0
        self._told = False

    def begin(self, incarnation: int, now: float) -> None:
        """New ranks warm up again; the median stays."""
        del incarnation, now
        self._step, self._first, self._slow_s, self._slow_steps, self._seen, self._told = -1, 0, 0.0, 0, 0.0, False

    def line(self, rank: int, node: str, text: str, now: float) -> Sequence[Detection]:
        """Nothing."""
        del rank, node, text, now
        return ()

    def look(self, beats: Sequence[RankBeat], now: float) -> Sequence[Detection]:
        """One alarm for each time that the speed collapses; the next only after it has recovered."""
        beat = min((one for one in beats if one.tokens_per_s is not None and one.step is not None), default=None,
                   key=lambda one: one.rank)
        if self._settings.action == OFF or beat is None or beat.tokens_per_s is None or beat.step is None:
            return ()
        if beat.step <= self._step:
            return ()  # no new step: no new speed. That steps fail to come is a hang, and found elsewhere.
        if self._step < 0:
            self._first = beat.step
        self._step = beat.step
        passed_s, self._seen = min(max(0.0, now - self._seen), self._settings.patience / 2), now
        if beat.step - self._first < self._settings.warmup_steps:
            return ()
        return self._judge(beat, beat.tokens_per_s, passed_s, now)

    def _judge(self, beat: RankBeat, speed: float, passed_s: float, now: float) -> Sequence[Detection]:
        usual = median(self._usual) if len(self._usual) >= self._settings.warmup_steps else None
        if usual is None or speed >= self._settings.below * usual:
            self._usual.append(speed)
            self._slow_s, self._slow_steps, self._told = 0.0, 0, False
            return ()
        if self._slow_steps == 0:
            self._slow_since = beat.time or now
        self._slow_s, self._slow_steps = self._slow_s + passed_s, self._slow_steps + 1
        if self._told or self._slow_s < self._settings.patience or self._slow_steps < _FEWEST:
            return ()
        self._told = True
        reason = (
            f"training has been slower than {self._settings.below:.0%} of its median speed for {self._slow_s:.0f} s: "
            f"{speed:,.0f} instead of {usual:,.0f} tokens/s")
        evidence = {"tokens_per_s": speed, "median_tokens_per_s": usual, "slow_s": round(self._slow_s, 1)}
        return (Detection("throughput", action_of(self._settings.action), reason, "unknown", self._slow_since,
                          step=beat.step, evidence=evidence),)
