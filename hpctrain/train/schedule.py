"""The learning rate as a function of the step (pure). Nothing to save: a resumed run computes the same number."""

from __future__ import annotations

import math

from hpctrain.recipe.schema import LearningRateSchedule


def learning_rate(step: int, total_steps: int, peak: float, schedule: LearningRateSchedule) -> float:
    """Learning rate of the optimizer step that completes ``step`` (1 is the first).

    It rises linearly over the warm-up, reaches ``peak`` at its end, then falls to ``minimum_ratio`` x peak at the last
    step.
    """
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    if schedule.kind == "constant":
        return peak
    first, last = max(schedule.warmup_steps, 1), total_steps
    progress = min(1.0, (step - first) / max(1, last - first))
    remaining = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1.0 - progress
    return peak * (schedule.minimum_ratio + (1.0 - schedule.minimum_ratio) * remaining)
